"""Songs put together from clips: whole phrases, each once, and the longest stretch without a hole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Phrase
from pipeline.data.shards import Sample, encode_json
from pipeline.lyrics.phrases import phrases_in_span
from pipeline.lyrics.songs import Clip, Span, join_phrases, make_song

TRACK: dict[str, Any] = {"track": "song", "tags": {}, "duration_s": 30.0}


def phrase(text: str, start_s: float | None, end_s: float | None, **more: object) -> Phrase:
    return Phrase(text=text, start_s=start_s, end_s=end_s, source="score", **more)  # pyright: ignore[reportArgumentType]


def windows(edges_s: list[float]) -> list[Span]:
    return list(pairwise(edges_s))


def cut_up(phrases: list[Phrase], spans_s: list[Span]) -> list[tuple[Span, list[Phrase]]]:
    """Deal phrases out to clips as the stages do."""
    return [(span_s, phrases_in_span(phrases, *span_s)) for span_s in spans_s]


def clip(number: int, span_s: Span, **members: Any) -> Clip:
    key = f"x-song-{number:04d}"
    json: Any = {"key": key, "track": "song", "span_s": list(span_s)}
    return json, Sample(key, {f"{name}.json": encode_json({"phrases": phrases}) for name, phrases in members.items()})


def test_the_parts_of_a_cut_phrase_are_one_again():
    phrases = [phrase("さくら", 1, 4), phrase("やよいの そらは", 8, 23), phrase("みわたす", 25, 29)]
    assert join_phrases(cut_up(phrases, windows([0, 10, 20, 30]))) == phrases


def test_a_phrase_that_goes_on_beyond_the_edges_stays_marked():
    phrases = [phrase("さくら", 38, 53), phrase("やよい", 55, 58), phrase("みわたす", 65, 73)]
    first, _, last = join_phrases(cut_up(phrases, windows([40, 50, 60, 70])))
    assert (first["start_s"], first["end_s"], first.get("is_cut")) == (40, 53, True)
    assert (last["start_s"], last["end_s"], last.get("is_cut")) == (65, 70, True)


def test_a_line_sung_twice_is_not_joined():
    phrases = [phrase("さくら", 6, 10), phrase("さくら", 10, 14)]
    assert join_phrases(cut_up(phrases, windows([0, 10, 20]))) == phrases


LENGTHS = st.lists(st.tuples(st.integers(1, 120), st.integers(0, 40)), min_size=1, max_size=8)


@given(LENGTHS, st.lists(st.integers(2, 90), max_size=4))
def test_cutting_and_joining_changes_nothing(lengths: list[tuple[int, int]], cuts: list[int]):
    at, phrases = 1, list[Phrase]()
    for number, (length, pause) in enumerate(lengths):
        phrases.append(phrase(f"さくら{number}", at / 10, (at + length) / 10))
        at += length + pause
    edges_s = sorted({0.0, (at + 1) / 10, *(n / 2 for n in cuts if n / 2 < at / 10)})
    assert join_phrases(cut_up(phrases, windows(edges_s))) == phrases


@given(LENGTHS, st.integers(10, 200), st.integers(0, 180))
def test_overlapping_clips_give_each_phrase_once(lengths: list[tuple[int, int]], window: int, overlap: int):
    at, phrases = 1, list[Phrase]()
    for number, (length, pause) in enumerate(lengths):
        phrases.append(phrase(f"さくら{number % 3}", at / 10, (at + length) / 10))
        at += length + pause + 1
    hop = window - min(overlap, window - 5)
    spans_s = [(start / 10, (start + window) / 10) for start in range(0, at + 1, hop)]
    assert join_phrases(cut_up(phrases, spans_s)) == phrases


def test_clips_within_clips_add_nothing():
    phrases = [phrase("さくら", 1, 4), phrase("やよいの そらは", 8, 23), phrase("みわたす", 25, 29)]
    assert join_phrases(cut_up(phrases, [(0, 30), (5, 10), (10, 20), (26, 28)])) == phrases


def test_two_voices_with_the_same_words_stay_two():
    phrases = [phrase("さくら", 7, 12), phrase("さくら", 7, 12), phrase("ららら", 9, None)]
    assert join_phrases(cut_up(phrases, [(0, 10), (8, 18)])) == phrases


@pytest.mark.parametrize("span_s", [(5, 10.005), (9.995, 15), (5, 10.02), (9.98, 15)])
def test_a_phrase_that_ends_at_a_cut_leaves_no_sliver(span_s: Span):
    phrases = [phrase("さくら", *span_s)]
    assert join_phrases(cut_up(phrases, [(0, 10), (10, 20)])) == phrases


def test_what_a_hole_swallowed_stays_marked():
    first, last = join_phrases(cut_up([phrase("さくら", 7, 15)], [(0, 10), (12, 20)]))
    assert (first["end_s"], last["start_s"]) == (10, 12)
    assert first.get("is_cut")
    assert last.get("is_cut")


def test_overlapping_clips_follow_each_other():
    phrases = [phrase("さくら", 7, 9), phrase("やよいの そらは", 9, 17), phrase("みわたす", 20, 25)]
    spans_s: list[Span] = [(0, 10), (8, 18), (16, 26)]
    clips = [clip(n, span_s, lyrics=inside) for n, (span_s, inside) in enumerate(cut_up(phrases, spans_s))]
    song = make_song(TRACK, clips)
    assert (len(song.stretch), song.start_s, song.span_s, song.phrases) == (3, 0, (0, 26), phrases)
    # A clip within another ends nothing; one after a hole is no part of the stretch.
    song = make_song(TRACK, [clip(0, (0, 20)), clip(1, (2, 5)), clip(2, (19, 30)), clip(3, (31, 40))])
    assert (len(song.stretch), song.span_s) == (3, (0, 30))


def test_a_song_is_its_longest_stretch():
    clips = [clip(0, (0, 10)), clip(2, (20, 30)), clip(3, (30, 40), lyrics=[phrase("さくら", 2, 4)]), clip(4, (40, 43))]
    song = make_song(TRACK, clips)
    assert [sample.key for _, sample in song.stretch] == ["x-song-0002", "x-song-0003", "x-song-0004"]
    assert (song.idx, song.start_s, song.span_s) == ("x-song", 20, (0, 23))
    assert [(p["start_s"], p["end_s"]) for p in song.phrases] == [(12, 14)]
    assert len(song.clips) == 4


def test_what_is_sung_outside_the_stretch_is_known():
    phrases = [phrase("さくら", 1, 3), phrase("やよいの", 9, 12), phrase("そらは", 14, 17), phrase("みわたす", 18, 21)]
    spans_s: list[Span] = [(0, 5), (8, 13), (16, 23)]
    song = make_song(
        TRACK, [clip(n, span_s, lyrics=inside) for n, (span_s, inside) in enumerate(cut_up(phrases, spans_s))]
    )
    assert [(p["text"], p["start_s"]) for p in song.all_phrases] == [
        ("さくら", 1),
        ("やよいの", 9),
        ("そらは", 16),
        ("みわたす", 18),
    ]
    assert (song.num_phrases_outside, [p["start_s"] for p in song.phrases]) == (2, [0, 2])


def test_the_parts_of_a_phrase_on_both_sides_of_a_short_hole_are_one_phrase_of_the_song():
    def starts_s(spans_s: list[Span], phrases: list[Phrase]) -> list[float | None]:
        clips = [clip(n, span, lyrics=inside) for n, (span, inside) in enumerate(cut_up(phrases, spans_s))]
        return [p["start_s"] for p in make_song(TRACK, clips).all_phrases]

    assert starts_s([(0, 10), (12, 20)], [phrase("さくら", 7, 15)]) == [7]
    assert starts_s([(0, 10), (40, 50)], [phrase("さくら", 7, 12), phrase("さくら", 38, 44)]) == [7, 40]
    assert starts_s([(0, 10), (12, 20)], [phrase("さくら", 7, 10), phrase("さくら", 12, 15)]) == [7, 12]


def test_what_goes_on_beyond_the_stretch_is_left_out_of_its_span():
    before, after = phrase("さくら", 0, 3, is_cut=True), phrase("やよい", 8, 10, is_cut=True)
    song = make_song(TRACK, [clip(0, (20, 30), lyrics=[before, phrase("そら", 4, 6), after])])
    assert song.span_s == (3, 8)
    # Nothing is sung before a recording begins.
    assert make_song(TRACK, [clip(0, (0, 10), lyrics=[before])]).span_s == (0, 10)


def test_lyrics_come_before_what_was_heard():
    heard, known = [phrase("thanks for watching", 0, 1)], [phrase("さくら", 0, 1)]
    clips = [clip(0, (0, 10), asr=heard, lyrics=known), clip(0, (0, 10), asr=heard), clip(0, (0, 10))]
    texts = [[p["text"] for p in make_song(TRACK, [only]).phrases] for only in clips]
    assert texts == [["さくら"], ["thanks for watching"], []]


def test_phrases_without_times_keep_none():
    assert join_phrases([((0, 10), [phrase("さくら", None, None)])]) == [phrase("さくら", None, None)]
