"""Curves of a training while it runs, through accelerate's trackers: tensorboard, and W&B online or offline.

They lie in runs/.work/<name>/<fingerprint>/tracking: they hold times, which no finished result may. All trainings:

    tensorboard --logdir runs/.work
    WANDB_MODE=offline python -m train.run ... ; wandb sync runs/.work/<name>/*/tracking/wandb/offline-run-*

A run that goes on continues its curve: tensorboard hides what came after the checkpoint, W&B goes on under one id.
"""

from __future__ import annotations

import importlib.util
import math
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ParamsError
from train.params import TrainParams

FOLDER = "tracking"
PROJECT = "setlist"


Draw = Callable[[int, Mapping[str, Any]], None]
"""Takes a step's figures by name."""


class Speed(NamedTuple):
    """How a training gets on, all since it started or went on."""

    columns_per_s: float
    data_wait_percent: float
    """Share of the time that steps waited for batches."""
    eta_s: float
    memory_gib: float

    def __str__(self) -> str:
        return (
            f"{self.columns_per_s:,.0f} columns/s, data wait {self.data_wait_percent:.1f} %, "
            f"ETA {clock(self.eta_s)}, memory {self.memory_gib:.2f} GiB"
        )


def clock(seconds: float) -> str:
    """A time as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"


def peak_memory_gib() -> float:
    """The most memory that tensors took on the GPU; without one, the most that the process took."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


class Tracker:
    """Hands figures to all trackers that were asked for.

    Args:
        params: settings; `tracking` names the trackers.
        work: `runs/.work/<name>/<fingerprint>`.
        step: steps done; what was tracked beyond them is hidden or not repeated.

    Raises:
        ParamsError: one is not installed, or W&B does not start: no account, or no network.
    """

    def __init__(self, params: TrainParams, work: Path, *, step: int) -> None:
        self._trackers: list[Any] = []
        folder = work / FOLDER
        for name in params.trackers:
            if importlib.util.find_spec(name) is None:
                raise ParamsError(
                    f"train.tracking {name}: not installed; `uv pip install {name}`, or set train.tracking to none"
                )
        for name in params.trackers:
            folder.mkdir(parents=True, exist_ok=True)
            start = {"tensorboard": _tensorboard, "wandb": _wandb}[name]
            self._trackers.append(start(folder, work, step))

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add a point to every curve that has a figure."""
        finite = {
            name: value for name, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        for tracker in self._trackers:
            tracker.log(finite, step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []


def _tensorboard(folder: Path, _work: Path, step: int) -> Any:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", folder, purge_step=step + 1)
    tracker.start()
    return tracker


def _wandb(folder: Path, work: Path, _step: int) -> Any:
    import wandb
    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    # What accelerate's own log asks for; the one of several processes where there are any.
    PartialState()

    # One id for a training and all its resumptions; quiet, because the trainer's own lines are enough.
    identity = {"name": work.parent.name, "id": work.name, "resume": "allow", "dir": str(folder)}
    tracker = WandBTracker(PROJECT, **identity, settings=wandb.Settings(silent=True, console="off"))
    try:
        tracker.start()
    except wandb.Error as error:
        raise ParamsError(
            f"train.tracking wandb: does not start ({str(error).splitlines()[0]}); log in by `wandb login`, or set "
            "WANDB_MODE=offline"
        ) from error
    return tracker
