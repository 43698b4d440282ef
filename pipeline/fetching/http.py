"""One file over HTTP, whole and checked: resumed after a break, retried with patience, never half under its name."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from pipeline.engine.progress import progress
from pipeline.errors import ContractError, ParamsError, TransientError

_AGENT = "setlist-fetch"
_BLOCK_BYTES = 1 << 18
_MAX_WAIT_S = 600.0
# An attempt that brings less counts as idle: a byte at a time would never end.
_PROGRESS_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpParams:
    """Section `fetch.http` of params.yaml."""

    timeout_s: float = 30.0
    """Longest silence of a server."""
    retries: int = 5
    """Further attempts in a row that may bring next to nothing; one that brings 64 KiB starts the count again."""
    first_wait_s: float = 2.0
    """Wait before the first further attempt; doubles each time, and a server's own `Retry-After` goes first."""
    min_speed_kib_s: float = 2.0
    """A connection slower than this over `slow_window_s` is dropped and made anew."""
    slow_window_s: float = 60.0
    """Span over which speed is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file as a server offers it."""

    url: str
    size_bytes: int | None = None
    checksum: str | None = None
    """`algorithm:hex`, such as `sha256:...` or `md5:...`."""


class _AgainError(Exception):
    """An attempt that may well succeed the next time."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


class _Part:
    """The unfinished file, and the validator that its bytes belong to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._validator_path = path.with_name(f"{path.name}.validator")

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def validator(self) -> str | None:
        return self._validator_path.read_text("latin-1") if self._validator_path.is_file() else None

    def begin(self, headers: Message) -> None:
        self.discard()
        # A weak ETag promises no equal bytes, so it cannot guard a range (RFC 9110, 13.1.5).
        strong = next((tag for tag in (headers["ETag"], headers["Last-Modified"]) if tag and tag[:2] != "W/"), None)
        if strong:
            self._validator_path.write_text(strong, "latin-1")

    def discard(self) -> None:
        for path in (self.path, self._validator_path):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self._validator_path.unlink(missing_ok=True)


def download(remote: RemoteFile, target: Path, params: HttpParams, *, work: Path) -> str:
    """Fetch a file; `target` appears when it is whole and its checksum is right.

    Args:
        remote: where it is, and what is known of it.
        target: its name here.
        params: patience.
        work: folder of unfinished files, on the same disk as `target`; a later call goes on from what lies there.

    Returns:
        Its checksum, `sha256:...` where the server named none.

    Raises:
        ParamsError: the address is none, or nothing lies there.
        TransientError: the server refuses, or stays silent or slow longer than `params` allow.
        ContractError: the bytes are not those that were promised, twice, or cannot be written.
    """
    if urllib.parse.urlsplit(remote.url).scheme not in {"http", "https"}:
        raise ParamsError(f"{remote.url}: not an http address")
    try:
        work.mkdir(parents=True, exist_ok=True)
        part = _Part(work / f"{target.name}.part")
        fault = ""
        for _ in range(2):  # resumed bytes may be of an older file: from scratch, once
            _fetch_patiently(remote, part, params)
            checksum = checksum_of(part.path, remote.checksum)
            fault = _fault(remote, part.size_bytes, checksum)
            if not fault:
                part.finish(target)
                return checksum
            part.discard()
    except OSError as error:
        raise ContractError(
            f"{target}: cannot be written ({error.strerror or error}); free space, then go on"
        ) from error
    raise ContractError(f"{remote.url}: {fault}; the file changed or is damaged on the way: nothing was kept")


def checksum_of(path: Path, like: str | None = None) -> str:
    """Compute a file's checksum as `algorithm:hex`.

    Args:
        path: the file.
        like: a checksum whose algorithm to use; None takes sha256.

    Raises:
        ContractError: an algorithm that Python does not know.
    """
    algorithm = (like or "sha256:").partition(":")[0]
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise ContractError(f"checksum {like!r}: no known algorithm; write sha256:... or md5:...")
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _fault(remote: RemoteFile, size_bytes: int, checksum: str) -> str:
    if remote.size_bytes is not None and size_bytes != remote.size_bytes:
        return f"{size_bytes} bytes came instead of {remote.size_bytes}"
    if remote.checksum and checksum != remote.checksum.lower():
        return f"{checksum} came instead of {remote.checksum}"
    return ""


