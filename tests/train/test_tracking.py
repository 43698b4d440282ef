"""Curves while a training runs, and its progress line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch

from pipeline.errors import ParamsError
from tests.train.conftest import sigterm, stopped_at
from tests.train.test_run import adapter_bytes, arguments, failing
from train import run, tracking
from train.params import TrainParams
from train.tracking import Speed, Tracker, clock, peak_memory_gib

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed: `uv pip install tensorboard`"
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))


def scalars(folder):
    """Steps and values of every curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 3600, 100_000)] == ["0:00:00", "0:01:00", "1:00:00", "27:46:40"]


def test_the_progress_line_has_speed_wait_time_left_and_memory(project, capsys):
    run.main(arguments(project))
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("step 3, "))
    assert re.fullmatch(
        r"step 3, loss [\d.]+, grad_norm [\d.]+, learning_rate [\d.e-]+, [\d,]+ columns/s, data wait [\d.]+ %, "
        r"ETA \d+:\d\d:\d\d, memory \d+\.\d\d GiB",
        line,
    )


def test_memory_is_the_processes_own_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert 0.05 < peak_memory_gib() < 64
    assert str(Speed(1200.4, 1.25, 75, 2.0)) == "1,200 columns/s, data wait 1.2 %, ETA 0:01:15, memory 2.00 GiB"


@needs_tensorboard
def test_a_stopped_and_resumed_run_draws_one_curve_and_keeps_its_bytes(project):
    run.main(arguments(project, "--val", str(project / "shards/test")))
    plain = adapter_bytes(project)
    assert not list((project / "runs").rglob("events.*"))
    again = [*arguments(project, "--val", str(project / "shards/test")), "--set", "train.tracking=tensorboard"]
    again[again.index("toy")] = "again"
    with stopped_at(2, sigterm):
        run.main(again)
    run.main(again)
    [folder] = (project / "runs/.work/again").glob("*/tracking/tensorboard")
    curves = scalars(folder)
    log = [json.loads(line) for line in (project / "runs/again/train_log.jsonl").read_text().splitlines()]
    losses = [(line["step"], pytest.approx(line["loss"])) for line in log if "loss" in line]
    assert curves["loss"] == losses
    assert len(losses) == 6
    assert {"grad_norm", "learning_rate", "columns_per_s", "data_wait_percent", "memory_gib"} <= set(curves)
    assert len(curves["validation_loss"]) == 1
    assert not list((project / "runs/again").rglob("events.*"))
    assert (project / "runs/again/adapter/adapter_model.safetensors").read_bytes() == plain


@needs_tensorboard
def test_what_came_after_the_checkpoint_is_hidden(tmp_path):
    params = TrainParams(tracking="tensorboard")
    for start, steps in ((0, range(1, 6)), (3, range(4, 8))):
        tracker = Tracker(params, tmp_path, step=start)
        for step in steps:
            tracker.log(step, {"loss": float(step), "grad_norm": float("nan"), "name": "x"})
        tracker.close()
    assert scalars(tmp_path / "tracking/tensorboard") == {"loss": [(step, float(step)) for step in range(1, 8)]}


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    message = (
        r"train\.tracking tensorboard: not installed; `uv pip install tensorboard`, or set train\.tracking to none"
    )
    with pytest.raises(ParamsError, match=message):
        Tracker(TrainParams(tracking=("tensorboard",)), tmp_path, step=0)
    Tracker(TrainParams(tracking="none"), tmp_path, step=0).close()
    assert not (tmp_path / "tracking").exists()


OFFLINE_RUN = """
import sys
from pathlib import Path
from train.params import TrainParams
from train.tracking import Tracker
tracker = Tracker(TrainParams(tracking="wandb"), Path(sys.argv[1]), step=0)
for step in range(1, 4):
    tracker.log(step, {"loss": 1.0 / step})
tracker.close()
"""


def test_wandb_writes_offline(tmp_path):
    work = tmp_path / "runs/.work/toy/0123456789abcdef"
    done = subprocess.run([sys.executable, "-c", OFFLINE_RUN, str(work)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [written] = work.glob("tracking/wandb/offline-run-*/run-0123456789abcdef.wandb")
    content = written.read_bytes()
    assert b"loss" in content
    assert b"setlist" in content
    assert not done.stdout


def test_wandb_without_an_account_is_refused_before_hours_are_spent(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ParamsError, match=r"does not start \(No API key configured\.\); log in by `wandb login`, or"):
        Tracker(TrainParams(tracking=("wandb",)), tmp_path, step=0)


def test_an_unknown_tracker_is_named(project, capsys):
    code, text = failing(arguments(project, "--set", "train.tracking=[tensorboard, paper]"), capsys)
    assert code == 2
    assert "tracking" in text
