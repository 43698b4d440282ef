"""Songs put together from clips: whole phrases, one loudness, the longest stretch without a hole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Phrase
from pipeline.data.shards import Sample, encode_json
from pipeline.errors import ContractError
from pipeline.lyrics.songs import join_audio, join_phrases, make_song
from pipeline.music.audio import encode_flac

RATE_HZ = 16000
TRACK: dict[str, Any] = {"track": "song", "tags": {}, "duration_s": 30.0}


def phrase(text: str, start_s: float | None, end_s: float | None, **more: object) -> Phrase:
    return Phrase(text=text, start_s=start_s, end_s=end_s, source="score", **more)  # pyright: ignore[reportArgumentType]


def cut_up(phrases: list[Phrase], edges_s: list[float]) -> list[tuple[tuple[float, float], list[Phrase]]]:
    """Deal phrases out to clips as the stages do: by time, those that straddle an edge marked."""
    clips: list[tuple[tuple[float, float], list[Phrase]]] = []
    for start_s, end_s in pairwise(edges_s):
        inside: list[Phrase] = []
        for p in phrases:
            begin, stop = p["start_s"] or 0.0, p["end_s"] or 0.0
            if begin < end_s and stop > start_s:
                part = phrase(p["text"], round(max(begin - start_s, 0.0), 3), round(min(stop, end_s) - start_s, 3))
                if begin < start_s or stop > end_s:
                    part["is_cut"] = True
                inside.append(part)
        clips.append(((start_s, end_s), inside))
    return clips


def clip(
    number: int, span_s: tuple[float, float], *, gain_db: float = 0.0, level: float = 0.1, **members: Any
) -> Sample:
    json = {"key": f"x-song-{number:04d}", "track": "song", "span_s": list(span_s), "audio": {"gain_db": gain_db}}
    wave_N = np.full(round((span_s[1] - span_s[0]) * RATE_HZ), level, np.float32)
    columns = {f"{name}.json": encode_json({"phrases": phrases}) for name, phrases in members.items()}
    return Sample(f"x-song-{number:04d}", {"flac": encode_flac(wave_N, RATE_HZ), "json": encode_json(json), **columns})


def test_the_parts_of_a_cut_phrase_are_one_again():
    phrases = [phrase("さくら", 1, 4), phrase("やよいの そらは", 8, 23), phrase("みわたす", 25, 29)]
    assert join_phrases(cut_up(phrases, [0, 10, 20, 30])) == phrases


def test_a_phrase_that_goes_on_beyond_the_edges_stays_marked():
    phrases = [phrase("さくら", 38, 53), phrase("やよい", 55, 58), phrase("みわたす", 65, 73)]
    first, _, last = join_phrases(cut_up(phrases, [40, 50, 60, 70]))
    assert (first["start_s"], first["end_s"], first.get("is_cut")) == (40, 53, True)
    assert (last["start_s"], last["end_s"], last.get("is_cut")) == (65, 70, True)


def test_a_line_sung_twice_is_not_joined():
    phrases = [phrase("さくら", 6, 10), phrase("さくら", 10, 14)]
    assert join_phrases(cut_up(phrases, [0, 10, 20])) == phrases


LENGTHS = st.lists(st.tuples(st.integers(1, 120), st.integers(0, 40)), min_size=1, max_size=8)


@given(LENGTHS, st.lists(st.integers(2, 90), max_size=4))
def test_cutting_and_joining_changes_nothing(lengths: list[tuple[int, int]], cuts: list[int]):
    at, phrases = 1, list[Phrase]()
    for number, (length, pause) in enumerate(lengths):
        phrases.append(phrase(f"さくら{number}", at / 10, (at + length) / 10))
        at += length + pause
    edges_s = sorted({0.0, (at + 1) / 10, *(n / 2 for n in cuts if n / 2 < at / 10)})
    assert join_phrases(cut_up(phrases, edges_s)) == phrases


def test_a_song_is_its_longest_stretch():
    clips = [clip(0, (0, 10)), clip(2, (20, 30)), clip(3, (30, 40), lyrics=[phrase("さくら", 2, 4)]), clip(4, (40, 43))]
    song = make_song(TRACK, clips)
    assert [s.key for s in song.stretch] == ["x-song-0002", "x-song-0003", "x-song-0004"]
    assert (song.idx, song.start_s, song.span_s) == ("x-song", 20, (0, 23))
    assert [(p["start_s"], p["end_s"]) for p in song.phrases] == [(12, 14)]
    assert len(song.clips) == 4


def test_what_goes_on_beyond_the_stretch_is_left_out_of_its_span():
    before, after = phrase("さくら", 0, 3, is_cut=True), phrase("やよい", 8, 10, is_cut=True)
    song = make_song(TRACK, [clip(0, (20, 30), lyrics=[before, phrase("そら", 4, 6), after])])
    assert song.span_s == (3, 8)
    # Nothing is sung before a recording begins.
    assert make_song(TRACK, [clip(0, (0, 10), lyrics=[before])]).span_s == (0, 10)


def test_lyrics_come_before_what_was_heard():
    heard, known = [phrase("thanks for watching", 0, 1)], [phrase("さくら", 0, 1)]
    clips = [clip(0, (0, 10), asr=heard, lyrics=known), clip(0, (0, 10), asr=heard), clip(0, (0, 10))]
    texts = [[p["text"] for p in make_song(TRACK, [sample]).phrases] for sample in clips]
    assert texts == [["さくら"], ["thanks for watching"], []]


def test_phrases_without_times_keep_none():
    assert join_phrases([((0, 10), [phrase("さくら", None, None)])]) == [phrase("さくら", None, None)]


def test_steps_of_loudness_between_clips_are_undone():
    # 0.1 before ingest: raised by 6.02 dB in the first clip, by 12.04 in the second.
    clips = [clip(0, (0, 1), gain_db=6.0206, level=0.2), clip(1, (1, 2), gain_db=12.0412, level=0.4)]
    wave_N, rate_hz = join_audio(clips)
    assert (rate_hz, len(wave_N)) == (RATE_HZ, 2 * RATE_HZ)
    assert np.allclose(wave_N, 0.2, atol=1e-4)


def test_clips_of_several_rates_are_refused():
    other = clip(1, (1, 2))
    flac = encode_flac(np.zeros(8000, np.float32), 8000)
    with pytest.raises(ContractError, match="several rates"):
        join_audio([clip(0, (0, 1)), Sample(other.key, other.members | {"flac": flac})])
