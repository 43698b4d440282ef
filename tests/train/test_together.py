"""Several processes: what they learn together, stops, resume. Two real ones, by gloo, started as each launcher does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.train.conftest import make_toy_project, result_bytes
from train.data import PackedShards
from train.icl.adapter import load_trained, make_trainable
from train.icl.batches import train_batch
from train.icl.loss import mean_loss
from train.icl.model import load_model
from train.inputs import read_run
from train.loop import Trainer, read_log
from train.params import TrainParams

ROOT = Path(__file__).parents[2]
FSDP_ENVIRON = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "MusicgenDecoderLayer",
}
"""What `accelerate launch --config_file train/launch/fsdp.yaml` tells each process.

The part of it that the trainer reads; what is false there is left out.
"""
# Nothing is drawn, so that a batch of 4 shows what two of 2 show; and no step depends on the number of steps.
SETTINGS = ("num_examples=3", "batch_size=2", "schedule=constant", "steps=100")
START_S = 600
"""Until processes have imported all that they need."""
pytestmark = pytest.mark.timeout(2 * START_S)


def arguments(root: Path, *settings: str) -> list[str]:
    flags = [part for value in (*SETTINGS, *settings) for part in ("--set", f"train.{value}")]
    shards = ["--shards", str(root / "shards/train"), "--val", str(root / "shards/test")]
    return ["--root", str(root), *shards, "--name", "toy", *flags]


def start_two(root: Path, *settings: str, command=None, **environ: str) -> list[subprocess.Popen[str]]:
    """Start two processes as torchrun does."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1])}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **environ}
    command = [sys.executable, *(command or ["-m", "train.run", *arguments(root, *settings)])]
    return [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]


def finish(processes) -> tuple[list[int], list[str]]:
    """Exit codes and what was said; none may outlive the test."""
    try:
        told = [process.communicate(timeout=START_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def wait_for_checkpoint(root: Path, processes) -> None:
    deadline = time.monotonic() + START_S
    while not list((root / "runs").glob(".work/toy/*/checkpoints/step-*")):
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(log: Path) -> list[float]:
    return [line["loss"] for line in read_log(log) if "loss" in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, musicgen) -> Path:
    """A project with a run that two processes finished."""
    root = make_toy_project(tmp_path_factory.mktemp("two"), musicgen)
    codes, told = finish(start_two(root, "checkpoint_every_steps=50"))
    assert codes == [0, 0], told
    # The second one has nothing to add; the first shows a line for each step and the validation.
    assert told[1] == ""
    assert sum(line.startswith("step ") for line in told[0].splitlines()) == 101
    return root


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, musicgen) -> tuple[Path, list[int], list[str]]:
    """The same, whose second process got a SIGTERM; with exit codes and what was said."""
    root = make_toy_project(tmp_path_factory.mktemp("stopped"), musicgen)
    processes = start_two(root, "checkpoint_every_steps=1", "keep_checkpoints=999")
    wait_for_checkpoint(root, processes)
    processes[1].send_signal(signal.SIGTERM)
    return (root, *finish(processes))


def test_two_processes_write_one_result(undisturbed):
    result = undisturbed / "runs/toy"
    assert {path.name for path in result.iterdir()} >= {"README.md", "adapter", "config.yaml", "metrics.json"}
    assert json.loads((result / "metrics.json").read_text())["step"] == 100
    settings = yaml.safe_load((result / "config.yaml").read_text())
    assert settings["processes"] == {"kind": "ddp", "number": 2}


def test_two_batches_of_two_are_one_of_four(stopped, musicgen):
    root, *_ = stopped
    params = TrainParams(num_examples=3, batch_size=4, learning_rate=0.01, lora_rank=4, schedule="constant")
    model = load_model(str(musicgen), params=params)

    def loss_of(batch):
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    trainer = Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)
    shards = PackedShards(sorted((root / "shards/train").glob("*.tar")), model.codec)
    [folder] = (root / "runs/.work/toy").glob("*/checkpoints/step-000001")
    logged = losses(next((root / "runs/.work/toy").glob("*/train_log.jsonl")))
    result = trainer.step([train_batch(shards, 0, params, codebook_size=16)])
    assert result.loss == pytest.approx(logged[0], abs=1e-6)
    moments = load_file(folder / "moments.safetensors")
    for i, value in enumerate(group for groups in trainer.optimiser.param_groups for group in groups["params"]):
        # After one step the first moment is a tenth of the gradient.
        assert torch.allclose(trainer.optimiser.state[value]["exp_avg"], moments[f"{i}.exp_avg"], atol=1e-7), i
    more = [trainer.step([train_batch(shards, i, params, codebook_size=16)]).loss for i in range(1, len(logged))]
    assert more[:4] == pytest.approx(logged[1:5], abs=1e-4)


