"""What a file's header promises about its length, where the decoders do not say or only guess."""

from __future__ import annotations

import io
import re
import struct

from pipeline.data.files import Source

# Writers that cannot seek back leave 0xFFFFFFFF (FFmpeg) or about 2 GiB (SoX, arecord) as the size of the sound.
_STREAMED_BYTES = 0x7FFFF000
_FIRST_MPEG_FRAME_BYTES = 4096
_OGG_BLOCK_BYTES = 1 << 20
_OGG_PAGE = re.compile(rb"OggS\x00([\x00-\x07])", re.DOTALL)


def is_mpeg_stream(file: Source) -> bool:
    """Say whether the content starts like MP3 or ADTS AAC: an ID3 tag or an MPEG frame header."""
    file.seek(0)
    head = file.read(3)
    return head == b"ID3" or (len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def is_ogg_chain(file: Source) -> bool:
    """Say whether an Ogg file holds one stream after another (RFC 3533, section 4), as internet radio is recorded."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    is_past_heads, tail = False, b""
    file.seek(0)
    while block := file.read(_OGG_BLOCK_BYTES):
        # The sixth byte of a page tells what it is: 2 begins a stream. All streams that sound together begin first.
        for page in _OGG_PAGE.finditer(tail + block):
            begins = bool(page[1][0] & 2)
            if begins and is_past_heads:
                return True
            is_past_heads = is_past_heads or not begins
        tail = (tail + block)[-5:]
    return False


def has_mpeg_frame_count(file: Source) -> bool:
    """Say whether an MP3 carries its length (a Xing, Info or VBRI header in its first frame).

    Without one, every player estimates the length from the file's size and the first bit rate, and may be
    wrong by any factor.
    """
    file.seek(0)
    head = file.read(10)
    # ID3v2.4, section 3.1: four bytes of seven bits each give the size of the tag after its ten bytes.
    is_tagged = len(head) == 10 and head.startswith(b"ID3")
    start = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)) if is_tagged else 0
    file.seek(start)
    first_frame = file.read(_FIRST_MPEG_FRAME_BYTES)
    return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))


def promised_share(file: Source) -> float | None:
    """Bytes of sound that a WAV or AIFF header promises, divided by the bytes that are there.

    libsndfile shortens the promise to what the file holds, so that a truncated WAV looks whole.

    Returns:
        1.0 or more; None if this is another format or the header was written by a streaming program.
    """
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    is_wave = head[:4] in {b"RIFF", b"RF64", b"RIFX"} and head[8:] == b"WAVE"
    is_aiff = head[:4] == b"FORM" and head[8:] in {b"AIFF", b"AIFC"}
    if not (is_wave or is_aiff):
        return None
    promised, start = _find_sound(file, num_bytes, big_endian=head[:4] in {b"FORM", b"RIFX"})
    present = num_bytes - start
    is_streamed = promised > present and _STREAMED_BYTES <= promised <= 0xFFFFFFFF
    if promised == 0 or present <= 0 or is_streamed:
        return None
    return max(1.0, promised / present)


def _find_sound(file: Source, num_bytes: int, *, big_endian: bool) -> tuple[int, int]:
    """Walk the chunks to the sound: its promised size in bytes and where it starts; (0, 0) without one."""
    size_in_ds64 = 0
    while (start := file.tell() + 8) <= num_bytes:
        name, size = struct.unpack(">4sI" if big_endian else "<4sI", file.read(8))
        if name == b"ds64":  # EBU Tech 3306: 64-bit sizes of RF64; the sound's stands second
            size_in_ds64 = struct.unpack("<8xQ", file.read(16))[0]
        elif name in {b"data", b"SSND"}:
            return (size_in_ds64 if size == 0xFFFFFFFF and size_in_ds64 else size), start
        file.seek(start + size + size % 2)
    return 0, 0
