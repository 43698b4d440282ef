from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lyrics.tags import parse_lyrics, phrases_in_span, read_tags


def times(text: str) -> list[tuple[str, float | None, float | None]]:
    return [(p["text"], p["start_s"], p["end_s"]) for p in parse_lyrics(text)]


def test_plain_text_has_no_times():
    assert times("さくら\n\n やよいのそらは ") == [("さくら", None, None), ("やよいのそらは", None, None)]


def test_lrc_stamps_become_times():
    text = "[ar:someone]\n[00:10.50]さくら\n[00:12.00][01:00.00]さくら さくら\n[00:14.00]\n[02:00:50]end"
    assert times(text) == [
        ("さくら", 10.5, 12.0),
        ("さくら さくら", 12.0, 14.0),
        ("さくら さくら", 60.0, 120.5),
        ("end", 120.5, None),
    ]


def test_a_positive_offset_makes_lyrics_sooner():
    assert times("[offset:+500]\n[00:01.00]a\n[00:00.20]b") == [("b", 0.0, 0.5), ("a", 0.5, None)]


def test_phrases_are_dealt_out_to_spans_by_time():
    phrases = parse_lyrics("[00:01.00]a\n[00:09.00]b\n[00:11.00]c\n[00:30.00]d")
    inside = [(p["text"], p["start_s"], p["end_s"]) for p in phrases_in_span(phrases, 10.0, 20.0)]
    assert inside == [("b", 0.0, 1.0), ("c", 1.0, 10.0)]
    assert [p["text"] for p in phrases_in_span(phrases, 30.0, 40.0)] == ["d"]


def test_phrases_without_times_belong_to_no_span():
    assert phrases_in_span(parse_lyrics("a\nb"), 0.0, 10.0) == []


@pytest.mark.parametrize(
    "data", [b"", b"no audio at all", b"ID3\x03\x00\x00\x00\x00\x0f\x76" + b"\xff" * 50, b"fLaC\x84\xff\xff\xff"]
)
def test_damaged_tags_are_no_tags(tmp_path: Path, data: bytes):
    (tmp_path / "a.mp3").write_bytes(data)
    assert read_tags(tmp_path / "a.mp3") == {}


def test_tags_of_real_files_are_read(real_data: Path):
    for name in ("full.mp3", "full.m4a", "full.flac"):
        tags = read_tags(real_data / "mediafile-tags" / name)
        assert tags["lyrics"] == "the lyrics"
        assert tags["title"] == "full"


def test_every_real_file_has_tags_or_none(real_data: Path):
    paths = [path for path in real_data.rglob("*") if path.is_file()]
    assert len(paths) > 100
    for path in paths:
        assert all(isinstance(value, str) and value for value in read_tags(path).values())


def test_the_last_phrase_sounds_only_where_it_begins():
    phrases = parse_lyrics("[00:05.00]the only line")
    assert [p["text"] for p in phrases_in_span(phrases, 0.0, 10.0)] == ["the only line"]
    assert phrases_in_span(phrases, 10.0, 20.0) == []
