"""Training on a card: memory beside its plan, steps per second beside a plain script of transformers', data wait.

    python -m tests.bench.gpu_training --out figures      # on the GPU, under ten minutes on a large one
    python -m tests.bench.gpu_training --rehearse         # tiny shapes on the CPU: does the script run?

Models have the published shapes and random weights, so nothing is downloaded. Every row runs in a process of its own,
so that one which runs out of memory does not end the others, and says so in the table.

Memory: one episode of 3,000 columns with six prompts of 128 tokens, layers computed again, the process held to the
card's size that the row names. `measured` is the most that the allocator reserved, and what the driver holds beside
it; `planned` is what `python -m train.memory` says of the same settings.
Speed: MusicGen small in bfloat16, batches of four, once with three examples each and once with none to three, where the
plain script pads and ours runs the batch in parts.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from tests.bench.hf_baseline import Baseline, Clock
from tests.bench.training import codec_shape, random_network, shape_config, write_episodes
from tests.train import toys
from train.data import CodecShape, Episode
from train.icl.adapter import make_trainable
from train.icl.batches import Batch, collate, train_batch
from train.icl.loss import mean_loss
from train.icl.model import make_model
from train.icl.recompute import recompute_layers
from train.loop import Trainer
from train.params import TrainParams
from train.planning import DRIVER_BYTES, plan_memory
from train.shapes import Size

GB = 1e9
NUM_EXAMPLES = 5
FRAMES = (480, 480, 480, 500)
CASE_LIMIT_S = 150.0
"""So that one row which hangs leaves time for the others."""
TOTAL_LIMIT_S = 570.0
"""So that a run ends in ten minutes."""
REHEARSAL_LIMIT_S = 900.0
WARM_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A training that is to fit a card."""

    size: Size
    base_weights: str
    card_gb: int
    goal_gb: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Batches to train on, by our trainer or by the plain script."""

    frames: tuple[tuple[int, ...], ...]
    max_batch_columns: int
    plain: bool


EQUAL: tuple[tuple[int, ...], ...] = (FRAMES,) * 4
DRAWN: tuple[tuple[int, ...], ...] = tuple(FRAMES[n:] for n in range(4))
MEMORY: dict[str, Memory] = {
    "small QLoRA": Memory(size="small", base_weights="nf4", card_gb=10, goal_gb=6),
    "medium QLoRA": Memory(size="medium", base_weights="nf4", card_gb=10, goal_gb=6),
    "medium LoRA, bf16": Memory(size="medium", base_weights="bf16", card_gb=16, goal_gb=12),
    "large LoRA, bf16": Memory(size="large", base_weights="bf16", card_gb=24, goal_gb=20),
    "large QLoRA": Memory(size="large", base_weights="nf4", card_gb=16, goal_gb=None),
}
SPEED: dict[str, Speed] = {
    "ours, three examples": Speed(frames=EQUAL, max_batch_columns=0, plain=False),
    "plain script, three examples": Speed(frames=EQUAL, max_batch_columns=0, plain=True),
    "ours, none to three": Speed(frames=DRAWN, max_batch_columns=2000, plain=False),
    "plain script, none to three": Speed(frames=DRAWN, max_batch_columns=0, plain=True),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """Real shapes on a card, or tiny ones on the CPU."""

    device: str
    divisor: int
    num_layers: int | None
    """None: as published."""
    shorter: int
    """Divides the lengths."""
    steps: int

    def config(self, size: Size) -> Any:
        """The model's configuration."""
        config = shape_config(size, divisor=self.divisor)
        if self.num_layers:
            config.decoder.num_hidden_layers = config.text_encoder.num_layers = self.num_layers
        return config


CARD = Scale("cuda", 1, None, 1, 12)
REHEARSAL = Scale("cpu", 4, 2, 10, 1)


def memory_params(case: Memory, scale: Scale) -> TrainParams:
    """Settings whose longest episode has 3,000 columns: 5 x (495 + 4) + 502 + 3."""
    columns = 3000 // scale.shorter
    target_frames = 502 if scale.shorter == 1 else columns // NUM_EXAMPLES - 8
    example_frames = (columns - target_frames - 3) // NUM_EXAMPLES - 4
    return TrainParams(
        batch_size=1,
        num_examples=NUM_EXAMPLES,
        max_example_frames=example_frames,
        max_target_frames=target_frames,
        max_total_columns=columns,
        base_weights=case.base_weights,  # pyright: ignore[reportArgumentType]
        gradient_checkpointing=True,
    )


