from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.packs import (
    Pack,
    cut_pack,
    make_packs,
    quietest_moment,
    to_track_span,
)

RATE_HZ = 1000


@st.composite
def spans(draw: st.DrawFn) -> list[tuple[float, float]]:
    steps = draw(st.lists(st.tuples(st.floats(0.01, 200), st.floats(0.05, 90)), max_size=25))
    found: list[tuple[float, float]] = []
    now_s = 0.0
    for gap_s, length_s in steps:
        found.append((now_s + gap_s, now_s + gap_s + length_s))
        now_s = found[-1][1]
    return found


def packs_of(spans_s: list[tuple[float, float]], **options: float) -> list[Pack]:
    return list(make_packs(spans_s, **options))


def to_track_time(pack: Pack, time_s: float) -> float:
    """A time within a pack in the recording; where two pieces meet, the later one is meant."""
    piece = pack.pieces[max(0, bisect_right([piece.offset_s for piece in pack.pieces], time_s) - 1)]
    return min(piece.start_s + max(0.0, time_s - piece.offset_s), piece.end_s)


def to_pack_time(pack: Pack, time_s: float) -> float | None:
    """A time of the recording within a pack, None if it was left out."""
    at = bisect_right([piece.start_s for piece in pack.pieces], time_s) - 1
    if at < 0 or time_s > pack.pieces[at].end_s:
        return None
    return pack.pieces[at].offset_s + time_s - pack.pieces[at].start_s


@given(spans(), st.floats(0.2, 3), st.floats(31, 200))
def test_every_moment_sung_is_in_exactly_one_pack(spans_s, max_gap_s, max_reach_s):
    packs = packs_of(spans_s, max_gap_s=max_gap_s, max_reach_s=max_reach_s)
    moments = [s + (e - s) * share for s, e in spans_s for share in (0.001, 0.3, 0.5, 0.9, 0.999)]
    for moment_s in moments:
        assert sum(any(s <= moment_s <= e for s, e in pack.spans_s) for pack in packs) == 1
        assert sum(to_pack_time(pack, moment_s) is not None for pack in packs) == 1
    assert sum(e - s for pack in packs for s, e in pack.spans_s) == pytest.approx(sum(e - s for s, e in spans_s))


@given(spans(), st.floats(0.2, 3))
def test_no_pack_is_longer_than_asked_and_pieces_are_in_order_and_apart(spans_s, max_gap_s):
    packs = packs_of(spans_s, max_gap_s=max_gap_s)
    assert all(pack.duration_s <= 30 + 1e-6 for pack in packs)
    pieces = [piece for pack in packs for piece in pack.pieces]
    assert all(piece.start_s >= 0 and piece.end_s > piece.start_s for piece in pieces)
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in pairwise(pieces))


