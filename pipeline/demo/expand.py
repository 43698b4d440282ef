"""Where the demo's weights are kept, and how halves become what published checkpoints are: float32."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = Path(__file__).parent / "weights"
CARD = "README.md"
_WEIGHTS_FILE = "model.safetensors"


def write_full(weights: Path, folder: Path) -> None:
    """Copy a checkpoint with its weights in float32 and its card beside it.

    Args:
        weights: the committed folder.
        folder: made if absent.
    """
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns(_WEIGHTS_FILE), dirs_exist_ok=True)
    halves = load_file(weights / _WEIGHTS_FILE)
    full = {name: value.float() if value.is_floating_point() else value for name, value in halves.items()}
    save_file(full, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