def longest(params: TrainParams, codec: CodecShape) -> Batch:
    """The longest episode that settings allow, with the longest prompts."""
    random = np.random.default_rng(0)
    frames = [params.max_example_frames] * params.most_examples + [params.max_target_frames]
    clips = [
        random.integers(0, codec.codebook_size, (codec.num_codebooks, length)).astype(np.uint16) for length in frames
    ]
    prompt = " ".join(toys.WORDS[n % len(toys.WORDS)] for n in range(params.max_text_tokens - 1))
    prompts: list[str | None] = [f"{toys.WORDS[n]} {prompt}" for n in range(len(clips))]
    return collate([Episode("toy", prompt, clips[-1], clips[:-1], prompts)], codebook_size=codec.codebook_size)


def make_trainer(config: Any, params: TrainParams, device: str) -> Trainer:
    """Make a trainer as `train.run` does, of a model with random weights."""
    model = make_model(random_network(config), toys.tokenizer(), codec_shape(config), params=params, device=device)

    def loss_of(batch: Batch) -> torch.Tensor:
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    trainer = Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)
    recompute_layers(model.network, params.gradient_checkpointing)
    model.train()
    return trainer


def measure_memory(name: str, scale: Scale) -> dict[str, Any]:
    """Take steps on the longest episode, the process held to the card's size."""
    case = MEMORY[name]
    config, params = scale.config(case.size), memory_params(case, scale)
    plan = plan_memory(config, params)
    hold_to(case.card_gb, scale.device)
    trainer, batch = make_trainer(config, params, scale.device), longest(params, codec_shape(config))
    trainer.step([batch])
    start = time.perf_counter()
    for _ in range(scale.steps):
        trainer.step([batch])
    elapsed_s = time.perf_counter() - start
    allocated, process = peak_bytes(scale.device)
    return {
        "columns": batch.num_columns,
        "card_gb": case.card_gb,
        "goal_gb": case.goal_gb,
        "planned_gb": round(plan.needed_bytes / GB, 2),
        "measured_gb": round(process / GB, 2),
        "difference": round(plan.needed_bytes / process - 1, 4),
        "planned_tensors_gb": round(plan.footprint.total / GB, 3),
        "measured_tensors_gb": round(allocated / GB, 3),
        "steps_per_s": round(scale.steps / elapsed_s, 3),
    }


def hold_to(card_gb: int, device: str) -> None:
    """Let the process have no more than a card of this size, of which the driver takes its part."""
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (card_gb * GB - DRIVER_BYTES) / total))


def peak_bytes(device: str) -> tuple[int, int]:
    """Most bytes in tensors so far, and most that the process took; on a CPU both of the whole process."""
    if device != "cuda":
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return resident, resident
    free, total = torch.cuda.mem_get_info()
    # What others on the card hold counts as the driver's: measure on a card of its own.
    driver = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved() + driver


