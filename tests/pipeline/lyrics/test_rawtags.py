from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.rawtags import read_raw_tags
from tests.pipeline.lyrics.tag_makers import flac, riff


def test_fields_come_as_bytes():
    assert read_raw_tags(io.BytesIO(flac([b"TITLE=\x89\xd4", b"title=b", b"none"]))) == {"title": [b"\x89\xd4", b"b"]}
    info = b"INFO" + b"INAM\x03\x00\x00\x00\x89\xd4\x00\x00" + b"ICMT\x01\x00\x00\x00x\x00" + b"IART\x09\x00\x00\x00cut"
    assert read_raw_tags(io.BytesIO(riff((b"LIST", info)))) == {"title": [b"\x89\xd4"], "artist": [b"cut"]}


@pytest.mark.parametrize("data", [b"", b"OggS" + bytes(30), riff(*[(b"junk", b"")] * 1500), b"fLaC" + bytes(8000)])
def test_files_without_them_have_none(data: bytes):
    assert read_raw_tags(io.BytesIO(data)) == {}


@given(st.sampled_from([b"fLaC\x84", b"fLaC\x04", b"RIFF\x00\x00\x00\x00WAVELIST\x40\x00\x00\x00INFO"]), st.binary())
def test_arbitrary_bytes_never_raise(head: bytes, body: bytes):
    assert set(read_raw_tags(io.BytesIO(head + body))) <= {"title", "artist", "album", "albumartist", "lyrics"}
