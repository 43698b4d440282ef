"""ID3v2 as far as Setlist needs it: names, lyrics (USLT, TXXX), and lyrics with times (SYLT).

Written after id3.org's texts on versions 2.2, 2.3 and 2.4. Whatever a damaged tag claims, no more is read than the file
holds, and what makes no sense is passed over.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

MAX_TAG_BYTES = 1 << 24
MAX_FRAME_BYTES = 1 << 20
MAX_CHUNKS = 1000
MAX_FRAMES = 2000
HEADER_BYTES = 10
FIELDS = {"TIT2": "title", "TT2": "title", "TPE1": "artist", "TP1": "artist", "TALB": "album", "TAL": "album"} | {
    "TPE2": "albumartist",
    "TP2": "albumartist",
}
LYRICS_COMMENTS = {"lyrics", "unsyncedlyrics", "unsynced lyrics", "syncedlyrics"}
ENCODINGS = {1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
# "Other", "lyrics", "text transcription"; chords, events, trivia and addresses are not sung.
SUNG_CONTENT = {0, 1, 2}
MILLISECONDS, MPEG_FRAMES = 2, 1
FRAME_NAME = re.compile(rb"[A-Z0-9]{3,4}")
TIMED = re.compile(r"\[\s*\d+:\d")
NOT_SUNG = re.compile(r"translat|translit|romaji|romani[sz]|english|ローマ字|訳|译|譯|罗马|羅馬", re.IGNORECASE)
"""How a frame is described that holds the words in other letters or another language."""
RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(slots=True)
class Id3:
    """What an ID3v2 tag says."""

    names: dict[str, str] = field(default_factory=dict[str, str])
    """title, artist, album, albumartist."""
    synced: list[str] = field(default_factory=list[str])
    """SYLT as LRC text; without stamps where its times cannot be known."""
    lyrics: list[str] = field(default_factory=list[str])
    """The likeliest to be sung first: no translation, then with times, then Japanese."""


class _Lyrics(NamedTuple):
    """The text of a frame, and what it says of itself."""

    is_synced: bool
    is_translation: bool
    is_japanese: bool
    text: str


class Frame(NamedTuple):
    """A frame of a tag, its body as it was before any packing."""

    name: str
    body: bytes


def read_id3(file: BinaryIO) -> Id3 | None:
    """Read the ID3v2 tag of a file: at its start, or in a chunk of WAV or AIFF.

    Returns:
        What it says; None where there is no such tag.
    """
    num_bytes = file.seek(0, 2)
    start = _find_tag(file, num_bytes)
    if start is None:
        return None
    file.seek(start)
    header = file.read(HEADER_BYTES)
    size = min(_synchsafe(header[6:10]), num_bytes - start - HEADER_BYTES)
    found, lyrics = Id3(), list[_Lyrics]()
    for frame in _frames(header[3], header[5], file.read(max(min(size, MAX_TAG_BYTES), 0))):
        lyrics += _take(frame, found, _mpeg_frame_s(file, start + HEADER_BYTES + size))
    lyrics.sort(key=lambda one: (one.is_translation, not TIMED.search(one.text), not one.is_japanese))
    found.synced = [one.text for one in lyrics if one.is_synced and not one.is_translation]
    found.lyrics = [one.text for one in lyrics if not one.is_synced or one.is_translation]
    return found


def _find_tag(file: BinaryIO, num_bytes: int) -> int | None:
    file.seek(0)
    head = file.read(12)
    if head[:3] == b"ID3" and len(head) >= HEADER_BYTES:
        return 0
    if (head[:4], head[8:12]) not in {(b"RIFF", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")}:
        return None
    at, order = 12, "little" if head[:4] == b"RIFF" else "big"
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        chunk = file.read(8 + HEADER_BYTES)
        if len(chunk) < 8 + HEADER_BYTES or at >= num_bytes:
            return None
        if chunk[:4].upper() == b"ID3 " and chunk[8:11] == b"ID3":
            return at + 8
        size = int.from_bytes(chunk[4:8], order)
        at += 8 + size + size % 2
    return None


def _synchsafe(data: bytes) -> int:
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value


def _frames(version: int, flags: int, body: bytes) -> Iterator[Frame]:
    is_unsynchronised = bool(flags & 0x80)
    if is_unsynchronised and version < 4:
        body = _synchronised(body)
    name_bytes, header_bytes = (3, 6) if version == 2 else (4, HEADER_BYTES)
    at = _extended_header_bytes(version, body) if flags & 0x40 and version > 2 else 0
    for _ in range(MAX_FRAMES):
        header = body[at : at + header_bytes]
        if len(header) < header_bytes or not FRAME_NAME.fullmatch(header[:name_bytes]):
            return
        at += header_bytes
        num_bytes = _frame_bytes(version, header, body, at)
        packed = body[at : at + num_bytes]
        at += num_bytes
        frame_flags = header[9] if version > 2 else 0
        plain = _unpacked(packed, version, frame_flags | (0x02 if is_unsynchronised and version == 4 else 0))
        if plain:
            yield Frame(header[:name_bytes].decode("ascii"), plain)


def _synchronised(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")


def _extended_header_bytes(version: int, body: bytes) -> int:
    return _synchsafe(body[:4]) if version == 4 else int.from_bytes(body[:4], "big") + 4


def _frame_bytes(version: int, header: bytes, body: bytes, at: int) -> int:
    if version < 4:
        return int.from_bytes(header[3:6] if version == 2 else header[4:8], "big")
    size, plain = _synchsafe(header[4:8]), int.from_bytes(header[4:8], "big")
    # iTunes once wrote plain sizes into version 2.4: believe the one behind which something follows.
    after = (body[at + size : at + size + 4], body[at + plain : at + plain + 4])
    is_size, is_plain = (not end.strip(b"\x00") or bool(FRAME_NAME.fullmatch(end)) for end in after)
    return plain if is_plain and not is_size and at + plain <= len(body) else size


def _unpacked(body: bytes, version: int, flags: int) -> bytes:
    """Undo what the flags of a frame say; empty where it is encrypted or broken."""
    if version < 3 or not flags:
        return body
    encrypted, compressed, grouped = (0x04, 0x08, 0x40) if version == 4 else (0x40, 0x80, 0x20)
    if flags & encrypted:
        return b""
    prefix_bytes = 1 if flags & grouped else 0
    if version == 3:
        prefix_bytes += 4 if flags & compressed else 0
    else:
        prefix_bytes += 4 if flags & 0x01 else 0
        body = _synchronised(body) if flags & 0x02 else body
    body = body[prefix_bytes:]
    if not flags & compressed:
        return body
    try:
        return zlib.decompressobj().decompress(body, MAX_FRAME_BYTES)
    except zlib.error:
        return b""


def _take(frame: Frame, found: Id3, mpeg_frame_s: float | None) -> list[_Lyrics]:
    """Note a name, or give the lyrics of a frame."""
    name, body = frame
    if name in FIELDS:
        text = next((text for text in _decode(body[0], body[1:]).split("\x00", 9) if text.strip()), "")
        if text:
            found.names.setdefault(FIELDS[name], text)
    elif name in {"USLT", "ULT"}:
        return _lyrics(body[1:4], *_split(body[0], body[4:]), is_synced=False)
    elif name in {"TXXX", "TXX"}:
        described, text = _split(body[0], body[1:])
        return _lyrics(b"", "", text, is_synced=False) if described.casefold() in LYRICS_COMMENTS else []
    elif name in {"SYLT", "SLT"} and len(body) > 6 and body[5] in SUNG_CONTENT:
        tick_s = {MILLISECONDS: 0.001, MPEG_FRAMES: mpeg_frame_s}.get(body[4])
        text = _as_lrc(_synced_lines(body[0], body[6:]), tick_s)
        return _lyrics(body[1:4], _split(body[0], body[6:])[0], text, is_synced=True)
    return []


def _lyrics(language: bytes, described: str, text: str, *, is_synced: bool) -> list[_Lyrics]:
    if not text.strip("\x00 \r\n"):
        return []
    # Japanese in bytes that were read as Latin-1 is no ASCII either; romaji is.
    is_japanese = language.lower() == b"jpn" and not text.isascii()
    return [_Lyrics(is_synced, bool(NOT_SUNG.search(described)), is_japanese, text)]


def _decode(encoding: int, data: bytes) -> str:
    if encoding == 1 and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) // 2 * 2].decode("utf-16-le", "replace")
    if encoding in (1, 2):
        return data[: len(data) // 2 * 2].decode(ENCODINGS[encoding], "replace").replace("\ufeff", "")
    try:
        return data.decode(ENCODINGS.get(encoding, "latin-1"))
    except UnicodeDecodeError:
        # Said to be UTF-8 and is not: for whoever repairs texts to find out.
        return data.decode("latin-1")


def _end_of_text(encoding: int, data: bytes, start: int = 0) -> int:
    """Where the zero letter begins that ends a text; -1 if none does."""
    if encoding not in (1, 2):
        return data.find(b"\x00", start)
    at = data.find(b"\x00\x00", start)
    while at >= 0 and (at - start) % 2:
        at = data.find(b"\x00\x00", at + 1)
    return at


def _split(encoding: int, data: bytes) -> tuple[str, str]:
    """Split a description from the text behind it; a text without one is all text."""
    end = _end_of_text(encoding, data)
    if end < 0:
        return "", _decode(encoding, data)
    wide = 2 if encoding in (1, 2) else 1
    return _decode(encoding, data[:end]), _decode(encoding, data[end + wide :])


def _synced_lines(encoding: int, data: bytes) -> list[tuple[str, int]]:
    """Texts and their time stamps; first comes a description."""
    wide = 2 if encoding in (1, 2) else 1
    # UTF-16 may name its byte order in the description alone.
    mark = data[:2] if encoding == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff") else b""
    at = _end_of_text(encoding, data) + wide
    found: list[tuple[str, int]] = []
    while wide <= at < len(data):
        end = _end_of_text(encoding, data, at)
        stamp = data[end + wide : end + wide + 4]
        if end < 0 or len(stamp) < 4:
            break
        text = data[at:end]
        marked = text if text[:2] in (b"\xff\xfe", b"\xfe\xff") else mark + text
        found.append((_decode(encoding, marked), int.from_bytes(stamp, "big")))
        at = end + wide + 4
    return found


def _as_lrc(events: list[tuple[str, int]], tick_s: float | None) -> str:
    """Lines of LRC; where line feeds mark the lines, what stands between them is one line's syllables."""
    has_syllables = any(text.lstrip("\r").startswith("\n") for text, _ in events)
    lines: list[tuple[str, int]] = []
    for text, ticks in events:
        if has_syllables and lines and not text.lstrip("\r").startswith("\n"):
            lines[-1] = (lines[-1][0] + text, lines[-1][1])
        else:
            lines.append((text, ticks))
    return "\n".join(_stamp(ticks, tick_s) + " ".join(text.split()) for text, ticks in lines)


def _stamp(ticks: int, tick_s: float | None) -> str:
    if tick_s is None:
        return ""
    minutes, milliseconds = divmod(round(ticks * tick_s * 1000), 60_000)
    return f"[{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}]"


def _mpeg_frame_s(file: BinaryIO, start: int) -> float | None:
    """Length of an MPEG audio frame behind the tag; None where there is none to see."""
    file.seek(start)
    data = file.read(4096)
    for at in range(len(data) - 3):
        version, layer, rate = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3, data[at + 2] >> 2 & 3
        if data[at] == 0xFF and data[at + 1] >= 0xE0 and version in RATES_HZ and layer and rate < 3:
            # Layer I has 384 samples to a frame, II has 1,152, III that or, at the lower rates, half.
            num_samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
            return num_samples / RATES_HZ[version][rate]
    return None
