"""dvc.yaml against the code: deps cover what each stage imports, one described command per stage."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.provenance import NO_BYTES_CHANGE, import_closure, module_file
from pipeline.sources.table import CORPORA
from tests.conftest import REPOSITORY

GRAPH: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text("utf-8"))["stages"]
PRESETS = sorted(path.stem for path in (REPOSITORY / "pipeline" / "presets").glob("*.yaml"))


def inner(stage: str) -> dict[str, Any]:
    return GRAPH[stage].get("do", GRAPH[stage])


def module_of(stage: str) -> str:
    (module,) = re.findall(r"python -m ([\w.]+)", inner(stage)["cmd"])
    return module


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_deps_cover_the_import_closure(stage: str, corpus: str):
    deps = [dep.replace("${key}", corpus) for dep in inner(stage)["deps"]]
    roots = [module_of(stage)] + ([f"pipeline.sources.{corpus}"] if stage == "ingest" else [])
    modules = {name for root in roots for name in import_closure(root)} - NO_BYTES_CHANGE
    files = [
        path.relative_to(REPOSITORY) for name in modules if (path := module_file(name)) and path.name != "__init__.py"
    ]
    assert len(files) > 3
    uncovered = [str(path) for path in files if not any(path.is_relative_to(dep) for dep in deps)]
    assert uncovered == []


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_deps_name_files_that_exist(stage: str):
    for dep in inner(stage)["deps"]:
        if "$" not in dep and not dep.startswith(("shards/", "runs/")):
            assert (REPOSITORY / dep).exists(), dep


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_every_stage_is_one_described_command_without_persist(stage: str):
    body = inner(stage)
    assert body["desc"]
    assert not re.search(r"[;&|`]|\$\(", body["cmd"].replace("${", "")), body["cmd"]
    assert "persist" not in str(body)
    assert stage == "report" or "cache" not in str(body)


def test_the_graph_is_short():
    assert len((REPOSITORY / "dvc.yaml").read_text("utf-8").splitlines()) < 300


def test_engine_settings_belong_to_no_stage():
    assert not [stage for stage in GRAPH if "engine" in str(inner(stage).get("params", []))]


def stage_list(folder: Path, preset: str) -> list[str]:
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copy(REPOSITORY / "pipeline" / "presets" / f"{preset}.yaml", folder / "params.yaml")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q", "--no-scm"], cwd=folder, check=True, capture_output=True)
    listed = subprocess.run([*dvc, "stage", "list"], cwd=folder, check=True, capture_output=True, text=True)
    return [line.split()[0] for line in listed.stdout.splitlines()]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_demo_vanishes_from_the_full_presets(tmp_path: Path, preset: str):
    stages = stage_list(tmp_path, preset)
    built = [name for name in stages if name.startswith("demo@")]
    assert built == (
        ["demo@corpus", "demo@jacappella", "demo@singing", "demo@checkpoints"] if preset.startswith("demo") else []
    )
    assert {"split", "report", "ingest@musiccaps", "train@semantic", "evaluate@random"} <= set(stages)
