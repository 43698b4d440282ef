"""Weights from other libraries' files: read without running anything, renamed by rules, not one left over."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ContractError

# What trainers save beside weights, such as the best loss: plain numbers, which torch's own list leaves out.
_NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

Rules = Sequence[tuple[str, str]]
"""Regular expression and what takes its place, applied in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a converter did with every weight of its source."""

    mapped: Mapping[str, str]
    """Name there -> name here; where one became several, those have a star in common."""
    left_out: Sequence[str] = ()
    """Weights that the other library computes or has no use for, by a closed list."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What whoever uses the result should know."""


def new_folder(path: Path) -> Path:
    """Name the folder that a converter writes.

    Raises:
        ContractError: it is there already.
    """
    if path.exists():
        raise ContractError(f"convert: {path} exists already; name a new folder")
    return path


def read_pickle(path: Path, *, role: str) -> Any:
    """Read what torch wrote: tensors, numbers, texts, and containers of them; any other object is refused.

    Args:
        path: the file.
        role: what it is for, for the error's text.

    Raises:
        ContractError: no such file, a damaged one, or one with other objects in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            with torch.serialization.safe_globals(_plain_numbers()):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever the parser stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(
            f"{role}: {path} does not load as weights alone ({type(error).__name__}: {reason[:120]}); "
            "fetch it again, or save it as tensors without other objects"
        ) from error


def _plain_numbers() -> list[Any]:
    scalar: Any = np._core.multiarray.scalar  # pyright: ignore
    dtypes = [type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "?")]
    return [*((scalar, name) for name in _NUMPY_NUMBERS), np.dtype, *dtypes]


def as_state(value: Any, *, source: Path, role: str) -> dict[str, Tensor]:
    """Take a state dict for what it is.

    Raises:
        ContractError: anything but named tensors.
    """
    if not isinstance(value, Mapping) or not value:
        raise ContractError(f"{role}: {source} holds no weights where they should be; fetch it again")
    state: dict[str, Tensor] = {}
    for name, tensor in value.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ContractError(f"{role}: {source} holds {name!r}, which is no named tensor; fetch it again")
        state[name] = tensor
    return state


def rename_keys(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Rename weights.

    Raises:
        ContractError: two weights would have the same name.
    """
    renamed = {name: new_name(name, rules) for name in state}
    if len(set(renamed.values())) < len(renamed):
        names = list(renamed.values())
        twice = next(name for name in names if names.count(name) > 1)
        raise ContractError(f"convert: two weights would be called {twice}; the file is another model's")
    return {renamed[name]: tensor for name, tensor in state.items()}


def new_name(name: str, rules: Rules) -> str:
    """Rename one weight."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def fill_model(
    model: nn.Module, state: Mapping[str, Tensor], *, source: Path, may_lack: Callable[[str], bool] = lambda _: False
) -> None:
    """Put weights into a model: every one of them, and none of its own left.

    Args:
        model: takes the weights.
        state: weights by the model's own names.
        source: where they come from, for the error's text.
        may_lack: says of a name whether its value follows from the configuration.

    Raises:
        ContractError: a weight is left over, is missing, or has another size.
    """
    own = model.state_dict()
    left_over = sorted(set(state) - set(own))
    missing = sorted(name for name in set(own) - set(state) if not may_lack(name))
    misfit = sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape)
    for what, names in (("does not know", left_over), ("lacks", missing), ("has other sizes for", misfit)):
        if names:
            raise ContractError(
                f"{source}: {type(model).__name__} {what} {len(names)} weights ({', '.join(names[:3])} ...); "
                "it is another model's, or incomplete"
            )
    model.load_state_dict(dict(state), strict=False)
