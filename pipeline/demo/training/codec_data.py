"""What the codec learns from: instrumental clips, sung clips of random kana, and both at once, at random levels.

Shape letters: B batch, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.morae import HEPBURN
from pipeline.demo.singing import Note, sing
from pipeline.demo.training.music import CODEC_RATE_HZ, FULL_SCALE, HOP_SAMPLES, Music, Pcm, level_pcm
from pipeline.demo.training.works import CLIP_S
from pipeline.demo.voices import RANGES, Register, draw_voice
from pipeline.engine.progress import progress

SEGMENT_SAMPLES = 50 * HOP_SAMPLES
SONG_SHARE, MIX_SHARE = 0.25, 0.2
"""Of a batch: sung alone, and sung over music; the rest is music."""
GAIN_DB = (-12.0, 2.0)
"""Clips come from ingest at one loudness, their passages do not."""
MIX_DB = (-9.0, 3.0)
"""A voice over its accompaniment."""
HELD_OUT_SONG_SEED = 900
MIN_PEAK = 1.0


class SegmentSource:
    """Draws training segments; the same seed and step give the same batch.

    Args:
        music: instrumental clips.
        songs_BN: sung clips.
        seed: decides everything.
    """

    def __init__(self, music: Music, songs_BN: Pcm, *, seed: int) -> None:
        self._music, self._songs_BN, self._seed = music, songs_BN, seed

    def batch(self, step: int, batch_size: int) -> NDArray[np.float32]:
        """Segments [B, N] of a second, none beyond full scale."""
        rng = np.random.default_rng([self._seed, step])
        return np.stack([self._segment(rng) for _ in range(batch_size)])

    def _segment(self, rng: np.random.Generator) -> NDArray[np.float32]:
        kind = rng.random()
        if kind < SONG_SHARE:
            wave_N = self._song(rng)
        else:
            wave_N = self._tune(rng)
            if kind < SONG_SHARE + MIX_SHARE:
                wave_N = wave_N + self._song(rng) * _gain(rng, MIX_DB)
        wave_N = wave_N * _gain(rng, GAIN_DB)
        return wave_N / max(MIN_PEAK, float(np.abs(wave_N).max()))

    def _tune(self, rng: np.random.Generator) -> NDArray[np.float32]:
        index = int(rng.integers(len(self._music)))
        start = int(rng.integers(self._music.wave(index).size - SEGMENT_SAMPLES + 1))
        return self._music.wave(index, start=start, length=SEGMENT_SAMPLES)

    def _song(self, rng: np.random.Generator) -> NDArray[np.float32]:
        row = int(rng.integers(len(self._songs_BN)))
        start = int(rng.integers(self._songs_BN.shape[1] - SEGMENT_SAMPLES + 1))
        return self._songs_BN[row, start : start + SEGMENT_SAMPLES].astype(np.float32) / np.float32(FULL_SCALE)


def _gain(rng: np.random.Generator, range_db: tuple[float, float]) -> np.float32:
    return np.float32(10 ** (rng.uniform(*range_db) / 20))


def training_songs(num_clips: int, cache: Path) -> Pcm:
    """Sung clips to learn from; made where the cache lacks them."""
    return _kept_songs(cache / "songs" / f"train-{num_clips:03d}.npy", num_clips, seed=0)


def held_out_songs(num_clips: int, cache: Path) -> Pcm:
    """Sung clips of other singers, words and tunes, to measure on."""
    return _kept_songs(cache / "songs" / f"held-out-{num_clips:03d}.npy", num_clips, seed=HELD_OUT_SONG_SEED)


def _kept_songs(path: Path, num_clips: int, *, seed: int) -> Pcm:
    if not path.exists():
        numbers = progress(range(num_clips), total=num_clips, desc="sing", unit="clip")
        songs_BN = np.stack([sing_randomly([seed, number], clip_s=CLIP_S) for number in numbers])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, songs_BN)
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def sing_randomly(seed: list[int], *, clip_s: float) -> Pcm:
    """Sing random kana to a random tune, at ingest's level; exactly `clip_s` long."""
    rng = np.random.default_rng(seed)
    registers: list[Register] = list(RANGES)
    register = registers[int(rng.integers(len(registers)))]
    notes = list(_random_notes(rng, middle=RANGES[register][1], clip_s=clip_s))
    wave_N, _ = sing(notes, voice=draw_voice(seed, register), seed=[*seed, 1], sample_rate_hz=CODEC_RATE_HZ)
    num_samples = round(clip_s * CODEC_RATE_HZ)
    padded_N = np.zeros(num_samples, np.float32)
    padded_N[: wave_N.size] = wave_N[:num_samples]
    return level_pcm(padded_N)


def _random_notes(rng: np.random.Generator, *, middle: int, clip_s: float) -> Iterator[Note]:
    """A walk in steps of a scale around the middle of the voice, with a breath now and then."""
    morae = [kana for kana, spelt in HEPBURN.items() if spelt]
    midi, at_s = middle, float(rng.uniform(0, 0.3))
    while True:
        length_s = float(rng.choice([0.18, 0.3, 0.45, 0.6, 0.9, 1.4]) * rng.uniform(0.85, 1.15))
        if at_s + length_s > clip_s:
            return
        text = str(rng.choice(morae))
        yield Note(text=text, midi=midi, start_s=at_s, end_s=at_s + length_s)
        midi += int(np.clip(rng.integers(-4, 5) + 0.3 * (middle - midi), -7, 7))
        at_s += length_s + (float(rng.uniform(0.15, 0.5)) if rng.random() < 0.15 else 0.0)
