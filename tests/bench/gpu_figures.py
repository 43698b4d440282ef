"""How many hours of audio `encode` and `embed` work through in an hour on a card.

    python -m tests.bench.gpu_figures                              # on the GPU
    python -m tests.bench.gpu_figures --device cpu --seconds 20    # a rehearsal: does the script run?

Models have the published shapes and random weights, so nothing is downloaded. The stages' own steps run over shards of
10 s clips at 32 kHz, decoding, resampling and writing included, in fp32 and in bf16, with several batch sizes. For
each: hours of audio per hour; the share of the time in which a batch was in the model (goal on a card: 90 %); peak
memory; the batch that memory allowed; and how far the results agree with those of the CPU in fp32 (codes equal; least
cosine).
The agreement of bf16 codes does not carry over to trained weights: `encode.precision` measures it on those.

On a machine without a GPU, the default falls back to the CPU: the table then says so, and shows nothing but that the
script runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from pipeline.data.shards import Sample, decode_npy, decode_npz, write_shard
from pipeline.engine.local import Task
from pipeline.models.base import Precision, choose_device
from stages.embed import EmbedParams, EmbedStep
from stages.encode import EncodeParams, EncodeStep
from tests.bench.encoders import CLAPS, CODECS, build_clap, build_codec, music, write_clips

CLIP_S, INGEST_HZ = 10.0, 32_000
CLIPS_PER_SHARD = 128
DIFFERENT_CLIPS = 16
COMPARED_CLIPS = 2
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured with one model, one precision and one batch size."""

    model: str
    precision: Precision
    batch_size: int
    batch_used: int
    """Less than asked for where memory did not suffice."""
    hours_per_hour: float
    busy_share: float
    """Of the time by the clock, how much had a batch in the model."""
    peak_gib: float
    """Of the card; on a CPU, of the whole process so far."""
    agreement: float
    """Codes equal to the CPU's in fp32, the worst codebook; or the least cosine with its vectors."""


def make_step(name: str, folder: Path, *, precision: Precision, batch_size: int, device: str) -> Any:
    """Build the step of the stage that such a model belongs to."""
    if name in CLAPS:
        return EmbedStep(EmbedParams(batch_size=batch_size, precision=precision), str(folder), device)
    # Random weights have no code agreement to insist on.
    params = EncodeParams(batch_size=batch_size, precision=precision, min_agreement=0.0, num_codebooks=4)
    return EncodeStep(params, str(folder), device)


def results_of(step: Any, task: Task) -> Iterator[Sample]:
    """What a step makes of a shard, without its side lines."""
    return (result for result in step(task) if isinstance(result, Sample))


def measure(name: str, folder: Path, tasks: Sequence[Task], *, step: Any, out: Path) -> tuple[float, float]:
    """Run a step over all shards, warm.

    Returns:
        Seconds by the clock, and those of them with a batch in the model.
    """
    method = "_embed" if name in CLAPS else "_encode"
    compute, inside_s = getattr(step, method), 0.0

    def timed(clips: Any) -> Any:
        nonlocal inside_s
        before = time.perf_counter()
        results = compute(clips)  # ends with a copy to the CPU, which waits for the card
        inside_s += time.perf_counter() - before
        return results

    setattr(step, method, timed)
    start = time.perf_counter()
    for task in tasks:
        write_shard(out / f"{task.name}.tar", results_of(step, task))
    return time.perf_counter() - start, inside_s


def agreement(expected: Sequence[Sample], found: Sequence[Sample]) -> float:
    """How far results agree: the worst codebook's share of equal codes, or the least cosine of the audio vectors."""
    pairs = list(zip(expected, found, strict=True))
    if "codes.npy" in expected[0].members:
        codes = [tuple(decode_npy(sample.members["codes.npy"]) for sample in pair) for pair in pairs]
        return float(np.concatenate([e_KT == f_KT for e_KT, f_KT in codes], axis=1).mean(axis=1).min())
    vectors = [tuple(decode_npz(sample.members["clap.npz"])["audio"].astype(np.float64) for sample in p) for p in pairs]
    return float(min(e_D @ f_D / np.linalg.norm(e_D) / np.linalg.norm(f_D) for e_D, f_D in vectors))


