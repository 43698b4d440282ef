"""Models in bfloat16, where they still say what they say in float32: measured on a few sounds before they are used.

Twice to four times as fast where the processor has the instructions for it. What the rounding does to a model follows
from its weights, so that no figure of another checkpoint would do: each is asked itself.

Shape letters: B batch, N samples, K codebooks, T frames, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.errors import ParamsError

MIN_CODE_AGREEMENT = 0.98
"""Share of a codebook's codes that must stay the same, unless the settings say otherwise."""
MIN_COSINE = 0.999
"""Between an embedding in bfloat16 and the same in float32."""
GOLDEN_TEXTS = (
    "a slow sad piano piece in a minor key",
    "fast drums, a distorted bass and shouting",
    "A choir of women sings softly; someone plays the koto far away, and it rains.",
    "music",
)
"""Captions of differing length on which embedders are compared."""


def golden_clips(sample_rate_hz: int, duration_s: float) -> list[NDArray[np.float32]]:
    """Sounds of differing kinds to compare two precisions on: chords, drums, a voice, noise in bursts, a quiet hum.

    Args:
        sample_rate_hz: of the model.
        duration_s: of each.

    Returns:
        Waves [N] within full scale; from -6 dB down to -50 dB, with rests.
    """
    t_N = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    random = np.random.default_rng(0)
    noise_N = random.standard_normal(t_N.size)
    age_N = t_N % 0.5
    root_hz_N = 220 * 2 ** (np.floor(t_N * 2) * 5 % 12 / 12)
    # Each ratio has its own phase: notes start anew twice a second, as if struck.
    chord_N = sum(np.sin(2 * np.pi * ratio * root_hz_N * age_N) for ratio in (1, 1.26, 1.5, 2)) * np.exp(-5 * age_N)
    beat_N = t_N % 0.25
    drums_N = noise_N * np.exp(-60 * beat_N) + np.sin(2 * np.pi * 60 * beat_N) * np.exp(-12 * beat_N)
    phase_N = 2 * np.pi * 330 * t_N + 2 * np.sin(2 * np.pi * 5.5 * t_N)
    voice_N = sum(np.sin(n * phase_N) / n**1.2 for n in range(1, 12)) * (t_N % 1.0 < 0.8)
    bursts_N = np.convolve(noise_N, np.ones(8) / 8, "same") * (t_N % 0.7 < 0.3)
    hum_N = np.sin(2 * np.pi * 100 * t_N) + 0.3 * noise_N
    levels = (0.5, 0.5, 0.4, 0.2, 0.003)
    waves_N = (chord_N, drums_N, voice_N, bursts_N, hum_N)
    return [
        (level * wave_N / np.abs(wave_N).max()).astype(np.float32)
        for level, wave_N in zip(levels, waves_N, strict=True)
    ]


def code_agreement(expected_KT: Sequence[NDArray[np.uint16]], found_KT: Sequence[NDArray[np.uint16]]) -> list[float]:
    """Share of equal codes, per codebook, over all clips of two lists of the same clips; 1 where there is no frame."""
    equal_KT = np.concatenate([e_KT == f_KT for e_KT, f_KT in zip(expected_KT, found_KT, strict=True)], axis=1)
    return equal_KT.mean(axis=1).tolist() if equal_KT.size else [1.0] * len(equal_KT)


def check_codes(agreement: Sequence[float], least: float) -> list[float]:
    """Refuse a precision that changes too many codes.

    Args:
        agreement: share of equal codes, per codebook.
        least: what each must reach.

    Returns:
        The agreement, in four decimals, for the stamp.

    Raises:
        ParamsError: it changes too many; names the worst codebook.
    """
    worst = int(np.argmin(agreement))
    if agreement[worst] < least:
        raise ParamsError(
            f"encode.precision is bf16, but codebook {worst + 1} of {len(agreement)} of this codec then agrees with "
            f"fp32 in {agreement[worst]:.1%} of its codes, less than encode.min_agreement {least:.1%}; "
            "set encode.precision to fp32"
        )
    return [round(share, 4) for share in agreement]


def check_vectors(expected_BD: NDArray[np.float32], found_BD: NDArray[np.float32]) -> float:
    """Refuse a precision that moves embeddings.

    Args:
        expected_BD: in float32, unit length.
        found_BD: the same in another precision.

    Returns:
        The least cosine, in five decimals, for the stamp.

    Raises:
        ParamsError: it lies under `MIN_COSINE`.
    """
    least = float((expected_BD.astype(np.float64) * found_BD).sum(axis=1).min())
    if not least >= MIN_COSINE:
        raise ParamsError(
            f"embed.precision is bf16, but a vector of this embedder then has a cosine of {least:.4f} with that of "
            f"fp32, less than {MIN_COSINE}; set embed.precision to fp32"
        )
    return round(least, 5)


class Cast(nn.Module):
    """Changes the type of what passes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor:
        """Values in the module's type."""
        return values.to(self.dtype)


def lower_layers(layers: Sequence[Any]) -> list[nn.Module]:
    """Bring layers to bfloat16, in place, and put a cast before them.

    Weight norm is folded first: it would be rounded anew in every pass.
    """
    for layer in layers:
        for module in layer.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        layer.to(torch.bfloat16)
    return [Cast(torch.bfloat16), *layers]


def lower_products(model: nn.Module) -> None:
    """Keep the weights of a model's matrix products and convolutions in bfloat16, in place; for use under autocast.

    All else stays in float32: norms, and the features' own scale, of which bfloat16 would keep half a decibel.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