def test_a_signal_to_one_stops_all_at_one_step_and_the_same_command_ends_with_the_same_bytes(stopped, undisturbed):
    root, codes, told = stopped
    assert codes == [128 + signal.SIGTERM] * 2, told
    [last] = [line for line in told[0].splitlines() if "stopped at step" in line]
    step = int(last.split()[3].rstrip(";"))
    assert list((root / "runs/.work/toy").glob(f"*/checkpoints/step-{step:06d}"))
    assert step < 100
    codes, told = finish(start_two(root))
    assert codes == [0, 0], told
    assert f"going on from step {step}" in told[0]
    assert result_bytes(root) == result_bytes(undisturbed)


@pytest.mark.long
def test_fsdp_learns_what_ddp_learns_and_its_adapter_loads(undisturbed, tmp_path, musicgen):
    root = make_toy_project(tmp_path, musicgen)
    codes, told = finish(start_two(root, "steps=4", **FSDP_ENVIRON))
    assert codes == [0, 0], told
    expected = losses(undisturbed / "runs/toy/train_log.jsonl")
    assert losses(root / "runs/toy/train_log.jsonl") == pytest.approx(expected[:4], abs=1e-4)
    finished = read_run(root / "runs/toy")
    names = set(load_file(root / "runs/toy/adapter/adapter_model.safetensors"))
    assert names == set(load_file(undisturbed / "runs/toy/adapter/adapter_model.safetensors"))
    load_trained(finished, str(musicgen))


AGREE = """
import math, os
from train.loop import StepResult
from train.processes import joined, read_launch
launch = read_launch(os.environ)
with joined(launch, "cpu") as processes:
    result = processes.agree(StepResult(1.0 + launch.rank, math.inf if launch.rank else 0.5, 10, 20))
    assert (result.loss, result.num_columns, result.num_codes) == (3.0, 20, 40), result
    assert not result.finite, result
    assert processes.agree(StepResult(1.0, 0.5, 1, 1)).finite
    assert not processes.agree(StepResult(math.nan if launch.rank else 1.0, 0.5, 1, 1)).finite
    assert processes.agree_stop(15 * launch.rank) == 15
    assert processes.from_main(lambda: launch.rank) == 0
"""


@pytest.mark.long
def test_a_step_that_is_bad_for_one_is_bad_for_all(tmp_path):
    codes, told = finish(start_two(tmp_path, command=["-c", AGREE]))
    assert codes == [0, 0], told


@pytest.mark.long
def test_a_killed_process_ends_the_other_with_one_line(tmp_path, musicgen):
    root = make_toy_project(tmp_path, musicgen)
    processes = start_two(root, "steps=5000", "checkpoint_every_steps=1")
    wait_for_checkpoint(root, processes)
    processes[1].kill()
    codes, told = finish(processes)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this training ended" in told[0].splitlines()[-1]


DRAWN = ("num_examples=[0, 3]", "accumulate=2", "max_batch_columns=40")
"""Processes differ in how many passes they make, and in whether these hold a separator."""


