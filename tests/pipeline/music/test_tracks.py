from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.shards import Sample, encode_json
from pipeline.music.audio import encode_flac
from pipeline.music.tracks import by_track, joined_blocks, track_blocks

RATE_HZ = 8000
QUANTUM = 2 / 32768


def recording(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise: no stretch of it is like another."""
    random = np.random.default_rng(seed)
    return random.uniform(-0.4, 0.4, round(seconds * RATE_HZ)).astype(np.float32)


def clip(
    wave_N: NDArray[np.float32], start_s: float, end_s: float, *, gain_db: float = 0.0, track: str = "song"
) -> Sample:
    """A clip of a recording as ingest leaves it: cut out, and brought to another level."""
    key = f"{track}-{round(start_s * 1000):07d}"
    cut_N = wave_N[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] * np.float32(10 ** (gain_db / 20))
    facts = {"key": key, "track": track, "span_s": [start_s, end_s], "audio": {"gain_db": gain_db}}
    return Sample(key, {"json": encode_json(facts), "flac": encode_flac(cut_N, RATE_HZ)})


def play(*samples: Sample, sample_rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    (clips,) = by_track(samples)
    return np.concatenate(list(track_blocks(clips, sample_rate_hz)))


def test_the_clips_of_a_recording_are_gathered_in_their_order():
    wave_N = recording(2.0)
    samples = [clip(wave_N, n, n + 1, track=track) for track in ("b", "a", "c") for n in range(2)]
    tracks = list(by_track(samples))
    assert [[facts["track"] for facts, _ in clips] for clips in tracks] == [["b", "b"], ["a", "a"], ["c", "c"]]
    assert [sample.key for clips in tracks for _, sample in clips] == [sample.key for sample in samples]
    assert list(by_track([])) == []


def test_clips_side_by_side_give_the_recording_again():
    wave_N = recording(3.5)
    played_N = play(clip(wave_N, 0, 2), clip(wave_N, 2, 3.5))
    assert played_N == pytest.approx(wave_N, abs=QUANTUM)


def test_what_two_clips_hold_comes_once():
    wave_N = recording(6.0)
    played_N = play(clip(wave_N, 0, 3), clip(wave_N, 2, 5), clip(wave_N, 4.5, 6))
    assert played_N == pytest.approx(wave_N, abs=QUANTUM)


def test_a_clip_within_another_adds_nothing():
    wave_N = recording(5.0)
    played_N = play(clip(wave_N, 0, 4), clip(wave_N, 1, 2), clip(wave_N, 3, 5))
    assert played_N == pytest.approx(wave_N, abs=QUANTUM)


def test_what_no_clip_holds_is_silence():
    wave_N = recording(6.0)
    played_N = play(clip(wave_N, 1, 2), clip(wave_N, 4, 6))
    wave_N[:RATE_HZ] = 0
    wave_N[2 * RATE_HZ : 4 * RATE_HZ] = 0
    assert played_N == pytest.approx(wave_N, abs=QUANTUM)


def test_a_long_hole_comes_in_blocks():
    wave_N = recording(125.0)
    (clips,) = by_track([clip(wave_N, 0, 2), clip(wave_N, 123.5, 125)])
    blocks = list(track_blocks(clips, RATE_HZ))
    assert max(block_N.size for block_N in blocks) <= 10 * RATE_HZ
    wave_N[2 * RATE_HZ : round(123.5 * RATE_HZ)] = 0
    assert np.abs(np.concatenate(blocks) - wave_N).max() <= QUANTUM


def test_the_level_is_the_recordings_own_and_not_the_clips():
    wave_N = recording(4.0)
    wave_N[: 2 * RATE_HZ] *= np.float32(0.1)
    played_N = play(clip(wave_N, 0, 2, gain_db=14.0), clip(wave_N, 2, 4, gain_db=-6.0))
    assert played_N == pytest.approx(wave_N, abs=2 * QUANTUM)


def test_a_recording_is_played_at_the_rate_that_is_asked():
    time_N = np.arange(4 * RATE_HZ) / RATE_HZ
    wave_N = (0.3 * np.sin(2 * np.pi * 300 * time_N)).astype(np.float32)
    played_N = play(clip(wave_N, 0, 2), clip(wave_N, 2, 4), sample_rate_hz=16_000)
    assert played_N.dtype == np.float32
    assert played_N.size == 2 * wave_N.size
    # Each clip is resampled by itself, so at its ends the neighbour's samples are missing.
    inside = np.abs(np.arange(played_N.size) % 32_000 - 16_000) < 15_000
    expected_N = 0.3 * np.sin(2 * np.pi * 300 * np.arange(played_N.size) / 16_000)
    assert played_N[inside] == pytest.approx(expected_N[inside], abs=2e-3)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 40))
def test_joined_blocks_have_one_length_and_lose_nothing(sizes: list[int], num_samples: int):
    wave_N = np.arange(sum(sizes), dtype=np.float32)
    joined = list(joined_blocks(np.split(wave_N, np.cumsum(sizes))[: len(sizes)], num_samples))
    assert np.array_equal(np.concatenate([*joined, np.zeros(0, np.float32)]), wave_N)
    assert all(block_N.size == num_samples for block_N in joined[:-1])
    assert all(0 < block_N.size <= num_samples for block_N in joined[-1:])


def test_joined_blocks_come_as_soon_as_they_are_whole():
    num_taken = 0

    def blocks():
        nonlocal num_taken
        for _ in range(10):
            num_taken += 1
            yield np.ones(3, np.float32)

    taken = [num_taken for _ in joined_blocks(blocks(), 6)]
    assert [n for n, _ in groupby(taken)] == [2, 4, 6, 8, 10]
