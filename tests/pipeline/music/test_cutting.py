"""Every sample of a recording lies where the cut says, however the blocks come."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.music.cutting import Window, cut_at, cut_at_silences, cut_windows

RATE_HZ = 100


def blocks_of(wave_N: np.ndarray, num: int) -> Iterator[np.ndarray]:
    return (wave_N[start : start + num] for start in range(0, len(wave_N), num))


def ramp(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * RATE_HZ), dtype=np.float32)


def holds_its_span(window: Window) -> bool:
    return np.array_equal(
        window.wave_N, np.arange(round(window.start_s * RATE_HZ), round(window.end_s * RATE_HZ), dtype=np.float32)
    )


def spans(windows: Iterator[Window]) -> list[tuple[float, float]]:
    found = list(windows)
    assert all(holds_its_span(window) for window in found)
    return [(round(start_s, 6), round(end_s, 6)) for start_s, end_s, _ in found]


def test_windows_follow_each_other_and_a_long_rest_is_kept():
    def cut(duration_s: float) -> list[tuple[float, float]]:
        return spans(cut_windows(blocks_of(ramp(duration_s), 77), RATE_HZ, max_clip_s=10.0, min_clip_s=5.0))

    assert cut(25.0) == [(0, 10), (10, 20), (20, 25)]
    assert cut(24.9) == [(0, 10), (10, 20)]
    assert cut(20.0) == [(0, 10), (10, 20)]
    assert cut(4.9) == [(0, 4.9)]
    assert cut(0.0) == [(0, 0)]


def test_overlapping_windows_share_what_they_should():
    def cut(duration_s: float) -> list[tuple[float, float]]:
        windows = cut_windows(blocks_of(ramp(duration_s), 333), RATE_HZ, max_clip_s=10.0, min_clip_s=1.0, overlap_s=2.5)
        return spans(windows)

    assert cut(25.0) == [(0, 10), (7.5, 17.5), (15, 25)]
    assert cut(26.0) == [(0, 10), (7.5, 17.5), (15, 25), (22.5, 26)]


@given(
    st.floats(0, 300),
    st.floats(0.5, 20).flatmap(lambda low: st.tuples(st.just(low), st.floats(low, 40))),
    st.floats(0, 0.9),
    st.integers(1, 5000),
)
def test_windows_cover_all_but_a_short_rest(duration_s, limits, overlap, block):
    min_clip_s, max_clip_s = limits
    wave_N, overlap_s = ramp(duration_s), overlap * max_clip_s
    found = spans(
        cut_windows(
            blocks_of(wave_N, block), RATE_HZ, max_clip_s=max_clip_s, min_clip_s=min_clip_s, overlap_s=overlap_s
        )
    )
    assert len(wave_N) / RATE_HZ - found[-1][1] < min_clip_s + 0.02
    for (_, end_s), (start_s, _) in itertools.pairwise(found):
        assert end_s - start_s == pytest.approx(overlap_s, abs=1e-5)


def test_silences_are_where_it_is_cut():
    sound_N = np.random.default_rng(0).normal(size=60 * 1000).astype(np.float32)
    quiet = [(6.8, 7.1), (13.0, 13.2), (21.5, 21.9), (30.0, 30.3), (55.0, 56.0)]
    for start_s, end_s in quiet:
        sound_N[round(start_s * 1000) : round(end_s * 1000)] *= 0.01
    windows = list(cut_at_silences(blocks_of(sound_N, 4096), 1000, max_clip_s=10.0, min_clip_s=2.0))
    np.testing.assert_array_equal(np.concatenate([window.wave_N for window in windows]), sound_N)
    inner = [window.end_s for window in windows[:-1]]
    assert [sum(start_s < cut_s < end_s for cut_s in inner) for start_s, end_s in quiet] == [1, 1, 1, 1, 1]
    assert all(len(window.wave_N) <= 10_000 for window in windows)


@given(st.floats(0, 100), st.floats(1, 12).flatmap(lambda low: st.tuples(st.just(low), st.floats(low, 20))))
def test_cuts_at_silences_leave_no_gap(duration_s, limits):
    min_clip_s, max_clip_s = limits
    wave_N = ramp(duration_s)
    found = spans(cut_at_silences(blocks_of(wave_N, 640), RATE_HZ, max_clip_s=max_clip_s, min_clip_s=min_clip_s))
    assert found[0][0] == 0
    assert [end_s for _, end_s in found[:-1]] == [start_s for start_s, _ in found[1:]]
    assert len(wave_N) / RATE_HZ - found[-1][1] < min_clip_s
    assert all(end_s - start_s <= max_clip_s + 0.01 for start_s, end_s in found)


def test_bad_values_do_not_move_the_cut_at_a_silence():
    sound_N = np.random.default_rng(0).normal(size=15_000).astype(np.float32)
    sound_N[7000:7200] = 0
    sound_N[[100, 8000]] = np.nan, np.inf
    (first, _) = cut_at_silences([sound_N], 1000, max_clip_s=10.0, min_clip_s=2.0)
    assert 7.0 < first.end_s < 7.2


def test_given_times_may_overlap_and_leave_gaps():
    wanted = [(1.0, 3.0), (1.5, 2.0), (2.5, 9.0), (40.0, 41.0)]
    assert spans(cut_at(blocks_of(ramp(60), 90), RATE_HZ, wanted)) == wanted
    assert spans(cut_at(blocks_of(ramp(8), 90), RATE_HZ, wanted)) == [*wanted[:2], (2.5, 8.0), (40.0, 40.0)]


def test_a_recording_is_read_to_its_end_whatever_is_cut_from_it():
    taken = []

    def noting() -> Iterator[np.ndarray]:
        for block_N in blocks_of(ramp(60), 100):
            taken.append(block_N)
            yield block_N

    assert len(list(cut_at(noting(), RATE_HZ, [(1.0, 2.0)]))) == 1
    assert len(taken) == 60


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="min_clip_s"):
        list(cut_windows([], RATE_HZ, max_clip_s=1.0, min_clip_s=2.0))
    with pytest.raises(ValueError, match="overlap_s"):
        list(cut_windows([], RATE_HZ, max_clip_s=2.0, min_clip_s=1.0, overlap_s=2.0))
    with pytest.raises(ValueError, match="min_clip_s"):
        list(cut_at_silences([], RATE_HZ, max_clip_s=1.0, min_clip_s=2.0))
    with pytest.raises(ValueError, match="order"):
        list(cut_at([], RATE_HZ, [(2.0, 3.0), (1.0, 2.0)]))
