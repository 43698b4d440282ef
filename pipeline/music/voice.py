"""Whether somebody sings or speaks: a voice glides where instruments hold a pitch or step to another one.

T frames, F frequency bins, P partials, S steps from a frame to the next.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.music.spectrum import RATE_HZ, Float32, Peaks, find_peaks, magnitudes

MIN_VOICE_S = 2.0
GLIDE_CENTS = (3.0, 6.0)
"""Least step within 16 ms of a glide, slow and fast: features are the shares of both."""
OFFSET = 0.005
"""Added to a share before its logarithm is taken."""

# Logistic regression on the demo's training works: `python -m pipeline.demo.training.voice` makes it again.
_BIAS = 15.93
_WEIGHTS = (2.83, 1.51)

_WINDOW_SAMPLES, _HOP_SAMPLES = 2048, 256
_LOW_HZ, _HIGH_HZ = 200.0, 3500.0
_MIN_SHARE = 0.25  # of the strongest in its frame: weaker ones are noise and reverberation as often as partials
_MIN_LOUD_SHARE = 0.01
_MAX_STEP_CENTS = 60.0
_FRAME_CENTS = 100_000.0
_NUM_STEPS = 4


class Voice(NamedTuple):
    """Whether there is a voice, and the probability of that."""

    is_vocal: bool
    confidence: float


def estimate_voice(signal_N: Float32) -> Voice | None:
    """Tell whether a clip is sung or spoken.

    Args:
        signal_N: a clip at the rate of `pipeline.music.spectrum`.

    Returns:
        None for less than 2 s.
    """
    if signal_N.size < MIN_VOICE_S * RATE_HZ:
        return None
    logit = _BIAS + float(np.dot(_WEIGHTS, voice_features(signal_N)))
    probability = 1 / (1 + math.exp(-logit))
    return Voice(probability >= 0.5, max(probability, 1 - probability))


def voice_features(signal_N: Float32) -> NDArray[np.float64]:
    """Logarithms of the shares of partials that glide, slowly and fast.

    A partial glides if four steps in a row, 64 ms, go in one direction by so many cents each. Partials count by their
    magnitude; those count that can be followed so long.
    """
    spectra_TF = magnitudes(signal_N, window_samples=_WINDOW_SAMPLES, hop_samples=_HOP_SAMPLES)
    peaks = find_peaks(spectra_TF, low_hz=_LOW_HZ, high_hz=_HIGH_HZ, min_share=_MIN_SHARE)
    is_loud = peaks.magnitude > _MIN_LOUD_SHARE * float(spectra_TF.max())
    peaks = Peaks(peaks.frame[is_loud], peaks.hz[is_loud], peaks.magnitude[is_loud])
    steps_SP = _follow(peaks)
    known = ~np.isnan(steps_SP).any(axis=0)
    total = max(float(peaks.magnitude[known].sum(dtype=np.float64)), 1e-9)
    shares = [
        float(peaks.magnitude[known & _is_gliding(steps_SP, cents)].sum(dtype=np.float64)) / total
        for cents in GLIDE_CENTS
    ]
    return np.log(np.array(shares) + OFFSET)


def _is_gliding(steps_SP: NDArray[np.float64], cents: float) -> NDArray[np.bool_]:
    return np.logical_or(np.all(steps_SP > cents, axis=0), np.all(steps_SP < -cents, axis=0))


def _follow(peaks: Peaks) -> NDArray[np.float64]:
    """Steps in cents of every partial over the next frames [S, P]; NaN where it is lost."""
    step_P, after_P = _next_steps(peaks)
    steps_SP = np.full((_NUM_STEPS, step_P.size), np.nan)
    here_P = np.arange(step_P.size)
    for steps_P in steps_SP:
        is_known_P = here_P >= 0
        steps_P[is_known_P] = step_P[here_P[is_known_P]]
        here_P[is_known_P] = after_P[here_P[is_known_P]]
    return steps_SP


def _next_steps(peaks: Peaks) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Step in cents to the nearest partial of the next frame (NaN if none is near), and its place (then -1)."""
    if not peaks.hz.size:
        return np.zeros(0), np.zeros(0, np.int64)
    # Frame after frame on one axis, too far apart to meet: one sorted search finds all neighbours.
    place_P = peaks.frame * _FRAME_CENTS + 1200 * np.log2(peaks.hz)
    wanted_P = place_P + _FRAME_CENTS
    right_P = np.minimum(np.searchsorted(place_P, wanted_P), place_P.size - 1)
    left_P = np.maximum(right_P - 1, 0)
    is_left_nearer = np.abs(place_P[left_P] - wanted_P) < np.abs(place_P[right_P] - wanted_P)
    after_P = np.where(is_left_nearer, left_P, right_P)
    step_P = place_P[after_P] - wanted_P
    is_near = np.abs(step_P) < _MAX_STEP_CENTS
    return np.where(is_near, step_P, np.nan), np.where(is_near, after_P, -1)
