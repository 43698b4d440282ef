"""Small networks of our own on disk: `config.json` and `model.safetensors` in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import ContractError
from pipeline.models.base import find_checkpoint, make_stamp

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
Network = TypeVar("Network", bound=nn.Module)


def save_network(network: nn.Module, config: Any, folder: Path) -> None:
    """Write a network as `load_network` reads it.

    Args:
        network: its weights are written in the dtype that they have.
        config: a dataclass that JSON can say.
        folder: made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(asdict(config), ensure_ascii=False, indent=2) + "\n", "utf-8")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / _WEIGHTS)


def load_network(
    source: str, build: Callable[[dict[str, Any]], Network], *, role: str
) -> tuple[Network, dict[str, Any]]:
    """Load a network from a folder or the hub, for inference on the CPU.

    Args:
        source: a local folder, or a hub id.
        build: makes the network that a config.json describes.
        role: what messages call it.

    Returns:
        The network, and its stamp.

    Raises:
        ContractError: the checkpoint is missing or damaged.
    """
    checkpoint = find_checkpoint(source, role=role)
    try:
        network = build(json.loads((checkpoint.path / _CONFIG).read_bytes()))
        network.load_state_dict(load_file(checkpoint.path / _WEIGHTS))
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(
            f"{role}: {checkpoint.path} does not load ({reason}); build or fetch the checkpoint again"
        ) from error
    rate_hz: Any = getattr(network, "config").sample_rate_hz  # noqa: B009
    return network.eval(), make_stamp(checkpoint, ("torch", "torchaudio"), sample_rate_hz=rate_hz)
