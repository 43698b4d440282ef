"""Speech is told from noise and silence, and a stream gives the very probabilities of the whole."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import silero_vad
import soundfile as sf
import soxr
import torch
from scipy.signal import lfilter

from pipeline.errors import ContractError
from pipeline.models.vad import load_speech_detector

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def detector():
    return load_speech_detector()


def vowels(duration_s: float, *, f0_hz: float = 140.0) -> np.ndarray:
    """Something like speech: a pulse train through the formants of a, i and u, four syllables a second."""
    t_N = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    phase_N = np.cumsum(f0_hz * (1 + 0.05 * np.sin(2 * np.pi * 0.7 * t_N))) / RATE_HZ
    source_N = np.diff(np.floor(phase_N), prepend=0.0)
    out_N = np.zeros_like(t_N)
    formants = ((700, 1200, 2600), (300, 2300, 3000), (350, 1000, 2400))
    for index, peaks_hz in enumerate(formants):
        wave_N = source_N
        for peak_hz in peaks_hz:
            pole = np.exp(-np.pi * 90 / RATE_HZ) * np.exp(2j * np.pi * peak_hz / RATE_HZ)
            wave_N = lfilter([1 - abs(pole)], np.poly([pole, pole.conj()]).real, wave_N)
        out_N += wave_N * (np.floor(t_N * 4).astype(int) % 3 == index)
    out_N *= 0.3 + 0.7 * np.abs(np.sin(np.pi * 4 * t_N))
    return (0.3 * out_N / np.abs(out_N).max()).astype(np.float32)


def read_mono(path: Path) -> np.ndarray:
    wave_NC, rate_hz = sf.read(path, dtype="float32", always_2d=True)
    return soxr.resample(wave_NC.mean(axis=1), rate_hz, RATE_HZ)


def long_wave() -> np.ndarray:
    noise_N = np.random.default_rng(0).normal(size=12 * RATE_HZ).astype(np.float32) * 0.01
    return np.concatenate([noise_N, vowels(20.0), noise_N])


def test_a_voice_is_told_from_noise(detector):
    wave_N = long_wave()
    probabilities_T = detector.speech_probabilities(wave_N)
    assert probabilities_T.dtype == np.float32
    assert probabilities_T.size == np.ceil(wave_N.size / RATE_HZ / detector.hop_s)
    times_s = np.arange(probabilities_T.size) * detector.hop_s
    is_voice = (times_s > 12.5) & (times_s < 31.5)
    is_noise = (times_s < 11.5) | (times_s > 32.5)
    assert np.median(probabilities_T[is_voice]) > 0.5
    assert probabilities_T[is_noise].max() < 0.1


def test_real_speech_is_found_and_a_loop_of_drums_is_not(detector, real_data):
    speech_N, drums_N = (read_mono(real_data / name) for name in ("whisper-test/jfk.flac", "go-audio-wav/flloop.wav"))
    assert np.mean(detector.speech_probabilities(speech_N) > 0.5) > 0.5
    assert np.mean(detector.speech_probabilities(drums_N) > 0.5) < 0.1


@pytest.mark.parametrize("block_samples", [1000, 16_384, 262_144, 300_001])
def test_a_stream_equals_the_whole(detector, block_samples):
    wave_N = long_wave()[: 40 * RATE_HZ + 77]
    blocks = np.split(wave_N, range(block_samples, wave_N.size, block_samples))
    streamed = np.concatenate(list(detector.stream_probabilities(blocks)))
    assert streamed.tobytes() == detector.speech_probabilities(wave_N).tobytes()


def test_it_equals_the_package_frame_by_frame(detector):
    wave_N = long_wave()[10 * RATE_HZ : 30 * RATE_HZ]
    with torch.inference_mode():
        reference = silero_vad.load_silero_vad(onnx=True).audio_forward(torch.from_numpy(wave_N), RATE_HZ)
    np.testing.assert_allclose(detector.speech_probabilities(wave_N), reference.numpy()[0], atol=1e-5)


def test_one_recording_does_not_colour_the_next(detector):
    alone = detector.speech_probabilities(vowels(2.0))
    detector.speech_probabilities(long_wave())
    assert detector.speech_probabilities(vowels(2.0)).tobytes() == alone.tobytes()


def test_nothing_and_less_than_a_frame(detector):
    assert detector.speech_probabilities(np.zeros(0, np.float32)).shape == (0,)
    assert detector.speech_probabilities(np.zeros(5, np.float32)).shape == (1,)


def test_it_describes_itself(detector):
    assert detector.sample_rate_hz == RATE_HZ
    assert detector.stamp["model"] == "silero_vad_16k_sequence.onnx"
    assert len(detector.stamp["weights_sha256"]) == 64
    assert "silero-vad" in detector.stamp["versions"]


def test_loading_refuses_what_is_no_network(tmp_path):
    (tmp_path / "text.onnx").write_text("no weights")
    for name in ("text.onnx", "absent.onnx"):
        with pytest.raises(ContractError, match=f"speech detector: .*{name} does not load"):
            load_speech_detector(str(tmp_path / name))


@pytest.mark.bench
def test_speed_of_voice_activity(detector):
    wave_N = np.tile(long_wave(), 4)
    start = time.process_time()
    detector.speech_probabilities(wave_N)
    times_real = wave_N.size / RATE_HZ / (time.process_time() - start)
    print(f"\nvoice activity, silero: {times_real:,.0f} x real time on one thread")
    assert times_real > 100
