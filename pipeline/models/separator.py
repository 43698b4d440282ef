"""Demucs behind the separator port; needs the package demucs (4.1 or newer), extra "separate".

A checkpoint is a folder as demucs' authors publish them on the hub (`adefossez/HTDemucs`, `adefossez/HTDemucs-ft`): one
`.yaml` that names the networks and what each counts for each stem, and one `.safetensors` per network. The older `.th`
files are pickles and are not read.

Shape letters: C channels, N samples.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import Checkpoint, Separator, choose_device, exact_inference, make_stamp
from pipeline.music.audio import resample

_STEM = "vocals"
# A file names its class; demucs would import whichever it names.
_NETWORKS = {"demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"}
_INSTALL = "python -m pip install 'setlist[separate]'"


def load_separator(source: str, *, device: str = "cpu") -> Separator:
    """Load a Demucs from a local folder.

    Args:
        source: the folder.
        device: auto, cpu or cuda.

    Raises:
        ParamsError: demucs is not installed.
        ContractError: the checkpoint is missing or damaged, or has no vocals.
    """
    if importlib.util.find_spec("demucs") is None:
        raise ParamsError(f"separator: package demucs is not installed; `{_INSTALL}`, or leave separation out")
    folder = Path(source)
    bags = sorted(folder.glob("*.yaml"))
    if len(bags) != 1:
        raise ContractError(
            f"separator: {source} is no folder with one .yaml and its .safetensors; fetch one, as adefossez/HTDemucs"
        )
    try:
        bag: dict[str, Any] = yaml.safe_load(bags[0].read_bytes())
        networks = [_load_network(folder / f"{name}.safetensors", bag.get("segment")) for name in bag["models"]]
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(f"separator: {folder} does not load ({reason}); fetch the checkpoint again") from error
    checkpoint = Checkpoint(folder, bags[0].stem, None)
    return _DemucsSeparator(_voting(networks, bag.get("weights")), checkpoint, choose_device(device), bag)


def _load_network(path: Path, segment_s: float | None) -> Any:
    from demucs.hf import load_safetensors_model  # pyright: ignore[reportMissingImports]

    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
    if header.get("klass") not in _NETWORKS or "structure" in header:
        raise ValueError(f"{path.name} holds {header.get('klass', 'no network')}, packed or unknown")
    network: Any = load_safetensors_model(path).eval()
    # A transformer knows no longer segments than it was trained on (demucs, apply.py).
    if segment_s is not None and (header["klass"] != "demucs.htdemucs.HTDemucs" or segment_s <= network.segment):
        network.segment = segment_s
    return network


def _voting(networks: Sequence[Any], weights: Sequence[Sequence[float]] | None) -> list[tuple[Any, float]]:
    """The networks that count for vocals, and how much; of a fine-tuned set that is one in four."""
    if any(_STEM not in network.sources for network in networks):
        raise ContractError(f"separator: a network gives {', '.join(networks[0].sources)}, but no {_STEM}")
    shares = weights or [[1.0] * len(network.sources) for network in networks]
    votes = [(network, share[network.sources.index(_STEM)]) for network, share in zip(networks, shares, strict=True)]
    return [(network, share) for network, share in votes if share > 0]


class _DemucsSeparator:
    """A loaded Demucs; implements `Separator`."""

    def __init__(
        self, networks: Sequence[tuple[Any, float]], checkpoint: Checkpoint, device: str, bag: dict[str, Any]
    ) -> None:
        self._networks = [(network.to(device), share) for network, share in networks]
        self._device = device
        self.stamp: dict[str, Any] = make_stamp(checkpoint, ("demucs", "torch"), bag=bag)

    def separate(self, wave_CN: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
        """Vocals [N], mono, at the mix's own rate and level."""
        first = self._networks[0][0]
        return separate_at(
            self._vocals,
            wave_CN,
            sample_rate_hz,
            model_rate_hz=int(first.samplerate),
            num_channels=int(first.audio_channels),
        )

    def _vocals(self, mix_CN: NDArray[np.float32]) -> NDArray[np.float32]:
        from demucs.apply import apply_model  # pyright: ignore[reportMissingImports]

        # As demucs' own command does, but without its random shifts.
        mix = torch.from_numpy(mix_CN).to(self._device)
        mean, scale = mix.mean(), mix.mean(dim=0).std() + 1e-8
        vocals = torch.zeros_like(mix)
        with exact_inference():
            for network, share in self._networks:
                stems: Tensor = apply_model(network, ((mix - mean) / scale)[None], shifts=0, split=True)
                vocals += share * stems[0, network.sources.index(_STEM)]
        total = sum(share for _, share in self._networks)
        return (vocals / total * scale + mean).cpu().numpy()


def separate_at(
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    wave_CN: NDArray[np.float32],
    sample_rate_hz: int,
    *,
    model_rate_hz: int,
    num_channels: int,
) -> NDArray[np.float32]:
    """Run a separator that has a rate and a number of channels of its own.

    Args:
        network: vocals [C, N] of a mix [C, N] at its own rate.
        wave_CN: mix [C, N], or mono [N].
        sample_rate_hz: rate of the mix, and of what is returned.
        model_rate_hz: rate of the network.
        num_channels: channels that the network takes; mono is given to each of them.

    Returns:
        Vocals [N], the mean of the channels, exactly as long as the mix.
    """
    mix_CN = np.atleast_2d(np.asarray(wave_CN, np.float32))
    num_samples = mix_CN.shape[1]
    if not num_samples:
        return np.zeros(0, np.float32)
    if mix_CN.shape[0] != num_channels:
        mix_CN = np.repeat(mix_CN.mean(axis=0, keepdims=True), num_channels, axis=0)
    at_rate_CN = np.ascontiguousarray(resample(np.ascontiguousarray(mix_CN.T), sample_rate_hz, model_rate_hz).T)
    vocals_N = network(at_rate_CN).mean(axis=0)
    back_N = resample(np.ascontiguousarray(vocals_N, np.float32), model_rate_hz, sample_rate_hz)[:num_samples]
    return np.pad(back_N, (0, num_samples - back_N.size))
