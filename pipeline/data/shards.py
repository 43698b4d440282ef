"""Tar shards: written the same to the byte every time, read by mapping the file into memory.

A shard is a plain tar that any WebDataset reader reads. Beside the shards of a folder lies `index.json` with the
offset of every member, so that our reader needs no header scan and reaches any sample at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.foreign_tars import list_members, map_file
from pipeline.data.spans import ABSENT, Span, Spans, by_member, check_spans, checksums
from pipeline.data.storage import atomic_path, write_bytes
from pipeline.errors import ContractError, ParamsError

INDEX_NAME = "index.json"
INDEX_SCHEMA = 1
TAR_BLOCK_BYTES = 512
KEY_AND_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""How WebDataset reads a member's path: the key ends at the first dot of the file's name."""
META = re.compile(r"__[^/]*__(/|$)")
"""Members that WebDataset keeps for itself, and hands to nobody."""
STREAM = re.compile(r"(pipe:|-$|[a-z][a-z0-9+.-]*://)")
"""What only stock webdataset opens: a command, standard input, or the address of an object store."""


class Sample(NamedTuple):
    """One sample of a shard: its key and its members by name, such as `json` or `codes.npy`."""

    key: str
    members: dict[str, bytes | memoryview]
    item: str = ""
    """Upstream item that a sample was cut from, where that is not the key: for counting, not kept in the shard."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What `index.json` says of one shard."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    keys: list[str]
    members: dict[str, list[int]]
    """Per member name: offset and size of sample 0, of sample 1, ...; -1 where a sample lacks the member."""
    crc32: dict[str, str] = field(default_factory=dict[str, str])
    """Per member name: CRC-32 of sample 0, of sample 1, ..., each as eight hex digits. The SHA-256 tells that a shard
    is damaged, these tell where. Empty where only headers were scanned."""


def encode_json(value: Any) -> bytes:
    """Encode as UTF-8 JSON with sorted keys and no spaces, so that equal values are equal bytes.

    Raises:
        ValueError: a NaN or an infinity, which JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def decode_json(buffer: bytes | memoryview) -> Any:
    """Decode what `encode_json` wrote."""
    return json.loads(bytes(buffer))


def encode_jsonl(values: Iterable[Any]) -> bytes:
    """Encode values as JSON lines."""
    return b"".join(encode_json(value) + b"\n" for value in values)


def read_jsonl(path: Path) -> list[Any]:
    """Read JSON lines.

    Raises:
        ContractError: missing or damaged.
    """
    try:
        # Bytes, not text: str.splitlines also breaks at letters that JSON leaves alone, such as U+2028.
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); run the stage that makes it again") from error


def encode_npy(array: NDArray[Any]) -> bytes:
    """Encode one array as .npy, C order, no pickle."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array, order="C"), allow_pickle=False)
    return out.getvalue()


def decode_npy(buffer: bytes | memoryview) -> NDArray[Any]:
    """Decode a .npy member without copying; the array is read-only and keeps the buffer alive.

    Raises:
        ContractError: not a .npy, pickled or cut short.
    """
    try:
        # Ten bytes of magic, version and header length; then the header, of which there are few different ones.
        header_bytes = 10 + int.from_bytes(buffer[8:10], "little")
        shape, fortran, dtype = _npy_header(bytes(buffer[:header_bytes]))
        array = np.frombuffer(buffer, dtype, count=math.prod(shape), offset=header_bytes)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        raise ContractError(f"damaged .npy member ({error}): run `python -m pipeline verify` on its folder") from error
    return array.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=4096)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"format {version}, which numpy writes for headers beyond 64 kB only")
    return np.lib.format.read_array_header_1_0(file)


def encode_npz(**arrays: NDArray[Any]) -> bytes:
    """Encode named arrays as an uncompressed .npz whose zip entries bear a fixed date."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), encode_npy(arrays[name]))
    return out.getvalue()


