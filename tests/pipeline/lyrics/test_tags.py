from __future__ import annotations

import io
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.files import open_source
from pipeline.data.records import Member
from pipeline.lyrics.phrases import phrases_in_span
from pipeline.lyrics.tags import GARBLED, parse_lyrics, read_tags
from tests.pipeline.lyrics.tag_makers import (
    MPEG_FRAME,
    atom,
    flac,
    id3,
    id3v1,
    mp4,
    riff,
    sylt,
    text_frame,
    uslt,
)


def tags_of(data: bytes, name: str = "") -> dict[str, str]:
    return read_tags(io.BytesIO(data), name=name)


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


def test_stamps_of_single_words_are_no_words():
    assert times("[00:01.00]<00:01.00>twin<00:01.50>kle\n[00:02.00]star") == [
        ("twinkle", 1.0, 2.0),
        ("star", 2.0, None),
    ]


def test_lines_without_a_stamp_are_kept_among_those_with_one():
    assert times("[00:10.00]さくら\nやよい\n[00:16.00]そら\nみわたす") == [
        ("さくら", 10.0, 13.0),
        ("やよい", 13.0, 16.0),
        ("そら みわたす", 16.0, None),
    ]
    assert times("さくら\n[Chorus]\n[00:16.00]そら\n[Solo]\n[00:20.00]") == [
        ("さくら", 0.0, 16.0),
        ("そら", 16.0, 20.0),
    ]
    assert times("さくら\n[00:00.00]そら\n[00:10.00]") == [("さくら", 0.0, 6.0), ("そら", 6.0, 10.0)]
    assert times("[00:10.00]\nさくら\n[00:16.00]\nそら") == [("さくら", 10.0, 16.0), ("そら", 16.0, None)]


def test_a_stamp_by_chance_gives_no_times():
    assert times("[00:01.00]title\nさくら\nやよい\nそら") == [
        (word, None, None) for word in ("title", "さくら", "やよい", "そら")
    ]
    assert times("さくら\nやよい\nそら\n[03:00.00]end") == [
        (word, None, None) for word in ("さくら", "やよい", "そら", "end")
    ]


def test_odd_stamps_are_read():
    text = "[00:05,00]a\n[00:10.0000]b\n[1:02:03.00]c\n[ 70:00 ]d\n[90:00:50]e"
    assert [start_s for _, start_s, _ in times(text)] == [5.0, 10.0, 3723.0, 4200.0, 5400.5]


def test_of_two_languages_at_a_stamp_the_one_that_is_sung_is_kept():
    text = "[00:01.00]the cherry\n[00:01.00]さくら\n[00:05.00]forever\n[00:05.00]永遠\n[00:09.00]ソロ\n[00:12.00]"
    dropped: Counter[str] = Counter()
    assert [(p["text"], p["start_s"], p["end_s"]) for p in parse_lyrics(text, dropped)] == [
        ("さくら", 1.0, 5.0),
        ("永遠", 5.0, 9.0),
        ("ソロ", 9.0, 12.0),
    ]
    assert dropped == {"translation": 2}
    # Without kana the first line is the one.
    assert times("[00:01.00]zebra\n[00:01.00]斑马\n[00:02.00]apple\n[00:02.00]苹果") == [
        ("zebra", 1.0, 2.0),
        ("apple", 2.0, None),
    ]


def test_words_of_one_script_at_a_stamp_are_all_kept_in_their_order():
    dropped: Counter[str] = Counter()
    text = "[00:01.00]よる\n[00:01.00]あさ\n[00:01.00]あさ\n[00:03.00]b\n[00:03.00]\n[00:04.00]"
    assert [p["text"] for p in parse_lyrics(text, dropped)] == ["よる あさ", "b"]
    assert dropped == {"duplicate": 1}


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.text("あいカ ", max_size=4)), max_size=9))
def test_no_line_in_one_script_is_lost_whatever_the_stamps(lines: list[tuple[int | None, str]]):
    text = "\n".join(("" if at is None else f"[00:0{at}.00]") + words for at, words in lines)
    dropped: Counter[str] = Counter()
    phrases = parse_lyrics(text, dropped)
    sung = "".join(p["text"].replace(" ", "") for p in phrases)
    assert dropped or sorted(sung) == sorted("".join(words.replace(" ", "") for _, words in lines))
    starts = [p["start_s"] or 0.0 for p in phrases]
    assert starts == sorted(starts)
    assert all(p["end_s"] is None or p["end_s"] > (p["start_s"] or 0.0) for p in phrases)


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
    found = {path.name: read_tags(path) for path in paths}
    assert all(isinstance(value, str) and value for tags in found.values() for value in tags.values())
    # EUC-KR that calls itself Latin-1.
    assert found["outofbounds.mp3"] == {"title": "너의 생일엔", "artist": "클론(Clone)", "album": "One More Time"}
    assert found["full.wma"]["lyrics"] == "the lyrics"
    assert found["non_ascii_filename_äää.mp3"] == {}
    assert not any(GARBLED in tags for tags in found.values())


