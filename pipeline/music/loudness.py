"""Loudness after ITU-R BS.1770-4 and EBU Tech 3342, and normalisation by gain alone.

Shape letters: N samples, H hops of 100 ms, B blocks of a filter's input, L samples of one, S a filter's state, G
segments of a search. Waves are float32 mono, full scale 1.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyloudnorm
import scipy.signal
import soxr
from numpy.typing import NDArray

_HOPS_PER_S = 10
_GATING_HOPS = 4
_SHORT_TERM_HOPS = 30
_ABSOLUTE_GATE_LUFS = -70.0
_OVERSAMPLING = 4
_TOLERANCE_LU = 0.05
_MAX_PASSES = 4
# Gain comes in steps finer than anybody hears, and coarser than what another order of summation would change.
_GAIN_STEPS_PER_DB = 10_000
_FILTER_BLOCK_SAMPLES = 64
_FORGOTTEN = 1e-9
# soxr's kernel for 4 times oversampling reaches 97 samples to either side. The sum of its magnitudes is 2.800 at the
# worst phase, and 1.064 after smoothing by (1, 2, 1) / 4.
_SEGMENT_SAMPLES = 128
_KERNEL_SUM, _SMOOTH_KERNEL_SUM = 2.81, 1.07


@dataclass(frozen=True, slots=True)
class Normalised:
    """A clip at its new level, and what was done to it."""

    wave_N: NDArray[np.float32]
    loudness_lufs: float
    """Integrated loudness of the result; -inf for silence."""
    measured_lufs: float
    """Integrated loudness of the clip as it was."""
    gain_db: float
    limited: bool
    """The true-peak ceiling allowed less gain than the target asked for."""
    true_peak_dbtp: float
    """True peak of the result; -inf for silence."""


def integrated_loudness(wave_N: NDArray[np.float32], sample_rate_hz: int) -> float:
    """Integrated, gated loudness in LUFS (ITU-R BS.1770-4); -inf for silence, NaN where there are NaN or infinities.

    A clip shorter than one gating block of 0.4 s is repeated until it fills one.
    """
    return _gated_loudness(_gating_powers(wave_N, sample_rate_hz))


def _gating_powers(wave_N: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float64]:
    """Mean squares of the gating blocks, of 0.4 s every 0.1 s; as many as pyloudnorm has, the last one padded."""
    block_samples = _GATING_HOPS * sample_rate_hz / _HOPS_PER_S
    if wave_N.size < block_samples:
        wave_N = np.resize(wave_N, math.ceil(block_samples))
    # In pyloudnorm's own terms, which settle the odd half.
    num_hops = round((wave_N.size / sample_rate_hz - 0.4) / (0.4 * 0.25)) + _GATING_HOPS
    return _sliding_sums(_hop_sums(wave_N, sample_rate_hz, num_hops), _GATING_HOPS) / block_samples


def _gated_loudness(powers: NDArray[np.float64]) -> float:
    # "Not below" keeps NaN.
    powers = powers[~(powers < _to_power(_ABSOLUTE_GATE_LUFS))]
    if not powers.size:
        return -math.inf
    powers = powers[~(powers <= powers.mean() * 0.1)]  # relative gate: 10 LU below the mean power
    return 10 * math.log10(powers.mean()) - 0.691


def _to_power(loudness_lufs: float) -> float:
    return 10 ** ((loudness_lufs + 0.691) / 10)


def _hop_sums(wave_N: NDArray[np.float32], sample_rate_hz: int, num_hops: int) -> NDArray[np.float64]:
    """Sums of squares of the K-weighted wave over hops of 100 ms; beyond its end it is silent."""
    edges = np.arange(num_hops + 1) * sample_rate_hz // _HOPS_PER_S
    weighted_N = _k_weighted(wave_N, sample_rate_hz)[: edges[-1]]
    if weighted_N.size < edges[-1]:
        weighted_N = np.pad(weighted_N, (0, edges[-1] - weighted_N.size))
    if sample_rate_hz % _HOPS_PER_S:  # hops of two lengths
        return np.add.reduceat(np.square(weighted_N, dtype=np.float64), edges[:-1])
    weighted_HN = weighted_N.reshape(num_hops, -1)
    return np.einsum("hn,hn->h", weighted_HN, weighted_HN).astype(np.float64)


def _sliding_sums(sums_H: NDArray[np.float64], num_hops: int) -> NDArray[np.float64]:
    return np.lib.stride_tricks.sliding_window_view(sums_H, num_hops).sum(axis=1)


class _Filter(NamedTuple):
    """What a recursive filter makes of a block, as matrices: of its input and of the state that it starts from."""

    input_to_output_LL: NDArray[np.float32]
    input_to_state_LS: NDArray[np.float32]
    state_to_output_SL: NDArray[np.float32]
    state_to_state_SS: NDArray[np.float64]


@lru_cache(maxsize=8)
def _k_filter(sample_rate_hz: int) -> _Filter:
    """The two filters of BS.1770 with pyloudnorm's parameters, so that both measures agree."""
    shelf = pyloudnorm.IIRfilter(4.0, math.sqrt(0.5), 1500.0, sample_rate_hz, "high_shelf")
    high_pass = pyloudnorm.IIRfilter(0.0, 0.5, 38.0, sample_rate_hz, "high_pass")
    sections = np.array([[*stage.b, *stage.a] for stage in (shelf, high_pass)])
    length, num_states = _FILTER_BLOCK_SAMPLES, 4
    # What single impulses, then single states, make.
    outputs_LL, states = scipy.signal.sosfilt(sections, np.eye(length), zi=np.zeros((2, length, 2)))
    from_input_LS = states.transpose(1, 0, 2).reshape(length, num_states)
    starts = np.eye(num_states).reshape(num_states, 2, 2).transpose(1, 0, 2)
    outputs_SL, states = scipy.signal.sosfilt(sections, np.zeros((num_states, length)), zi=starts)
    from_state_SS = states.transpose(1, 0, 2).reshape(num_states, num_states)
    return _Filter(
        outputs_LL.astype(np.float32), from_input_LS.astype(np.float32), outputs_SL.astype(np.float32), from_state_SS
    )