def measure_speed(name: str, scale: Scale) -> dict[str, Any]:
    """Train for some steps, warm; seconds per step by what they were spent on."""
    case = SPEED[name]
    config = scale.config("small")
    frames = [tuple(length // scale.shorter for length in clips) for clips in case.frames]
    clock = Clock(scale.device)
    with tempfile.TemporaryDirectory() as folder:
        if case.plain:
            step = _plain_step(config, frames, folder=Path(folder), clock=clock)
        else:
            params = TrainParams(batch_size=len(frames), num_examples=3, max_batch_columns=case.max_batch_columns)
            step = _our_step(config, frames, params=params, folder=Path(folder), clock=clock)
        for i in range(WARM_STEPS + scale.steps):
            if i == WARM_STEPS:
                clock.seconds.clear()
            step(i)
    peak, _ = peak_bytes(scale.device)
    seconds = {part: round(value / scale.steps, 5) for part, value in clock.seconds.items()}
    data_wait = clock.seconds.get("read codes", clock.seconds.get("read audio", 0.0)) / clock.total_s
    return {
        "steps_per_s": round(scale.steps / clock.total_s, 3),
        "data_wait": round(data_wait, 5),
        "seconds": seconds,
        "peak_tensors_gb": round(peak / GB, 2),
    }


def _our_step(
    config: Any, frames: Sequence[Sequence[int]], *, params: TrainParams, folder: Path, clock: Clock
) -> Callable[[int], Any]:
    shards, _ = write_episodes(folder, config, frames, audio=False)
    trainer, size = make_trainer(config, params, clock.device), codec_shape(config).codebook_size

    def step(i: int) -> None:
        with clock("read codes"):
            batch = train_batch(shards, i, params, codebook_size=size)
        with clock("step"):
            trainer.step([batch])

    return step


def _plain_step(config: Any, frames: Sequence[Sequence[int]], *, folder: Path, clock: Clock) -> Callable[[int], Any]:
    _, rows = write_episodes(folder, config, frames)
    baseline = Baseline(random_network(config), toys.tokenizer(), device=clock.device, bf16=True)
    return lambda _: baseline.step(rows, clock)


def run_case(name: str, *, rehearse: bool, limit_s: float) -> dict[str, Any]:
    """Measure a row in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.gpu_training", "--case", name, *(["--rehearse"] if rehearse else [])]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"not done after {limit_s:.0f} s"}
    found = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not found:
        return {"name": name, "failed": (ran.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return {"name": name, **json.loads(found[-1])}


def machine(scale: Scale) -> str:
    """What the figures were taken on."""
    if scale.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU ({platform.machine()}), torch {torch.__version__}: a rehearsal at tiny shapes, not a figure"


def as_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables in Markdown: memory, then speed."""
    lines = [
        title, "",
        "| training | card | planned | measured | plan off by | goal | tensors, planned / measured | steps/s |",
        "|---|---|---|---|---|---|---|---|",
        *(_memory_line(row) for row in rows if row["name"] in MEMORY),
        "",
        "| small, bf16, batches of 4 | steps/s | data wait | seconds a step | ours / plain |", "|---|---|---|---|---|",
        *(_speed_line(row, rows) for row in rows if row["name"] in SPEED),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _memory_line(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['name']} | {MEMORY[row['name']].card_gb} GB | failed: {row['failed']} | | | | | |"
    goal = f"{row['goal_gb']} GB" if row["goal_gb"] else "none"
    tensors = f"{row['planned_tensors_gb']} / {row['measured_tensors_gb']} GB"
    return (
        f"| {row['name']} | {row['card_gb']} GB | {row['planned_gb']} GB | {row['measured_gb']} GB | "
        f"{row['difference']:+.1%} | {goal} | {tensors} | {row['steps_per_s']} |"
    )


def _speed_line(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    if "failed" in row:
        return f"| {row['name']} | failed: {row['failed']} | | | |"
    plain = next((other for other in rows if other["name"] == row["name"].replace("ours", "plain script")), {})
    ratio = f"{row['steps_per_s'] / plain['steps_per_s']:.2f}" if plain is not row and "failed" not in plain else ""
    parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in row["seconds"].items())
    return f"| {row['name']} | {row['steps_per_s']} | {row['data_wait']:.2%} | {parts} | {ratio} |"


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure all rows, print tables, write them and JSON."""
    known = (*MEMORY, *SPEED)
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu_training", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--rows", nargs="+", default=known, choices=known, metavar="NAME", help=f"of {known}")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of what is written")
    parser.add_argument("--case", choices=known, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    scale = REHEARSAL if args.rehearse else CARD
    if scale.device == "cuda" and not torch.cuda.is_available():
        parser.error("no card here; --rehearse runs the same at tiny shapes on the CPU")
    if args.case:
        logging.set_verbosity_error()
        print(json.dumps((measure_memory if args.case in MEMORY else measure_speed)(args.case, scale)))
        return []
    rows: list[dict[str, Any]] = []
    start = time.monotonic()
    for name in args.rows:
        left_s = TOTAL_LIMIT_S - (time.monotonic() - start)
        limit_s = REHEARSAL_LIMIT_S if args.rehearse else max(1.0, min(CASE_LIMIT_S, left_s))
        rows.append(run_case(name, rehearse=args.rehearse, limit_s=limit_s))
        print(json.dumps(rows[-1]), flush=True)
    table = as_table(machine(scale), rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu_training.md").write_text(table, "utf-8")
    (args.out / "gpu_training.json").write_text(json.dumps({"machine": machine(scale), "rows": rows}, indent=1) + "\n")
    print(f"\n{table}\nwritten to {args.out}/gpu_training.md and .json")
    return rows


if __name__ == "__main__":
    from tests.bench.gpu_training import main

    main()
