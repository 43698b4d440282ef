"""What lies in a tar, by its headers alone: a shard of a gigabyte is listed without reading its bodies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.data.records import Member

BLOCK_BYTES = 512
MAX_NAME_BYTES = 1 << 20
PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}
REGULAR = frozenset({b"0", b"\x00", b"7"})
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, SPARSE = b"x", b"g", b"L", b"K", b"S"


class Listing(NamedTuple):
    """The regular files of a tar, as far as it can be read."""

    members: list[Member]
    fault: str
    """Where and how the tar breaks off; empty where it is whole."""


class _Header(NamedTuple):
    name: str
    num_bytes: int
    kind: bytes


class _HeaderError(ValueError):
    """A block that is no header."""


def list_tar(path: Path) -> Listing:
    """List the regular files in a tar that is not compressed.

    Members that lie wholly before any damage are listed; what the rest was is not guessed.
    """
    members: list[Member] = []
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            for member in _members(file, size):
                members.append(member)
    except (OSError, _HeaderError) as error:
        return Listing(members, str(error))
    return Listing(members, "")


def read_member(path: Path, member: Member) -> bytes:
    """Read the body of a member."""
    with path.open("rb") as file:
        file.seek(member.start_byte)
        return file.read(member.num_bytes)


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    at, long_name, long_size = 0, "", -1
    while True:
        file.seek(at)
        block = file.read(BLOCK_BYTES)
        if at and len(block) == BLOCK_BYTES and not block.strip(b"\x00"):
            return
        header = _parse(block, at)
        num_bytes = header.num_bytes if long_size < 0 else long_size
        start = at + BLOCK_BYTES
        at = start + -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if start + num_bytes > size:
            raise _HeaderError(f"cut short at byte {size}, within {long_name or header.name}")
        if header.kind in (PAX, LONG_NAME):
            body = file.read(min(num_bytes, MAX_NAME_BYTES))
            fields = {b"path": body.rstrip(b"\x00")} if header.kind == LONG_NAME else _pax_fields(body)
            long_name = _text(fields[b"path"]) if b"path" in fields else long_name
            long_size = _number(fields.get(b"size", b""), long_size)
            continue
        if header.kind in (PAX_GLOBAL, LONG_LINK):
            continue
        if header.kind in REGULAR:
            yield Member(long_name or header.name, start, num_bytes)
        elif header.kind == SPARSE:
            raise _HeaderError(f"{long_name or header.name} at byte {start} is sparse; pack the folder anew without -S")
        long_name, long_size = "", -1


def _parse(block: bytes, at: int) -> _Header:
    if len(block) < BLOCK_BYTES:
        packed = next((name for mark, name in PACKED.items() if at == 0 and block.startswith(mark)), "")
        raise _HeaderError(f"packed by {packed}" if packed else f"cut short at byte {at + len(block)}, without an end")
    stated = _octal(block[148:156])
    counted = sum(block[:148]) + 8 * 32 + sum(block[156:BLOCK_BYTES])
    if stated != counted:
        packed = next((name for mark, name in PACKED.items() if at == 0 and block.startswith(mark)), "")
        raise _HeaderError(f"packed by {packed}; unpack it" if packed else f"no tar header at byte {at}")
    num_bytes = _size(block[124:136])
    if num_bytes < 0:
        raise _HeaderError(f"no size in the header at byte {at}")
    name, prefix = block[:100].split(b"\x00")[0], block[345:500].split(b"\x00")[0]
    is_ustar = block[257:263] == b"ustar\x00"  # GNU's own kind keeps times where ustar keeps the prefix
    return _Header(_text(prefix + b"/" + name if is_ustar and prefix else name), num_bytes, block[156:157])


def _octal(field: bytes) -> int:
    digits = field.split(b"\x00")[0].strip()
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1


def _size(field: bytes) -> int:
    # From 8 GB on: the first bit set, the rest a plain number.
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def _pax_fields(body: bytes) -> dict[bytes, bytes]:
    """Records `<length> <name>=<value>` and a line feed."""
    fields: dict[bytes, bytes] = {}
    while body:
        length = _number(body.split(b" ", 1)[0], 0)
        name, equals, value = body[:length].partition(b" ")[2].partition(b"=")
        if not equals:
            break
        fields[name] = value.removesuffix(b"\n")
        body = body[length:]
    return fields


def _number(digits: bytes, otherwise: int) -> int:
    return int(digits) if digits.isdigit() and len(digits) < 20 else otherwise


def _text(name: bytes) -> str:
    # A name that is no UTF-8 is spelt out: it becomes part of an id, which must survive JSON.
    return name.decode("utf-8", "backslashreplace")
