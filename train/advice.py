"""What a training needs against what is free, before anything is loaded; and what to set where that is too much."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ContractError, ParamsError
from train.checkpoint import list_checkpoints
from train.params import TrainParams
from train.planning import GB, MemoryPlan, plan_memory, rough_bytes
from train.processes import PLAIN, Launch
from train.shapes import SHAPES, published_config, read_config

SIGNS = ("out of memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
"""What CUDA's, torch's and the C++ library's allocators say."""
SURE_SHARE = 0.25
"""Of what is free; where a rough bound is no more, nothing is planned."""
MOST_REMEDIES = 3
LEAST_SAVING = 0.02
"""Share of what is planned that a change must save to be worth a word."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings that would fit."""

    changes: Mapping[str, Any]
    needed_bytes: int

    def __str__(self) -> str:
        told = ", ".join(f"{name}: {_yaml(value)}" for name, value in self.changes.items())
        return f"{told} ({self.needed_bytes / GB:.2f} GB)"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def needed_bytes(config: Any, params: TrainParams, device: str) -> tuple[int, MemoryPlan]:
    """Bytes that a training takes on a device, and the plan that they come from."""
    on_cpu = device == "cpu"
    if on_cpu and params.precision == "auto" and params.base_weights == "fp32":
        params = replace(params, precision="fp32")
    plan = plan_memory(config, params)
    return (plan.heap_bytes if on_cpu else plan.needed_bytes), plan


def remedies(config: Any, params: TrainParams, device: str, *, most_bytes: float) -> list[Remedy]:
    """Find settings that need no more than so many bytes, those first that cost the training least.

    Each is a single change; where none is enough, all of them together until it is; at last a smaller model.
    """
    moves, now = _moves(params), needed_bytes(config, params, device)[0]
    alone: list[Remedy] = []
    for move in moves:
        needed = _needed_after(config, params, move, device)
        if needed is not None and needed <= most_bytes:
            alone.append(Remedy(_dotted(move), needed))
        if len(alone) == MOST_REMEDIES:
            break
    if alone:
        return alone
    ladder: dict[str, Any] = {}
    for move in moves:
        needed = _needed_after(config, params, ladder | move, device)
        if needed is not None and needed < now * (1 - LEAST_SAVING):
            ladder, now = ladder | move, needed
            if needed <= most_bytes:
                return [Remedy(_dotted(ladder), needed)]
    return _smaller_models(config, params, device, most_bytes=most_bytes)


def _smaller_models(config: Any, params: TrainParams, device: str, *, most_bytes: float) -> list[Remedy]:
    for size, (_, width) in reversed(SHAPES.items()):
        if width < config.decoder.hidden_size:
            needed = needed_bytes(published_config(size), params, device)[0]
            if needed <= most_bytes:
                return [Remedy({"models.generator": f"facebook/musicgen-{size}"}, needed)]
    return []


def _dotted(move: Mapping[str, Any]) -> dict[str, Any]:
    return {f"train.{name}": value for name, value in move.items()}


def _needed_after(config: Any, params: TrainParams, move: Mapping[str, Any], device: str) -> int | None:
    try:
        changed = replace(params, **move)
    except ParamsError:
        # This sequence does not go with it.
        return None
    return needed_bytes(config, changed, device)[0]


