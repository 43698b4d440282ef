"""The command `fetch` as users type it, against a server of its own on loopback."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from pipeline.data.shards import load_index
from pipeline.fetching.state import StateFile
from stages.fetch import FetchParams, main
from tests.conftest import REPOSITORY
from tests.pipeline.fetching.loopback import Answer, Page, Server, loopback_only, serving
from tests.pipeline.fetching.sounds import encoded, marked_wave
from tests.pipeline.fetching.test_hub import serve_repo
from tests.pipeline.fetching.test_zenodo import audio_zip, serve_record
from tests.stages.conftest import run_stage, write_musiccaps

# yt-dlp leaves the connections of failed requests to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:Implicitly:ResourceWarning")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    with loopback_only(), serving() as server:
        yield server
        gc.collect()  # while the mark above is in force


@pytest.fixture
def project(server: Server, tmp_path: Path) -> Path:
    """A project whose addresses all lie on the loopback server."""
    hub = {"endpoint": server.url, "repo_id": "owner/songs", "patterns": ["*"]}
    params: dict[str, Any] = {
        "sources": {
            name: {"root": f"mine/{name}"} for name in ("musiccaps", "song_describer", "jacappella", "singing")
        },
        "fetch": {
            "http": {"first_wait_s": 0.01, "timeout_s": 2.0},
            "musiccaps": {
                "table": {**hub, "patterns": ["musiccaps-public.csv"]},
                "ytdlp": {"url": server.url + "/watch?v={ytid}", "retries": 0, "timeout_s": 2.0},
                "pause_s": 0.0,
            },
            "song_describer": {"record": f"{server.url}/api/records/7", "files": ["song_describer.csv", "audio.zip"]},
            "jacappella": hub,
            "singing": {**hub, "patterns": ["data/*.tar"]},
        },
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    return tmp_path


def state(project: Path, corpus: str) -> StateFile:
    return StateFile(project / "mine" / corpus / "fetch_state.jsonl")


def fails(capsys: pytest.CaptureFixture[str], project: Path, *flags: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(project), *flags])
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert isinstance(caught.value.code, int)
    return caught.value.code, error


def test_musiccaps_comes_whole_and_ingest_reads_it(
    server: Server, project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
):
    elsewhere = tmp_path_factory.mktemp("hub") / "musiccaps"
    write_musiccaps(elsewhere)
    serve_repo(server, {"musiccaps-public.csv": (elsewhere / "musiccaps-public.csv").read_bytes()})
    # One path for all: the id is in the query, as on YouTube.
    server.pages["/watch"] = Page(encoded(marked_wave(45), "webm", "libopus"), "video/webm")
    run_stage("fetch", "--corpus", "musiccaps", "--limit", "3", root=project)
    assert "3 ok" in capsys.readouterr().out
    clips = sorted((project / "mine/musiccaps/audio").iterdir())
    assert [soundfile.info(clip).duration for clip in clips] == pytest.approx([10.0] * 3)
    num_requests = len(server.requests)
    run_stage("fetch", "--corpus", "musiccaps", "--limit", "3", root=project)
    assert len(server.requests) == num_requests
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["ingest"] = {"sample_rate_hz": 16000}
    (project / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    run_stage("ingest", "--corpus", "musiccaps", root=project)
    assert [entry.num_samples for entry in load_index(project / "shards/ingest/musiccaps")] == [3]


def test_a_killed_run_goes_on_where_it_was(server: Server, project: Path):
    write_musiccaps(project / "mine/musiccaps")
    for clip in (project / "mine/musiccaps/audio").iterdir():
        clip.unlink()
    server.pages["/watch"] = Page(encoded(marked_wave(45), "webm", "libopus"), "video/webm")
    command = [sys.executable, "-m", "stages.fetch", "--root", str(project), "--corpus", "musiccaps"]
    with subprocess.Popen([*command, "--set", "fetch.musiccaps.pause_s=0.3"], cwd=REPOSITORY) as process:
        deadline_s = time.monotonic() + 60
        while state(project, "musiccaps").counts()["ok"] < 2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.kill()
    num_done = state(project, "musiccaps").counts()["ok"]
    assert 2 <= num_done < 9
    num_requests = len(server.requests)
    run_stage("fetch", "--corpus", "musiccaps", root=project)
    assert state(project, "musiccaps").counts()["ok"] == 9
    assert len(server.requests) - num_requests <= 2 * (9 - num_done)


def test_the_wall_is_one_clear_line(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    write_musiccaps(project / "mine/musiccaps")
    for clip in (project / "mine/musiccaps/audio").iterdir():
        clip.unlink()
    server.pages["/watch"] = Page(always=Answer(403, reason="Sign in to confirm you're not a bot"))
    code, error = fails(capsys, project, "--corpus", "musiccaps")
    assert code == 1
    assert "stopped at a wall, 3 rows in a row were blocked" in error
    assert "6 rows were left untried" in error
    assert len(server.asked("/watch")) == 3
    code, error = fails(capsys, project, "--corpus", "musiccaps", "--retry-now", "--limit", "3")
    assert "0 rows were left untried" in error


def test_song_describer_comes_from_its_record(server: Server, project: Path):
    serve_record(server, {"song_describer.csv": b"caption_id\n", "audio.zip": audio_zip()})
    run_stage("fetch", "--corpus", "song_describer", root=project)
    assert (project / "mine/song_describer/audio/02/1002.2min.mp3").is_file()
    assert state(project, "song_describer").counts()["ok"] == 2


def test_jacappella_comes_from_the_hub(server: Server, project: Path):
    serve_repo(server)
    run_stage("fetch", "--corpus", "jacappella", root=project)
    assert (project / "mine/jacappella/jazz/a song [1]/lead_vocal.wav").is_file()


def test_a_limit_takes_the_first_shards_of_the_singing(server: Server, project: Path):
    serve_repo(server, {f"data/train-{n:04d}.tar": bytes([n]) * 1000 for n in range(4)} | {"README.md": b"#"})
    run_stage("fetch", "--corpus", "singing", "--limit", "2", root=project)
    names = sorted(path.name for path in (project / "mine/singing").rglob("*.tar"))
    assert names == ["train-0000.tar", "train-0001.tar"]


def test_a_gate_is_one_clear_line(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    serve_repo(server)
    server.pages["/api/datasets/owner/songs/revision/main"].always = Answer(403, headers={"X-Error-Code": "GatedRepo"})
    code, error = fails(capsys, project, "--corpus", "jacappella")
    assert code == 2
    assert "accept its terms at https://huggingface.co/datasets/owner/songs" in error


def test_a_dry_run_asks_nobody(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    for corpus in ("musiccaps", "song_describer", "jacappella", "singing"):
        run_stage("fetch", "--corpus", corpus, "--dry-run", root=project)
    assert capsys.readouterr().out.count("nothing yet") == 4
    assert server.requests == []
    assert not (project / "mine").exists()


def test_a_corpus_without_a_folder_is_told(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    code, error = fails(capsys, project, "--corpus", "singing", "--set", "sources.singing=null")
    assert code == 2
    assert "sources.singing: names no folder" in error
    run_stage("fetch", "--corpus", "singing", "--dry-run", "--set", "sources.singing={root: x}", root=project)


def test_missing_cookies_are_told(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    write_musiccaps(project / "mine/musiccaps")
    code, error = fails(capsys, project, "--corpus", "musiccaps", "--set", "fetch.musiccaps.ytdlp.cookies=cookies.txt")
    assert code == 2
    assert "cookies.txt is not there" in error


def test_an_unknown_setting_is_told(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    code, error = fails(capsys, project, "--corpus", "musiccaps", "--set", "fetch.musiccaps.ytdlp.retires=1")
    assert code == 2
    assert "did you mean 'retries'" in error


def test_two_runs_at_once_do_not_mix(server: Server, project: Path, capsys: pytest.CaptureFixture[str]):
    from pipeline.engine.local import only_run

    with only_run(project / "mine/jacappella/.fetch", project / "mine/jacappella"):
        code, error = fails(capsys, project, "--corpus", "jacappella")
    assert code == 1
    assert "another run" in error


def test_the_defaults_point_to_the_real_places():
    params = FetchParams()
    assert params.musiccaps.ytdlp.url == "https://www.youtube.com/watch?v={ytid}"
    assert params.song_describer.record == "https://zenodo.org/api/records/10072001"
    assert params.jacappella.repo_id == "jaCappella/jaCappella"
    assert params.singing.repo_id == "tts-dataset/japanese-singing-voice"


def test_help_imports_neither_yt_dlp_nor_the_hub():
    code = (
        "import sys\nfrom stages.fetch import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sorted({'yt_dlp', 'huggingface_hub', 'av', 'soundfile', 'requests'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--retry-now" in ran.stdout
    assert ran.stdout.splitlines()[-1] == ""
