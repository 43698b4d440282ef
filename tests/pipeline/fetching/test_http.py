from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ContractError, ParamsError, SetlistError, TransientError
from pipeline.fetching.http import HttpParams, RemoteFile, checksum_of, download
from tests.pipeline.fetching.loopback import Answer, Page, Server, serving

DATA = np.random.default_rng(0).bytes(200_000)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
QUICK = HttpParams(timeout_s=2.0, retries=2, first_wait_s=0.01, min_speed_kib_s=50, slow_window_s=0.3)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def fetch(server: Server, page: Page, folder: Path, checksum: str | None = SHA256, size: int | None = None) -> bytes:
    server.pages["/a.bin"] = page
    remote = RemoteFile(url=f"{server.url}/a.bin", checksum=checksum, size_bytes=size)
    download(remote, folder / "a.bin", QUICK, work=folder / "work")
    return (folder / "a.bin").read_bytes()


def leave_part(folder: Path, data: bytes, validator: str | None = None) -> None:
    (folder / "work").mkdir()
    (folder / "work/a.bin.part").write_bytes(data)
    if validator:
        (folder / "work/a.bin.part.validator").write_text(validator)


@pytest.mark.parametrize("checksum", [SHA256, MD5, MD5.upper().replace("MD5", "md5"), None])
def test_a_whole_file_arrives_at_once(server: Server, tmp_path: Path, checksum: str | None):
    assert fetch(server, Page(DATA), tmp_path, checksum, len(DATA)) == DATA
    assert [request.status for request in server.requests] == [200]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path):
    page = Page(DATA, headers={"ETag": '"v1"'}, answers=[Answer(stop_after=90_000), Answer(stop_after=50_000)])
    assert fetch(server, page, tmp_path) == DATA
    assert [request.status for request in server.requests] == [200, 206, 206]
    assert server.requests[1].headers["Range"] == "bytes=90000-"
    assert server.requests[2].headers["If-Range"] == '"v1"'


def test_a_later_run_goes_on_from_what_an_earlier_one_left(server: Server, tmp_path: Path):
    with pytest.raises(TransientError, match=r"broke at 90000 of 200000 bytes.*the same command goes on"):
        fetch(server, Page(DATA, answers=[Answer(stop_after=90_000)], always=Answer(stop_after=0)), tmp_path)
    num_before = len(server.requests)
    assert num_before == 1 + 1 + QUICK.retries
    assert fetch(server, Page(DATA), tmp_path) == DATA
    assert server.requests[num_before].headers["Range"] == "bytes=90000-"
    assert len(server.requests) == num_before + 1


def test_a_file_that_changed_in_between_starts_over(server: Server, tmp_path: Path):
    leave_part(tmp_path, b"old" * 100, '"old"')
    assert fetch(server, Page(DATA, headers={"ETag": '"new"'}), tmp_path) == DATA
    assert [request.status for request in server.requests] == [200]


def test_a_file_that_changed_unseen_starts_over(server: Server, tmp_path: Path):
    leave_part(tmp_path, b"old" * 100)
    assert fetch(server, Page(DATA), tmp_path) == DATA
    assert [request.status for request in server.requests] == [206, 200]


def test_a_weak_etag_guards_no_range(server: Server, tmp_path: Path):
    page = Page(DATA, headers={"ETag": 'W/"v1"'}, answers=[Answer(stop_after=90_000)])
    assert fetch(server, page, tmp_path) == DATA
    assert "If-Range" not in server.requests[1].headers


def test_416_on_a_complete_part_is_success(server: Server, tmp_path: Path):
    leave_part(tmp_path, DATA)
    assert fetch(server, Page(DATA), tmp_path) == DATA
    assert [request.status for request in server.requests] == [416]


def test_416_on_a_part_that_is_too_long_starts_over(server: Server, tmp_path: Path):
    leave_part(tmp_path, DATA + b"more")
    assert fetch(server, Page(DATA), tmp_path) == DATA
    assert [request.status for request in server.requests] == [416, 200]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path):
    page = Page(DATA, answers=[Answer(stop_after=90_000), Answer(ignores_range=True)])
    assert fetch(server, page, tmp_path) == DATA
    assert [request.status for request in server.requests] == [200, 200]