def test_the_last_phrase_sounds_only_where_it_begins():
    phrases = parse_lyrics("[00:05.00]the only line")
    assert [p["text"] for p in phrases_in_span(phrases, 0.0, 10.0)] == ["the only line"]
    assert phrases_in_span(phrases, 10.0, 20.0) == []


def test_lyrics_are_found_in_every_kind_of_tag():
    assert tags_of(id3(uslt("words")) + MPEG_FRAME)["lyrics"] == "words"
    assert tags_of(mp4(title="t", lyrics="words")) == {"title": "t", "lyrics": "words"}
    for field in ("LYRICS", "UNSYNCEDLYRICS", "SYNCEDLYRICS", "lyrics"):
        assert tags_of(flac([f"{field}=words".encode()])) == {"lyrics": "words"}
    assert tags_of(riff((b"fmt ", bytes(16)), (b"id3 ", id3(uslt("words")))))["lyrics"] == "words"


def test_lyrics_with_times_come_first():
    timed = sylt([("la", 1000), ("li", 2000)])
    lrc = "[00:05.00]lu"
    assert tags_of(id3(uslt("plain"), uslt(lrc), timed))["lyrics"] == "[00:01.000]la\n[00:02.000]li"
    assert tags_of(id3(uslt("plain", language=b"eng"), uslt(lrc, language=b"jpn")))["lyrics"] == lrc
    assert tags_of(id3(uslt("first"), uslt("second")))["lyrics"] == "first"
    assert tags_of(flac([b"LYRICS=plain", b"SYNCEDLYRICS=[00:05.00]lu"]))["lyrics"] == lrc


def test_a_translation_never_comes_before_what_is_sung():
    sung, other = uslt("さくら", language=b"jpn"), uslt("cherry", described="English translation")
    assert tags_of(id3(other, sung))["lyrics"] == "さくら"
    assert tags_of(id3(uslt("[00:01.00]cherry", described="translation"), uslt("さくら")))["lyrics"] == "さくら"
    assert tags_of(id3(uslt("sakura", language=b"jpn", described="Romaji"), uslt("さくら")))["lyrics"] == "さくら"
    assert tags_of(id3(uslt("cherry"), sung))["lyrics"] == "さくら"
    assert tags_of(id3(uslt("cherry"), uslt("sakura", language=b"jpn")))["lyrics"] == "cherry"
    assert tags_of(id3(other))["lyrics"] == "cherry"


def test_names_come_from_the_tag_at_the_start_before_the_one_at_the_end():
    data = id3(text_frame("TIT2", "whole title"), text_frame("TPE2", "everybody")) + MPEG_FRAME * 3
    tags = tags_of(data + id3v1(title=b"whole ti", artist="Bj\xf6rk".encode("latin-1")))
    assert tags == {"title": "whole title", "albumartist": "everybody", "artist": "Björk"}


def test_texts_that_lie_about_their_encoding_are_put_right_together():
    title, lyrics = "花".encode("euc_jp"), "うさぎ追いしかの山 小鮒釣りしかの川".encode("euc_jp")
    tags = tags_of(id3(text_frame("TIT2", title, 0), uslt(lyrics, 0)) + MPEG_FRAME)
    assert tags == {"title": "花", "lyrics": "うさぎ追いしかの山 小鮒釣りしかの川"}
    old = MPEG_FRAME * 3 + id3v1(title="月亮代表我的心".encode("gbk"), artist="邓丽君".encode("gbk"))
    assert tags_of(old) == {"title": "月亮代表我的心", "artist": "邓丽君"}


