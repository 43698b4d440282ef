"""Write out the demo's CLAP: committed are weights in half precision, published checkpoints have float32."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = Path(__file__).parent / "weights"
_WEIGHTS_FILE = "model.safetensors"


def write_clap(folder: Path, *, weights: Path = WEIGHTS / "clap") -> None:
    """Write the demo's text-audio embedder as transformers saves it, its card beside it.

    Args:
        folder: made if absent.
        weights: the committed folder.
    """
    write_full(weights, folder)


def write_classifier(folder: Path, *, weights: Path = WEIGHTS / "classifier") -> None:
    """Write the demo's classifier of facts.

    Args:
        folder: made if absent.
        weights: the committed folder.
    """
    write_full(weights, folder)


def write_full(weights: Path, folder: Path) -> None:
    """Copy a checkpoint with its weights in float32."""
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns(_WEIGHTS_FILE), dirs_exist_ok=True)
    halves = load_file(weights / _WEIGHTS_FILE)
    full = {name: value.float() if value.is_floating_point() else value for name, value in halves.items()}
    save_file(full, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
