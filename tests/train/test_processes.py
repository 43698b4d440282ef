"""Several processes: how they know of each other, deal batches out, and what is refused before anything is loaded."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.errors import ParamsError
from tests.train.test_together import FSDP_ENVIRON, ROOT, arguments
from train import run
from train.loop import batch_numbers, seed_step
from train.params import TrainParams
from train.processes import ALONE, PLAIN, Launch, joined, read_launch, refuse_pairs

DDP = Launch("ddp", 1, 2)


def test_batches_are_dealt_out_in_turn():
    alone = [i for step in range(3) for i in batch_numbers(step, TrainParams(accumulate=4), ALONE)]
    assert alone == list(range(12))

    def of_rank(rank):
        processes = type("Two", (), {"rank": rank, "num_processes": 2})()
        return [list(batch_numbers(step, TrainParams(accumulate=2), processes)) for step in range(3)]

    assert of_rank(0) == [[0, 2], [4, 6], [8, 10]]
    assert of_rank(1) == [[1, 3], [5, 7], [9, 11]]


def test_dropout_differs_between_processes_and_layer_drop_does_not():
    drawn = []
    for rank in (0, 1):
        seed_step(3, 5, rank)
        drawn.append((torch.rand(3), random.random()))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]


STARTED = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, PLAIN),
        ({"WORLD_SIZE": "2"}, PLAIN),
        ({**STARTED, "WORLD_SIZE": "1", "RANK": "0"}, PLAIN),
        (STARTED, Launch("ddp", 1, 2)),
        ({**STARTED, "ACCELERATE_USE_FSDP": "true"}, Launch("fsdp", 1, 2)),
        ({**STARTED, "ACCELERATE_USE_DEEPSPEED": "true"}, Launch("deepspeed", 1, 2)),
    ],
)
def test_the_environment_says_who_a_process_is(environ, launch):
    assert read_launch(environ) == launch


def test_a_model_cannot_be_shared_out_among_one_process():
    with pytest.raises(ParamsError, match="but started one; set num_processes to 2 or more"):
        read_launch({"ACCELERATE_USE_FSDP": "true"})


@pytest.mark.parametrize(
    ("settings", "environ", "message"),
    [
        ({"optimiser": "adamw8bit"}, {}, r"train\.optimiser adamw8bit cannot be saved under FSDP"),
        ({"optimiser": "adafactor"}, {}, r"train\.optimiser adafactor cannot be saved under FSDP"),
        ({"base_weights": "nf4"}, {}, r"train\.base_weights nf4 cannot be dealt out by FSDP"),
        ({"num_samples": 1}, {}, r"train\.num_samples was never seen to work under FSDP"),
        ({"compile": True}, {}, r"train\.compile was never seen to work under FSDP"),
        ({}, {"FSDP_VERSION": "1"}, "fsdp_version is 1 in accelerate's config, the trainer needs 2"),
        ({}, {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy is SIZE_BASED_WRAP"),
        ({}, {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is true"),
    ],
)
def test_what_fsdp_cannot_save_is_refused(settings, environ, message):
    with pytest.raises(ParamsError, match=message):
        refuse_pairs(Launch("fsdp", 0, 2), TrainParams(**settings), "cuda", FSDP_ENVIRON | environ)


def test_what_ddp_can_save_is_not_refused():
    for settings in ({"optimiser": "adamw8bit"}, {"base_weights": "nf4"}, {"optimiser": "adafactor"}):
        refuse_pairs(DDP, TrainParams(**settings), "cuda", {})
        with pytest.raises(ParamsError):
            refuse_pairs(Launch("fsdp", 0, 2), TrainParams(**settings), "cuda", FSDP_ENVIRON)


@pytest.mark.parametrize(
    ("settings", "device", "installed", "environ", "message"),
    [
        ({}, "cpu", True, {}, "DeepSpeed on GPUs alone"),
        ({}, "cuda", False, {}, "package deepspeed is not installed; `uv pip install deepspeed`"),
        ({}, "cuda", True, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "knows zero_stage 2"),
        ({}, "cuda", True, {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "mine.json"}, "without a config file"),
        ({"optimiser": "adamw8bit"}, "cuda", True, {}, r"train\.optimiser adamw8bit is not known to work"),
        ({"base_weights": "nf4"}, "cuda", True, {}, r"train\.base_weights nf4 .* set it to fp32 or bf16"),
        ({"precision": "fp16"}, "cuda", True, {}, r"train\.precision fp16 is not known to work"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(settings, device, installed, environ, message, monkeypatch, tmp_path):
    if installed:
        (tmp_path / "deepspeed.py").touch()
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ParamsError, match=message):
        refuse_pairs(Launch("deepspeed", 0, 2), TrainParams(**settings), device, environ)


def test_a_refused_pair_is_one_line_before_anything_is_loaded(project, monkeypatch, capsys):
    for name, value in (FSDP_ENVIRON | STARTED).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        run.main([*arguments(project, "optimiser=adamw8bit"), "--set", "models.generator=nowhere"])
    told = capsys.readouterr().err
    assert (left.value.code, told.count("\n")) == (2, 1)
    assert "train.optimiser adamw8bit cannot be saved under FSDP" in told


def test_more_processes_than_cards_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    with pytest.raises(ParamsError, match=r"99 processes on a machine with \d+ GPU"), joined(DDP, "cuda"):
        pass


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_the_shipped_configs_pass_what_is_refused(name, monkeypatch, tmp_path):
    """Read as accelerate does: the environment that it would hand to each process."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / f"train/launch/{name}.yaml"))
    assert (config.mixed_precision, config.use_cpu) == ("no", False)
    if name == "fsdp":
        environ = {setting.upper(): str(value) for setting, value in config.fsdp_config.items()}
        environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = environ["FSDP_TRANSFORMER_LAYER_CLS_TO_WRAP"]
        refuse_pairs(Launch("fsdp", 0, 2), TrainParams(), "cuda", environ)
    if name == "deepspeed":
        (tmp_path / "deepspeed.py").touch()
        monkeypatch.syspath_prepend(str(tmp_path))
        environ = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(config.deepspeed_config["zero_stage"])}
        refuse_pairs(Launch("deepspeed", 0, 2), TrainParams(), "cuda", environ)
        assert config.deepspeed_config["offload_optimizer_device"] == "cpu"