def decode_npz(buffer: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """Decode a .npz member into its arrays."""
    with np.load(io.BytesIO(bytes(buffer)), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardEntry:
    """Write samples to a tar that appears under its name only when it is whole.

    Args:
        path: the tar to make; replaced if it exists.
        samples: in the order to keep; members are sorted within a sample.

    Returns:
        The shard's entry for `index.json`.

    Raises:
        ContractError: a key twice, a key with a dot, or a sample without members.
    """
    keys: list[str] = []
    spans: list[Spans] = []
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for sample in samples:
                spans.append(_add_sample(tar, sample))
                keys.append(sample.key)
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        num_bytes = temporary.stat().st_size
        if len(set(keys)) != len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})[0]
            raise ContractError(f"{path.name}: key {twice!r} comes twice; keys must be unique in a shard")
    return ShardEntry(path.name, len(keys), num_bytes, sha256, keys, by_member(spans), checksums(spans))


def _add_sample(tar: tarfile.TarFile, sample: Sample) -> Spans:
    if not sample.members or "." in sample.key or "/" in sample.key:
        raise ContractError(f"key {sample.key!r}: a sample needs members, and a key without dots or slashes")
    spans: Spans = {}
    for name in sorted(sample.members):
        data = sample.members[name]
        info = tarfile.TarInfo(f"{sample.key}.{name}")
        info.size = len(data)
        info.mode = 0o644
        tar.addfile(info, io.BytesIO(data))
        padded_bytes = -(-info.size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
        spans[name] = Span(tar.offset - padded_bytes, info.size, zlib.crc32(data))
    return spans


def write_folder_index(folder: Path, entries: Iterable[ShardEntry]) -> None:
    """Write `index.json` for the shards of a folder."""
    shards = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    write_bytes(folder / INDEX_NAME, encode_json({"schema": INDEX_SCHEMA, "shards": shards}) + b"\n")


def load_index(folder: Path) -> list[ShardEntry]:
    """Read `index.json` of a folder of shards.

    Raises:
        ContractError: there is none, or it is not one of ours.
    """
    path = folder / INDEX_NAME
    try:
        return list(_read_index(path, path.stat().st_mtime_ns))
    except FileNotFoundError:
        raise ContractError(
            f"{path}: no such file; run the stage that makes {folder.parent.name}/{folder.name} first"
        ) from None


@lru_cache(maxsize=64)
def _read_index(path: Path, _: int) -> tuple[ShardEntry, ...]:
    """Read an index once for all its shards; the second argument is its time, so that a new one is read anew."""
    try:
        content = json.loads(path.read_bytes())
        entries = tuple(ShardEntry(**entry) for entry in content["shards"])
        for entry in entries:
            check_spans(entry.members, num_samples=entry.num_samples, num_bytes=entry.num_bytes)
            if len(entry.keys) != entry.num_samples:
                raise ValueError(f"{entry.name}: {len(entry.keys)} keys for {entry.num_samples} samples")
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{path}: not an index of shards ({error}); run its stage again") from error
    if content.get("schema") != INDEX_SCHEMA:
        raise ContractError(
            f"{path}: schema {content.get('schema')}, this version reads {INDEX_SCHEMA}; run its stage again"
        )
    return entries


class ShardFile:
    """One local tar, mapped into memory; `shard[i]` is a Sample whose members are views of the map.

    Args:
        path: the tar.
        entry: its line of `index.json`; read from beside the tar, or by a header scan, when not given.

    Raises:
        ContractError: the file is missing, not a tar, cut short, or not the one that the index describes.
    """

    def __init__(self, path: Path, entry: ShardEntry | None = None) -> None:
        self.path = path
        self.entry = entry or entry_of(path)
        self._map = map_file(path)
        _check_size(path, len(self._map), self.entry)
        self._spans = {name: np.asarray(flat, np.int64).reshape(-1, 2) for name, flat in self.entry.members.items()}

    @property
    def keys(self) -> list[str]:
        """Keys in the order of the samples."""
        return self.entry.keys

    @property
    def content(self) -> memoryview:
        """The whole file, which every member of every sample is a view of."""
        return self._map

    def check(self) -> ShardFile:
        """Compare the content with the index, once, before a stage builds on it; gives the shard itself.

        Raises:
            ContractError: it is not what was written: damaged, swapped or tampered with.
        """
        if self.entry.sha256 and hashlib.sha256(self._map).hexdigest() != self.entry.sha256:
            told = f"`python -m pipeline verify {self.path}` tells where"
            raise ContractError(
                f"{self.path}: content differs from {INDEX_NAME} (SHA-256; {told}); run its stage again"
            )
        return self

    def __len__(self) -> int:
        return self.entry.num_samples

    def __getitem__(self, i: int) -> Sample:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        members: dict[str, bytes | memoryview] = {}
        for name, spans in self._spans.items():
            offset, size = spans[i].tolist()
            if offset != ABSENT:
                members[name] = self._map[offset : offset + size]
        return Sample(self.entry.keys[i], members)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def entry_of(path: Path) -> ShardEntry:
    """What is known of a tar without opening it: its line in the index beside it, else by its headers.

    Raises:
        ContractError: missing, or of another size than the index says; without an index, as `scan_shard`.
    """
    entry = _entry_beside(path)
    if entry is None:
        return scan_shard(path)
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror}); run its stage again") from error
    _check_size(path, num_bytes, entry)
    return entry