def measure_model(
    name: str, folder: Path, tasks: Sequence[Task], *, batches: Sequence[int], device: str, out: Path
) -> list[Figures]:
    """Measure one model in both precisions with all batch sizes, and compare it with the CPU."""
    first = Task(tasks[0].name, COMPARED_CLIPS, (tasks[0].payload[0], COMPARED_CLIPS))
    audio_s = sum(task.num_items for task in tasks) * CLIP_S
    build = partial(make_step, name, folder)
    expected = list(results_of(build(precision="fp32", batch_size=1, device="cpu"), first))
    rows: list[Figures] = []
    for precision, batch_size in itertools.product(PRECISIONS, batches):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = build(precision=precision, batch_size=batch_size, device=device)
        agrees = agreement(expected, list(results_of(step, first)))
        clock_s, inside_s = measure(name, folder, tasks, step=step, out=out)
        model = step.embedder if name in CLAPS else step.codec
        row = Figures(
            model=name,
            precision=precision,
            batch_size=batch_size,
            batch_used=model.batch_size,
            hours_per_hour=round(audio_s / clock_s, 2),
            busy_share=round(inside_s / clock_s, 4),
            peak_gib=round(peak_gib(device), 2),
            agreement=round(agrees, 5),
        )
        print(as_line(row), flush=True)
        rows.append(row)
    return rows


def peak_gib(device: str) -> float:
    """Most memory held so far: of the card, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


HEAD = "| model | precision | batch (used) | hours of audio per hour | model busy | peak memory | agrees with the CPU |"


def as_line(row: Figures) -> str:
    """A row of the table."""
    batch = f"{row.batch_size} ({row.batch_used})"
    return (
        f"| {row.model} | {row.precision} | {batch} | {row.hours_per_hour:,.1f} | {row.busy_share:.1%} | "
        f"{row.peak_gib:.1f} GiB | {row.agreement:.3%} |"
    )


def machine(device: str) -> str:
    """What the figures were taken on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU ({platform.machine()}), torch {torch.__version__}: a rehearsal, not a figure"


def measure_all(device: str, *, seconds: float, batches: Sequence[int], models: Sequence[str]) -> list[Figures]:
    """Measure the named models over that much audio each."""
    num_clips = max(COMPARED_CLIPS, round(seconds / CLIP_S))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "out").mkdir()
        different = [music(seed, CLIP_S, INGEST_HZ) for seed in range(min(DIFFERENT_CLIPS, num_clips))]
        waves_N = [different[n % len(different)] for n in range(num_clips)]
        tasks = [
            write_clips(work / f"{n:06d}.tar", waves_N[start : start + CLIPS_PER_SHARD], INGEST_HZ)
            for n, start in enumerate(range(0, num_clips, CLIPS_PER_SHARD))
        ]
        rows: list[Figures] = []
        for model in models:
            build = build_clap if model in CLAPS else build_codec
            folder = build(work / model.replace(" ", "-"), model)
            rows += measure_model(model, folder, tasks, batches=batches, device=device, out=work / "out")
        return rows


def main(argv: Sequence[str] | None = None) -> list[Figures]:
    """Measure, print a table, write JSON."""
    known = (*CODECS, *CLAPS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu_figures", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seconds", type=float, default=7680.0, help="audio that each measurement works through")
    parser.add_argument("--batches", type=int, nargs="+", default=None, help="default: 8 32 128, on a CPU 2")
    parser.add_argument("--models", nargs="+", default=known, choices=known, metavar="NAME", help=f"of {known}")
    parser.add_argument("--out", type=Path, default=Path("gpu_figures.json"), help="JSON to write")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    device = choose_device(args.device)
    batches = args.batches or ([8, 32, 128] if device == "cuda" else [2])
    if device == "cpu":
        torch.set_num_threads(1)
    print(f"{machine(device)}\n{HEAD}\n{'|---' * 7}|", flush=True)
    rows = measure_all(device, seconds=args.seconds, batches=batches, models=args.models)
    content = {"machine": machine(device), "seconds": args.seconds, "figures": [asdict(row) for row in rows]}
    args.out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(f"written to {args.out}")
    return rows


if __name__ == "__main__":
    from tests.bench.gpu_figures import main

    main()