@given(spans(), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_times_map_back_exactly_and_in_order(spans_s, shares):
    for pack in packs_of(spans_s):
        times_s = [share * pack.duration_s for share in sorted(shares)]
        track_s = [to_track_time(pack, time_s) for time_s in times_s]
        assert track_s == sorted(track_s)
        for time_s, there_s in zip(times_s, track_s, strict=True):
            back_s = to_pack_time(pack, there_s)
            assert back_s is not None
            assert back_s == pytest.approx(time_s, abs=1e-6)


@given(spans())
def test_spans_can_come_one_at_a_time(spans_s):
    given_out = 0

    def slowly():
        nonlocal given_out
        for span in spans_s:
            given_out += 1
            yield span

    for pack in make_packs(slowly(), max_reach_s=60.0):
        # Nothing but the spans within reach, and the one that did not fit, was asked for.
        assert sum(s > pack.pieces[0].start_s + 130 for s, _ in spans_s[: given_out - 1]) == 0
    assert packs_of(spans_s, max_reach_s=60.0) == list(make_packs(slowly(), max_reach_s=60.0))


@given(spans(), st.lists(st.floats(0, 1), max_size=30), st.floats(5, 70), st.floats(0.2, 3), st.floats(20, 200))
def test_a_clock_and_spans_told_in_parts_change_no_pack(spans_s, shares, part_s, max_gap_s, max_reach_s):
    told: list[tuple[float, float]] = []
    last_s = 0.0
    for start_s, end_s in spans_s:
        told += [(last_s + share * (start_s - last_s),) * 2 for share in sorted(shares)]
        edges_s = [*np.arange(start_s, end_s, part_s).tolist(), end_s]
        told += [edge for pair in pairwise(edges_s) for edge in (pair, (pair[1], pair[1]))]
        last_s = end_s
    options = {"max_gap_s": max_gap_s, "max_reach_s": max_reach_s}
    assert packs_of(told, **options) == packs_of(spans_s, **options)


def test_in_a_long_silence_the_clock_ends_a_pack():
    def until_asked_too_much():
        yield from [(1.0, 2.0), (30.0, 31.0)]
        for now_s in range(40, 200):
            assert now_s <= 123, "a pack out of reach still waits"
            yield now_s, now_s

    assert next(make_packs(until_asked_too_much())).spans_s == ((1.0, 2.0), (30.0, 31.0))


def test_a_clock_alone_makes_no_pack():
    assert packs_of([(0.0, 0.0), (5.0, 5.0), (500.0, 500.0)]) == []


def test_short_gaps_stay_and_long_ones_are_cut_out():
    (pack,) = packs_of([(1.0, 3.0), (3.5, 5.0), (15.0, 16.0)], max_gap_s=1.0)
    assert [(p.start_s, p.end_s, p.offset_s) for p in pack.pieces] == [(0.5, 5.5, 0.0), (14.5, 16.5, 5.0)]
    assert to_track_time(pack, 4.0) == 4.5
    assert to_track_time(pack, 5.0) == 14.5
    assert to_pack_time(pack, 10.0) is None
    assert to_pack_time(pack, 0.0) is None


def test_a_pack_ends_at_its_longest_late_gap():
    spans_s = [(n * 3.0, n * 3.0 + 2.8) for n in range(12)]
    spans_s[8:] = [(s + 1.0, e + 1.0) for s, e in spans_s[8:]]
    first, second = packs_of(spans_s)
    assert first.spans_s[-1] == spans_s[7]
    assert second.spans_s[0] == spans_s[8]


def test_a_long_span_is_cut_where_it_is_quietest():
    levels_T = np.full(6000, -20.0, np.float32)
    levels_T[2450:2462] = -50.0
    packs = list(make_packs([(0.0, 50.0)], quietest=lambda a, b: quietest_moment(levels_T, 100, a, b)))
    assert packs[0].spans_s[-1][1] == pytest.approx(24.55, abs=0.06)
    assert packs[1].spans_s[0][0] == packs[0].spans_s[-1][1]
    hard = packs_of([(0.0, 50.0)])
    assert [pack.spans_s for pack in hard] == [((0.0, 30.0),), ((30.0, 50.0),)]


def test_where_no_levels_are_left_the_latest_moment_is_taken():
    assert quietest_moment(np.zeros(10, np.float32), 100, 15.0, 30.0) == 30.0


def test_one_long_span_alone_may_be_longer_than_the_reach():
    packs = packs_of([(0.0, 25.0), (26.0, 30.0)], max_reach_s=20.0)
    assert [pack.spans_s for pack in packs] == [((0.0, 25.0),), ((26.0, 30.0),)]


def test_a_phrase_across_a_cut_gets_the_times_of_its_larger_part():
    (pack,) = packs_of([(1.0, 5.0), (60.0, 64.0)])
    joint_s = pack.pieces[1].offset_s
    assert to_track_span(pack, joint_s - 3.0, joint_s + 1.0) == pytest.approx((2.5, 5.5))
    assert to_track_span(pack, joint_s - 0.5, joint_s + 2.0) == pytest.approx((59.5, 61.5))
    assert to_track_span(pack, joint_s - 2.0, joint_s) == pytest.approx((3.5, 5.5))
    assert to_track_span(pack, joint_s, joint_s + 1.0) == pytest.approx((59.5, 60.5))
    assert to_track_span(pack, joint_s, joint_s) == pytest.approx((59.5, 59.5))
    assert to_track_span(pack, 2.0, 2.0) == pytest.approx((2.5, 2.5))
    assert to_track_span(pack, 200.0, 300.0) == pytest.approx((64.5, 64.5))


def test_samples_are_those_of_the_mapped_times():
    wave_N = np.arange(70 * RATE_HZ, dtype=np.float32)
    (pack,) = packs_of([(1.0, 5.0), (60.0, 64.0)])
    cut_N = cut_pack(pack, wave_N, RATE_HZ)
    assert cut_N.size == round(pack.duration_s * RATE_HZ)
    for n in (0, 999, 4999, 5000, 8000, cut_N.size - 1):
        assert cut_N[n] == pytest.approx(to_track_time(pack, n / RATE_HZ) * RATE_HZ, abs=1)
    part_N = cut_pack(pack, wave_N[400:], RATE_HZ, first_s=0.4)
    assert np.array_equal(part_N, cut_N)


def test_no_spans_make_no_packs():
    assert packs_of([]) == []
