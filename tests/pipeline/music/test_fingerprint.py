"""The exact fingerprint follows the recording, not its container."""

from __future__ import annotations

import io

import numpy as np
import soundfile as sf

from pipeline.music.audio import decode_audio
from pipeline.music.fingerprint import exact_fingerprint

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
