"""Files of a Zenodo record: the record itself says where they are, how large, and their checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ContractError, SetlistError
from pipeline.fetching.archives import unpack_zip
from pipeline.fetching.http import HttpParams, RemoteFile, checksum_of, download
from pipeline.fetching.state import Entry, StateFile, failed, set_aside


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordParams:
    """A record and what to take from it."""

    record: str
    """Address of the record in Zenodo's API."""
    files: tuple[str, ...]
    """Names to fetch; a zip is unpacked into the root and then removed."""
    checksums: Mapping[str, str] = field(default_factory=dict[str, str])
    """`sha256:...` or `md5:...` by name, in place of those that the record gives: the bytes of your last run."""


def read_record(params: RecordParams, http: HttpParams, *, work: Path) -> dict[str, RemoteFile]:
    """Ask Zenodo what the record holds.

    Raises:
        ContractError: the answer is no record, or lacks one of `params.files`.
    """
    answer = work / "record.json"
    answer.with_name(f"{answer.name}.part").unlink(missing_ok=True)  # small, and never the rest of an older answer
    download(RemoteFile(url=params.record), answer, http, work=work)
    try:
        listed: list[Any] = json.loads(answer.read_bytes())["files"]
        found = {
            str(file["key"]): RemoteFile(
                url=str(file["links"]["self"]), size_bytes=int(file["size"]), checksum=str(file["checksum"])
            )
            for file in listed
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{params.record}: no Zenodo record ({type(error).__name__} {error})") from error
    lacking = [name for name in params.files if name not in found]
    if lacking:
        raise ContractError(f"{params.record}: holds no {lacking[0]!r}; there are: {', '.join(found)}")
    return {name: _pinned(found[name], params.checksums.get(name)) for name in params.files}


def _pinned(remote: RemoteFile, checksum: str | None) -> RemoteFile:
    return replace(remote, checksum=checksum) if checksum else remote


def fetch_record(
    params: RecordParams, root: Path, http: HttpParams, *, state: StateFile, work: Path, limit: int | None = None
) -> None:
    """Fetch the record's files into `root`, each once.

    Raises:
        SetlistError: as `download` and `unpack_zip` do; what was finished stays, and the state says what failed.
    """
    todo = [name for name in params.files[:limit] if not _is_done(state.entries.get(name), root)]
    remotes = read_record(params, http, work=work) if todo else {}
    for name in todo:
        try:
            state.write(_fetch_file(name, remotes[name], root, http, work=work))
        except SetlistError as error:
            earlier = state.entries.get(name)
            state.write(failed(earlier, name, str(error), max_tries=1 << 30, first_wait_s=0))
            raise


def _fetch_file(name: str, remote: RemoteFile, root: Path, http: HttpParams, *, work: Path) -> Entry:
    path = root / name
    if not _has_checksum(path, remote):
        if path.exists():
            set_aside(path, work)
        download(remote, path, http, work=work)
    checksum = checksum_of(path, remote.checksum)
    if path.suffix != ".zip":
        return Entry(id=name, state="ok", path=name, size_bytes=path.stat().st_size, checksum=checksum)
    files = unpack_zip(path, root)
    size_bytes = path.stat().st_size
    path.unlink()  # gigabytes that nobody reads again
    last = files[-1].relative_to(root).as_posix() if files else None
    return Entry(
        id=name,
        state="ok",
        detail=f"{len(files)} files unpacked from {size_bytes} bytes",
        path=last,
        size_bytes=files[-1].stat().st_size if files else None,
        checksum=checksum,
    )


def _is_done(entry: Entry | None, root: Path) -> bool:
    return entry is not None and entry.is_there(root)


def _has_checksum(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and remote.checksum is not None and checksum_of(path, remote.checksum) == remote.checksum