@pytest.mark.long
@pytest.mark.parametrize("environ", [{}, FSDP_ENVIRON], ids=["ddp", "fsdp"])
def test_passes_that_differ_between_processes_add_up_to_one_gradient(tmp_path, musicgen, environ):
    root = make_toy_project(tmp_path, musicgen)
    codes, told = finish(start_two(root, *DRAWN, "steps=4", **environ))
    assert codes == [0, 0], told
    params = TrainParams(num_examples=(0, 3), batch_size=2, learning_rate=0.01, lora_rank=4, schedule="constant")
    model = load_model(str(musicgen), params=params)

    def loss_of(batch):
        # Half the batches of the processes' step count as one.
        return 2 * mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    trainer = Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)
    shards = PackedShards(sorted((root / "shards/train").glob("*.tar")), model.codec)
    for line in read_log(root / "runs/toy/train_log.jsonl")[:4]:
        first = 4 * (line["step"] - 1)
        batches = [train_batch(shards, i, params, codebook_size=16) for i in range(first, first + 4)]
        counts_AK = [batches[i].counts_K + batches[i + 1].counts_K for i in (0, 2)]
        result = trainer.step([replace(batch, counts_K=counts_AK[i // 2]) for i, batch in enumerate(batches)])
        assert line["loss"] == pytest.approx(result.loss, abs=1e-4)
        assert line["grad_norm"] == pytest.approx(result.grad_norm, rel=1e-3)


STOPPED = {
    "fsdp lora": (FSDP_ENVIRON, ("lora_dropout=0.1", "validate_every_steps=1", "publish=best")),
    "fsdp full": (FSDP_ENVIRON, ("method=full", "gradient_checkpointing=true")),
    "ddp streams": ({}, ("lora_dropout=0.1", "validate_every_steps=1", "publish=best", "loader_workers=2")),
    "ddp samples": ({}, ("gradient_checkpointing=true", "bucket_batches=3", "num_samples=1", "validate_every_steps=9")),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(STOPPED))
def test_whatever_was_stopped_ends_with_the_same_bytes(tmp_path, musicgen, kind):
    root, (environ, settings) = make_toy_project(tmp_path, musicgen), STOPPED[kind]
    command = ["-m", "train.run", *arguments(root, *DRAWN, "steps=20", *settings)]
    if kind == "ddp streams":
        command[command.index("--shards") + 1] = f"pipe:cat {root}/shards/train/train-{{000000..000002}}.tar"
    codes, told = finish(start_two(root, command=command, **environ))
    assert codes == [0, 0], told
    undisturbed = result_bytes(root)
    shutil.rmtree(root / "runs")
    often = [*command, "--set", "train.checkpoint_every_steps=1"]
    processes = start_two(root, command=often, **environ)
    wait_for_checkpoint(root, processes)
    processes[0].send_signal(signal.SIGTERM)
    codes, told = finish(processes)
    assert codes == [128 + signal.SIGTERM] * 2, told
    codes, told = finish(start_two(root, command=command, **environ))
    assert codes == [0, 0], told
    assert "going on from step" in told[0]
    assert result_bytes(root) == undisturbed


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"],
    "accelerate": ["-m", "accelerate.commands.launch", "--config_file", "train/launch/ddp.yaml", "--main_process_port"],
}


@pytest.mark.long
@pytest.mark.parametrize("launcher", sorted(LAUNCHERS))
def test_a_process_killed_under_a_launcher_leaves_nobody_behind(tmp_path, musicgen, launcher):
    root = make_toy_project(tmp_path, musicgen)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        flags = [*LAUNCHERS[launcher], str(port.getsockname()[1])]
    command = [sys.executable, *flags, "-m", "train.run", *arguments(root, "steps=5000", "checkpoint_every_steps=1")]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_for_checkpoint(root, [process])
        workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "-u" in child.cmdline()]
        assert len(workers) == 2
        workers[1].kill()
        assert process.wait(START_S) != 0
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    shutil.rmtree(root / "runs")
