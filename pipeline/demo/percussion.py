"""Drums made with the mouth: a kick from the lips, a hi-hat from the teeth, a snare from the throat.

Shapes: N samples, W samples of a stroke.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STROKE_S = 0.22
NOISE_HZ = {"ブン": (250.0, 1.0), "ツ": (6000.0, 0.4), "カ": (2200.0, 0.7)}
"""Centre of a stroke's noise and its width on either side in octaves."""
DECAY_S = {"ブン": 0.03, "ツ": 0.025, "カ": 0.035}
LEVELS = {"ブン": 0.5, "ツ": 0.12, "カ": 0.3}

Wave = NDArray[np.float32]


def drum(strokes: Sequence[tuple[str, float]], *, num_samples: int, seed: int | list[int], sample_rate_hz: int) -> Wave:
    """Play syllables ブン, ツ and カ at their times in seconds, `[N]`."""
    rng = np.random.default_rng(seed)
    wave_N = np.zeros(num_samples, dtype=np.float32)
    num_stroke = int(STROKE_S * sample_rate_hz)
    takes = {text: [_stroke(text, num_stroke, rng, sample_rate_hz) for _ in range(4)] for text in NOISE_HZ}
    for text, start_s in strokes:
        first = int(start_s * sample_rate_hz)
        length = max(0, min(num_stroke, num_samples - first))
        take_W = takes[text][int(rng.integers(4))]
        wave_N[first : first + length] += np.float32(rng.uniform(0.8, 1.1)) * take_W[:length]
    return wave_N


def _stroke(text: str, num_samples: int, rng: np.random.Generator, sample_rate_hz: int) -> Wave:
    time_W = np.arange(num_samples) / sample_rate_hz
    octaves = np.log2(np.maximum(np.fft.rfftfreq(num_samples, 1 / sample_rate_hz), 30.0))
    centre_hz, width = NOISE_HZ[text]
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    noise_W = np.fft.irfft(spectrum * np.exp(-0.5 * ((octaves - np.log2(centre_hz)) / width) ** 2), n=num_samples)
    wave_W = noise_W / np.abs(noise_W).max() * np.exp(-time_W / DECAY_S[text])
    if text == "ブン":
        # Lips burst and a hum falls from 140 to 65 Hz.
        phase_W = 2 * np.pi * np.cumsum(65 + 75 * np.exp(-time_W / 0.03)) / sample_rate_hz
        wave_W = 0.3 * wave_W + np.sin(phase_W) * np.exp(-time_W / 0.07)
    attack_W = np.minimum(1.0, time_W / 0.002)
    return (LEVELS[text] * attack_W * wave_W).astype(np.float32)
