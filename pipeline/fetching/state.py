"""What became of every row or file that was to be fetched: one JSON line per event, the last one of an id counts.

Lines are only ever appended, so a kill costs at most the line that was being written; such a torn line is passed over.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ContractError

Status = Literal["ok", "gone", "blocked", "failed"]
"""`gone` for good; `blocked` by the server, for all rows alike; `failed` for any other reason, to be tried again."""
STATUSES: tuple[Status, ...] = ("ok", "gone", "blocked", "failed")
STATE_NAME = "fetch_state.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The last that is known of one id."""

    id: str
    state: Status
    detail: str = ""
    tries: int = 0
    """Failed attempts so far; those that a wall stopped do not count."""
    retry_at_s: float | None = None
    """Earliest next attempt, in seconds since 1970; None: never by itself."""
    path: str | None = None
    """What was obtained, below the root."""
    size_bytes: int | None = None
    checksum: str | None = None

    def is_there(self, root: Path) -> bool:
        """Whether the thing was obtained and its file still has that size."""
        file = root / self.path if self.state == "ok" and self.path else None
        return file is not None and file.is_file() and file.stat().st_size == self.size_bytes

    def may_try(self, now_s: float) -> bool:
        """Whether its time has come."""
        if self.state in {"failed", "blocked"}:
            return self.retry_at_s is not None and self.retry_at_s <= now_s
        return self.state == "ok"  # then its file has vanished


class StateFile:
    """`fetch_state.jsonl` of one corpus: read whole, appended line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            entry = _parse(line)
            if entry:
                self.entries[entry.id] = entry

    def write(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns.

        Raises:
            ContractError: the file cannot be written.
        """
        # Key order is that of the class; time is written for people, as `retry_at`.
        line = json.dumps({**asdict(entry), "retry_at": _written(entry.retry_at_s)}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if _is_torn(self.path):
                    line = f"\n{line}"
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ContractError(f"{self.path}: cannot be written ({error.strerror}); free it, then go on") from error
        self.entries[entry.id] = entry

    def counts(self) -> dict[Status, int]:
        """How many ids are in which state."""
        counted = Counter(entry.state for entry in self.entries.values())
        return {status: counted[status] for status in STATUSES}


def failed(earlier: Entry | None, entry_id: str, detail: str, *, max_tries: int, first_wait_s: float) -> Entry:
    """Make the entry of a failed attempt: every further one waits twice as long, and after `max_tries` none follows."""
    tries = (earlier.tries if earlier else 0) + 1
    retry_at_s = math.ceil(time.time() + first_wait_s * 2 ** (tries - 1)) if tries < max_tries else None
    return Entry(id=entry_id, state="failed", detail=detail, tries=tries, retry_at_s=retry_at_s)


def set_aside(path: Path, work: Path) -> Path:
    """Move a file out of the way, because it may be somebody's; the newest of a name stays.

    Returns:
        Where it lies now.
    """
    aside = work / "aside" / path.name
    aside.parent.mkdir(parents=True, exist_ok=True)
    return path.replace(aside)


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        if not size_bytes:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _written(retry_at_s: float | None) -> str | None:
    return None if retry_at_s is None else datetime.fromtimestamp(retry_at_s, UTC).isoformat(timespec="seconds")


def _parse(line: bytes) -> Entry | None:
    """Read a line; None for a torn one, or one that is none of ours."""
    try:
        value: Any = json.loads(line)
        value.pop("retry_at", None)
        entry = Entry(**value)
    except (ValueError, TypeError, AttributeError):
        return None
    return entry if entry.state in STATUSES else None
