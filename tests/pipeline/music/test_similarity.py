"""Tunes that come back, found in what they sound like."""

from __future__ import annotations

import numpy as np

from pipeline.music.similarity import chroma, find_stripes


def test_stripes_show_where_a_tune_comes_back():
    random_TD = np.random.default_rng(0)
    parts = {name: random_TD.normal(size=(32, 12)).astype(np.float32) for name in "ABCD"}
    features_TD = np.concatenate([parts[name] for name in "ABCBDB"]) + 0.2 * random_TD.normal(size=(192, 12)).astype(
        np.float32
    )
    stripes = find_stripes((features_TD + 5.0).astype(np.float32), frames_per_s=2.0)  # B at 16, 48 and 80 s, for 16 s
    assert {(round(s.first_s), round(s.second_s)) for s in stripes} == {(16, 48), (16, 80), (48, 80)}
    assert all(abs(s.length_s - 16) <= 2 and s.similarity > 0.9 for s in stripes)


def test_nothing_comes_back_in_noise_or_a_drone():
    noise_TD = np.random.default_rng(1).normal(size=(200, 12)).astype(np.float32)
    assert find_stripes(noise_TD, frames_per_s=2.0) == []
    assert find_stripes(np.ones((200, 12), np.float32), frames_per_s=2.0) == []
    assert find_stripes(noise_TD[:5], frames_per_s=2.0) == []


def test_a_tune_that_comes_back_is_seen_in_its_chroma():
    rate_hz = 8000
    draw = np.random.default_rng(0)
    time_s = np.arange(rate_hz // 2) / rate_hz
    parts = {
        name: np.concatenate([np.sin(2 * np.pi * 220 * 2 ** (note / 12) * time_s) for note in draw.integers(0, 24, 32)])
        for name in "ABC"
    }
    wave_N = np.concatenate([parts[name] for name in "ABCB"]).astype(np.float32)
    features_TD = chroma(wave_N, rate_hz)
    assert features_TD.shape == (128, 12)
    stripes = find_stripes(features_TD, frames_per_s=2.0)
    (stripe,) = stripes  # B, at 16 and 48 s; a note before it may be the same by chance
    assert stripe.second_s - stripe.first_s == 32
    assert abs(stripe.first_s - 16) <= 2
    assert abs(stripe.length_s - 16) <= 2
    assert chroma(np.zeros(0, np.float32), rate_hz).shape == (1, 12)