def _k_weighted(wave_N: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Filter by blocks: matrix products take a third of the time that sample after sample does."""
    matrices, length = _k_filter(sample_rate_hz), _FILTER_BLOCK_SAMPLES
    missing = -wave_N.size % length
    wave_BL = (np.pad(wave_N, (0, missing)) if missing else wave_N).reshape(-1, length)
    with np.errstate(invalid="ignore", over="ignore"):
        state_BS = np.zeros((len(wave_BL), 4))
        state_BS[1:] = (wave_BL @ matrices.input_to_state_LS)[:-1]
        # Every block's state: what each block before leaves, summed by doubling the reach until all is forgotten.
        reach, passed_SS = 1, matrices.state_to_state_SS
        while reach < len(wave_BL) and np.abs(passed_SS).max() > _FORGOTTEN:
            state_BS[reach:] += state_BS[:-reach] @ passed_SS
            reach, passed_SS = 2 * reach, passed_SS @ passed_SS
        weighted_BL = wave_BL @ matrices.input_to_output_LL
        weighted_BL += state_BS.astype(np.float32) @ matrices.state_to_output_SL
    return weighted_BL.reshape(-1)[: wave_N.size]


def true_peak_dbtp(wave_N: NDArray[np.float32]) -> float:
    """True peak in dB over full scale, by 4 times oversampling (ITU-R BS.1770-4, annex 2); -inf for silence."""
    # The samples themselves too: the filter's ends are short of neighbours.
    peak = max(float(wave_N.max(initial=0.0)), -float(wave_N.min(initial=0.0)))
    if not peak > 0:
        return -math.inf
    size = _SEGMENT_SAMPLES
    wave_GN = np.zeros((-(-wave_N.size // size) + 2, size), np.float32)
    wave_GN.reshape(-1)[size : size + wave_N.size] = wave_N
    is_loud_G = _peak_bounds(wave_GN) >= peak
    # soxr sees the loud segments, each between its neighbours.
    is_near_G = _around(is_loud_G)
    oversampled_N = soxr.resample(wave_GN[is_near_G].reshape(-1), 1, _OVERSAMPLING, quality="HQ")
    loud_GN = oversampled_N.reshape(-1, size * _OVERSAMPLING)[is_loud_G[is_near_G]]
    return 20 * math.log10(max(peak, float(np.abs(loud_GN).max(initial=0.0))))


def _peak_bounds(wave_GN: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the oversampled magnitude of each segment cannot exceed.

    The wave is the sum of itself smoothed by (1, 2, 1) / 4 and of its second difference over -4, and oversampling is
    linear. The smoothed part gives at most the largest sample around times the smoothed kernel's sum, little more than
    1; the other part, small in music, at most its largest value around times the kernel's sum.
    """
    wave_N = wave_GN.reshape(-1)
    rest_N = np.zeros_like(wave_N)
    np.add(wave_N[:-2], wave_N[2:], out=rest_N[1:-1])
    rest_N[1:-1] *= np.float32(0.5)
    rest_N[1:-1] -= wave_N[1:-1]
    rest_GN = rest_N.reshape(wave_GN.shape)
    bound_G = _SMOOTH_KERNEL_SUM * _around(_magnitudes(wave_GN)) + 0.5 * _KERNEL_SUM * _around(_magnitudes(rest_GN))
    return bound_G.astype(np.float32)


def _magnitudes(wave_GN: NDArray[np.float32]) -> NDArray[np.float32]:
    largest_N = np.abs(wave_GN).reshape(-1)
    # Pair by pair: a fifth of the time of `max(axis=1)` over rows as short.
    while largest_N.size > len(wave_GN):
        largest_N = np.maximum(largest_N[::2], largest_N[1::2])
    return largest_N


def _around(values_G: NDArray[Any]) -> NDArray[Any]:
    """The largest of each value and its two neighbours."""
    largest_G = values_G.copy()
    np.maximum(largest_G[1:], values_G[:-1], out=largest_G[1:])
    np.maximum(largest_G[:-1], values_G[1:], out=largest_G[:-1])
    return largest_G


def loudness_range(wave_N: NDArray[np.float32], sample_rate_hz: int) -> float | None:
    """Loudness range in LU (EBU Tech 3342): 10th to 95th percentile of the short-term loudness.

    Returns:
        None for less than one 3 s window, or for silence.
    """
    num_hops = wave_N.size * _HOPS_PER_S // sample_rate_hz
    if num_hops < _SHORT_TERM_HOPS:
        return None
    sums_H = _hop_sums(wave_N, sample_rate_hz, num_hops)
    powers = _sliding_sums(sums_H, _SHORT_TERM_HOPS) * _HOPS_PER_S / (_SHORT_TERM_HOPS * sample_rate_hz)
    powers = powers[powers > _to_power(_ABSOLUTE_GATE_LUFS)]
    if not powers.size:
        return None
    powers = powers[powers > powers.mean() * 10**-2.0]  # relative gate: 20 LU below the mean power
    low, high = np.percentile(10 * np.log10(powers), [10, 95])
    return float(high - low)


def normalise_loudness(
    wave_N: NDArray[np.float32], sample_rate_hz: int, *, target_lufs: float, ceiling_dbtp: float
) -> Normalised:
    """Bring a clip to a loudness by gain alone, never by clipping.

    The result is within 0.1 LU of the target. If that would lift its true peak over the ceiling, the gain is the
    largest that does not, and the result is marked `limited`. Silence comes back as it is.
    """
    # Gain scales every block alike: the wave is filtered once.
    powers = _gating_powers(wave_N, sample_rate_hz)
    measured_lufs = loudness_lufs = _gated_loudness(powers)
    peak_dbtp = true_peak_dbtp(wave_N)
    if math.isinf(loudness_lufs):
        return Normalised(wave_N, loudness_lufs, measured_lufs, 0.0, limited=False, true_peak_dbtp=peak_dbtp)
    max_gain_db = math.floor((ceiling_dbtp - peak_dbtp) * _GAIN_STEPS_PER_DB) / _GAIN_STEPS_PER_DB
    gain_db, limited = 0.0, False
    # More than one pass only for clips near the absolute gate: gain lifts blocks over it.
    for _ in range(_MAX_PASSES):
        wanted_db = gain_db + target_lufs - loudness_lufs
        limited = wanted_db > max_gain_db
        gain_db = min(round(wanted_db * _GAIN_STEPS_PER_DB) / _GAIN_STEPS_PER_DB, max_gain_db)
        loudness_lufs = _gated_loudness(powers * 10 ** (gain_db / 10))
        if limited or abs(target_lufs - loudness_lufs) < _TOLERANCE_LU:
            break
    return Normalised(
        wave_N * np.float32(10 ** (gain_db / 20)),
        loudness_lufs,
        measured_lufs,
        gain_db,
        limited=limited,
        true_peak_dbtp=peak_dbtp + gain_db,
    )
