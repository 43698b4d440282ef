"""The headers of a tar, read straight from its bytes: fast, and exact about the byte at which a file is damaged.

Reads what tarfile reads and webdataset yields: ustar, pax and GNU headers, regular members. Names and sizes follow
POSIX.1-2001 (pax) and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK_BYTES = 512
REGULAR = frozenset(b"0\x007")
"""Type flags of members that hold bytes as they are."""
WITHOUT_DATA = frozenset(b"123456")
"""Links, devices, folders and pipes: their size field says nothing of the file."""
_CHECKSUM = slice(148, 156)
_BLANK_CHECKSUM = 8 * ord(" ")
_GARBAGE_CHUNK_BYTES = 1 << 20


class TarMember(NamedTuple):
    """A regular member of a tar."""

    name: str
    header_byte: int
    """Where its first header begins, a long name's included."""
    start_byte: int
    num_bytes: int


class Damage(NamedTuple):
    """What is wrong with a file, and from which byte on."""

    at_byte: int
    words: str


@dataclass(slots=True)
class Headers:
    """What a walk over a tar's headers found."""

    members: list[TarMember] = field(default_factory=list[TarMember])
    """Those before the damage, if there is any."""
    end_byte: int = 0
    """Where the end-of-archive mark begins."""
    damage: Damage | None = None
    """Why no reader gets further."""
    garbage: Damage | None = None
    """Bytes after the end: readers stop before them, but nobody wrote them on purpose."""


def scan_headers(content: memoryview) -> Headers:
    """Walk over the headers of a tar.

    Args:
        content: the whole file; only its headers are touched, and what follows its end.
    """
    found = Headers()
    at, first_header, special = 0, 0, _Special()
    while True:
        block = bytes(content[at : at + BLOCK_BYTES])
        if len(block) == BLOCK_BYTES and not any(block):
            found.end_byte, found.garbage = at, _garbage(content, at)
            return found
        found.damage = _header_fault(block, min(at, len(content)))
        if found.damage is not None:
            return found
        flag, start = block[156], at + BLOCK_BYTES
        name, num_bytes = special.name or _name(block), special.num_bytes or _number(block[124:136])
        end = start if flag in WITHOUT_DATA else start + num_bytes
        if end > len(content):
            words = f"cut short: {name} should end at byte {end}, the file ends at byte {len(content)}"
            found.damage = Damage(len(content), words)
            return found
        at = start + _padded(end - start)
        if flag in _Special.FLAGS:
            if not special.take(flag, bytes(content[start:end])):
                found.damage = Damage(start, "flipped: the long name or size given here cannot be read")
                return found
            continue
        # Some old tars mark a folder by its name alone.
        if flag in REGULAR and not name.endswith("/"):
            found.members.append(TarMember(name, first_header, start, num_bytes))
        special, first_header = _Special(), at


class _Special:
    """Headers that speak of the member after them: long names and sizes."""

    FLAGS = frozenset(b"xgLK")

    def __init__(self) -> None:
        self.name = ""
        self.num_bytes = 0

    def take(self, flag: int, data: bytes) -> bool:
        """Read such a header's data; False where it is damaged."""
        try:
            if flag == ord("L"):
                self.name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif flag == ord("x"):
                records = _pax_records(data)
                self.name = records.get("path", self.name)
                self.num_bytes = int(records.get("size", self.num_bytes))
        except (ValueError, IndexError):
            return False
        return True


def _pax_records(data: bytes) -> dict[str, str]:
    """Read `LENGTH KEY=VALUE` lines, each as long as it says."""
    records: dict[str, str] = {}
    while data.strip(b"\0"):
        length = int(data.split(b" ", 1)[0])
        line = data[:length]
        if length <= 0 or not line.endswith(b"\n"):
            raise ValueError(line)
        key, _, value = line[:-1].split(b" ", 1)[1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def _header_fault(block: bytes, at: int) -> Damage | None:
    if not block:
        words = "empty file" if at == 0 else "cut short: the end-of-archive mark is missing"
        return Damage(at, words)
    if at == 0 and block.startswith(b"\x1f\x8b"):
        return Damage(0, "not a tar but gzip; unpack it first")
    if len(block) < BLOCK_BYTES:
        words = f"cut short: {len(block)} of {BLOCK_BYTES} bytes of a header"
        return Damage(at, words if at else f"not a tar, {len(block)} bytes")
    try:
        told = int(block[_CHECKSUM].strip(b" \0"), 8)
        _number(block[124:136])
    except ValueError:
        told = -1
    if told == sum(block) - sum(block[_CHECKSUM]) + _BLANK_CHECKSUM:
        if block[156] == ord("S"):
            return Damage(at, "a sparse member, whose bytes do not lie as they read; unpack, and pack without --sparse")
        return None
    return Damage(at, "the header here does not agree with its own checksum" if at else "not a tar")


def _number(text: bytes) -> int:
    if text[0] & 0x80:  # GNU's base 256, for 8 GB and more
        return int.from_bytes(bytes([text[0] & 0x7F, *text[1:]]), "big")
    return int(text.strip(b" \0") or b"0", 8)


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _garbage(content: memoryview, end_byte: int) -> Damage | None:
    for start in range(end_byte, len(content), _GARBAGE_CHUNK_BYTES):
        chunk = bytes(content[start : start + _GARBAGE_CHUNK_BYTES])
        num_zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if num_zeros < len(chunk):
            at = start + num_zeros
            return Damage(at, f"garbage after the end of the archive, {len(content) - at} bytes")
    return None


def first_padding_fault(content: memoryview, members: list[TarMember]) -> Damage | None:
    """Find a byte between a member's end and its block's end that is not zero."""
    for member in members:
        end = member.start_byte + member.num_bytes
        padding = bytes(content[end : end + _padded(member.num_bytes) - member.num_bytes])
        if any(padding):
            at = end + next(n for n, byte in enumerate(padding) if byte)
            return Damage(at, f"flipped: the padding after {member.name} is not zero")
    return None
