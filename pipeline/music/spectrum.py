"""Spectra of a clip, as tempo, key and voice are read from them.

Shape letters: N samples, T frames, F frequency bins, B mel bands, P peaks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
RATE_HZ = 16_000
"""Rate at which clips are looked at: corpora of all rates are measured alike, and nothing above 8 kHz is."""


class Peaks(NamedTuple):
    """Partials that were found in frames; all arrays [P], in the order of the frames."""

    frame: NDArray[np.int64]
    hz: NDArray[np.float64]
    magnitude: Float32


def magnitudes(signal_N: Float32, *, window_samples: int, hop_samples: int) -> Float32:
    """Magnitude spectrogram [T, F] of frames centred on every hop; beyond its ends the signal is silent."""
    padded_N = np.pad(signal_N, window_samples // 2)
    frames_TN = np.lib.stride_tricks.sliding_window_view(padded_N, window_samples)[::hop_samples]
    return np.abs(np.fft.rfft(frames_TN * _hann(window_samples), axis=1)).astype(np.float32)


@lru_cache(maxsize=8)
def _hann(window_samples: int) -> Float32:
    return np.hanning(window_samples).astype(np.float32)


@lru_cache(maxsize=8)
def mel_weights(window_samples: int, *, num_bands: int, low_hz: float) -> Float32:
    """Triangular filters [F, B], evenly spaced in mel (O'Shaughnessy 1987) from `low_hz` to half the rate."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, RATE_HZ / 2))
    edges_hz = 700 * (10 ** (np.linspace(low, high, num_bands + 2) / 2595) - 1)
    bins_hz = np.fft.rfftfreq(window_samples, 1 / RATE_HZ)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def find_peaks(magnitude_TF: Float32, *, low_hz: float, high_hz: float, min_share: float) -> Peaks:
    """Find partials: local maxima of the spectra, between bins by the parabola through the logarithms.

    Args:
        magnitude_TF: frames of at least 3 bins.
        low_hz: lowest partial.
        high_hz: highest one.
        min_share: how strong at least, against the strongest bin of its frame.
    """
    num_bins = magnitude_TF.shape[1]
    bin_hz = RATE_HZ / 2 / (num_bins - 1)
    # One bin to either side of the range, to compare and interpolate with.
    first, last = max(1, int(low_hz / bin_hz)), min(num_bins - 2, int(high_hz / bin_hz) + 1)
    middle = magnitude_TF[:, first : last + 1]
    left, right = magnitude_TF[:, first - 1 : last], magnitude_TF[:, first + 1 : last + 2]
    is_peak = (middle > left) & (middle >= right) & (middle > min_share * magnitude_TF.max(axis=1, keepdims=True))
    frame, place = np.nonzero(is_peak)
    a, b, c = (np.log(part[frame, place].astype(np.float64) + 1e-9) for part in (left, middle, right))
    hz = (place + first + 0.5 * (a - c) / np.minimum(a - 2 * b + c, -1e-9)) * bin_hz
    is_inside = (hz >= low_hz) & (hz <= high_hz)
    return Peaks(frame[is_inside], hz[is_inside], middle[frame, place][is_inside])
