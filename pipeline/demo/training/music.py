"""Instrumental clips as the encoders of the chain hear them: mono, 16 kHz, at ingest's level; rendered once, then kept.

A chunk is a file of clips and, beside it, the facts of each. Shape letters: B clips, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.captions import Facts
from pipeline.demo.corpus import LEVELS_DBFS, RATE_HZ
from pipeline.demo.excerpts import Clip, perform
from pipeline.demo.synth import render
from pipeline.demo.training.works import CLIP_S, CLIPS_PER_SEED, plan_held_out, plan_training
from pipeline.engine.progress import progress
from pipeline.music.audio import quantise, resample
from pipeline.music.loudness import normalise_loudness

CODEC_RATE_HZ, HOP_SAMPLES = 16_000, 320
TARGET_LUFS, CEILING_DBTP = -18.0, -1.0
"""`ingest.target_lufs` and `ingest.ceiling_dbtp` of every preset."""
FULL_SCALE = 32_768.0

Pcm = NDArray[np.int16]


class Music:
    """Clips of one or more chunks, read from disk as they are needed.

    Args:
        chunks: files that `write_chunk` made.
    """

    def __init__(self, chunks: Sequence[Path]) -> None:
        self._waves_BN: list[Pcm] = [np.load(path, mmap_mode="r") for path in chunks]
        self.facts = [facts for path in chunks for facts in read_facts(path)]
        self._places = [(chunk, row) for chunk, waves_BN in enumerate(self._waves_BN) for row in range(len(waves_BN))]

    def __len__(self) -> int:
        return len(self._places)

    def wave(self, index: int, *, start: int = 0, length: int | None = None) -> NDArray[np.float32]:
        """Samples [N] of a clip, or of a part of it; full scale 1.0."""
        chunk, row = self._places[index]
        end = None if length is None else start + length
        return self._waves_BN[chunk][row, start:end].astype(np.float32) / np.float32(FULL_SCALE)


def training_music(num_clips: int, cache: Path) -> Music:
    """Clips of works that no preset's test split holds; rendered where the cache lacks them.

    Args:
        num_clips: how many, rounded up to whole chunks.
        cache: folder for the rendered clips.
    """
    num_chunks = -(-num_clips // CLIPS_PER_SEED)
    paths = [cache / "music" / f"train-{number:03d}.npy" for number in range(num_chunks)]
    for number, path in progress(enumerate(paths), total=num_chunks, desc="render music", unit="chunk"):
        if not path.exists():
            write_chunk(path, render_clips(plan_training(CLIPS_PER_SEED, seed=number)))
    return Music(paths)


def held_out_music(num_clips: int, cache: Path) -> Music:
    """Clips of the works that the presets' test splits hold: to measure on, never to learn from."""
    path = cache / "music" / f"held-out-{num_clips:03d}.npy"
    if not path.exists():
        write_chunk(path, render_clips(plan_held_out(num_clips)))
    return Music([path])


def render_clips(clips: Iterable[Clip]) -> Iterator[tuple[Pcm, Facts]]:
    """Play clips as the corpus does and bring them to the level that ingest gives them."""
    for clip in clips:
        rng = np.random.default_rng(clip.seed)
        level_dbfs = LEVELS_DBFS[clip.facts.dynamics] + rng.uniform(-1, 1)
        wave_CN = render(
            perform(clip, rng),
            clip.facts.instrument,
            clip_s=CLIP_S,
            rate_hz=RATE_HZ,
            rms_dbfs=level_dbfs,
            seed=[*clip.seed, 1],
        )
        yield level_pcm(resample(wave_CN.mean(axis=0), RATE_HZ, CODEC_RATE_HZ)), clip.facts


def level_pcm(wave_N: NDArray[np.float32]) -> Pcm:
    """Bring a wave at 16 kHz to ingest's level, as 16-bit samples."""
    level = normalise_loudness(wave_N, CODEC_RATE_HZ, target_lufs=TARGET_LUFS, ceiling_dbtp=CEILING_DBTP)
    return quantise(level.wave_N)


def write_chunk(path: Path, clips: Iterable[tuple[Pcm, Facts]]) -> None:
    """Write clips of one length; the file with the samples comes last, and whole."""
    waves, facts = zip(*clips, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps([asdict(of) for of in facts]), "utf-8")
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, np.stack(waves))
    partial.replace(path)


def read_facts(path: Path) -> list[Facts]:
    """The facts of a chunk's clips, in their order."""
    return [Facts(**facts) for facts in json.loads(path.with_suffix(".json").read_text("utf-8"))]
