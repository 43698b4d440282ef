"""Tags of WAV and FLAC as bytes, for those that are not the UTF-8 which the formats ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

MAX_BLOCK_BYTES = 1 << 24
MAX_BLOCKS = 1000
INFO_FIELDS = {b"INAM": "title", b"IART": "artist", b"IPRD": "album"}
COMMENT_BLOCK = 4
SAME_COMMENTS = {"unsyncedlyrics": "lyrics", "album artist": "albumartist"}


def read_raw_tags(file: BinaryIO) -> dict[str, list[bytes]]:
    """Read the INFO list of a WAV, or the Vorbis comments of a FLAC.

    Returns:
        Texts by field, in small letters; empty for other files.
    """
    file.seek(0)
    head = file.read(12)
    pairs = _flac_comments(file) if head[:4] == b"fLaC" else _info(file) if head[8:] == b"WAVE" else ()
    found: dict[str, list[bytes]] = {}
    for name, text in pairs:
        found.setdefault(name, []).append(text)
    return found


def _info(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    at = 12
    for _ in range(MAX_BLOCKS):
        file.seek(at)
        header = file.read(12)
        size = int.from_bytes(header[4:8], "little")
        if len(header) < 12:
            return
        if header[:4] == b"LIST" and header[8:] == b"INFO":
            yield from _info_items(file.read(min(size - 4, MAX_BLOCK_BYTES)) if size > 4 else b"")
        at += 8 + size + size % 2


def _info_items(data: bytes) -> Iterator[tuple[str, bytes]]:
    while len(data) > 8:
        size = int.from_bytes(data[4:8], "little")
        if data[:4] in INFO_FIELDS:
            yield INFO_FIELDS[data[:4]], data[8 : 8 + size].rstrip(b"\x00")
        data = data[8 + size + size % 2 :]


def _flac_comments(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    at = 4
    for _ in range(MAX_BLOCKS):
        file.seek(at)
        header = file.read(4)
        size = int.from_bytes(header[1:], "big")
        if len(header) == 4 and header[0] & 0x7F == COMMENT_BLOCK:
            yield from _comments(file.read(size))
        if len(header) < 4 or header[0] & 0x80:
            return
        at += 4 + size


def _comments(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 4 + int.from_bytes(data[:4], "little") + 4  # the maker's name, and how many there are
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        name, equals, text = data[at + 4 : at + 4 + size].partition(b"=")
        if equals:
            field = name.decode("ascii", "replace").lower()
            yield SAME_COMMENTS.get(field, field), text
        at += 4 + size
