"""The training loop: AdamW steps on numbered batches, schedule, clipping, bad steps, log, validation.

Whatever is random in a step is seeded by (seed, step), so a run that resumes needs no state of any generator.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.storage import sync, write_bytes
from pipeline.engine.progress import progress
from pipeline.errors import ContractError
from train.icl.batches import Batch
from train.optimisers import next_scale
from train.params import TrainParams
from train.processes import ALONE, Processes
from train.stopping import StopSignal, tell
from train.tracking import Draw, Speed, peak_memory_gib


class TrainedModel(Protocol):
    """What the loop asks of a model."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def train(self, on: bool = True) -> None:
        """Turn dropout on or off."""
        ...

    @property
    def precision(self) -> torch.dtype:
        """Of its matrix products."""
        ...


@dataclass(slots=True)
class Position:
    """Where a run stands; with weights and moments, all that a checkpoint holds."""

    step: int = 0
    """Steps done, bad ones included."""
    num_bad_steps: int = 0
    """Steps that were skipped because loss or gradient was not finite."""
    num_bad_in_a_row: int = 0
    """Of these, the ones at the end of what was done."""
    num_codes: int = 0
    """Codes that the loss counted so far."""
    loss_scale: float = 1024.0
    """What float16's loss is multiplied by before its gradients are taken."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step tells of itself."""

    loss: float
    grad_norm: float
    num_columns: int
    num_codes: int

    @property
    def finite(self) -> bool:
        """Whether the weights were changed."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Trainer:
    """A model with its optimiser.

    Args:
        model: the model.
        trainable: what the optimiser changes, by name.
        loss_of: loss of a batch, with gradients.
        params: settings.
        processes: those that train the model together.
    """

    def __init__(
        self,
        model: TrainedModel,
        trainable: Mapping[str, nn.Parameter],
        *,
        loss_of: Callable[[Batch], Tensor],
        params: TrainParams,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self.trainable = dict(trainable)
        self.params = params
        self.position = Position()
        self.processes = processes
        self.loss_of = loss_of
        self.optimiser = processes.make_optimiser(self.trainable, params)

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Take one optimiser step on the mean loss of the batches; skip it where that is not finite."""
        seed_step(self.params.seed, self.position.step, self.processes.rank)
        self.optimiser.zero_grad(set_to_none=True)
        scale = self.position.loss_scale if self.model.precision == torch.float16 else 1.0
        loss = self._add_gradients(self.processes.share_counts(batches), scale)
        self._unscale(scale)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.position.step, self.params)
        norm = self.processes.clip(list(self.trainable.values()), self.params.max_grad_norm)
        num_columns, num_codes = sum(b.num_columns for b in batches), sum(b.num_codes for b in batches)
        result = self.processes.agree(StepResult(loss, norm, num_columns, num_codes))
        if result.finite:
            self.processes.take_step(self.optimiser)
        self._advance(result)
        return result

    def _add_gradients(self, batches: Sequence[Batch], scale: float) -> float:
        parts = [part for batch in batches for part in batch.split(self.params.max_batch_columns)]
        num_passes = self.processes.num_passes(len(parts))
        total = 0.0
        for i in range(num_passes):
            # A process that has fewer parts than another repeats its last one, for nothing.
            part, weight = parts[min(i, len(parts) - 1)], float(i < len(parts))
            with self.processes.one_pass(is_last=i == num_passes - 1):
                loss = self.loss_of(part.to(self.model.device)) / len(batches)
                self.processes.backward(loss * (scale * weight))
            total += loss.item() * weight
        return total

    def _unscale(self, scale: float) -> None:
        if scale != 1.0:
            for value in self.trainable.values():
                if value.grad is not None:
                    value.grad.div_(scale)

    def _advance(self, result: StepResult) -> None:
        position = self.position
        position.step += 1
        if self.model.precision == torch.float16:
            num_good = position.step - position.num_bad_steps
            position.loss_scale = next_scale(position.loss_scale, is_finite=result.finite, num_good_steps=num_good)
        position.num_codes += result.num_codes
        if result.finite:
            position.num_bad_in_a_row = 0
            return
        position.num_bad_steps += 1
        position.num_bad_in_a_row += 1
        if position.num_bad_in_a_row >= self.params.max_bad_steps:
            raise ContractError(
                f"step {position.step}: loss or gradient not finite {position.num_bad_in_a_row} steps in a row; "
                "lower train.learning_rate, or set train.warmup_steps; the last checkpoint is kept"
            )


