"""Clips as CLAP hears them in training: never twice the same.

Shape letters: B clips, T mel frames, M mel bands.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GAIN_DB = 2.0
MASKED_BANDS = 6


def draw_speeds(count: int, most: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """How fast to play clips [B]: every second one as it is, the others up to `most` times as fast or as slow."""
    return np.exp(rng.uniform(-1, 1, count) * (rng.random(count) < 0.5) * np.log(most))


def vary(mel_BTM: NDArray[np.float16], speed_B: NDArray[np.float64], rng: np.random.Generator) -> Tensor:
    """Play clips faster or slower, from elsewhere and round, at another level; hide a few bands of every second one.

    Returns:
        Features [B, 1, T, M].
    """
    num_clips, num_frames, num_bands = mel_BTM.shape
    varied_BTM = np.empty(mel_BTM.shape, np.float32)
    for index in range(num_clips):
        place_T = rng.integers(num_frames) + speed_B[index] * np.arange(num_frames)
        before_T = np.floor(place_T).astype(np.int64)
        share_T1 = (place_T - before_T).astype(np.float32)[:, None]
        mel_TM = mel_BTM[index].astype(np.float32)
        played_TM = (1 - share_T1) * mel_TM[before_T % num_frames] + share_T1 * mel_TM[(before_T + 1) % num_frames]
        played_TM += np.float32(rng.uniform(-GAIN_DB, GAIN_DB))
        if rng.random() < 0.5:
            low, width = int(rng.integers(num_bands)), int(rng.integers(1, MASKED_BANDS + 1))
            played_TM[:, low : low + width] = played_TM[:, low : low + width].mean()
        varied_BTM[index] = played_TM
    return torch.from_numpy(varied_BTM)[:, None]
