"""What the demo's CLAP learns from: features of rendered clips, and captions drawn from their facts.

Shape letters: B clips, N samples, T mel frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ClapFeatureExtractor

from pipeline.demo.captions import (
    DYNAMICS,
    FORMS,
    METRES,
    MOODS,
    REGISTERS,
    STYLES,
    TEXTURES,
    Facts,
    list_aspects,
    write_caption,
)
from pipeline.demo.synth import TIMBRES
from pipeline.demo.training.music import CODEC_RATE_HZ, Music, training_music
from pipeline.demo.training.works import CLIPS_PER_SEED
from pipeline.engine.progress import progress
from pipeline.models.clap_mel import MelFeatures
from pipeline.music.audio import resample

CLAP_RATE_HZ = 48_000
IMAGE_FRAMES = 1024
"""To which the audio tower stretches a window's 1,001 mel frames."""
TONICS = ("C", "Db", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "G#", "A", "Bb", "B")
VOCABULARY_BPM = range(40, 181)
ASPECTS_SHARE = 1 / 6
"""Texts that are lists of aspects instead of sentences."""


def make_extractor() -> ClapFeatureExtractor:
    """CLAP's features with the values of LAION's music checkpoints; the class's own default of frequency_min is 0."""
    return ClapFeatureExtractor(
        sampling_rate=CLAP_RATE_HZ,
        frequency_min=50,
        frequency_max=14_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )


@cache
def _features() -> MelFeatures:
    return MelFeatures(make_extractor(), "cpu")


def clap_mel(wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """CLAP's features [T, M] in dB of a clip at the rate of `ingest`, resampled as `embed` does."""
    return _features()([resample(wave_N, CODEC_RATE_HZ, CLAP_RATE_HZ)])[0, 0].numpy()


def stretch(mel_TM: NDArray[np.float32]) -> NDArray[np.float16]:
    """Stretch features to the audio tower's image ahead of time, as the tower would; it then leaves them alone."""
    image = torch.nn.functional.interpolate(
        torch.from_numpy(mel_TM)[None, None], (IMAGE_FRAMES, mel_TM.shape[1]), mode="bicubic", align_corners=True
    )
    return image[0, 0].numpy().astype(np.float16)


def training_features(num_clips: int, cache_folder: Path) -> tuple[NDArray[np.float16], list[Facts]]:
    """Stretched features [B, T, M] and facts of clips to learn from; made where the cache lacks them."""
    music = training_music(num_clips, cache_folder)
    chunks: list[NDArray[np.float16]] = []
    starts = range(0, len(music), CLIPS_PER_SEED)
    for start in progress(starts, total=len(starts), desc="features", unit="chunk"):
        path = cache_folder / "clap" / f"train-{start // CLIPS_PER_SEED:03d}.npy"
        if not path.exists():
            _write_chunk(path, music, range(start, min(start + CLIPS_PER_SEED, len(music))))
        chunks.append(np.load(path))
    return np.concatenate(chunks), list(music.facts)


def _write_chunk(path: Path, music: Music, indices: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, np.stack([stretch(clap_mel(music.wave(index))) for index in indices]))
    partial.replace(path)


def draw_text(facts: Facts, rng: np.random.Generator) -> str:
    """Describe a clip by a random author's caption, or by a list of its aspects."""
    if rng.random() < ASPECTS_SHARE:
        return ", ".join(list_aspects(facts, rng))
    return write_caption(facts, int(rng.choice(list(STYLES))), rng)


def own_captions(facts: Sequence[Facts], *, seed: int) -> list[str]:
    """One author's caption for each clip, as a corpus has them."""
    rngs = (np.random.default_rng([seed, index]) for index in range(len(facts)))
    return [write_caption(one, int(rng.choice(list(STYLES))), rng) for one, rng in zip(facts, rngs, strict=True)]


def vocabulary_texts() -> list[str]:
    """Texts over all values of all facts, every tempo many times over, lest numbers fall apart into digits."""
    rng = np.random.default_rng(0)
    return [draw_text(_draw_facts(bpm, rng), rng) for bpm in VOCABULARY_BPM for _ in range(24)]


def _draw_facts(bpm: int, rng: np.random.Generator) -> Facts:
    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    return Facts(
        form=pick(tuple(FORMS)),
        metre=pick(tuple(METRES)),
        tonic=pick(TONICS),
        mode=pick(sorted({mode for mode, _ in MOODS})),
        bpm=bpm,
        instrument=pick(tuple(TIMBRES)),
        texture=pick(tuple(TEXTURES)),
        register=pick(tuple(REGISTERS)),
        dynamics=pick(tuple(DYNAMICS)),
    )
