"""The weights under which validation was lowest, kept beside the newest checkpoints, and which of both is published.

runs/.work/<name>/<fingerprint>/checkpoints/best-000200/   weights, and the validation's figures

A training never goes on from there, so its moments are not kept. Resume measures again what came after the last
checkpoint, gets the same losses, and leaves the best where it is.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ParamsError
from train.checkpoint import load_weights, save_weights, whole_folder

if TYPE_CHECKING:
    from train.loop import Trainer

FIGURES_FILE = "validation.json"
LOSS = "validation_loss"


def best_checkpoint(folder: Path) -> Path | None:
    """The best checkpoint in a folder of them; the earliest of equal ones."""
    found = [path for path in folder.glob("best-*") if re.fullmatch(r"best-\d+", path.name)]
    return min(found, key=lambda path: (read_figures(path)[LOSS], read_figures(path)["step"]), default=None)


def read_figures(best: Path) -> dict[str, Any]:
    """Step, loss and whatever else was measured there."""
    return json.loads((best / FIGURES_FILE).read_bytes())


def keep_best(folder: Path, trainer: Trainer, figures: Mapping[str, Any]) -> None:
    """Keep the weights as they are if no validation before had as low a loss.

    Args:
        folder: the folder of checkpoints.
        trainer: what is being trained.
        figures: of the validation that was just done; empty where there was none.
    """
    loss = figures.get(LOSS)
    if loss is None or not math.isfinite(loss):
        return
    before = best_checkpoint(folder)
    if before is not None and read_figures(before)[LOSS] <= loss:
        return
    step = trainer.position.step
    with whole_folder(folder / f"best-{step:06d}") as part:
        save_weights(trainer, part)
        (part / FIGURES_FILE).write_text(json.dumps({"step": step, **figures}), "utf-8")
    if before is not None and before.name != f"best-{step:06d}":
        shutil.rmtree(before)


def choose_published(folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Put the weights in place that `train.publish` asks for, at the end of a training.

    Args:
        folder: the folder of checkpoints.
        trainer: a trainer that is done.

    Returns:
        For metrics.json: `best_validation`, None where nothing was measured, and `published`, which says which one
        and of which step.

    Raises:
        ParamsError: the best is asked for, and no validation gave a loss.
    """
    best = best_checkpoint(folder)
    figures = read_figures(best) if best else None
    if trainer.params.publish == "last":
        return {"best_validation": figures, "published": {"which": "last", "step": trainer.position.step}}
    if best is None or figures is None:
        raise ParamsError(
            "train.publish best: no validation gave a finite loss; the same command with --set train.publish=last "
            "trains anew and publishes the last step"
        )
    load_weights(best, trainer)
    return {"best_validation": figures, "published": {"which": "best", "step": figures["step"]}}
