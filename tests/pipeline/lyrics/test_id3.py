from __future__ import annotations

import io
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.id3 import Id3, read_id3
from pipeline.lyrics.tags import parse_lyrics
from tests.pipeline.lyrics.tag_makers import (
    MPEG_FRAME,
    frame,
    id3,
    riff,
    sylt,
    synchsafe,
    text_frame,
    unsynchronised,
    uslt,
)

LINES = [("さくら さくら", 1500), ("やよいのそらは", 4000), ("", 9000)]


def read(data: bytes) -> Id3:
    found = read_id3(io.BytesIO(data))
    assert found is not None
    return found


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("encoding", [1, 2, 3])
def test_names_and_lyrics_are_read_in_every_version_and_encoding(version: int, encoding: int):
    title, artist = ("TT2", "TP1") if version == 2 else ("TIT2", "TPE1")
    tag = id3(
        text_frame(title, "夜の歌", encoding, version=version),
        text_frame(artist, "Björk\x00Other", encoding, version=version),
        uslt("一行目\n二行目", encoding, described="歌詞", version=version),
        sylt(LINES, encoding, version=version),
        version=version,
        padding=100,
    )
    found = read(tag + MPEG_FRAME)
    assert found.names == {"title": "夜の歌", "artist": "Björk"}
    assert found.lyrics == ["一行目\n二行目"]
    assert found.synced == ["[00:01.500]さくら さくら\n[00:04.000]やよいのそらは\n[00:09.000]"]


def test_lyrics_with_times_become_phrases():
    (text,) = read(id3(sylt(LINES))).synced
    phrases = [(phrase["text"], phrase["start_s"], phrase["end_s"]) for phrase in parse_lyrics(text)]
    assert phrases == [("さくら さくら", 1.5, 4.0), ("やよいのそらは", 4.0, 9.0)]


def test_syllables_are_joined_to_the_lines_that_line_feeds_mark():
    events = [
        ("Twin", 0),
        ("kle ", 300),
        ("twin", 600),
        ("kle", 900),
        ("\nlit", 2000),
        ("tle", 2300),
        ("\r\nstar", 4000),
    ]
    assert read(id3(sylt(events))).synced == ["[00:00.000]Twinkle twinkle\n[00:02.000]little\n[00:04.000]star"]


@pytest.mark.parametrize("head", [b"\xff\xfb", b"\xff\xf3", b"\xff\xe3"])
def test_times_in_mpeg_frames_need_the_length_of_a_frame(head: bytes):
    frame_s = {b"\xff\xfb": 1152 / 44100, b"\xff\xf3": 576 / 22050, b"\xff\xe3": 576 / 11025}[head]
    tag = id3(sylt([("a", 0), ("b", 1000)], unit=1))
    phrases = parse_lyrics(read(tag + head + b"\x90\x00" + bytes(400)).synced[0])
    assert [phrase["start_s"] for phrase in phrases] == [0.0, pytest.approx(1000 * frame_s, abs=0.001)]
    assert read(tag + b"no audio").synced == ["a\nb"]
    assert read(id3(sylt([("a", 5)], unit=9)) + MPEG_FRAME).synced == ["a"]


def test_chords_and_events_are_not_lyrics():
    assert read(id3(sylt([("Am", 0)], content=5), sylt([("chorus", 0)], content=4))).synced == []


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_unsynchronised_tag_is_read(version: int):
    name = "TT2" if version == 2 else "TIT2"
    body = b"\x01" + "ÿ夢".encode("utf-16")
    if version == 4:
        tag = id3(frame(name, unsynchronised(body), version=4, flags=0x02), version=4)
    else:
        tag = id3(frame(name, body, version=version), version=version, flags=0x80)
    assert b"\xff\x00\xfe" in tag
    assert read(tag).names["title"] == "ÿ夢"


def test_packed_grouped_and_encrypted_frames():
    body = b"\x03zipped"
    packed = len(body).to_bytes(4, "big") + zlib.compress(body)
    assert read(id3(frame("TIT2", packed, flags=0x80))).names == {"title": "zipped"}
    packed = synchsafe(len(body)) + zlib.compress(body)
    assert read(id3(frame("TIT2", packed, version=4, flags=0x09), version=4)).names == {"title": "zipped"}
    assert read(id3(frame("TIT2", b"\x07" + body, version=4, flags=0x40), version=4)).names == {"title": "zipped"}
    assert read(id3(frame("TIT2", body, flags=0x40))).names == {}
    assert read(id3(frame("TIT2", b"1234no zip", flags=0x80))).names == {}


