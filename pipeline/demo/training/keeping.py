"""What trainings keep: a checkpoint to go on from, a log of losses, the finished weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SAVE_EVERY_S = 180.0
LOG_EVERY = 20


class Keeper:
    """A training's checkpoint, replaced as it goes, and its log beside it.

    Args:
        path: where the checkpoint lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved_at_s = time.monotonic()
        self._sums: dict[str, list[float]] = {}

    def load(self, model: Any, optimiser: torch.optim.Optimizer) -> int:
        """Take up the checkpoint, if there is one; returns the steps that it has behind it."""
        if not self.path.exists():
            return 0
        kept = torch.load(self.path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        return int(kept["steps"])

    def save(self, model: Any, optimiser: torch.optim.Optimizer, steps: int) -> None:
        """Replace the checkpoint; a killed process leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "steps": steps}, partial)
        partial.replace(self.path)
        self._saved_at_s = time.monotonic()

    def save_sometimes(self, model: Any, optimiser: torch.optim.Optimizer, steps: int) -> None:
        """Save if the last time is some minutes ago."""
        if time.monotonic() - self._saved_at_s > SAVE_EVERY_S:
            self.save(model, optimiser, steps)

    def note(self, step: int, losses: Mapping[str, torch.Tensor]) -> None:
        """Add losses to the log: a line of means for every so many steps."""
        for name, loss in losses.items():
            self._sums.setdefault(name, []).append(float(loss.detach()))
        if (step + 1) % LOG_EVERY == 0:
            means = {name: round(sum(values) / len(values), 4) for name, values in self._sums.items()}
            self._sums.clear()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step + 1, **means}) + "\n")


def learning_rate(step: int, steps: int, *, peak: float, warm_up_steps: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    warm = min(1.0, (step + 1) / warm_up_steps)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def write_weights(model: Any, folder: Path, *, leave_out: Sequence[str]) -> None:
    """Write a transformers model's configuration, and its weights rounded to half precision.

    Args:
        model: the model.
        folder: made if absent.
        leave_out: parts of names of tensors that whoever expands the weights makes again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not any(part in name for part in leave_out)}
    halved = {name: value.half().contiguous() if value.is_floating_point() else value for name, value in kept.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})


def write_card(folder: Path, card: str, facts: Mapping[str, object], figures: Mapping[str, float]) -> None:
    """Write README.md and figures.json.

    Args:
        folder: of the weights.
        card: text with fields for the facts and one for the table of figures.
        facts: what fills the fields.
        figures: by name, the unit in it.
    """
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    table = f"| figure | value |\n|---|---|\n{rows}"
    (folder / "README.md").write_text(card.format(**facts, figures=table), "utf-8")
    text = json.dumps(dict(figures), indent=1) + "\n"
    (folder / "figures.json").write_text(text, "utf-8")
