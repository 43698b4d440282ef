"""Loudness after ITU-R BS.1770-4 and EBU Tech 3342, and normalisation by gain alone.

Waves are float32 mono [N], full scale 1.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyloudnorm
import soxr
from numpy.typing import NDArray

_BLOCK_S = 0.4
_SHORT_TERM_S = 3.0
_SHORT_TERM_HOP_S = 0.1
_OVERSAMPLING = 4
_TOLERANCE_LU = 0.05
_MAX_PASSES = 4


@dataclass(frozen=True, slots=True)
class Normalised:
    """A clip at its new level, and what was done to it."""

    wave_N: NDArray[np.float32]
    loudness_lufs: float
    """Integrated loudness of the result; -inf for silence."""
    gain_db: float
    limited: bool
    """The true-peak ceiling allowed less gain than the target asked for."""
    true_peak_dbtp: float
    """True peak of the result; -inf for silence."""


def integrated_loudness(wave_N: NDArray[np.float32], sample_rate_hz: int) -> float:
    """Integrated, gated loudness in LUFS (ITU-R BS.1770-4); -inf for silence.

    A clip shorter than one gating block of 0.4 s is repeated until it fills one.
    """
    if not np.any(wave_N):
        return -math.inf
    block_samples = math.ceil(_BLOCK_S * sample_rate_hz)
    if wave_N.size < block_samples:
        wave_N = np.resize(wave_N, block_samples)
    # All blocks below the absolute gate: pyloudnorm divides by none of them.
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(pyloudnorm.Meter(sample_rate_hz).integrated_loudness(wave_N))


def true_peak_dbtp(wave_N: NDArray[np.float32]) -> float:
    """True peak in dB over full scale, by 4 times oversampling (ITU-R BS.1770-4, annex 2); -inf for silence."""
    if not wave_N.size:
        return -math.inf
    oversampled_N = soxr.resample(wave_N, 1, _OVERSAMPLING, quality="HQ")
    # The samples themselves too: the filter's ends are short of neighbours.
    peak = max(float(np.abs(oversampled_N).max(initial=0.0)), float(np.abs(wave_N).max()))
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def loudness_range(wave_N: NDArray[np.float32], sample_rate_hz: int) -> float | None:
    """Loudness range in LU (EBU Tech 3342): 10th to 95th percentile of the short-term loudness.

    Returns:
        None for less than one 3 s window, or for silence.
    """
    window = round(_SHORT_TERM_S * sample_rate_hz)
    if wave_N.size < window:
        return None
    sums_N = np.concatenate(([0.0], np.cumsum(np.square(_k_weighted(wave_N, sample_rate_hz)))))
    starts = np.arange(0, wave_N.size - window + 1, round(_SHORT_TERM_HOP_S * sample_rate_hz))
    powers = np.maximum(sums_N[starts + window] - sums_N[starts], 0.0) / window
    powers = powers[powers > _to_power(-70.0)]
    if not powers.size:
        return None
    powers = powers[powers > powers.mean() * 10**-2.0]  # relative gate: 20 LU below the mean power
    low, high = np.percentile(10 * np.log10(powers), [10, 95])
    return float(high - low)


def _to_power(loudness_lufs: float) -> float:
    return 10 ** ((loudness_lufs + 0.691) / 10)


def _k_weighted(wave_N: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float64]:
    """Apply the two filters of BS.1770 with pyloudnorm's parameters, so that both measures agree."""
    shelf = pyloudnorm.IIRfilter(4.0, math.sqrt(0.5), 1500.0, sample_rate_hz, "high_shelf")
    high_pass = pyloudnorm.IIRfilter(0.0, 0.5, 38.0, sample_rate_hz, "high_pass")
    return high_pass.apply_filter(shelf.apply_filter(wave_N.astype(np.float64)))


def normalise_loudness(
    wave_N: NDArray[np.float32], sample_rate_hz: int, *, target_lufs: float, ceiling_dbtp: float
) -> Normalised:
    """Bring a clip to a loudness by gain alone, never by clipping.

    The result is within 0.1 LU of the target. If that would lift its true peak over the ceiling, the gain is the
    largest that does not, and the result is marked `limited`. Silence comes back as it is.
    """
    loudness_lufs = integrated_loudness(wave_N, sample_rate_hz)
    peak_dbtp = true_peak_dbtp(wave_N)
    if math.isinf(loudness_lufs):
        return Normalised(wave_N, loudness_lufs, 0.0, limited=False, true_peak_dbtp=peak_dbtp)
    max_gain_db = ceiling_dbtp - peak_dbtp
    gain_db, limited, result_N = 0.0, False, wave_N
    # More than one pass only for clips near the absolute gate: gain lifts blocks over it.
    for _ in range(_MAX_PASSES):
        wanted_db = gain_db + target_lufs - loudness_lufs
        limited = wanted_db > max_gain_db
        gain_db = min(wanted_db, max_gain_db)
        result_N = wave_N * np.float32(10 ** (gain_db / 20))
        loudness_lufs = integrated_loudness(result_N, sample_rate_hz)
        if limited or abs(target_lufs - loudness_lufs) < _TOLERANCE_LU:
            break
    return Normalised(result_N, loudness_lufs, gain_db, limited=limited, true_peak_dbtp=peak_dbtp + gain_db)