@pytest.mark.parametrize("version", [3, 4])
def test_an_extended_header_is_passed_over(version: int):
    extended = synchsafe(10) + bytes(6) if version == 4 else (6).to_bytes(4, "big") + bytes(6)
    tag = id3(extended + text_frame("TIT2", "a", version=version), version=version, flags=0x40)
    assert read(tag).names == {"title": "a"}


def test_plain_sizes_in_version_4_are_noticed():
    long = b"\x03" + b"la " * 100
    wrong = b"USLT" + len(b"\x03eng\x00" + long).to_bytes(4, "big") + b"\x00\x00" + b"\x03eng\x00" + long
    tag = id3(wrong, text_frame("TIT2", "behind", version=4), version=4)
    found = read(tag)
    assert found.names == {"title": "behind"}
    assert found.lyrics[0].strip("\x03 ") == "la " * 99 + "la"


@pytest.mark.parametrize("language", [b"eng", b"XXX", b"en\x00", b"\x00\x00\x00"])
def test_any_language_code_will_do(language: bytes):
    assert read(id3(uslt("words", language=language))).lyrics == ["words"]


def test_lyrics_without_a_description_or_in_a_comment_field():
    assert read(id3(frame("USLT", b"\x03engjust words"))).lyrics == ["just words"]
    assert read(id3(text_frame("TXXX", "UnsyncedLyrics\x00words"))).lyrics == ["words"]
    assert read(id3(text_frame("TXXX", "mood\x00words"), uslt(""))).lyrics == []


def test_text_that_is_not_the_utf8_it_claims_keeps_its_bytes():
    gbk = "月亮".encode("gbk")
    assert read(id3(text_frame("TIT2", gbk, 3))).names["title"] == gbk.decode("latin-1")


def test_utf16_without_its_mark_is_little_endian():
    assert read(id3(text_frame("TIT2", "夢".encode("utf-16-le"), 1))).names["title"] == "夢"


def test_a_tag_in_a_chunk_of_wav_or_aiff_is_read():
    tag = id3(text_frame("TIT2", "inside"))
    wav = riff((b"fmt ", bytes(16)), (b"odd ", b"123"), (b"id3 ", tag))
    assert read(wav).names == {"title": "inside"}
    chunk = b"ID3 " + len(tag).to_bytes(4, "big") + tag
    assert read(b"FORM" + (4 + len(chunk)).to_bytes(4, "big") + b"AIFF" + chunk).names == {"title": "inside"}
    assert read_id3(io.BytesIO(riff((b"fmt ", bytes(16)), (b"data", bytes(100))))) is None
    assert read_id3(io.BytesIO(riff(*[(b"junk", b"")] * 2000))) is None


def test_no_tag_is_none():
    assert read_id3(io.BytesIO(b"")) is None
    assert read_id3(io.BytesIO(MPEG_FRAME)) is None


def test_a_lying_size_allocates_nothing():
    tag = b"ID3\x04\x00\x00" + b"\x7f" * 4 + b"USLT" + b"\x7f" * 4 + b"\x00\x00" + b"\x03eng\x00words"
    bomb = id3(frame("TIT2", b"0000" + zlib.compress(bytes(50_000_000)), flags=0x80))
    tracemalloc.start()
    assert read(tag).lyrics == ["words"]
    read(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@given(st.binary(max_size=300), st.sampled_from([2, 3, 4]), st.integers(0, 255))
def test_arbitrary_bytes_in_a_tag_never_raise(body: bytes, version: int, flags: int):
    assert isinstance(read(b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body), Id3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["SYLT", "USLT", "TIT2", "TXXX", "TPE1"]), st.binary(max_size=60), st.integers(0, 255)
        ),
        max_size=4,
    ),
    st.sampled_from([3, 4]),
)
def test_arbitrary_frames_never_raise(frames: list[tuple[str, bytes, int]], version: int):
    data = id3(*(frame(name, body, version=version, flags=flags) for name, body, flags in frames), version=version)
    assert isinstance(read(data), Id3)


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\x00\n\r"), max_size=9)), min_size=1),
    st.integers(0, 3),
)
def test_synced_lines_come_back_as_they_were(texts: list[tuple[str]], encoding: int):
    if encoding == 0:
        texts = [(text.encode("latin-1", "ignore").decode("latin-1"),) for (text,) in texts]
    events = [(" ".join(text.split()), 1000 * number) for number, (text,) in enumerate(texts)]
    lines = read(id3(sylt(events, encoding))).synced[0].split("\n")
    assert [line.partition("]")[2] for line in lines] == [text.replace("\ufeff", "") for text, _ in events]
