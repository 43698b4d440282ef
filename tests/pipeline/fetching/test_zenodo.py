from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ContractError, SetlistError, TransientError
from pipeline.fetching.http import HttpParams
from pipeline.fetching.state import StateFile
from pipeline.fetching.zenodo import RecordParams, fetch_record
from tests.pipeline.fetching.loopback import Answer, Page, Server, serving

QUICK = HttpParams(timeout_s=2.0, retries=1, first_wait_s=0.01)
FILES = ("song_describer.csv", "audio.zip")


def audio_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("02/1002", "03/2003"):
            archive.writestr(f"audio/{name}.2min.mp3", name * 1000)
    return buffer.getvalue()


def serve_record(server: Server, files: dict[str, bytes]) -> None:
    """A record as Zenodo's API gives it, less what we do not read."""
    listed = []
    for name, data in files.items():
        path = f"/api/records/7/files/{name}/content"
        server.pages[path] = Page(data)
        checksum = f"md5:{hashlib.md5(data).hexdigest()}"
        links = {"self": f"{server.url}{path}"}
        listed.append({"key": name, "size": len(data), "checksum": checksum, "links": links})
    server.pages["/api/records/7"] = Page(json.dumps({"id": 7, "files": listed}).encode(), "application/json")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        serve_record(server, {"song_describer.csv": b"caption_id\n", "audio.zip": audio_zip(), "more.tsv": b"x"})
        yield server


def fetch(server: Server, root: Path, **changes: object) -> StateFile:
    limit = changes.pop("limit", None)
    params = RecordParams(record=f"{server.url}/api/records/7", files=FILES, **changes)  # type: ignore[arg-type]
    state = StateFile(root / "fetch_state.jsonl")
    fetch_record(params, root, QUICK, state=state, work=root / ".fetch", limit=limit)  # type: ignore[arg-type]
    return state


def test_a_record_is_fetched_checked_and_unpacked_once(server: Server, tmp_path: Path):
    state = fetch(server, tmp_path)
    assert (tmp_path / "song_describer.csv").read_bytes() == b"caption_id\n"
    assert (tmp_path / "audio/02/1002.2min.mp3").is_file()
    assert not (tmp_path / "audio.zip").exists()
    assert not (tmp_path / "more.tsv").exists()
    assert state.counts()["ok"] == 2
    num_requests = len(server.requests)
    fetch(server, tmp_path)
    assert len(server.requests) == num_requests == 3


def test_what_vanished_is_fetched_again(server: Server, tmp_path: Path):
    fetch(server, tmp_path)
    (tmp_path / "song_describer.csv").unlink()
    fetch(server, tmp_path)
    assert (tmp_path / "song_describer.csv").is_file()
    assert len(server.asked("/api/records/7/files/audio.zip/content")) == 1


def test_a_file_put_there_by_hand_counts_if_its_bytes_are_right(server: Server, tmp_path: Path):
    (tmp_path / "audio.zip").write_bytes(audio_zip())
    (tmp_path / "song_describer.csv").write_bytes(b"my own")
    fetch(server, tmp_path)
    assert not server.asked("/api/records/7/files/audio.zip/content")
    assert (tmp_path / "audio/03/2003.2min.mp3").is_file()
    assert (tmp_path / ".fetch/aside/song_describer.csv").read_bytes() == b"my own"
    assert (tmp_path / "song_describer.csv").read_bytes() == b"caption_id\n"


def test_a_failure_is_in_the_state_and_the_next_run_goes_on(server: Server, tmp_path: Path):
    zip_page = server.pages["/api/records/7/files/audio.zip/content"]
    zip_page.always = Answer(403)
    with pytest.raises(TransientError, match="refuses"):
        fetch(server, tmp_path)
    assert StateFile(tmp_path / "fetch_state.jsonl").counts() == {"ok": 1, "gone": 0, "blocked": 0, "failed": 1}
    zip_page.always = None
    assert fetch(server, tmp_path).counts()["ok"] == 2
    assert len(server.asked("/api/records/7/files/song_describer.csv/content")) == 1


def test_a_pinned_checksum_goes_before_the_records(server: Server, tmp_path: Path):
    good = hashlib.sha256(b"caption_id\n").hexdigest()
    fetch(server, tmp_path / "a", checksums={"song_describer.csv": f"sha256:{good}"})
    with pytest.raises(ContractError, match="came instead of sha256:00"):
        fetch(server, tmp_path / "b", checksums={"song_describer.csv": "sha256:00"})


def test_a_limit_takes_the_first_files(server: Server, tmp_path: Path):
    fetch(server, tmp_path, limit=1)
    assert (tmp_path / "song_describer.csv").is_file()
    assert not (tmp_path / "audio").exists()


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b"[]", b'{"files": [{"key": "a"}]}', b'{"files": 3}'])
def test_another_answer_is_no_record(server: Server, tmp_path: Path, answer: bytes):
    server.pages["/api/records/7"] = Page(answer)
    with pytest.raises(ContractError, match="no Zenodo record"):
        fetch(server, tmp_path)


def test_a_record_that_lacks_a_file_names_what_it_has(server: Server, tmp_path: Path):
    serve_record(server, {"other.csv": b""})
    with pytest.raises(ContractError, match=r"holds no 'song_describer.csv'; there are: other.csv"):
        fetch(server, tmp_path)


def test_a_hostile_archive_is_refused(server: Server, tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../evil", b"x")
    serve_record(server, {"song_describer.csv": b"", "audio.zip": buffer.getvalue()})
    with pytest.raises(SetlistError, match="leads out"):
        fetch(server, tmp_path / "root")
    assert not (tmp_path / "evil").exists()
