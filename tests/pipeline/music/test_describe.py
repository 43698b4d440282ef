"""Tempo, key and the rest are found in music, and not invented in noise."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.music.describe import TONICS, Attributes, describe_audio, estimate_key
from pipeline.music.recording import decode_audio

RATE_HZ = 32_000
SHARED = Path("../shared/data/librosa-data")
# Semitones of the chords of a cadence over the tonic: I IV V I and i iv V i.
CADENCES = {
    "major": [(-12, 0, 4, 7), (-7, 0, 5, 9), (-5, -1, 2, 7), (-12, 0, 4, 7)],
    "minor": [(-12, 0, 3, 7), (-7, 0, 5, 8), (-5, -1, 2, 7), (-12, 0, 3, 7)],
}


def cadence(tonic: int, mode: str, *, detune_semitones: float = 0.0) -> np.ndarray:
    times_N = np.arange(RATE_HZ) / RATE_HZ
    chords = []
    for chord in CADENCES[mode]:
        frequencies = [261.63 * 2 ** ((tonic + step + detune_semitones) / 12) for step in chord]
        tones = [np.sin(2 * np.pi * f * k * times_N) / k for f in frequencies for k in (1, 2, 3, 4)]
        chords.append(np.sum(tones, axis=0) * np.exp(-times_N))
    return (np.concatenate(chords) * 0.05).astype(np.float32)


def clicks(tempo_bpm: float, *, duration_s: float = 10.0) -> np.ndarray:
    wave_N = np.zeros(round(duration_s * RATE_HZ), np.float32)
    wave_N[(np.arange(0.1, duration_s, 60 / tempo_bpm) * RATE_HZ).astype(int)] = 1.0
    burst_N = np.random.default_rng(0).normal(size=800) * np.exp(-np.arange(800) / 100)
    return np.convolve(wave_N, burst_N)[: wave_N.size].astype(np.float32)


def noise(duration_s: float = 10.0) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=round(duration_s * RATE_HZ)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_describe_finds_the_key_of_a_cadence(tonic, mode):
    attributes = describe_audio(cadence(tonic, mode), RATE_HZ)
    assert attributes["key"] == f"{TONICS[tonic]} {mode}"
    assert (attributes["tonic"], attributes["mode"]) == (TONICS[tonic], mode)
    assert attributes["key_confidence"] > 0.7


def test_describe_follows_the_tuning():
    assert describe_audio(cadence(9, "minor", detune_semitones=0.4), RATE_HZ)["key"] == "A minor"


@pytest.mark.parametrize("tempo_bpm", [70.0, 97.0, 120.0, 150.0])
def test_describe_finds_the_tempo_of_clicks(tempo_bpm):
    attributes = describe_audio(clicks(tempo_bpm), RATE_HZ)
    assert attributes["tempo_bpm"] == pytest.approx(tempo_bpm, rel=0.02)
    assert attributes["tempo_confidence"] > 0.5
    assert attributes["onset_rate_hz"] == pytest.approx(tempo_bpm / 60, abs=0.3)


def test_describe_invents_nothing_in_noise():
    attributes = describe_audio(noise(), RATE_HZ)
    assert attributes["tempo_bpm"] is attributes["tempo_confidence"] is None
    assert attributes["key"] is attributes["mode"] is None
    assert attributes["loudness_range_lu"] == pytest.approx(0, abs=0.3)


def test_describe_orders_clips_by_brightness():
    times_N = np.arange(5 * RATE_HZ) / RATE_HZ
    tones = [(0.3 * np.sin(2 * np.pi * f * times_N)).astype(np.float32) for f in (200, 1000, 5000)]
    measured = [describe_audio(tone_N, RATE_HZ)["brightness_hz"] for tone_N in tones]
    assert measured == [pytest.approx(f, rel=0.1) for f in (200, 1000, 5000)]
    # A steady tone has no beat and no notes.
    assert describe_audio(tones[1], RATE_HZ)["tempo_bpm"] is None
    assert describe_audio(tones[1], RATE_HZ)["onset_rate_hz"] == 0.0


@pytest.mark.parametrize("num_samples", [0, 1, 20, 400, RATE_HZ // 2, 2 * RATE_HZ])
def test_describe_never_fails_on_short_clips(num_samples):
    for wave_N in (noise()[:num_samples], cadence(0, "major")[:num_samples], np.zeros(num_samples, np.float32)):
        attributes = describe_audio(wave_N, RATE_HZ)
        assert attributes.keys() == Attributes.__annotations__.keys()
        assert attributes["tempo_bpm"] is attributes["loudness_range_lu"] is None


def test_describe_says_nothing_of_silence():
    assert set(describe_audio(np.zeros(10 * RATE_HZ, np.float32), RATE_HZ).values()) == {None}


def test_describe_gives_plain_stable_json():
    first, second = (json.dumps(describe_audio(cadence(2, "minor"), RATE_HZ)) for _ in range(2))
    assert first == second
    assert len(first) < 300  # rounded: no seventeen digits


def test_estimate_key_needs_contrast():
    assert estimate_key(np.ones(12)) is None
    assert estimate_key(np.zeros(12)) is None
    assert estimate_key(np.array([3.0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0])) is None  # a tritone fits no key


def test_describe_is_quick_after_the_first():
    describe_audio(noise(), RATE_HZ)
    start_s = time.process_time()
    describe_audio(cadence(0, "major"), RATE_HZ)
    describe_audio(noise(), RATE_HZ)
    assert time.process_time() - start_s < 0.8


def test_describe_knows_the_key_of_a_song():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    decoded = decode_audio(SHARED / "Karissa_Hobbs_-_Lets_Go_Fishin.ogg")
    attributes = describe_audio(decoded.wave_N[: 30 * decoded.sample_rate_hz], decoded.sample_rate_hz)
    assert attributes["key"] == "A# major"
    assert attributes["tempo_bpm"] == pytest.approx(117, abs=2)
