from __future__ import annotations

import numpy as np
import pytest

from pipeline.demo.synth import TIMBRES, Notes, midi_hz, render

RATE_HZ = 16_000


def one_note(midi: int, *, onset_s: float = 0.0, length_s: float = 1.5) -> Notes:
    return Notes(
        onset_s=np.array([onset_s]),
        length_s=np.array([length_s]),
        midi=np.array([midi]),
        part=np.array([0]),
        velocity=np.array([0.8]),
    )


def play(notes: Notes, instrument: str, *, rms_dbfs: float = -20.0, seed: int = 1):
    return render(notes, instrument, clip_s=2.0, rate_hz=RATE_HZ, rms_dbfs=rms_dbfs, seed=seed)


@pytest.mark.parametrize("instrument", list(TIMBRES))
def test_every_instrument_sounds_at_pitch_and_level(instrument):
    wave_CN = play(one_note(69), instrument)
    assert wave_CN.shape == (2, 2 * RATE_HZ)
    assert wave_CN.dtype == np.float32
    assert np.abs(wave_CN).max() < 0.95
    # A lone plucked note may be turned down for its peak.
    assert -24 < 20 * np.log10(np.sqrt(np.mean(wave_CN**2))) < -19.5
    spectrum = np.abs(np.fft.rfft(wave_CN.mean(axis=0)))
    hz = np.fft.rfftfreq(2 * RATE_HZ, 1 / RATE_HZ)
    # Energy sits at harmonics of A4, whichever of them is strongest.
    peak_hz = hz[spectrum.argmax()]
    harmonic = round(peak_hz / midi_hz(69))
    assert harmonic >= 1
    assert abs(1200 * np.log2(peak_hz / (harmonic * midi_hz(69)))) < 40


def test_same_seed_gives_same_samples_and_another_others():
    notes = one_note(60)
    assert np.array_equal(play(notes, "choir"), play(notes, "choir"))
    assert not np.array_equal(play(notes, "choir"), play(notes, "choir", seed=2))


def test_loud_clip_is_turned_down_rather_than_clipped():
    wave_CN = play(one_note(60, length_s=0.05), "banjo", rms_dbfs=-3.0)
    assert np.abs(wave_CN).max() == pytest.approx(0.92, abs=1e-3)


def test_notes_beyond_the_clip_are_cut():
    notes = Notes(
        onset_s=np.array([1.9, 5.0]),
        length_s=np.array([3.0, 1.0]),
        midi=np.array([60, 62]),
        part=np.array([0, 1]),
        velocity=np.array([0.5, 0.5]),
    )
    wave_CN = play(notes, "piano")
    assert np.abs(wave_CN[:, : int(1.8 * RATE_HZ)]).max() < 0.01 < np.abs(wave_CN[:, int(1.9 * RATE_HZ) :]).max()


def test_low_note_has_no_harmonic_beyond_nyquist():
    spectrum = np.abs(np.fft.rfft(play(one_note(96), "harpsichord").mean(axis=0)))
    hz = np.fft.rfftfreq(2 * RATE_HZ, 1 / RATE_HZ)
    tone = np.zeros(len(hz), dtype=bool)
    for harmonic in range(1, 4):
        tone |= np.abs(hz - harmonic * midi_hz(96)) < 60
    assert (spectrum[~tone] ** 2).sum() < 0.05 * (spectrum**2).sum()
