"""LRC: what is written is read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Phrase
from pipeline.lyrics.lrc import lrc_text, stamp
from pipeline.lyrics.tags import parse_lyrics


def phrase(text: str, start_s: float | None, end_s: float | None) -> Phrase:
    return Phrase(text=text, start_s=start_s, end_s=end_s, source="tag")


def test_a_file_as_players_read_it():
    phrases = [phrase("さくら", 0.5, 2.0), phrase("やよいの\nそらは", 2.0, 4.5), phrase("[みわたす]", 65.004, None)]
    text = lrc_text(phrases, tags={"ti": "Sakura [live]", "ar": "", "al": "Old\nsongs"}, duration_s=125.0)
    assert text == (
        "[ti:Sakura (live)]\n[al:Old songs]\n[length:02:05.00]\n"
        "[00:00.50]さくら\n[00:02.00]やよいの そらは\n[00:04.50]\n[01:05.00](みわたす)\n"
    )


def test_phrases_without_times_stand_without_stamps():
    assert lrc_text([phrase("さくら", None, None)], tags={}) == "さくら\n"
    assert lrc_text([phrase("さくら", None, None), phrase("そら", 1.0, None)], tags={}) == "[00:01.00]そら\n"


@pytest.mark.parametrize(
    ("time_s", "text"), [(0, "00:00.00"), (59.999, "01:00.00"), (-1, "00:00.00"), (6000.25, "100:00.25")]
)
def test_stamps(time_s: float, text: str):
    assert stamp(time_s) == text


LINES = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="[]"), min_size=1, max_size=10)


@given(
    st.lists(
        st.tuples(LINES, st.integers(0, 600_00), st.integers(100, 900)), max_size=8, unique_by=lambda line: line[1]
    )
)
def test_what_is_written_is_read_again(lines: list[tuple[str, int, int]]):
    lines.sort(key=lambda line: line[1])
    phrases = [phrase(text, start / 100, (start + length) / 100) for text, start, length in lines]
    read = parse_lyrics(lrc_text(phrases, tags={"ti": "Title"}))
    assert sorted((p["text"], round(p["start_s"] or 0, 6)) for p in read) == sorted(
        (p["text"], p["start_s"]) for p in phrases
    )
    if read:
        assert read[-1]["end_s"] is not None
