"""Loudness agrees with the standards, and normalising only ever turns a gain."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.music import loudness
from pipeline.music.loudness import integrated_loudness, loudness_range, normalise_loudness, true_peak_dbtp

RATE_HZ = 48_000
SHARED = Path("../shared/data/pyloudnorm-tests")


def sine(level_dbfs: float, *, frequency_hz: float = 997.0, duration_s: float = 5.0, rate_hz: int = RATE_HZ):
    times_N = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (10 ** (level_dbfs / 20) * np.sin(2 * np.pi * frequency_hz * times_N)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [16_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("level_dbfs", [0.0, -20.0, -40.0])
def test_loudness_of_the_standards_sine(rate_hz, level_dbfs):
    # ITU-R BS.1770-4: a 0 dBFS sine of 997 Hz in one front channel reads -3.01 LKFS.
    measured = integrated_loudness(sine(level_dbfs, rate_hz=rate_hz), rate_hz)
    assert measured == pytest.approx(level_dbfs - 3.01, abs=0.1)


def test_loudness_ignores_silence_around():
    tone_N = sine(-20.0)
    padded_N = np.concatenate([np.zeros(5 * RATE_HZ, np.float32), tone_N, np.zeros(5 * RATE_HZ, np.float32)])
    assert integrated_loudness(padded_N, RATE_HZ) == pytest.approx(integrated_loudness(tone_N, RATE_HZ), abs=0.3)


def test_loudness_of_short_clips_and_silence():
    assert integrated_loudness(sine(-20.0, duration_s=0.1), RATE_HZ) == pytest.approx(-23.0, abs=0.2)
    assert integrated_loudness(np.float32([0.5]), RATE_HZ) < 0
    assert integrated_loudness(np.zeros(RATE_HZ, np.float32), RATE_HZ) == -math.inf
    assert integrated_loudness(np.zeros(0, np.float32), RATE_HZ) == -math.inf
    assert integrated_loudness(sine(-90.0), RATE_HZ) == -math.inf  # all below the absolute gate


def test_loudness_of_the_reference_recordings():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    tone_N, rate_hz = sf.read(SHARED / "sine_1000.wav", dtype="float32")
    assert integrated_loudness(tone_N, rate_hz) == pytest.approx(-3.05, abs=0.05)
    stereo_NC, rate_hz = sf.read(SHARED / "1770-2_Comp_RelGateTest.wav", dtype="float32")
    # Made for -10 LKFS as a stereo pair of equal channels: one of them alone has half the power.
    assert np.array_equal(stereo_NC[:, 0], stereo_NC[:, 1])
    assert integrated_loudness(stereo_NC.mean(axis=1), rate_hz) == pytest.approx(-13.01, abs=0.1)


def test_true_peak_sees_between_the_samples():
    # A quarter of the rate, sampled 45 degrees off its crests: samples reach 3.01 dB less than the wave.
    wave_N = np.sin(np.pi / 2 * np.arange(RATE_HZ) + np.pi / 4).astype(np.float32)
    assert 20 * math.log10(np.abs(wave_N).max()) == pytest.approx(-3.01, abs=0.01)
    middle_N = wave_N * np.hanning(wave_N.size).astype(np.float32)
    assert true_peak_dbtp(middle_N) == pytest.approx(0.0, abs=0.2)
    assert true_peak_dbtp(sine(-6.0)) == pytest.approx(-6.0, abs=0.2)
    assert true_peak_dbtp(np.zeros(99, np.float32)) == -math.inf
    assert true_peak_dbtp(np.zeros(0, np.float32)) == -math.inf


def test_loudness_range_of_two_levels():
    # EBU Tech 3342, test 1: 20 s at -20 dBFS, 20 s at -30 dBFS, 1 kHz: 10 LU within 1.
    steps_N = np.concatenate([sine(level, frequency_hz=1000, duration_s=20) for level in (-20.0, -30.0)])
    assert loudness_range(steps_N, RATE_HZ) == pytest.approx(10, abs=1)
    assert loudness_range(sine(-20.0), RATE_HZ) == pytest.approx(0, abs=0.1)
    assert loudness_range(sine(-20.0, duration_s=2.9), RATE_HZ) is None
    assert loudness_range(np.zeros(5 * RATE_HZ, np.float32), RATE_HZ) is None


@pytest.mark.parametrize("level_dbfs", [-1.0, -20.0, -60.0])
def test_normalise_reaches_the_target_by_gain_alone(level_dbfs):
    wave_N = sine(level_dbfs)
    result = normalise_loudness(wave_N, RATE_HZ, target_lufs=-16.0, ceiling_dbtp=-1.0)
    assert not result.limited
    assert result.loudness_lufs == pytest.approx(-16.0, abs=0.1)
    assert integrated_loudness(result.wave_N, RATE_HZ) == pytest.approx(result.loudness_lufs, abs=0.001)
    assert result.measured_lufs == pytest.approx(result.loudness_lufs - result.gain_db, abs=0.001)
    assert true_peak_dbtp(result.wave_N) == pytest.approx(result.true_peak_dbtp, abs=0.01)
    np.testing.assert_allclose(result.wave_N, wave_N * 10 ** (result.gain_db / 20), rtol=1e-4, atol=1e-7)


def test_normalise_stops_at_the_ceiling():
    wave_N = sine(-40.0)
    wave_N[RATE_HZ] = 0.9
    result = normalise_loudness(wave_N, RATE_HZ, target_lufs=-14.0, ceiling_dbtp=-1.0)
    assert result.limited
    assert result.loudness_lufs < -14.1
    assert true_peak_dbtp(result.wave_N) <= -1.0 + 1e-3


def test_normalise_reaches_the_target_from_near_the_gate():
    # Half of it below the absolute gate of -70 LUFS until gain lifts it over.
    wave_N = np.concatenate([sine(-64.0, duration_s=4), sine(-69.0, duration_s=4)])
    result = normalise_loudness(wave_N, RATE_HZ, target_lufs=-20.0, ceiling_dbtp=-1.0)
    assert not result.limited
    assert integrated_loudness(result.wave_N, RATE_HZ) == pytest.approx(-20.0, abs=0.1)


def test_normalise_leaves_silence_alone():
    result = normalise_loudness(np.zeros(RATE_HZ, np.float32), RATE_HZ, target_lufs=-16.0, ceiling_dbtp=-1.0)
    assert (result.gain_db, result.limited, result.loudness_lufs) == (0.0, False, -math.inf)
    assert not result.wave_N.any()


def noise(seed: int, duration_s: float, rate_hz: int) -> np.ndarray:
    """Noise between hiss and rumble whose level wanders over 40 dB: some of its blocks are gated."""
    random = np.random.default_rng(seed)
    wave_N = random.standard_normal(round(duration_s * rate_hz))
    rumble_N = np.cumsum(wave_N - wave_N.mean())
    wave_N += random.uniform(0, 1) * rumble_N / np.abs(rumble_N).max() * np.abs(wave_N).max()
    levels_db = np.interp(np.arange(wave_N.size), np.linspace(0, wave_N.size, 9), random.uniform(-40, 0, 9))
    return (wave_N * 10 ** (levels_db / 20) * 0.2).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    duration_s=st.floats(0.41, 6.0),
    rate_hz=st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]),
)
def test_loudness_agrees_with_pyloudnorm(seed: int, duration_s: float, rate_hz: int):
    wave_N = noise(seed, duration_s, rate_hz)
    reference_lufs = pyloudnorm.Meter(rate_hz).integrated_loudness(wave_N)
    assert integrated_loudness(wave_N, rate_hz) == pytest.approx(reference_lufs, abs=0.01)


def test_loudness_of_bad_values_is_no_number():
    for bad in (np.nan, np.inf):
        wave_N = sine(-20.0)
        wave_N[RATE_HZ] = bad
        assert math.isnan(integrated_loudness(wave_N, RATE_HZ))


def whole_peak_dbtp(wave_N: np.ndarray) -> float:
    """The true peak from all of the oversampled wave."""
    return 20 * math.log10(max(np.abs(soxr.resample(wave_N, 1, 4, quality="HQ")).max(), np.abs(wave_N).max()))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), duration_s=st.floats(1e-4, 1.0), crop=st.booleans())
def test_true_peak_of_the_loud_parts_is_that_of_the_whole(seed: int, duration_s: float, crop: bool):
    wave_N = noise(seed, duration_s, RATE_HZ)
    if crop:  # peaks that stand at the very ends and between equal samples
        wave_N = np.clip(wave_N * 5, -0.5, 0.5)
    assert true_peak_dbtp(wave_N) == pytest.approx(whole_peak_dbtp(wave_N), abs=1e-4)


def test_true_peak_rests_on_the_kernel_as_it_is():
    impulse_N = np.zeros(1001, np.float32)
    impulse_N[500] = 1
    kernel_N = soxr.resample(impulse_N, 1, 4, quality="HQ")[: 4 * 1001]
    magnitude_N = np.abs(kernel_N)
    reach = loudness._SEGMENT_SAMPLES - 1
    assert magnitude_N[: 4 * (500 - reach)].sum() + magnitude_N[4 * (500 + reach) :].sum() < 1e-4
    assert magnitude_N.reshape(-1, 4).sum(axis=0).max() < loudness._KERNEL_SUM
    smoothed_N = sum(weight * np.roll(kernel_N, 4 * shift) for shift, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)))
    assert np.abs(smoothed_N).reshape(-1, 4).sum(axis=0).max() < loudness._SMOOTH_KERNEL_SUM