def _fetch_patiently(remote: RemoteFile, part: _Part, params: HttpParams) -> None:
    num_idle = 0
    while True:
        before_bytes = part.size_bytes
        try:
            _fetch_rest(remote, part, params)
        except _AgainError as again:
            num_idle = 0 if part.size_bytes >= before_bytes + _PROGRESS_BYTES else num_idle + 1
            if num_idle > params.retries:
                raise TransientError(f"{remote.url}: {again}; the same command goes on from what came so far") from None
            wait_s = params.first_wait_s * 2 ** max(0, num_idle - 1) if again.wait_s is None else again.wait_s
            time.sleep(min(wait_s, _MAX_WAIT_S))
        else:
            return


def _fetch_rest(remote: RemoteFile, part: _Part, params: HttpParams) -> None:
    """Make one request for the bytes that are not there yet."""
    offset_bytes = part.size_bytes
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if offset_bytes:
        headers["Range"] = f"bytes={offset_bytes}-"
        if part.validator:
            headers["If-Range"] = part.validator
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=params.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and _range_total(error.headers) == offset_bytes:
                return
            _refuse(remote.url, error, part)
    except (OSError, HTTPException) as error:
        raise _AgainError(_cause(error)) from error
    else:
        with response:
            _receive(response, remote, part, params)


def _refuse(url: str, error: urllib.error.HTTPError, part: _Part) -> None:
    """Turn a status of 400 and above into the error that it is."""
    if error.code == 416:
        part.discard()
        raise _AgainError("the range is not what the server has")
    if error.code in {408, 429} or error.code >= 500:
        raise _AgainError(f"HTTP {error.code}", _retry_after_s(error.headers))
    if error.code in {401, 403}:
        raise TransientError(
            f"{url}: the server refuses (HTTP {error.code}); try later, or fetch it in a browser and put it into place"
        )
    raise ParamsError(f"{url}: HTTP {error.code}; correct the address in section `fetch`")


def _receive(response: HTTPResponse, remote: RemoteFile, part: _Part, params: HttpParams) -> None:
    offset_bytes = part.size_bytes
    length = response.headers["Content-Length"]
    if response.status == 206:
        total_bytes = _range_total(response.headers)
        if not str(response.headers["Content-Range"]).startswith(f"bytes {offset_bytes}-"):
            part.discard()
            raise _AgainError("the server sends another range than it was asked for")
    else:
        part.begin(response.headers)
        offset_bytes, total_bytes = 0, int(length) if length and length.isdecimal() else None
    name = Path(urllib.parse.urlsplit(remote.url).path).name
    with part.path.open("ab") as file, progress(total=total_bytes or remote.size_bytes, desc=name, unit="B") as bar:
        bar.update(offset_bytes)
        for block in _blocks(response, params):
            file.write(block)
            bar.update(len(block))
    if total_bytes is not None and part.size_bytes < total_bytes:
        raise _AgainError(f"the connection broke at {part.size_bytes} of {total_bytes} bytes")


def _blocks(response: HTTPResponse, params: HttpParams) -> Iterator[bytes]:
    """Yield what comes, as it comes, and give up on a trickle."""
    began_s, num_bytes = time.monotonic(), 0
    while True:
        try:
            block = response.read1(_BLOCK_BYTES)
        except (OSError, HTTPException) as error:
            raise _AgainError(_cause(error)) from error
        if not block:
            return
        yield block
        num_bytes += len(block)
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= params.slow_window_s:
            if num_bytes < params.min_speed_kib_s * 1024 * elapsed_s:
                raise _AgainError(f"slower than {params.min_speed_kib_s:g} KiB/s")
            began_s, num_bytes = time.monotonic(), 0


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__


def _range_total(headers: Message) -> int | None:
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", headers["Content-Range"] or "")
    return int(match[1]) if match else None


def _retry_after_s(headers: Message) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(headers["Retry-After"]))
    return None
