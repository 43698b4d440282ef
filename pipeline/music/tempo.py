"""How fast a piece goes: note onsets, and the beat that repeats among them.

T frames, 100 a second; B mel bands; Q tempi that are tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from pipeline.music.spectrum import RATE_HZ, Float32, mel_weights

WINDOW_SAMPLES, HOP_SAMPLES = 512, 160
FRAME_RATE_HZ = RATE_HZ / HOP_SAMPLES
MIN_TEMPO_S = 3.0
"""Two beats at 40 a minute."""
MIN_CONFIDENCE = 0.1
"""Below this nothing repeats: in 10 s of noise it stays under 0.08, in speech under 0.17."""

_NUM_BANDS = 64
_LOW_HZ = 30.0
_COMPRESSION = 10.0
_LAG_FRAMES = 2
_EDGE_FRAMES = 2  # half a window
_VIBRATO_BANDS = 3
_MEAN_FRAMES = 100
_MIN_BPM, _MAX_BPM, _NUM_TEMPI = 40.0, 240.0, 1000
# Beats that are looked at together, and how much each counts. The second and fourth carry the metre in most music; the
# third less, so that a bar of three does not pass for a beat of its own.
_BEATS = ((1, 1.0), (2, 0.8), (3, 0.5), (4, 0.8))
_PREFERRED_BPM = 110.0
_MIN_ONSET = 0.05
_ONSET_FRAMES = 5


class Tempo(NamedTuple):
    """Beats a minute, and how well the onsets repeat with them (0 to 1)."""

    bpm: float
    confidence: float


def onset_strength(magnitude_TF: Float32) -> NDArray[np.float64]:
    """How much louder the bands become [T], whatever the clip's level; the mean over the bands of their logarithms.

    Each band is compared with the loudest of its neighbours 20 ms before, so that vibrato makes no onsets (Boeck and
    Widmer, Maximum Filter Vibrato Suppression for Onset Detection, DAFx 2013).

    Args:
        magnitude_TF: spectra of windows of `WINDOW_SAMPLES` every `HOP_SAMPLES`.
    """
    bands_TB = magnitude_TF @ mel_weights(WINDOW_SAMPLES, num_bands=_NUM_BANDS, low_hz=_LOW_HZ)
    level_TB = np.log1p(bands_TB * (_COMPRESSION / max(float(bands_TB.mean()), 1e-9)))
    before_TB = scipy.ndimage.maximum_filter1d(level_TB, _VIBRATO_BANDS, axis=1)
    strength_T = np.zeros(len(level_TB))
    strength_T[_LAG_FRAMES:] = np.maximum(level_TB[_LAG_FRAMES:] - before_TB[:-_LAG_FRAMES], 0).mean(axis=1)
    # Where a window sticks out of the clip, its cut edge would be the loudest onset of all.
    strength_T[: _EDGE_FRAMES + _LAG_FRAMES] = strength_T[strength_T.size - _EDGE_FRAMES :] = 0
    return strength_T


def onset_rate_hz(onsets_T: NDArray[np.float64]) -> float:
    """Note onsets a second: peaks of the strength that stand out over 50 ms to either side."""
    highest_T = scipy.ndimage.maximum_filter1d(onsets_T, 2 * _ONSET_FRAMES + 1)
    mean_T = scipy.ndimage.uniform_filter1d(onsets_T, _MEAN_FRAMES // 2)
    is_onset_T = (onsets_T == highest_T) & (onsets_T > mean_T + _MIN_ONSET)
    return float(is_onset_T.sum()) * FRAME_RATE_HZ / onsets_T.size


def estimate_tempo(onsets_T: NDArray[np.float64]) -> Tempo | None:
    """Estimate the tempo from onset strengths.

    For every tempo from 40 to 240 the autocorrelation at one to four beats is averaged; a comb, since a single lag
    finds dotted notes as readily as beats. A log-normal preference for 110 beats a minute, an octave wide, chooses
    among octaves (after van Noorden and Moelants, Resonance in the Perception of Musical Pulse, 1999).

    Returns:
        None for less than 3 s, or where nothing repeats.
    """
    if onsets_T.size < MIN_TEMPO_S * FRAME_RATE_HZ:
        return None
    repeats_L = _autocorrelation(np.maximum(onsets_T - scipy.ndimage.uniform_filter1d(onsets_T, _MEAN_FRAMES), 0))
    bpm_Q = np.geomspace(_MIN_BPM, _MAX_BPM, _NUM_TEMPI)
    lag_Q = 60 * FRAME_RATE_HZ / bpm_Q
    score_Q, weight_Q = np.zeros(_NUM_TEMPI), np.zeros(_NUM_TEMPI)
    for beats, weight in _BEATS:
        # Over longer lags too few pairs are left to tell.
        usable_Q = weight * (beats * lag_Q < repeats_L.size / 2)
        score_Q += usable_Q * np.interp(beats * lag_Q, np.arange(repeats_L.size), repeats_L)
        weight_Q += usable_Q
    score_Q /= np.maximum(weight_Q, 1e-9)
    best = int(np.argmax(score_Q * np.exp(-0.5 * np.log2(bpm_Q / _PREFERRED_BPM) ** 2)))
    confidence = float(score_Q[best])
    return Tempo(float(bpm_Q[best]), min(confidence, 1.0)) if confidence >= MIN_CONFIDENCE else None


def _autocorrelation(strength_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation with itself at every lag, without its mean, as if all lags had as many pairs; 1 at no lag."""
    centred_T = strength_T - strength_T.mean()
    spectrum = np.fft.rfft(centred_T, 2 * centred_T.size)
    products_L = np.fft.irfft(np.abs(spectrum) ** 2)[: centred_T.size]
    num_pairs_L = centred_T.size - np.arange(centred_T.size)
    return products_L / max(float(products_L[0]), 1e-12) * (centred_T.size / num_pairs_L)
