"""The key of a piece: how strong each pitch class is, and which key has them so.

N samples, T frames, F frequency bins, P the twelve pitch classes from C, K the 24 keys.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.music.spectrum import Float32, find_peaks, magnitudes

Mode = Literal["major", "minor"]
TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES: tuple[Mode, ...] = ("major", "minor")

# How often each pitch class occurs, from the tonic upwards: Albrecht and Shanahan, The Use of Large Corpora to Train a
# New Type of Key-Finding Algorithm, Music Perception 31 (2013), table 1.
_PROFILES: dict[Mode, tuple[float, ...]] = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}
_WINDOW_SAMPLES, _HOP_SAMPLES = 8192, 2048  # 2 Hz a bin: semitones are apart down to about 60 Hz
_LOW_HZ, _HIGH_HZ = 60.0, 2000.0
_MIN_SHARE = 0.01
_MIDDLE_C = 60
_FADE_PER_OCTAVE = 0.5  # above middle C overtones outnumber notes
_MIN_CONTRAST = 0.3
"""Below this no pitch class stands out: speech, drums and noise reach 0.26, music lies above 0.47."""
_MIN_CORRELATION = 0.5
_SHARPNESS = 20.0


class Key(NamedTuple):
    """A tonic and a mode, each with the probability of being right."""

    tonic: str
    mode: Mode
    confidence: float
    mode_confidence: float


def pitch_classes(signal_N: Float32) -> NDArray[np.float64]:
    """How strong the pitch classes are [P], in the tuning of the recording.

    Partials between 60 and 2,000 Hz count by their magnitude, less the higher they are. The tuning is what all of them
    deviate from equal temperament on average.
    """
    spectra_TF = magnitudes(signal_N, window_samples=_WINDOW_SAMPLES, hop_samples=_HOP_SAMPLES)
    peaks = find_peaks(spectra_TF, low_hz=_LOW_HZ, high_hz=_HIGH_HZ, min_share=_MIN_SHARE)
    midi = 69 + 12 * np.log2(peaks.hz / 440)
    weight = peaks.magnitude.astype(np.float64)
    midi -= np.angle(np.sum(weight * np.exp(2j * np.pi * midi))) / (2 * np.pi)
    nearest = np.round(midi)
    weight *= np.exp(-_FADE_PER_OCTAVE / 12 * np.maximum(midi - _MIDDLE_C, 0)) * np.cos(np.pi * (midi - nearest)) ** 2
    return np.bincount(nearest.astype(np.int64) % 12, weights=weight, minlength=12).astype(np.float64)


def estimate_key(strength_P: NDArray[np.float64]) -> Key | None:
    """Find the key whose profile correlates best (Krumhansl and Schmuckler, in Krumhansl 1990, chapter 4).

    The probabilities come from a softmax over the correlations with all 24 keys.

    Args:
        strength_P: strengths or durations of the pitch classes, from C.

    Returns:
        None where all pitch classes are about as strong, or no key fits.
    """
    if not strength_P.std() > _MIN_CONTRAST * strength_P.mean():
        return None
    keys: list[tuple[int, Mode]] = [(tonic, mode) for mode in MODES for tonic in range(12)]
    fit_K = np.array([np.corrcoef(strength_P, np.roll(_PROFILES[mode], tonic))[0, 1] for tonic, mode in keys])
    best = int(np.argmax(fit_K))
    if fit_K[best] < _MIN_CORRELATION:
        return None
    probability_K = np.exp(_SHARPNESS * (fit_K - fit_K[best]))
    probability_K /= probability_K.sum()
    tonic, mode = keys[best]
    of_mode = sum(float(p) for p, (_, other) in zip(probability_K, keys, strict=True) if other == mode)
    return Key(TONICS[tonic], mode, float(probability_K[best]), of_mode)
