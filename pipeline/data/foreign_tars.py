"""Tars that another program made: their headers are scanned once, and kept outside their folder.

The scan of a large tar on a slow disk costs as much as reading it. What it found is kept in the user's cache folder,
never beside the tars: they may lie on a read-only disk, and a reader changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from pathlib import Path
from typing import Any

from pipeline.data.storage import write_bytes
from pipeline.data.tar_headers import TarMember, scan_headers
from pipeline.errors import ContractError, SetlistError

MIN_CACHED_BYTES = 1 << 20
"""A smaller tar is scanned sooner than its entry in the cache is read."""


def cache_folder() -> Path:
    """Where scans are kept: `$XDG_CACHE_HOME/setlist/tars`, by default below `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "setlist" / "tars"


def map_file(path: Path) -> memoryview:
    """Map a file into memory, read-only.

    Raises:
        ContractError: missing, empty or unreadable.
    """
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError as error:
        raise ContractError(f"{path}: cannot be read (an empty file); make it again") from error
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror}); make it again") from error


def list_members(path: Path) -> list[TarMember]:
    """List the regular members of a tar that has no index beside it.

    Raises:
        ContractError: missing, not a tar, or cut short; the message gives the byte.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from error
    if stat.st_size < MIN_CACHED_BYTES:
        return _scan(path)
    place = str(path.resolve())
    known = {"path": place, "num_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    cached = cache_folder() / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"
    members = _read_cached(cached, known)
    if members is None:
        members = _scan(path)
        # A full or read-only home costs the next reader a scan, and nothing else.
        with contextlib.suppress(SetlistError):
            write_bytes(cached, json.dumps(known | {"members": members}, separators=(",", ":")).encode())
    return members


def _scan(path: Path) -> list[TarMember]:
    headers = scan_headers(map_file(path))
    if headers.damage is not None:
        raise ContractError(f"{path}: damaged at byte {headers.damage.at_byte}: {headers.damage.words}; make it again")
    return headers.members


def _read_cached(cached: Path, known: dict[str, Any]) -> list[TarMember] | None:
    try:
        content = json.loads(cached.read_bytes())
        if {name: content[name] for name in known} != known:
            return None
        return [TarMember(*member) for member in content["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
