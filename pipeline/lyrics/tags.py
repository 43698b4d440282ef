"""Lyrics and names in a file's tags."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.data.records import Phrase

STAMP = re.compile(r"\[(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)\]")
META_LINE = re.compile(r"\[(?:ar|ti|al|au|by|re|ve|la|length|offset|id|tool):.*\]", re.IGNORECASE)
OFFSET = re.compile(r"\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE)
WORD_STAMP = re.compile(r"<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>")
FIELDS = ("title", "artist", "album", "albumartist")
LYRICS_FIELDS = ("syncedlyrics", "lyrics", "unsynced lyrics")
GARBLED = "garbled"
"""Key under which `read_tags` names, between spaces, what is in the file and cannot be read."""


class _Clipped:
    """A file as tag readers need it: no read allocates more than there is, no seek leaves it."""

    name = ""

    def __init__(self, file: BinaryIO | io.RawIOBase) -> None:
        self._file = file
        self._num_bytes = file.seek(0, io.SEEK_END)
        self._at = 0

    def read(self, num_bytes: int = -1, /) -> bytes:
        left = self._num_bytes - self._at
        wanted = left if num_bytes < 0 else min(num_bytes, left)
        self._file.seek(self._at)
        data = b""
        while len(data) < wanted and (more := self._file.read(wanted - len(data))):
            data += more
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = min(max(start + offset, 0), self._num_bytes)
        return self._at

    def tell(self) -> int:
        return self._at


def read_tags(source: Path | BinaryIO | io.RawIOBase, *, name: str = "") -> dict[str, str]:
    """Read the tags that Setlist uses from an audio file.

    Lyrics with times come before those without. A text in an encoding that it does not claim is put right; where that
    is not possible it is left out, and its name stands under `garbled`.

    Args:
        source: the file, or one that is open, seekable, and stays so.
        name: what an open file is called, for a kind of file that its bytes do not tell.

    Returns:
        Those of title, artist, album, albumartist and lyrics that the file has; empty where it has no readable tags.
    """
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return _read(file, name or source.name)
        except OSError:
            # Whatever keeps the tags from being read keeps the audio too, and decoding says so.
            return {}
    return _read(source, name)


def _read(source: BinaryIO | io.RawIOBase, name: str) -> dict[str, str]:
    from pipeline.lyrics.encodings import LOST, repair_texts
    from pipeline.lyrics.id3 import Id3, read_id3
    from pipeline.lyrics.rawtags import read_raw_tags

    file = cast("BinaryIO", _Clipped(source))
    values, id3 = _by_tinytag(file, name), read_id3(file) or Id3()
    if any(LOST in text for texts in values.values() for text in texts):
        values |= {field: [_bytes_as_text(text) for text in texts] for field, texts in read_raw_tags(file).items()}
    found = {field: texts[0] for field in FIELDS if (texts := values.get(field))} | id3.names
    other = [text for field in LYRICS_FIELDS for text in values.get(field, [])]
    lyrics = id3.synced + sorted(id3.lyrics or ([] if id3.synced else other), key=lambda text: not STAMP.search(text))
    found |= {f"lyrics {number}": text for number, text in enumerate(lyrics)}
    tags: dict[str, str] = {}
    garbled: list[str] = []
    for key, text in repair_texts({key: _clean(text) for key, text in found.items()}).items():
        field = key.split()[0]
        if text:
            tags.setdefault(field, text)
        elif text is None:
            garbled.append(field)
    lost = [field for field in dict.fromkeys(garbled) if field not in tags]
    return tags | ({GARBLED: " ".join(lost)} if lost else {})


def _by_tinytag(file: BinaryIO, name: str) -> dict[str, list[str]]:
    from tinytag import TinyTag, TinyTagException
    from tinytag.tinytag import UnsupportedFormatError

    for filename in (None, name):  # what a file is, its bytes tell; its name may be wrong
        try:
            values: dict[str, Any] = TinyTag.get(filename, file, duration=False).as_dict()
        except UnsupportedFormatError:
            continue
        except TinyTagException:
            # Damaged tags are no reason to lose a recording that decodes.
            break
        return {key: [str(text) for text in texts] for key, texts in values.items() if isinstance(texts, list)}
    return {}


def _bytes_as_text(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _clean(text: str) -> str:
    return text.replace("\x00", "").replace("\ufeff", "").strip()


def parse_lyrics(text: str) -> list[Phrase]:
    """Split the text of a lyrics tag into phrases; times come from LRC stamps such as `[01:23.45]`.

    Returns:
        Phrases in the order of singing. With stamps a phrase ends where the next begins, the last one has no end;
        without stamps all times are None.
    """
    offset = OFFSET.search(text)
    # A positive offset makes the lyrics appear sooner.
    shift_s = -int(offset[1]) / 1000 if offset else 0.0
    timed: list[tuple[float, str]] = []
    plain: list[str] = []
    for line in text.splitlines():
        words = WORD_STAMP.sub("", STAMP.sub("", line)).strip()
        stamps = [int(m) * 60 + float(s.replace(":", ".")) for m, s in STAMP.findall(line)]
        timed += [(max(stamp_s + shift_s, 0.0), words) for stamp_s in stamps]
        if words and not stamps and not META_LINE.fullmatch(words):
            plain.append(words)
    if not timed:
        return [Phrase(text=words, start_s=None, end_s=None, source="tag") for words in plain]
    timed.sort()
    ends = [start for start, _ in timed[1:]] + [None]
    # A stamp without words ends the phrase before it; it is no phrase itself.
    return [
        Phrase(text=words, start_s=start, end_s=end, source="tag")
        for (start, words), end in zip(timed, ends, strict=True)
        if words
    ]