def _moves(params: TrainParams) -> list[dict[str, Any]]:
    """Single changes that save memory, those first that cost the training least."""
    moves: list[dict[str, Any]] = []
    lora = params.method == "lora"
    low = {"precision": "bf16"} if params.precision == "fp32" else {}
    if not params.gradient_checkpointing:
        moves.append({"gradient_checkpointing": True})
    if params.batch_size > 1:
        moves.append({"batch_size": 1, "accumulate": params.accumulate * params.batch_size})
    if lora and params.base_weights == "fp32":
        moves.append({**low, "base_weights": "bf16"})
    if not lora and params.optimiser == "adamw":
        moves.append({"optimiser": "adamw8bit"})
    if lora and params.base_weights != "nf4":
        moves.append({**low, "base_weights": "nf4"})
    if not lora:
        moves.append({"method": "lora"})
    for most in sorted({params.most_examples // 2, 0} - {params.most_examples}, reverse=True):
        kept = tuple(sorted({min(count, most) for count in params.example_counts}))
        moves.append({"num_examples": kept[0] if len(kept) == 1 else kept})
    moves.append({"max_example_frames": max(1, params.max_example_frames // 2)})
    return moves


def free_bytes(device: str) -> int:
    """Bytes that a device could give now."""
    if device == "cpu":
        return available_bytes()
    import torch

    return torch.cuda.mem_get_info(device)[0]


def available_bytes(root: Path = Path("/")) -> int:
    """Memory of the machine that could be had without swapping, and that this process's groups may still take.

    Args:
        root: where proc/ and sys/ lie.
    """
    rooms = [room for room in (_meminfo(root), *_group_rooms(root)) if room is not None]
    return min(rooms, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _meminfo(root: Path) -> int | None:
    path = root / "proc/meminfo"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _group_rooms(root: Path) -> Generator[int | None]:
    """What each memory group above this process has left, in both versions of the kernel's groups."""
    path = root / "proc/self/cgroup"
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        _, names, own = line.split(":", 2)
        top = {"": root / "sys/fs/cgroup", "memory": root / "sys/fs/cgroup/memory"}.get(names)
        if top is not None:
            folder = top / own.strip("/")
            while folder != top:
                yield _room(folder)
                folder = folder.parent
            yield _room(top)


def _room(group: Path) -> int | None:
    for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        limit = _read(group / most)
        if limit.isdigit():
            stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines())
            # Files that were read stay in memory until somebody needs it.
            return max(0, int(limit) - int(_read(group / used) or 0) + int(stat.get("inactive_file", 0)))
    return None


def _read(path: Path) -> str:
    return path.read_text("utf-8").strip() if path.is_file() else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def advised(
    base: Path, params: TrainParams, *, device: str, checkpoints: Path, launch: Launch = PLAIN
) -> Generator[None]:
    """Refuse a training that cannot fit, and end one that runs out of memory with what would fit.

    Args:
        base: folder of the base model; only its config.json is read.
        params: settings of the training.
        device: where this process trains.
        checkpoints: the run's folder of checkpoints.
        launch: how many processes train.

    Raises:
        ContractError: more is planned than is free, or an allocation failed meanwhile.
    """
    if params.preflight:
        _refuse_too_much(base, params, device, launch)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "no memory left"
        # The frames of the training hold its model, and advice needs some memory too.
        traceback.clear_frames(error.__traceback__)
    else:
        return
    raise ContractError(_out_of_memory(base, params, device, reason=reason, checkpoints=checkpoints)) from None


def _refuse_too_much(base: Path, params: TrainParams, device: str, launch: Launch) -> None:
    if launch.kind in ("fsdp", "deepspeed"):
        # The plan is of a model that is not shared out.
        return
    config = read_config(base)
    free = free_bytes(device) // (launch.num_processes if device == "cpu" else 1)
    rough = rough_bytes(config, params)
    if rough <= SURE_SHARE * free:
        # A plan takes a second, half of what a training at toy size takes.
        print(f"memory: less than {rough / GB:.2f} GB needed, {free / GB:.2f} GB free on {device}", file=sys.stderr)
        return
    needed, plan = needed_bytes(config, params, device)
    what = f"{needed / GB:.2f} GB planned for {params.batch_size} x {plan.num_columns:,} columns"
    if needed <= free:
        print(f"memory: {what}, {free / GB:.2f} GB free on {device}", file=sys.stderr)
        return
    found = remedies(config, params, device, most_bytes=free)
    raise ContractError(f"{what}, but only {free / GB:.2f} GB free on {device}; {_advice(found)}")


def _out_of_memory(base: Path, params: TrainParams, device: str, *, reason: str, checkpoints: Path) -> str:
    config = read_config(base)
    needed, plan = needed_bytes(config, params, device)
    found = remedies(config, params, device, most_bytes=needed * (1 - LEAST_SAVING))
    kept = list_checkpoints(checkpoints)[-1:]
    last = f"the last checkpoint is {kept[0]}, for these same settings" if kept else "there is no checkpoint yet"
    return (
        f"out of memory on {device} ({reason}); {needed / GB:.2f} GB are planned for "
        f"{params.batch_size} x {plan.num_columns:,} columns; {_advice(found)}; {last}"
    )


def _advice(found: list[Remedy]) -> str:
    if not found:
        return "no setting of `train` saves enough; choose a smaller models.generator, or free memory"
    return "less would need: " + "; or ".join(map(str, found))