def test_a_wrong_range_is_not_glued(server: Server, tmp_path: Path):
    leave_part(tmp_path, DATA[:10])
    page = Page(DATA, answers=[Answer(status=206, headers={"Content-Range": "bytes 0-9/200000"})])
    assert fetch(server, page, tmp_path) == DATA


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path, status: int):
    page = Page(DATA, answers=[Answer(status=status), Answer(status=status, headers={"Retry-After": "0.2"})])
    began_s = time.monotonic()
    assert fetch(server, page, tmp_path) == DATA
    assert time.monotonic() - began_s >= 0.2
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_left_alone(server: Server, tmp_path: Path):
    with pytest.raises(TransientError, match="HTTP 503"):
        fetch(server, Page(always=Answer(status=503)), tmp_path)
    assert len(server.requests) == 1 + QUICK.retries


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [(403, TransientError, "refuses"), (401, TransientError, "refuses"), (404, ParamsError, "section `fetch`")],
)
def test_a_refusal_is_not_repeated(server: Server, tmp_path: Path, status: int, error: type[SetlistError], says: str):
    with pytest.raises(error, match=f"(?s){says}.*|HTTP {status}"):
        fetch(server, Page(always=Answer(status=status)), tmp_path)
    assert len(server.requests) == 1
    assert not (tmp_path / "a.bin").exists()


def test_a_trickle_is_dropped_and_taken_up_again(server: Server, tmp_path: Path):
    page = Page(DATA, answers=[Answer(bytes_per_s=20_000)])
    began_s = time.monotonic()
    assert fetch(server, page, tmp_path) == DATA
    assert time.monotonic() - began_s < 3  # at 20 kB/s it would take 10 s
    assert [request.status for request in server.requests] == [200, 206]


def test_a_slow_but_fair_server_is_waited_for(server: Server, tmp_path: Path):
    assert fetch(server, Page(DATA, answers=[Answer(bytes_per_s=150_000)]), tmp_path) == DATA
    assert len(server.requests) == 1


def test_wrong_bytes_are_not_kept(server: Server, tmp_path: Path):
    with pytest.raises(ContractError, match=r"sha256:\w+ came instead of sha256:"):
        fetch(server, Page(b"other"), tmp_path)
    assert len(server.requests) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_a_wrong_size_is_told_as_such(server: Server, tmp_path: Path):
    with pytest.raises(ContractError, match="200000 bytes came instead of 7"):
        fetch(server, Page(DATA), tmp_path, None, 7)


def test_a_silent_server_times_out(server: Server, tmp_path: Path):
    server.pages["/a.bin"] = Page(DATA, always=Answer(silent_s=0.5))
    quick = HttpParams(timeout_s=0.1, retries=1, first_wait_s=0.01)
    with pytest.raises(TransientError, match="timed out"):
        download(RemoteFile(url=f"{server.url}/a.bin"), tmp_path / "a.bin", quick, work=tmp_path / "work")


def test_a_byte_at_a_time_comes_to_an_end(server: Server, tmp_path: Path):
    with pytest.raises(TransientError, match="broke at"):
        fetch(server, Page(DATA, always=Answer(stop_after=1)), tmp_path)
    assert len(server.requests) == 1 + QUICK.retries


def test_nobody_at_the_door(tmp_path: Path):
    with serving() as server:
        url = server.url
    with pytest.raises(TransientError, match="Connection refused"):
        download(RemoteFile(url=f"{url}/a.bin"), tmp_path / "a.bin", QUICK, work=tmp_path / "work")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a.bin"])
def test_only_http_is_followed(tmp_path: Path, url: str):
    with pytest.raises(ParamsError, match="not an http address"):
        download(RemoteFile(url=url), tmp_path / "a.bin", QUICK, work=tmp_path / "work")


def test_a_folder_in_the_way_is_told(server: Server, tmp_path: Path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(ContractError, match="cannot be written"):
        fetch(server, Page(DATA), tmp_path)


def test_an_unknown_checksum_is_told(tmp_path: Path):
    (tmp_path / "a").write_bytes(DATA)
    assert checksum_of(tmp_path / "a") == SHA256
    with pytest.raises(ContractError, match="crc99"):
        checksum_of(tmp_path / "a", "crc99:12")
