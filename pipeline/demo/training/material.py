"""Singing and playing as spectra, made once and kept: both listeners of the demo learn from them.

A voice and an accompaniment are added as powers when a window is put together, so that few of each make many.

Shapes: N samples, M mel frames of 10 ms, F mel bands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchaudio.functional
import whisper.audio
from numpy.typing import NDArray

from pipeline.demo.excerpts import Clip, perform
from pipeline.demo.synth import render
from pipeline.demo.training.sung import RATE_HZ, Phrase, SungClip, Wave, draw_backing, draw_sung, level
from pipeline.demo.training.works import plan_training
from pipeline.engine.progress import progress
from pipeline.models.aligner import AlignerConfig

Ear = Literal["whisper", "aligner"]
Spectrum = NDArray[np.float16]
VOICES_PER_FILE = 50
STREAMS = {"voices": 10, "backings": 11}
"""What seeds of each kind begin with, after the training's own."""


@dataclass(frozen=True, slots=True)
class Material:
    """One recording as an ear hears it."""

    log_MF: Spectrum
    """log10 of mel power."""
    phrases: tuple[Phrase, ...]


def mel_power(wave_N: Wave, ear: Ear) -> NDArray[np.float32]:
    """Mel power [M, F] at 100 frames a second, as that model's own front end has it before its logarithm."""
    wave = torch.from_numpy(wave_N)
    if ear == "whisper":
        window = torch.hann_window(whisper.audio.N_FFT)
        stft_FM = torch.stft(wave, whisper.audio.N_FFT, whisper.audio.HOP_LENGTH, window=window, return_complex=True)
        power_FM = stft_FM[:, :-1].abs().square()
        return (whisper.audio.mel_filters("cpu", 80) @ power_FM).T.contiguous().numpy()
    config = AlignerConfig(vocabulary=("",))
    edge = (config.window_samples - config.hop_samples) // 2
    windows = torch.nn.functional.pad(wave, (edge, edge)).unfold(-1, config.window_samples, config.hop_samples)
    power_MF = torch.fft.rfft(windows * torch.hann_window(config.window_samples)).abs().square()
    return (power_MF @ _aligner_bank()).numpy()


@cache
def _aligner_bank() -> torch.Tensor:
    config = AlignerConfig(vocabulary=("",))
    num_bins = config.window_samples // 2 + 1
    return torchaudio.functional.melscale_fbanks(
        num_bins, 0.0, config.sample_rate_hz / 2, config.num_mels, config.sample_rate_hz, norm="slaney"
    )


def load_voices(folder: Path, count: int, *, seed: int, ear: Ear) -> list[Material]:
    """Sing, or read what was sung before."""
    return _load(folder, count, what="voices", ear=ear, draw=lambda index: draw_sung([seed, STREAMS["voices"], index]))


def load_backings(folder: Path, count: int, *, seed: int, ear: Ear) -> list[Material]:
    """Play accompaniments and, in equal number, excerpts of works that may be learnt from; or read them."""

    @cache
    def clips() -> list[Clip]:
        return list(plan_training((count + 1) // 2, seed=seed))

    def draw(index: int) -> SungClip:
        if index % 2:
            return SungClip(draw_backing([seed, STREAMS["backings"], index]), ())
        clip = clips()[index // 2]
        notes = perform(clip, np.random.default_rng(clip.seed))
        wave_CN = render(notes, clip.facts.instrument, clip_s=10.0, rate_hz=RATE_HZ, rms_dbfs=-20.0, seed=[*clip.seed])
        return SungClip(level(wave_CN.mean(axis=0)), ())

    return _load(folder, count, what="backings", ear=ear, draw=draw)


def _load(folder: Path, count: int, *, what: str, ear: Ear, draw: Callable[[int], SungClip]) -> list[Material]:
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Material] = []
    for first in progress(range(0, count, VOICES_PER_FILE), desc=f"render {what}", unit="file"):
        last = min(count, first + VOICES_PER_FILE)
        path = folder / f"{what}-{first:05d}-{last:05d}.npz"
        if not path.exists():
            _write(path, [draw(index) for index in range(first, last)])
        found += _read(path, ear)
    return found


def _write(path: Path, clips: Sequence[SungClip]) -> None:
    arrays: dict[str, Any] = {}
    for ear in ("whisper", "aligner"):
        spectra = [np.log10(np.maximum(mel_power(clip.wave_N, ear), 1e-10)) for clip in clips]
        arrays[ear] = np.concatenate(spectra).astype(np.float16)
        arrays["ends"] = np.cumsum([len(spectrum) for spectrum in spectra])
    labels = json.dumps([clip.phrases for clip in clips], ensure_ascii=False).encode()
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, labels=np.frombuffer(labels, np.uint8), **arrays)
    partial.rename(path)


def _read(path: Path, ear: Ear) -> list[Material]:
    with np.load(path) as arrays:
        labels = json.loads(arrays["labels"].tobytes())
        spectra = np.split(arrays[ear], arrays["ends"][:-1])
    return [
        Material(log_MF, tuple([(kana, start_s, end_s) for kana, start_s, end_s in phrase] for phrase in phrases))
        for log_MF, phrases in zip(spectra, labels, strict=True)
    ]