def learning_rate_at(step: int, params: TrainParams) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then cosine to zero or constant."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    if params.schedule == "constant":
        return params.learning_rate
    done = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed dropout and whatever else is random in a step.

    Args:
        seed: of the run.
        step: steps done.
        rank: of this process, whose dropout must not be that of another.
    """
    state = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) for key in _step_keys(seed, step, rank)]
    # torch.manual_seed gives the same, but keeps a stack trace for each kind of device not in use: a millisecond.
    torch.default_generator.manual_seed(state[-1])
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(state[-1])
    # MusicGen's layer drop asks Python's own generator: all processes must leave out the same layers.
    random.seed(state[0])


def _step_keys(seed: int, step: int, rank: int) -> list[list[int]]:
    return [[seed, step], [seed, step, rank]] if rank else [[seed, step]]


class RunLog:
    """A line of JSON per logged step; and a bar on a terminal, plain lines elsewhere.

    The file holds nothing that differs between two runs of the same command: no times, no speeds.

    Args:
        path: train_log.jsonl; lines beyond `position` (of a run that was killed) are cut off. None keeps no file.
        steps: steps of the whole run.
        position: where the run starts.
        draw: gets every line too, with speed and memory.
    """

    def __init__(self, path: Path | None, *, steps: int, position: Position, draw: Draw | None = None) -> None:
        self._path = path
        self._draw = draw
        if path is not None:
            kept = [line for line in read_log(path) if line["step"] <= position.step]
            write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._bar = progress(total=steps, desc="train", unit="step")
        self._bar.initial = self._bar.n = position.step
        self._num_left = steps - position.step
        self._started = time.monotonic()
        self._waited_s = 0.0
        self._num_columns = self._num_steps = 0

    def waited(self, seconds: float) -> None:
        """Count time that a step waited for data."""
        self._waited_s += seconds

    def advance(self, result: StepResult) -> None:
        """Count a step."""
        self._bar.update()
        self._num_steps += 1
        self._num_columns += result.num_columns

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to the file and show it."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        shown = ", ".join(f"{name} {_short(value)}" for name, value in line.items())
        speed = self._speed()
        if self._draw:
            self._draw(line["step"], {**line, **speed._asdict()})
        if self._bar.disable:
            tell(f"{shown}, {speed}")
        else:
            self._bar.set_postfix_str(f"{shown}, {speed}")

    def sync(self) -> None:
        """Wait until all lines are on the disk: a checkpoint counts on those before it."""
        if self._path is not None:
            sync(self._path)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _speed(self) -> Speed:
        elapsed_s = max(time.monotonic() - self._started, 1e-9)
        eta_s = elapsed_s / max(1, self._num_steps) * (self._num_left - self._num_steps)
        return Speed(self._num_columns / elapsed_s, 100 * self._waited_s / elapsed_s, eta_s, peak_memory_gib())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line that a kill cut short is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop calls beside its steps."""

    batch: Callable[[int], Batch]
    """Batch of a number."""
    validate: Callable[[], dict[str, float]]
    """Validation figures, empty without validation shards."""
    save: Callable[[], object]
    """Keep a checkpoint of the trainer."""
    draw: Draw | None = None
    """Gets every line of the log, with speed and memory."""


def run_loop(trainer: Trainer, hooks: Hooks, log_path: Path | None) -> dict[str, Any]:
    """Train from the trainer's position to the last step.

    Args:
        trainer: what to train.
        hooks: what is called beside its steps.
        log_path: train_log.jsonl; None in a process that keeps no log.

    Returns:
        The last logged figures, with the final validation.

    Raises:
        ContractError: too many bad steps in a row.
        SystemExit: SIGTERM or SIGINT came; a checkpoint is saved.
    """
    params, position = trainer.params, trainer.position
    log = RunLog(log_path, steps=params.steps, position=position, draw=hooks.draw)
    with closing(log), StopSignal() as stop:
        while position.step < params.steps:
            trainer.model.train()
            result = trainer.step(_timed_batches(hooks, trainer, log))
            log.advance(result)
            _report(trainer, result, hooks, log)
            signalled = trainer.processes.agree_stop(stop.number)
            # The last one too: what is left to do may be stopped, or fail.
            if signalled or position.step % params.checkpoint_every_steps == 0 or position.step == params.steps:
                log.sync()
                hooks.save()
            if signalled:
                log.close()
                tell(f"stopped at step {position.step}; the same command goes on from there")
                sys.exit(128 + signalled)
    return {"train": _last(log_path, "loss"), "validation": _last(log_path, "validation_loss")}


def _timed_batches(hooks: Hooks, trainer: Trainer, log: RunLog) -> list[Batch]:
    started = time.monotonic()
    batches = [hooks.batch(i) for i in batch_numbers(trainer.position.step, trainer.params, trainer.processes)]
    log.waited(time.monotonic() - started)
    return batches


def batch_numbers(step: int, params: TrainParams, processes: Processes) -> range:
    """Numbers of the batches that this process takes in a step: those of all processes follow one another."""
    first = step * params.accumulate * processes.num_processes
    return range(first + processes.rank, first + params.accumulate * processes.num_processes, processes.num_processes)


def _report(trainer: Trainer, result: StepResult, hooks: Hooks, log: RunLog) -> None:
    params, step = trainer.params, trainer.position.step
    last = step == params.steps
    if last or step % params.log_every_steps == 0 or not result.finite:
        line = {"step": step, "loss": _json_float(result.loss), "grad_norm": _json_float(result.grad_norm)}
        log.write({**line, "learning_rate": learning_rate_at(step - 1, params)})
    if last or (params.validate_every_steps and step % params.validate_every_steps == 0):
        figures = hooks.validate()
        if figures:
            log.write({"step": step, **{name: _json_float(value) for name, value in figures.items()}})


def _json_float(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last(log_path: Path | None, name: str) -> dict[str, Any] | None:
    lines = read_log(log_path) if log_path else []
    return next((line for line in reversed(lines) if name in line), None)
