"""Facts about a clip that need no model: tempo, key, loudness range, brightness, density.

Waves are float32 mono [N]. Shape letters: F frequency bins, T frames, L lags in frames, P the twelve
pitch classes from C.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.music.audio import resample
from pipeline.music.compiled import import_librosa
from pipeline.music.loudness import loudness_range

librosa: Any = import_librosa()

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

# Probe-tone ratings from the tonic upwards: Krumhansl and Kessler 1982, in Krumhansl, Cognitive Foundations of
# Musical Pitch (1990), table 2.1 and the key-finding algorithm of chapter 4 (with M. Schmuckler).
_PROFILES: dict[Literal["major", "minor"], tuple[float, ...]] = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
_RATE_HZ = 22_050
_HOP_SAMPLES = 512
_ONSET_WINDOW = 2048
_CHROMA_WINDOW = 8192  # 2.7 Hz: semitones apart down to about 50 Hz
_FRAME_RATE_HZ = _RATE_HZ / _HOP_SAMPLES
_SILENT_MAGNITUDE = 1e-4  # -80 dB
_MIN_ONSET_DB = 1.0
_MIN_BPM, _MAX_BPM = 40.0, 240.0
_MIN_TEMPO_S = 3.0  # two beats at 40 a minute
# Below these a value would be noise. Measured on 10 s clips: the beat of noise reaches 0.11, of speech 0.18, of
# solo singing 0.21 to 0.27; the contrast of noise, speech and drums 0.12, of music 0.16 and more.
_MIN_TEMPO_CONFIDENCE = 0.2
_MIN_CHROMA_CONTRAST = 0.13
_MIN_KEY_CONFIDENCE = 0.5


class Attributes(TypedDict):
    """What was measured of a clip; None where the clip is silent, too short or without the thing."""

    tempo_bpm: float | None
    tempo_confidence: float | None
    """Autocorrelation of the onsets at the beat's period, 0 to 1."""
    key: str | None
    """Tonic and mode, e.g. "F# minor"."""
    tonic: str | None
    mode: Literal["major", "minor"] | None
    key_confidence: float | None
    """Pearson correlation of the pitch classes with the best key's profile, 0 to 1."""
    loudness_range_lu: float | None
    brightness_hz: float | None
    """Spectral centroid, mean over the frames weighted by their magnitude."""
    onset_rate_hz: float | None
    """Note onsets a second."""


class _Tempo(NamedTuple):
    bpm: float
    confidence: float


class _Key(NamedTuple):
    tonic: str
    mode: Literal["major", "minor"]
    confidence: float


def describe_audio(wave_N: NDArray[np.float32], sample_rate_hz: int) -> Attributes:
    """Measure a clip; never fails on silence, noise or very short clips.

    Values are rounded to what they are good for, so that their JSON is stable.
    """
    signal_N = resample(wave_N, sample_rate_hz, _RATE_HZ)
    if not np.abs(signal_N).max(initial=0.0) > _SILENT_MAGNITUDE:
        return _attributes(None, None, {})
    power_FT = _power(signal_N, _ONSET_WINDOW, _HOP_SAMPLES)
    onsets_T = _onset_strength(power_FT)
    measured = {
        "loudness_range_lu": loudness_range(wave_N, sample_rate_hz),
        "brightness_hz": _brightness_hz(power_FT),
        "onset_rate_hz": _onset_rate_hz(onsets_T),
    }
    return _attributes(estimate_tempo(onsets_T), estimate_key(_pitch_classes(signal_N)), measured)


def _attributes(tempo: _Tempo | None, key: _Key | None, measured: dict[str, float | None]) -> Attributes:
    return Attributes(
        tempo_bpm=_rounded(tempo and tempo.bpm, 1),
        tempo_confidence=_rounded(tempo and tempo.confidence, 2),
        key=key and f"{key.tonic} {key.mode}",
        tonic=key and key.tonic,
        mode=key and key.mode,
        key_confidence=_rounded(key and key.confidence, 2),
        loudness_range_lu=_rounded(measured.get("loudness_range_lu"), 1),
        brightness_hz=_rounded(measured.get("brightness_hz"), 0),
        onset_rate_hz=_rounded(measured.get("onset_rate_hz"), 1),
    )


def _rounded(value: float | None, num_decimals: int) -> float | None:
    return None if value is None else round(float(value), num_decimals)


def _power(signal_N: NDArray[np.float32], window: int, hop_samples: int) -> NDArray[np.float32]:
    """Power spectrogram [F, T]; a clip shorter than the window is padded with silence."""
    padded_N = np.pad(signal_N, (0, max(0, window - signal_N.size)))
    return np.square(np.abs(librosa.stft(padded_N, n_fft=window, hop_length=hop_samples)))


def _onset_strength(power_FT: NDArray[np.float32]) -> NDArray[np.float32]:
    mel_FT = librosa.feature.melspectrogram(S=power_FT, sr=_RATE_HZ)
    return librosa.onset.onset_strength(S=librosa.power_to_db(mel_FT, ref=np.max), sr=_RATE_HZ)


