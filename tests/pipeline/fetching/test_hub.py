from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ParamsError, SetlistError, TransientError
from pipeline.fetching.hub import HubParams, fetch_hub
from pipeline.fetching.state import StateFile
from tests.pipeline.fetching.loopback import Answer, Page, Request, Server, serving

COMMIT = "c" * 40
REPO = "owner/songs"
FILES = {"meta.csv": b"title\n", "jazz/a song [1]/lead_vocal.wav": b"wave" * 50_000, "README.md": b"# Songs\n"}


def serve_repo(server: Server, files: dict[str, bytes] = FILES) -> None:
    """A data set as the hub's API and file server give it; wav lies in LFS."""
    tree = []
    for name, data in files.items():
        sha256 = hashlib.sha256(data).hexdigest()
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"type": "file", "path": name, "size": len(data), "oid": oid}
        if name.endswith(".wav"):
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 100}
        tree.append(entry)
        etag = sha256 if "lfs" in entry else oid
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        for revision in ("main", COMMIT):
            path = name.replace(" ", "%20").replace("[", "%5B").replace("]", "%5D")
            server.pages[f"/datasets/{REPO}/resolve/{revision}/{path}"] = Page(data, headers=headers)
    tree.append({"type": "directory", "path": "jazz", "size": 0, "oid": "0" * 40})
    info = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "gated": False}
    for revision in ("main", COMMIT):
        server.pages[f"/api/datasets/{REPO}/revision/{revision}"] = Page(json.dumps(info).encode(), "application/json")
        server.pages[f"/api/datasets/{REPO}/tree/{revision}"] = Page(json.dumps(tree).encode(), "application/json")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # Else huggingface_hub asks its own hub, whatever the endpoint, for a list to complete the user agent.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with serving() as server:
        serve_repo(server)
        yield server


def fetch(server: Server, root: Path, limit: int | None = None, **changes: object) -> StateFile:
    params = HubParams(**{"repo_id": REPO, "endpoint": server.url, **changes})  # type: ignore[arg-type]
    state = StateFile(root / "fetch_state.jsonl")
    fetch_hub(params, root, state=state, limit=limit)
    return state


def sounds(server: Server) -> list[str]:
    return [request.path for request in server.requests if request.method == "GET" and request.path.endswith(".wav")]


def header(request: Request, name: str) -> str | None:
    return next((value for key, value in request.headers.items() if key.lower() == name.lower()), None)


def test_a_data_set_is_fetched_and_checked_once(server: Server, tmp_path: Path):
    state = fetch(server, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert state.counts()["ok"] == 3
    assert len(sounds(server)) == 1
    assert {header(request, "Authorization") for request in server.requests} == {"Bearer hf_none"}
    fetch(server, tmp_path)
    assert len(sounds(server)) == 1


def test_what_vanished_is_fetched_again(server: Server, tmp_path: Path):
    fetch(server, tmp_path)
    (tmp_path / "meta.csv").unlink()
    fetch(server, tmp_path)
    assert (tmp_path / "meta.csv").read_bytes() == b"title\n"
    assert len(sounds(server)) == 1


def test_patterns_and_a_limit_choose_files(server: Server, tmp_path: Path):
    fetch(server, tmp_path / "a", patterns=("*.csv", "jazz/*"))
    assert not (tmp_path / "a/README.md").exists()
    fetch(server, tmp_path / "b", limit=1)
    assert (tmp_path / "b/README.md").is_file()
    assert not (tmp_path / "b/meta.csv").exists()


def test_a_pattern_that_matches_nothing_is_told(server: Server, tmp_path: Path):
    with pytest.raises(ParamsError, match=r"none of its 3 files matches data/\*"):
        fetch(server, tmp_path, patterns=("data/*",))


def test_damaged_bytes_are_not_kept(server: Server, tmp_path: Path):
    name = "jazz/a song [1]/lead_vocal.wav"
    page = server.pages[f"/datasets/{REPO}/resolve/{COMMIT}/jazz/a%20song%20%5B1%5D/lead_vocal.wav"]
    good, page.data = page.data, b"evaw" * 50_000
    with pytest.raises(TransientError, match=r"1 files came damaged and were removed, jazz/a song \[1\]/lead_vocal"):
        fetch(server, tmp_path)
    assert not (tmp_path / name).exists()
    assert StateFile(tmp_path / "fetch_state.jsonl").counts() == {"ok": 2, "gone": 0, "blocked": 0, "failed": 1}
    page.data = good
    fetch(server, tmp_path)
    assert (tmp_path / name).read_bytes() == good


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB: what a break may cost
    path = f"/datasets/{REPO}/resolve/{COMMIT}/jazz/a%20song%20%5B1%5D/lead_vocal.wav"
    server.pages[path].answers = [Answer(), Answer(stop_after=100_000)]  # to HEAD and GET
    fetch(server, tmp_path)
    assert (tmp_path / "jazz/a song [1]/lead_vocal.wav").read_bytes() == FILES["jazz/a song [1]/lead_vocal.wav"]
    ranges = [header(request, "Range") for request in server.asked(path)]
    assert "bytes=100000-" in ranges


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (Answer(403, headers={"X-Error-Code": "GatedRepo"}), ParamsError, "is gated .*accept its terms.*HF_TOKEN"),
        (Answer(401, headers={"X-Error-Code": "GatedRepo"}), ParamsError, "is gated .*accept its terms"),
        (Answer(403), ParamsError, "accept its terms"),
        (Answer(401), ParamsError, "not there, or not for you"),
        (Answer(404, headers={"X-Error-Code": "RepoNotFound"}), ParamsError, "not there, or not for you"),
        (Answer(404, headers={"X-Error-Code": "RevisionNotFound"}), ParamsError, "has no revision 'main'"),
        (Answer(500), TransientError, "500"),
    ],
)
def test_a_refusal_says_what_to_do(
    server: Server, tmp_path: Path, answer: Answer, error: type[SetlistError], says: str
):
    server.pages[f"/api/datasets/{REPO}/revision/main"].always = answer
    with pytest.raises(error, match=says) as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value)


def test_terms_not_accepted_show_only_at_the_files(server: Server, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("a folder that is not empty")
    for path, page in server.pages.items():
        if "/resolve/" in path:
            page.always = Answer(403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(ParamsError, match="accept its terms"):
        fetch(server, tmp_path)


def test_a_bad_name_is_told(server: Server, tmp_path: Path):
    with pytest.raises(ParamsError, match="hub data set a/b/c"):
        fetch(server, tmp_path, repo_id="a/b/c")


def test_offline_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ParamsError, match="HF_HUB_OFFLINE"):
        fetch(server, tmp_path)


def test_nobody_at_the_door(server: Server, tmp_path: Path):
    with serving() as closed:
        pass
    with pytest.raises(TransientError, match=r"goes on|try again"):
        fetch(server, tmp_path, endpoint=closed.url)