def _entry_beside(path: Path) -> ShardEntry | None:
    if not (path.parent / INDEX_NAME).is_file():
        return None
    return next((entry for entry in load_index(path.parent) if entry.name == path.name), None)


def _check_size(path: Path, num_bytes: int, entry: ShardEntry) -> None:
    if num_bytes != entry.num_bytes:
        raise ContractError(
            f"{path}: {num_bytes} bytes, {INDEX_NAME} says {entry.num_bytes}: cut short or replaced; make it again"
        )


def scan_shard(path: Path) -> ShardEntry:
    """Index a tar that has no index beside it by its headers, which are kept in the user's cache for the next time.

    Raises:
        ContractError: missing, not a tar, or cut short, with the byte; or a sample that has a member twice.
    """
    keys: list[str] = []
    rows: list[Spans] = []
    for member in list_members(path):
        match = KEY_AND_NAME.fullmatch(member.name)
        if match is None or META.match(member.name):
            continue
        key, name = match[1], match[2].lower()
        if not keys or keys[-1] != key:
            keys.append(key)
            rows.append({})
        if name in rows[-1]:
            raise ContractError(
                f"{path}: {member.name} comes twice in one sample, again at byte {member.header_byte}; make it again"
            )
        rows[-1][name] = Span(member.start_byte, member.num_bytes, 0)
    return ShardEntry(path.name, len(rows), path.stat().st_size, "", keys, by_member(rows))


def expand_shards(spec: str | Sequence[str]) -> list[Path]:
    """Name the tars that a brace pattern, a glob, a folder, a path or a list of these stands for.

    Returns:
        Existing paths, sorted within each pattern, in the order of the patterns.

    Raises:
        ParamsError: a pattern that matches no tar.
        ContractError: it matches one that index.json names, and that is not there.
    """
    return [path for pattern in ([spec] if isinstance(spec, str) else spec) for path in _expand_one(pattern)]


def _expand_one(pattern: str) -> list[Path]:
    if STREAM.match(pattern):
        raise ParamsError(f"{pattern}: a stream, where local tars are wanted; copy it here first (docs/shards.md)")
    if Path(pattern).is_dir():
        paths = _glob(f"{pattern}/*.tar")
    else:
        paths = [path for name in expand_braces(pattern) for path in _glob(name)]
    if not paths:
        raise ParamsError(f"{pattern}: no such tar; run `python -m stages.pack` first, or mend the pattern")
    return paths


def _glob(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if not any(letter in path.name for letter in "*?["):
        raise ParamsError(f"{name}: no such tar; `python -m pipeline ls {path.parent}` shows which there are")
    paths = sorted(path.parent.glob(path.name))
    named = [entry.name for entry in load_index(path.parent)] if (path.parent / INDEX_NAME).is_file() else []
    gone = sorted({name for name in named if fnmatch(name, path.name)} - {path.name for path in paths}) if paths else []
    if gone:
        raise ContractError(
            f"{path.parent}: {gone[0]} is named by {INDEX_NAME}, and not there; copy it, or name the others"
        )
    return paths


def expand_braces(pattern: str) -> list[str]:
    """Name what `{000..123}` stands for, wherever it occurs; the pattern itself where it does not."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    texts = [pattern[: match.start()] + str(n).zfill(len(first)) + pattern[match.end() :] for n in numbers]
    return [name for text in texts for name in expand_braces(text)]