def _brightness_hz(power_FT: NDArray[np.float32]) -> float:
    magnitude_F = np.sqrt(power_FT).sum(axis=1, dtype=np.float64)
    frequencies_F = np.linspace(0, _RATE_HZ / 2, magnitude_F.size)
    return float(frequencies_F @ magnitude_F / magnitude_F.sum())


def _onset_rate_hz(onsets_T: NDArray[np.float32]) -> float:
    """Peaks of the onset strength a second, picked as librosa does but against a fixed rise in dB.

    librosa scales by the strongest peak, which makes dozens of onsets of a steady tone.
    """
    picked = librosa.onset.onset_detect(
        onset_envelope=onsets_T, sr=_RATE_HZ, hop_length=_HOP_SAMPLES, normalize=False, delta=_MIN_ONSET_DB
    )
    num_onsets = len(picked)
    return num_onsets * _FRAME_RATE_HZ / onsets_T.size


def estimate_tempo(onsets_T: NDArray[np.float32]) -> _Tempo | None:
    """Estimate the tempo from onset strengths, one a frame of 512 samples at 22,050 Hz.

    The autocorrelation's strongest lag under a log-normal preference for 120 beats a minute (Ellis, Beat Tracking
    by Dynamic Programming, 2007), refined between frames by a parabola. librosa's `beat_track` adds nothing to
    the tempo, and seconds of compilation.

    Returns:
        None for less than 3 s, without onsets, or where nothing repeats.
    """
    if onsets_T.size < _MIN_TEMPO_S * _FRAME_RATE_HZ or onsets_T.max() < _MIN_ONSET_DB:
        return None
    # Without its mean: noise has onsets everywhere, and they must not look like a beat of any period.
    correlation_L = librosa.autocorrelate(onsets_T - onsets_T.mean())
    num_pairs_L = onsets_T.size - np.arange(onsets_T.size)
    similarity_L = correlation_L / correlation_L[0] * (onsets_T.size / num_pairs_L)
    first, last = int(60 * _FRAME_RATE_HZ / _MAX_BPM), int(60 * _FRAME_RATE_HZ / _MIN_BPM)
    lags = np.arange(first, min(last, onsets_T.size // 2) + 1)
    preference = np.exp(-0.5 * np.square(np.log2(60 * _FRAME_RATE_HZ / lags / 120.0)))
    lag = int(lags[np.argmax(similarity_L[lags] * preference)])
    confidence = float(similarity_L[lag])
    if not confidence >= _MIN_TEMPO_CONFIDENCE:
        return None
    return _Tempo(60 * _FRAME_RATE_HZ / _parabola_peak(similarity_L, lag), min(confidence, 1.0))


def _parabola_peak(curve: NDArray[np.float64], index: int) -> float:
    """Where the parabola through a sample and its neighbours peaks, at most half a sample away."""
    left, middle, right = (float(value) for value in curve[index - 1 : index + 2])
    curvature = left - 2 * middle + right
    if not curvature < 0:
        return float(index)
    return index + min(0.5, max(-0.5, 0.5 * (left - right) / curvature))


def _pitch_classes(signal_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean strength of the pitch classes [P], tuned to the recording."""
    magnitude_FT = np.sqrt(_power(signal_N, _CHROMA_WINDOW, _CHROMA_WINDOW // 4))
    pitches_FT, strengths_FT = librosa.piptrack(S=magnitude_FT, sr=_RATE_HZ, n_fft=_CHROMA_WINDOW)
    is_pitched_FT = pitches_FT > 0
    tuning = 0.0
    if is_pitched_FT.any():
        is_pitched_FT &= strengths_FT >= np.median(strengths_FT[is_pitched_FT])
        tuning = librosa.pitch_tuning(pitches_FT[is_pitched_FT])
    # Magnitude, not power: the accompaniment counts beside the loudest voice.
    chroma_PT = librosa.feature.chroma_stft(S=magnitude_FT, sr=_RATE_HZ, tuning=tuning, norm=None)
    return chroma_PT.mean(axis=1, dtype=np.float64)


def estimate_key(strength_P: NDArray[np.float64]) -> _Key | None:
    """Estimate the key by the algorithm of Krumhansl and Schmuckler.

    Args:
        strength_P: twelve strengths or durations of the pitch classes, from C.

    Returns:
        None where all pitch classes are about as strong, or no key fits.
    """
    if not strength_P.std() > _MIN_CHROMA_CONTRAST * strength_P.mean():
        return None
    scores = [
        _Key(tonic, mode, float(np.corrcoef(strength_P, np.roll(profile, shift))[0, 1]))
        for mode, profile in _PROFILES.items()
        for shift, tonic in enumerate(TONICS)
    ]
    best = max(scores, key=lambda key: key.confidence)
    return best if best.confidence >= _MIN_KEY_CONFIDENCE else None
