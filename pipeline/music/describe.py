"""Facts about a clip that need no model: tempo, key, voice, loudness range, brightness, density.

Waves are float32 mono [N]; T frames, F frequency bins.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.music.audio import resample
from pipeline.music.loudness import loudness_range
from pipeline.music.spectrum import RATE_HZ, magnitudes
from pipeline.music.tempo import HOP_SAMPLES, WINDOW_SAMPLES, Tempo, estimate_tempo, onset_rate_hz, onset_strength
from pipeline.music.tonality import Key, Mode, estimate_key, pitch_classes
from pipeline.music.voice import Voice, estimate_voice

SURE: dict[str, float] = {"tempo_bpm": 0.2, "key": 0.7, "mode": 0.7, "voice": 0.95}
"""Least confidence with which an attribute is a fact; docs/describe.md tells what was right above and below."""
_SILENT_MAGNITUDE = 1e-4  # -80 dB


class Attributes(TypedDict):
    """What was measured of a clip; None where the clip is silent, too short or without the thing."""

    tempo_bpm: float | None
    tempo_confidence: float | None
    """How well note onsets repeat with the beat, 0 to 1."""
    key: str | None
    """Tonic and mode, e.g. "F# minor"."""
    tonic: str | None
    mode: Mode | None
    key_confidence: float | None
    """Probability of tonic and mode."""
    mode_confidence: float | None
    """Probability of the mode, whatever the tonic."""
    voice: Literal["vocal", "instrumental"] | None
    voice_confidence: float | None
    """Probability of what `voice` says."""
    loudness_range_lu: float | None
    brightness_hz: float | None
    """Spectral centroid below 8 kHz, mean over the frames weighted by their magnitude."""
    onset_rate_hz: float | None
    """Note onsets a second."""
    sure: list[str]
    """Which of tempo_bpm, key, mode and voice were found with enough confidence to be said of the clip."""


def describe_audio(wave_N: NDArray[np.float32], sample_rate_hz: int) -> Attributes:
    """Measure a clip; never fails on silence, noise or very short clips.

    Values are rounded to what they are good for, so that their JSON is stable.
    """
    signal_N = resample(wave_N, sample_rate_hz, RATE_HZ)
    if not np.abs(signal_N).max(initial=0.0) > _SILENT_MAGNITUDE:
        return _attributes(None, None, None, {})
    magnitude_TF = magnitudes(signal_N, window_samples=WINDOW_SAMPLES, hop_samples=HOP_SAMPLES)
    onsets_T = onset_strength(magnitude_TF)
    measured = {
        "loudness_range_lu": loudness_range(wave_N, sample_rate_hz),
        "brightness_hz": _brightness_hz(magnitude_TF),
        "onset_rate_hz": onset_rate_hz(onsets_T),
    }
    key = estimate_key(pitch_classes(signal_N))
    return _attributes(estimate_tempo(onsets_T), key, estimate_voice(signal_N), measured)


def _attributes(
    tempo: Tempo | None, key: Key | None, voice: Voice | None, measured: dict[str, float | None]
) -> Attributes:
    confidences = {
        "tempo_bpm": _rounded(tempo and tempo.confidence, 2),
        "key": _rounded(key and key.confidence, 2),
        "mode": _rounded(key and key.mode_confidence, 2),
        "voice": _rounded(voice and voice.confidence, 2),
    }
    return Attributes(
        tempo_bpm=_rounded(tempo and tempo.bpm, 1),
        tempo_confidence=confidences["tempo_bpm"],
        key=key and f"{key.tonic} {key.mode}",
        tonic=key and key.tonic,
        mode=key and key.mode,
        key_confidence=confidences["key"],
        mode_confidence=confidences["mode"],
        voice=voice and ("vocal" if voice.is_vocal else "instrumental"),
        voice_confidence=confidences["voice"],
        loudness_range_lu=_rounded(measured.get("loudness_range_lu"), 1),
        brightness_hz=_rounded(measured.get("brightness_hz"), 0),
        onset_rate_hz=_rounded(measured.get("onset_rate_hz"), 1),
        sure=[name for name, confidence in confidences.items() if (confidence or 0.0) >= SURE[name]],
    )


def _rounded(value: float | None, num_decimals: int) -> float | None:
    return None if value is None else round(float(value), num_decimals)


def _brightness_hz(magnitude_TF: NDArray[np.float32]) -> float:
    magnitude_F = magnitude_TF.sum(axis=0, dtype=np.float64)
    frequencies_F = np.linspace(0, RATE_HZ / 2, magnitude_F.size)
    return float(frequencies_F @ magnitude_F / magnitude_F.sum())
