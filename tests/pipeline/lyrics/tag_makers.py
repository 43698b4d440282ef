"""Files with tags, made byte by byte."""

from __future__ import annotations

import struct

UTF16 = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def frame(name: str, body: bytes, *, version: int = 3, flags: int = 0) -> bytes:
    if version == 2:
        return name.encode() + len(body).to_bytes(3, "big") + body
    size = synchsafe(len(body)) if version == 4 else struct.pack(">I", len(body))
    return name.encode() + size + bytes([0, flags]) + body


def id3(*frames: bytes, version: int = 3, flags: int = 0, padding: int = 0) -> bytes:
    body = b"".join(frames) + bytes(padding)
    if flags & 0x80 and version < 4:
        body = unsynchronised(body)
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body


def unsynchronised(body: bytes) -> bytes:
    out = bytearray()
    for at, byte in enumerate(body):
        out.append(byte)
        follows = body[at + 1] if at + 1 < len(body) else 0
        if byte == 0xFF and (follows == 0 or follows >= 0xE0):
            out.append(0)
    return bytes(out)


def zero(encoding: int) -> bytes:
    return b"\x00\x00" if encoding in (1, 2) else b"\x00"


def text_frame(name: str, text: str | bytes, encoding: int = 3, **how: int) -> bytes:
    body = text if isinstance(text, bytes) else text.encode(UTF16[encoding])
    return frame(name, bytes([encoding]) + body, **how)


def uslt(text: str | bytes, encoding: int = 3, *, language: bytes = b"eng", described: str = "", **how: int) -> bytes:
    body = text if isinstance(text, bytes) else text.encode(UTF16[encoding])
    head = bytes([encoding]) + language + described.encode(UTF16[encoding]) + zero(encoding)
    return frame("ULT" if how.get("version") == 2 else "USLT", head + body, **how)


def sylt(events: list[tuple[str, int]], encoding: int = 3, *, unit: int = 2, content: int = 1, **how: int) -> bytes:
    body = bytes([encoding]) + b"jpn" + bytes([unit, content]) + "".encode(UTF16[encoding]) + zero(encoding)
    for text, ticks in events:
        body += text.encode(UTF16[encoding]) + zero(encoding) + struct.pack(">I", ticks)
    return frame("SLT" if how.get("version") == 2 else "SYLT", body, **how)


MPEG_FRAME = b"\xff\xfb\x90\x00" + bytes(413)
"""44.1 kHz, layer III: 1,152 samples to a frame."""


def id3v1(*, title: bytes = b"", artist: bytes = b"", album: bytes = b"") -> bytes:
    fields = b"".join(text[:30].ljust(30, b"\x00") for text in (title, artist, album))
    return b"TAG" + fields + bytes(4) + bytes(30) + b"\xff"


def flac(comments: list[bytes]) -> bytes:
    body = struct.pack("<I", 0) + struct.pack("<I", len(comments))
    body += b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + (44100 << 44 | 1 << 41 | 15 << 36).to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x00" + len(info).to_bytes(3, "big") + info + b"\x84" + len(body).to_bytes(3, "big") + body


def atom(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


def mp4(**texts: str) -> bytes:
    names = {"title": b"\xa9nam", "artist": b"\xa9ART", "lyrics": b"\xa9lyr"}
    items = b"".join(
        atom(names[name], atom(b"data", struct.pack(">II", 1, 0) + text.encode())) for name, text in texts.items()
    )
    meta = atom(b"meta", bytes(4) + atom(b"ilst", items))
    return atom(b"ftyp", b"M4A \x00\x00\x00\x00") + atom(b"moov", atom(b"udta", meta))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body
