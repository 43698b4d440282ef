"""The exact fingerprint follows the recording, not its container; the acoustic one its sound."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
import pytest
import soundfile as sf

from pipeline.music.fingerprint import acoustic_fingerprint, exact_fingerprint, fingerprint_words
from pipeline.music.recording import decode_audio

RATE_HZ = 16_000


def fingerprint_of(wave: np.ndarray, *, format: str, subtype: str) -> str:
    buffer = io.BytesIO()
    sf.write(buffer, wave, RATE_HZ, format=format, subtype=subtype)
    decoded = decode_audio(buffer.getvalue())
    return exact_fingerprint(decoded.wave_N, decoded.sample_rate_hz)


def test_fingerprint_is_equal_for_lossless_copies_only():
    pcm_NC = np.random.default_rng(0).integers(-9000, 9000, size=(RATE_HZ, 2)).astype(np.int16)
    lossless = {
        fingerprint_of(pcm_NC, format=container, subtype=subtype)
        for container, subtype in [
            ("WAV", "PCM_16"),
            ("WAV", "PCM_24"),
            ("FLAC", "PCM_16"),
            ("FLAC", "PCM_24"),
            ("AIFF", "PCM_16"),
            ("CAF", "ALAC_16"),
        ]
    }
    lossless.add(fingerprint_of((pcm_NC / 2**15).astype(np.float32), format="WAV", subtype="FLOAT"))
    assert len(lossless) == 1
    assert fingerprint_of(pcm_NC, format="OGG", subtype="VORBIS") not in lossless
    assert fingerprint_of(pcm_NC[:-1], format="WAV", subtype="PCM_16") not in lossless


def test_fingerprint_ignores_digital_silence_around():
    wave_N = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 0.1
    padded_N = np.concatenate([np.zeros(7, np.float32), wave_N, np.zeros(500, np.float32)])
    assert exact_fingerprint(padded_N, RATE_HZ) == exact_fingerprint(wave_N, RATE_HZ)
    assert exact_fingerprint(wave_N, RATE_HZ) != exact_fingerprint(wave_N * 0.5, RATE_HZ)
    assert exact_fingerprint(wave_N, RATE_HZ) != exact_fingerprint(wave_N, 2 * RATE_HZ)


def test_fingerprint_of_silence_and_of_nothing():
    silence = exact_fingerprint(np.zeros(100, np.float32), RATE_HZ)
    assert silence == exact_fingerprint(np.zeros(0, np.float32), RATE_HZ)
    assert len(silence) == 64


def glide(seconds: float, rate_hz: int) -> np.ndarray:
    """A chord whose three tones swell in turn."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = [(1 + np.sin(speed * time_s)) * np.sin(2 * np.pi * hz * time_s) for hz, speed in ((220, 5), (500, 7))]
    return (0.1 * sum(tones) + 0.1 * np.sin(900 * time_s**1.5)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 44_100, 48_000])
def test_acoustic_fingerprint_hardly_depends_on_the_rate(rate_hz: int):
    words = fingerprint_words(acoustic_fingerprint(glide(10, rate_hz), rate_hz))
    reference = fingerprint_words(acoustic_fingerprint(glide(10, 32_000), 32_000))
    assert words.size == reference.size == 103
    assert np.bitwise_count(words ^ reference).sum() < 0.03 * 32 * words.size
    assert len(set(words.tolist())) > 50


def test_acoustic_fingerprint_is_the_same_text_each_time_and_at_each_level():
    wave = glide(10, RATE_HZ)
    text = acoustic_fingerprint(wave, RATE_HZ)
    assert text == acoustic_fingerprint(wave, RATE_HZ) == acoustic_fingerprint(wave * np.float32(0.5), RATE_HZ)
    assert len(text) <= 60 * 10


@pytest.mark.parametrize("num_samples", [0, 1, 5000, 7000])
def test_acoustic_fingerprint_of_too_little_is_empty(num_samples: int):
    assert acoustic_fingerprint(np.ones(num_samples, np.float32), RATE_HZ) == ""


def test_acoustic_fingerprint_of_silence_and_of_a_steady_tone_sets_no_bit():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE_HZ) / RATE_HZ)
    for wave in (np.zeros(5 * RATE_HZ), tone):
        words = fingerprint_words(acoustic_fingerprint(wave.astype(np.float32), RATE_HZ))
        assert words.size == 49
        # Where the tone begins and ends, the resampler rings.
        assert not words[1:-1].any()


def test_acoustic_fingerprint_costs_little():
    wave = glide(10, 48_000)
    start = time.process_time()
    for _ in range(5):
        acoustic_fingerprint(wave, 48_000)
    assert (time.process_time() - start) / 5 < 0.03


@pytest.mark.parametrize("text", ["?", "abc", base64.b64encode(b"12345").decode()])
def test_what_is_no_fingerprint_is_refused(text: str):
    with pytest.raises(ValueError, match=r"[Bb]ase64|padding|buffer|multiple"):
        fingerprint_words(text)