def test_a_text_that_cannot_be_read_is_named_and_left_out():
    broken = b"\x80\x81\x82\x83\x84"
    tags = tags_of(id3(text_frame("TIT2", "a"), text_frame("TALB", broken, 0), uslt(broken, 0)))
    assert tags == {"title": "a", GARBLED: "album lyrics"}
    assert tags_of(id3(uslt(broken, 0), uslt("good"))) == {"lyrics": "good"}
    assert tags_of(mp4(title="t\ufffd", lyrics="\ufffdx")) == {"title": "t", GARBLED: "lyrics"}


def test_tags_of_flac_and_wav_that_are_no_utf8_are_put_right():
    lyrics = "うさぎ追いしかの山\n小鮒釣りしかの川"
    comments = [b"TITLE=" + "故郷".encode("cp932"), b"Unsyncedlyrics=" + lyrics.encode("cp932"), b"no comment"]
    assert tags_of(flac(comments)) == {"title": "故郷", "lyrics": lyrics}
    items = [
        (b"INAM", "月亮代表我的心".encode("gbk") + b"\x00"),
        (b"IART", "Teresa Teng 邓丽君".encode()),
        (b"ISFT", b"x"),
    ]
    info = b"INFO" + b"".join(name + struct.pack("<I", len(text)) + text + bytes(len(text) % 2) for name, text in items)
    wav = riff((b"fmt ", bytes(16)), (b"LIST", info), (b"data", b""))
    assert tags_of(wav) == {"title": "月亮代表我的心", "artist": "Teresa Teng 邓丽君"}


def test_a_member_of_a_tar_is_read_where_it_lies(tmp_path: Path):
    data = id3(text_frame("TIT2", "inside")) + MPEG_FRAME
    (tmp_path / "a.tar").write_bytes(b"#" * 700 + data + b"TAG" * 99)
    with open_source(tmp_path / "a.tar", Member("x.mp3", 700, len(data))) as file:
        assert read_tags(file, name="x.mp3") == {"title": "inside"}


def test_content_outweighs_the_name(tmp_path: Path):
    (tmp_path / "a.mp3").write_bytes(mp4(title="really mp4"))
    assert read_tags(tmp_path / "a.mp3") == {"title": "really mp4"}
    # Junk before the first frame: only the name tells.
    assert tags_of(b"junk" * 40 + id3v1(title=b"by name"), "x.mp3") == {"title": "by name"}
    assert read_tags(tmp_path / "none.mp3") == {}


def test_a_tag_that_lies_about_sizes_is_no_tag():
    huge = b"\x00\x00\x00\x01" + b"ilst" + b"\x7f" * 8 + b"data"
    assert tags_of(mp4(title="t")[:20] + huge) == {}
    assert tags_of(atom(b"ftyp", b"M4A ") + b"\x00\x00\x00\x08moov" * 2000) == {}
    nested = b"M4A "
    for name in [b"ilst", b"meta", b"udta", b"moov"] * 300:
        nested = atom(name, nested)
    assert tags_of(atom(b"ftyp", b"M4A ") + nested) == {}


HEADS = [
    *(
        b"",
        b"ID3\x03\x00\x00\x00\x00\x0f\x76",
        b"fLaC",
        b"OggS\x00\x02",
        b"\x00\x00\x00\x18ftypM4A ",
        b"\xff\xfb\x90\x00",
    ),
    *(b"RIFF\x00\x00\x00\x00WAVE", b"FORM\x00\x00\x00\x00AIFF", mp4(lyrics="x")[:60], flac([b"LYRICS=x"])[:50]),
]


@given(st.sampled_from(HEADS), st.binary(max_size=400))
def test_arbitrary_bytes_behind_any_head_never_raise(head: bytes, body: bytes):
    assert all(tags_of(head + body, "a.mp3").values())


@given(st.data())
def test_a_good_file_with_a_flipped_byte_never_raises(data: st.DataObject):
    good = data.draw(
        st.sampled_from(
            [
                id3(text_frame("TIT2", "title", 1), uslt("words", 1), sylt([("la", 1)])) + MPEG_FRAME,
                mp4(title="title", lyrics="words"),
                flac([b"LYRICS=words", b"TITLE=title"]),
            ]
        )
    )
    at, value = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    assert all(tags_of(good[:at] + bytes([value]) + good[at + 1 :]).values())
