from __future__ import annotations

import random
import re
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ContractError
from pipeline.lyrics.score import read_score
from tests.pipeline.lyrics.score_making import (
    DOUBLE,
    FERMATA,
    FORWARD,
    lines,
    lyric,
    note,
    read,
    score_xml,
    sung,
    texts,
    volta,
    words,
)


def test_a_score_without_lyrics_has_no_phrases(tmp_path: Path):
    assert read(tmp_path, sung("- - - -")) == []


def test_a_compressed_score_is_the_one_that_the_container_names(tmp_path: Path):
    path = tmp_path / "a.mxl"
    with zipfile.ZipFile(path, "w") as archive:
        container = "<container><rootfiles><rootfile full-path='b.xml'/></rootfiles></container>"
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("a.xml", score_xml({"Voice": [sung("い い え")]}))
        archive.writestr("b.xml", score_xml({"Voice": [sung("は い")]}))
    assert texts(read_score(path)) == ["はい"]


@pytest.mark.parametrize("encoding", ["utf-16", "shift_jis", "utf-8-sig"])
def test_a_score_may_be_in_another_encoding(tmp_path: Path, encoding: str):
    text = score_xml({"Voice": [sung("は る")]})
    name = encoding.removesuffix("-sig")
    (tmp_path / "a.xml").write_bytes(text.replace("UTF-8", name).encode(encoding))
    assert texts(read_score(tmp_path / "a.xml")) == ["はる"]


def midi(syllables: Sequence[bytes]) -> bytes:
    events = b"\x00\xff\x51\x03\x0f\x42\x40"
    for syllable in syllables:
        events += b"\x00\xff\x05" + bytes([len(syllable)]) + syllable + b"\x00\x90\x3c\x40\x60\x80\x3c\x00"
    events += b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96)
    return header + b"MTrk" + struct.pack(">I", len(events)) + events


def test_midi_lyrics_are_read_in_either_encoding_with_their_lines(tmp_path: Path):
    path = tmp_path / "a.mid"
    for encoding in ("utf-8", "cp932"):
        path.write_bytes(midi([text.encode(encoding) for text in ("は", "る", "/が")]))
        assert lines(read_score(path)) == [("はる", 0.0, 2.0), ("が", 2.0, 3.0)]


def test_kern_lyrics_are_read(tmp_path: Path):
    rows = "**kern **text", "*staff1 *staff1", "*M4/4 *", "*MM60 *", "=1 =1", "4c ha-", "4d -ru", "4e yo", "*- *-"
    (tmp_path / "a.krn").write_text("\n".join(rows).replace(" ", "\t") + "\n")
    assert lines(read_score(tmp_path / "a.krn")) == [("haru yo", 0.0, 3.0)]


def test_what_is_no_score_is_named(tmp_path: Path):
    path = tmp_path / "a.musicxml"
    for text in (
        "no score",
        "<opus/>",
        "<!DOCTYPE a [<!ENTITY x 'y'>]><score-partwise/>",
        "<?xml encoding='klingon'?>",
    ):
        path.write_text(text)
        with pytest.raises(ContractError, match=r"a\.musicxml"):
            read_score(path)
    path.write_text(SMALL.replace("<beats>4<", "<beats>99999999<"))
    with pytest.raises(ContractError, match="99999999 beats"):
        read_score(path)
    with zipfile.ZipFile(tmp_path / "a.mxl", "w") as archive:
        archive.writestr("a.txt", "no score")
    with pytest.raises(ContractError, match="no score in the archive"):
        read_score(tmp_path / "a.mxl")


SMALL = score_xml(
    {
        "Voice": [
            sung("は る =") + FORWARD,
            volta("1", note(lyric("が", after="<end-line/>"), marks=FERMATA), "<repeat direction='backward'/>"),
            volta("2", note(lyric("き") + lyric("た", number=2))) + words("D.S. al Coda") + DOUBLE,
        ]
    }
)


VALUES = ("", "0", "-7", "nan", "1e9", "x", "99999999", "2", "stop")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_damaged_score_gives_phrases_or_is_refused(seed: int):
    chance = random.Random(seed)
    text = SMALL
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        at, length = chance.randrange(len(text)), chance.randint(1, 12)
        text = text[:at] + chance.choice(["", "0", "-1", "x", "<", text[at + length : at + 30]]) + text[at + length :]
    # Values and whole elements too, since most random edits are no XML at all.
    for pattern in chance.sample([r">([^<>]*)</", r"='([^']*)'", r"<(\w[\w-]*)( [^>]*)?>[^<>]*</\1>"], 2):
        places = list(re.finditer(pattern, text))
        if places:
            place = chance.choice(places)
            start, end = place.span(1) if place.re.groups == 1 else place.span()
            text = text[:start] + chance.choice(VALUES) + text[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.musicxml"
        path.write_text(text)
        try:
            phrases = read_score(path)
        except ContractError:
            return
    assert all(phrase["text"] and (phrase["end_s"] or 0.0) >= (phrase["start_s"] or 0.0) >= 0 for phrase in phrases)
