"""Damaged shards, named with the byte from which they are damaged."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

from pipeline.data.foreign_tars import map_file
from pipeline.data.provenance import MANIFEST_NAME, read_manifest
from pipeline.data.shards import (
    ABSENT,
    INDEX_NAME,
    ShardEntry,
    decode_json,
    decode_npy,
    decode_npz,
)
from pipeline.data.tar_headers import Damage, Headers, TarMember, first_padding_fault, scan_headers
from pipeline.errors import ContractError
from pipeline.inspection.folders import find_folders, known_entries

DECODERS = {"json": decode_json, "npy": decode_npy, "npz": decode_npz}


def verify_shards(path: Path) -> Iterator[str]:
    """Check shards against the index beside them: size, headers, every member, SHA-256; all of them, good or bad.

    Yields:
        A line for each tar, index and manifest that was looked at.

    Raises:
        ContractError: at the end, if anything was wrong.
    """
    num_bad, num_tars = 0, 0
    for folder, tars in find_folders(path).items():
        yield f"{folder}:" if (folder / INDEX_NAME).is_file() else f"{folder}: no {INDEX_NAME}, tars tell of themselves"
        for name, fault in _faults(folder, tars, whole=path.is_dir()):
            num_tars += name not in (INDEX_NAME, MANIFEST_NAME)
            num_bad += bool(fault)
            yield f"  {name}  {f'DAMAGED {fault}' if fault else 'good'}"
    if num_bad:
        raise ContractError(f"{path}: {num_bad} faults in {num_tars} tars; run the stages that make them again")


def _faults(folder: Path, tars: list[Path], *, whole: bool) -> Iterator[tuple[str, str]]:
    """Yield what was looked at, and what is wrong with it, empty where nothing is."""
    known, fault = known_entries(folder)
    # Other programs write none: their tars are checked as far as they tell of themselves.
    is_ours = any((folder / name).is_file() for name in (INDEX_NAME, MANIFEST_NAME))
    if fault and is_ours:
        yield INDEX_NAME, f"{fault} (the tars are checked as far as they tell of themselves)"
    for tar in tars:
        entry = known.get(tar.name)
        damage = find_damage(tar, entry)
        if damage is not None:
            yield tar.name, f"at byte {damage.at_byte}: {damage.words}"
        else:
            yield tar.name, f"stale: {INDEX_NAME} does not name it" if known and entry is None else ""
    if not whole:
        return
    names = {tar.name for tar in tars}
    for name in known:
        if name not in names:
            yield name, f"missing: {INDEX_NAME} names it"
    if (folder / MANIFEST_NAME).is_file() and known:
        yield MANIFEST_NAME, _manifest_fault(folder, sum(entry.num_samples for entry in known.values()))


def _manifest_fault(folder: Path, num_samples: int) -> str:
    try:
        told = read_manifest(folder)["counts"]["out"]
    except ContractError as error:
        return str(error)
    except (LookupError, TypeError) as error:
        return f"says nothing of its counts ({type(error).__name__}: {error})"
    return "" if told == num_samples else f"stale: it counts {told} samples, {INDEX_NAME} {num_samples}"


def find_damage(path: Path, entry: ShardEntry | None) -> Damage | None:
    """Find the first byte at which a tar is not what was written.

    Args:
        path: the tar.
        entry: what the index says of it; without it only headers, padding and what members say of themselves count.
    """
    try:
        content = map_file(path)
    except ContractError as error:
        return Damage(0, "empty file" if path.is_file() and not path.stat().st_size else str(error))
    headers = scan_headers(content)
    faults = [headers.damage, headers.garbage, first_padding_fault(content, headers.members)]
    faults.append(_content_damage(content, headers) if entry is None else _against_index(content, headers, entry))
    first = min((fault for fault in faults if fault is not None), default=None)
    if first is None and entry is not None:
        return _length_or_digest(content, entry)
    return first


def _content_damage(content: memoryview, headers: Headers) -> Damage | None:
    """Decode every member whose name says how."""
    for member in headers.members:
        decode = DECODERS.get(member.name.rpartition(".")[2])
        if decode is None:
            continue
        try:
            decode(content[member.start_byte : member.start_byte + member.num_bytes])
        except (ContractError, ValueError, OSError, EOFError, BadZipFile) as error:
            return Damage(member.start_byte, f"{member.name} cannot be decoded ({error})")
    return None


def _against_index(content: memoryview, headers: Headers, entry: ShardEntry) -> Damage | None:
    """Compare every member with its line of the index."""
    found = {member.name: member for member in headers.members}
    faults: list[Damage] = []
    for name, flat in entry.members.items():
        for number, key in enumerate(entry.keys):
            start, num_bytes = flat[2 * number : 2 * number + 2]
            if start == ABSENT:
                continue
            told = _checksum(entry, name, number)
            fault = _member_fault(
                content, found.get(f"{key}.{name}"), TarMember(f"{key}.{name}", 0, start, num_bytes), told
            )
            # Beyond a damaged header nothing is found, which says nothing of the index.
            if fault is not None and not (headers.damage and f"{key}.{name}" not in found):
                faults.append(fault)
    return min(faults, default=None)


def _checksum(entry: ShardEntry, name: str, number: int) -> int | None:
    text = entry.crc32.get(name)
    return int(text[8 * number : 8 * number + 8], 16) if text else None


def _member_fault(content: memoryview, found: TarMember | None, told: TarMember, crc32: int | None) -> Damage | None:
    if found is None or (found.start_byte, found.num_bytes) != (told.start_byte, told.num_bytes):
        where = f"lies at byte {found.start_byte}" if found else "is not there"
        return Damage(told.start_byte, f"{told.name} {where}: {INDEX_NAME} is stale, or the tar was replaced")
    end = told.start_byte + told.num_bytes
    if crc32 is not None and zlib.crc32(content[told.start_byte : end]) != crc32:
        return Damage(told.start_byte, f"flipped: {told.name}, up to byte {end}, is not what was written (CRC-32)")
    return None


def _length_or_digest(content: memoryview, entry: ShardEntry) -> Damage | None:
    if len(content) != entry.num_bytes:
        at = min(len(content), entry.num_bytes)
        return Damage(at, f"{len(content)} bytes, {INDEX_NAME} says {entry.num_bytes}")
    if entry.sha256 and hashlib.sha256(content).hexdigest() != entry.sha256:
        return Damage(0, f"somewhere, SHA-256 differs from {INDEX_NAME}; its members say nothing of where")
    return None
