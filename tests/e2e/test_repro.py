"""The whole chain by `dvc repro` in a copy of the project: made, left alone, and killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from tests.conftest import REPOSITORY

TINY: dict[str, dict[str, Any]] = {
    "demo": {"num_clips": 14, "clip_s": 3.0, "num_songs": 2, "num_covers": 1},
    "ingest": {"tracks_per_shard": 4},
    "split": {"val_share": 0.1},
    "retrieve": {"num_examples": 2, "strategies": ["semantic"]},
    "pack": {
        "strategies": ["semantic"],
        "loader_workers": 2,
        "num_train_shards": 2,
        "max_example_frames": 60,
        "max_target_frames": 60,
    },
    "train": {"steps": 12, "batch_size": 2, "warmup_steps": 2, "checkpoint_every_steps": 3, "validate_every_steps": 0},
    "generate": {"max_frames": 20},
    "evaluate": {"batch_size": 4, "bootstrap_draws": 50},
}
SECONDS = 480


def make_project(folder: Path, *, workers: int) -> Path:
    """Copy the project, with settings small enough for a test."""
    for name in ("pipeline", "stages", "train"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder)
    params = yaml.safe_load((REPOSITORY / "pipeline/presets/demo.yaml").read_text("utf-8"))
    for section, values in TINY.items():
        params[section] |= values
    params["engine"]["workers"] = workers
    (folder / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    return folder


def start_repro(project: Path) -> subprocess.Popen[str]:
    """Start `dvc repro` in a process group of its own, so that one signal reaches all of it."""
    # DVC writes this file of its own in place: killed in that instant it leaves an empty one, which it then refuses.
    # README tells its users to do the same.
    lock = project / ".dvc" / "tmp" / "rwlock"
    if lock.is_file() and not lock.read_text().strip():
        lock.unlink()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "true",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def repro(project: Path) -> str:
    """Run `dvc repro` to its end and give what it printed."""
    process = start_repro(project)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def content(project: Path) -> dict[str, bytes]:
    """All published files."""
    paths = [path for folder in ("shards", "runs") for path in sorted((project / folder).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(project)): path.read_bytes()
        for path in paths
        if ".work" not in path.parts and path.name != ".gitignore"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("finished"), workers=1)
    assert "report" in repro(project)
    return project


def manifests(project: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((project / "shards").rglob("manifest.json")):
        if ".work" not in path.parts:
            yield str(path.parent.relative_to(project / "shards")), json.loads(path.read_bytes())


@pytest.mark.timeout(SECONDS)
def test_every_folder_counts_what_went_in_and_what_came_out(finished: Path):
    counted = dict(manifests(finished))
    assert {"ingest/musiccaps", "transcribe/musiccaps", "retrieve/semantic/musiccaps", "pack/semantic"} <= set(counted)
    for name, manifest in counted.items():
        counts = manifest["counts"]
        assert counts["in"] == counts["used"] + sum(counts["dropped"].values()), name
    ingest = counted["ingest/musiccaps"]["counts"]
    assert ingest["dropped"]["audio_missing"] > 0
    assert ingest["out"] == 14
    clips = sum(counted[f"ingest/{corpus}"]["counts"]["out"] for corpus in ("musiccaps", "jacappella", "singing"))
    assert counted["pack/semantic"]["counts"]["out"] == clips > 18
    # Scores give lyrics; what comes without them is heard.
    assert counted["lyrics/jacappella"]["counts"]["out"] > 4
    heard = counted["transcribe/singing"]["counts"]
    assert heard["in"] == heard["used"] + sum(heard["dropped"].values()) > 0


def test_no_manifest_names_this_machine(finished: Path):
    names = [str(finished), str(REPOSITORY), os.uname().nodename]
    for path in sorted((finished / "shards").rglob("*.json*")):
        if ".work" not in path.parts:
            text = path.read_text("utf-8")
            assert not [name for name in names if name in text], path


def test_the_chain_ends_in_an_adapter_and_in_audio(finished: Path):
    assert (finished / "runs/semantic/adapter/adapter_model.safetensors").is_file()
    waves = sorted((finished / "runs/generate/semantic/samples").glob("*.wav"))
    assert waves
    for path in waves:
        wave, rate = soundfile.read(path)
        assert rate == 16000
        assert len(wave) == 20 * 320
        assert abs(wave).max() > 0
    report = finished / "runs" / "report"
    assert "All models are the demo's" in (report / "table.md").read_text()
    assert set(json.loads((report / "metrics.json").read_bytes())) == {"semantic"}
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in ("loss.png", "nll.png"))


@pytest.mark.timeout(SECONDS)
def test_a_second_repro_executes_no_stage(finished: Path):
    assert stages_run(repro(finished)) == []


@pytest.mark.timeout(SECONDS)
def test_a_comment_runs_one_stage_and_recomputes_nothing(finished: Path):
    before = content(finished)
    marks = {path: path.stat().st_mtime_ns for path in (finished / "shards/.work/encode").rglob("*.done")}
    with (finished / "stages" / "encode.py").open("a") as file:
        file.write("\n# A comment changes no code.\n")
    assert sorted(stages_run(repro(finished))) == ["encode@jacappella", "encode@musiccaps", "encode@singing"]
    assert marks
    assert {path: path.stat().st_mtime_ns for path in (finished / "shards/.work/encode").rglob("*.done")} == marks
    assert content(finished) == before


@pytest.mark.timeout(2 * SECONDS)
def test_a_killed_repro_with_four_workers_ends_in_the_same_bytes(finished: Path, tmp_path: Path):
    project = make_project(tmp_path / "killed", workers=4)
    seed = int(os.environ.get("SETLIST_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"to repeat: SETLIST_KILL_SEED={seed}")
    draw = random.Random(seed)
    kills = 0
    for _ in range(int(os.environ.get("SETLIST_KILLS", "3"))):
        process = start_repro(project)
        time.sleep(draw.uniform(4, 30))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills
    repro(project)
    assert content(project).keys() == content(finished).keys()
    different = [name for name, data in content(finished).items() if content(project)[name] != data]
    assert different == []
