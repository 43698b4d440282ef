"""What is looked at before the first step, and what a training says that runs out of memory."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig
from transformers.utils import logging

from pipeline.errors import ContractError
from tests.train import toys
from tests.train.test_run import adapter_bytes, arguments, failing
from train import advice, run
from train.advice import available_bytes, is_out_of_memory, needed_bytes, remedies
from train.icl.adapter import make_trainable
from train.icl.loss import mean_loss
from train.icl.model import load_model
from train.icl.recompute import recompute_layers
from train.params import TrainParams
from train.preflight import check_gradients, check_reload, longest_batch, preflight
from train.shapes import published_config


def prepared(musicgen, **settings):
    params = TrainParams(**({"max_example_frames": 24, "max_target_frames": 30, "max_text_tokens": 8} | settings))
    model = load_model(str(musicgen), params=params)
    trainable = make_trainable(model, params)
    recompute_layers(model.network, params.gradient_checkpointing)
    return model, trainable, params


def look(model, trainable, params):
    def loss_of(batch):
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    preflight(model, trainable, loss_of=loss_of, params=params)


def set_all(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", f"train.{setting}")]


FORMATS = [
    {},
    {"gradient_checkpointing": True, "lora_targets": "all", "lora_dropout": 0.5},
    {"cross_attention": "full", "representation": "both", "clap_dim": 4},
    {"text_placement": "inline", "representation": "clap", "clap_dim": 4},
    {"separator": "text"},
    {"num_examples": 0},
    {"example_codebooks": 1, "loss_on": "all"},
    {"max_total_columns": 60},
    {"method": "full"},
    {"method": "full", "text_placement": "inline"},
]


@pytest.mark.parametrize("settings", FORMATS, ids=str)
def test_every_format_passes_and_nothing_of_it_stays(musicgen, settings, capsys):
    model, trainable, params = prepared(musicgen, **settings)
    before = {name: value.detach().clone() for name, value in model.network.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(2), random.getstate()
    torch.manual_seed(3)
    look(model, trainable, params)
    assert torch.equal(torch.rand(2), drawn[0])
    assert random.getstate() == drawn[1]
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in trainable.values())
    told = capsys.readouterr().err
    assert f"{len(trainable)} weights get a gradient" in told
    assert ("comes back from its file" in told) == (params.method == "lora")


def test_the_step_is_as_long_as_the_settings_allow(musicgen):
    model, _, params = prepared(musicgen)
    # Three examples of 24 with flush and separator, and a target of 30 with its flush.
    assert longest_batch(model, params, 2).lengths == [3 * (24 + 3 + 1) + 33] * 2
    model, _, params = prepared(musicgen, max_total_columns=100)
    assert longest_batch(model, params, 1).lengths == [2 * 28 + 33]


def test_four_bit_weights_pass_and_stay(tmp_path):
    wide = toys.save_musicgen(tmp_path / "wide", width=64, text_width=64)
    model, trainable, params = prepared(wide, base_weights="nf4")
    layer = model.network.decoder.model.decoder.layers[0].fc1.weight
    before = layer.detach().clone()
    look(model, trainable, params)
    assert torch.equal(layer, before)


@pytest.mark.parametrize("separator", ["learned", "none"])
def test_adapters_off_the_way_to_the_loss_are_named(project, separator, capsys):
    targets = r"lora_targets=text_encoder\..*\.(q|v)"
    code, told = failing(arguments(project, *set_all(targets, f"separator={separator}")), capsys)
    assert code == 1
    assert "no gradient reaches 4 of" in told
    assert "text_encoder.encoder.block.0" in told
    assert "train.lora_targets" in told


def test_a_gradient_that_is_not_finite_is_named():
    values = {name: torch.nn.Parameter(torch.ones(2)) for name in ("good", "bad")}
    values["good"].grad, values["bad"].grad = torch.ones(2), torch.tensor([1.0, torch.nan])
    with pytest.raises(ContractError, match=r"gradient of 1 of 2 trained weights \(bad\) is not finite"):
        check_gradients(values)


def test_a_damaged_base_model_is_noticed_before_the_first_step(project, tmp_path, capsys):
    damaged = toys.save_musicgen(tmp_path / "damaged", layers=1)
    from transformers import MusicgenForConditionalGeneration

    whole = MusicgenForConditionalGeneration.from_pretrained(damaged)
    whole.decoder.lm_heads[0].weight.data[0, 0] = torch.nan
    whole.save_pretrained(damaged)
    code, told = failing(arguments(project, "--set", f"models.generator={damaged}"), capsys)
    assert code == 1
    assert "not finite" in told
    assert "step 1" not in told


def test_an_adapter_that_is_not_saved_is_noticed(musicgen):
    model, trainable, params = prepared(musicgen)
    # Trained, and no part of the adapter: peft does not know it.
    head = model.network.decoder.lm_heads[0].weight.requires_grad_(True)
    with pytest.raises(ContractError, match=r"does not come back .* 1 of \d+ trained weights \(head\) differ"):
        check_reload(model, trainable | {"head": head}, params)


def test_too_much_is_refused_before_anything_is_loaded_with_what_would_fit(project, capsys):
    code, told = failing(arguments(project, *set_all("batch_size=200000")), capsys)
    assert (code, told.count("\n")) == (1, 1)
    assert re.search(r"[\d.]+ GB planned for 200000 x 1,955 columns, but only [\d.]+ GB free on cpu", told)
    assert "train.batch_size: 1, train.accumulate: 200000" in told


@pytest.mark.parametrize(
    ("free_gb", "told"),
    [
        (1, r"memory: 0\.\d\d GB planned for 4 x 1,955 columns, 1\.00 GB free on cpu\n"),
        (40, r"memory: less than \d\.\d\d GB needed, 40\.00 GB free on cpu\n"),
    ],
)
def test_memory_is_planned_where_it_may_be_short(musicgen, tmp_path, monkeypatch, capsys, free_gb, told):
    monkeypatch.setattr(advice, "free_bytes", lambda _: free_gb * 10**9)
    with advice.advised(musicgen, TrainParams(batch_size=4), device="cpu", checkpoints=tmp_path):
        assert re.fullmatch(told, capsys.readouterr().err)


def config_of(musicgen):
    logging.set_verbosity_error()
    return AutoConfig.from_pretrained(musicgen)


def test_remedies_are_planned_and_fit(musicgen):
    config, params = config_of(musicgen), TrainParams(batch_size=1, num_examples=3)
    now = needed_bytes(config, params, "cpu")[0]
    found = remedies(config, params, "cpu", most_bytes=0.9 * now)
    assert found[0].changes == {"train.gradient_checkpointing": True}
    assert all(remedy.needed_bytes <= 0.9 * now for remedy in found)
    changed = TrainParams(batch_size=1, num_examples=3, gradient_checkpointing=True)
    assert found[0].needed_bytes == needed_bytes(config, changed, "cpu")[0]
    assert str(found[0]) == f"train.gradient_checkpointing: true ({found[0].needed_bytes / 1e9:.2f} GB)"


def test_where_no_single_change_is_enough_they_are_added_up(musicgen):
    config, params = config_of(musicgen), TrainParams(batch_size=4, precision="fp32")
    now = needed_bytes(config, params, "cpu")[0]
    single = remedies(config, params, "cpu", most_bytes=0.5 * now)
    assert {len(remedy.changes) for remedy in single} <= {1, 2}
    least = min(remedy.needed_bytes for remedy in single)
    [several] = remedies(config, params, "cpu", most_bytes=0.3 * least)
    assert len(several.changes) > 2
    assert several.needed_bytes <= 0.3 * least
    assert remedies(config, params, "cpu", most_bytes=1000) == []


@pytest.mark.long
def test_a_whole_decoder_is_told_of_lora():
    params = TrainParams(
        batch_size=1, method="full", gradient_checkpointing=True, num_examples=0, optimiser="adafactor"
    )
    found = remedies(published_config("small"), params, "cuda", most_bytes=4e9)
    assert found[0].changes == {"train.method": "lora"}


@pytest.mark.long
def test_a_smaller_model_is_the_last_remedy(monkeypatch):
    # No other change, so that nothing else takes long to plan.
    monkeypatch.setattr(advice, "_moves", lambda _: [])
    [found] = remedies(published_config("medium"), TrainParams(batch_size=1), "cuda", most_bytes=7e9)
    assert found.changes == {"models.generator": "facebook/musicgen-small"}


@pytest.fixture
def machine(tmp_path):
    """Files of a kernel with 8 GB available."""
    files = {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n", "proc/self/cgroup": "0::/job/step\n"}
    return write_files(tmp_path, files)


def write_files(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_memory_is_what_the_tightest_group_leaves(machine):
    assert available_bytes(machine) == 8_192_000_000
    top = "sys/fs/cgroup/"
    write_files(machine, {f"{top}job/step/memory.max": "max\n", f"{top}job/memory.max": "3000000000\n"})
    write_files(
        machine, {f"{top}job/memory.current": "2000000000\n", f"{top}job/memory.stat": "inactive_file 500000000\n"}
    )
    assert available_bytes(machine) == 1_500_000_000


def test_groups_of_the_older_kind_and_other_systems_are_read(machine, tmp_path):
    top = "sys/fs/cgroup/memory/job/"
    files = {f"{top}memory.limit_in_bytes": "2000000000", f"{top}memory.usage_in_bytes": "1500000000"}
    write_files(machine, {**files, "proc/self/cgroup": "4:cpu:/other\n3:memory:/job\n"})
    assert available_bytes(machine) == 500_000_000
    assert available_bytes(tmp_path / "no such root") > 0
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


LIMITED = """
import resource, sys
import numpy as np
from train import run
from train.data import Episode
from train.icl import batches
drawn = batches.train_batch

def large(shards, i, *rest, **options):
    if i < 3:
        return drawn(shards, i, *rest, **options)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000, used + 150_000_000))
    episode = Episode("long", "a", np.ones((4, 500), np.uint16), [], ["a"])
    return batches.collate([episode] * 300, codebook_size=16)

batches.train_batch = large
run.main(sys.argv[1:])
"""


def test_memory_that_runs_out_ends_with_advice_and_the_last_checkpoint(project):
    settings = set_all("checkpoint_every_steps=1", "max_example_frames=10", "max_target_frames=10")
    command = [sys.executable, "-c", LIMITED, *arguments(project, *settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "out of memory on cpu" in last
    assert "can't allocate memory" in last
    assert "train.batch_size: 1, train.accumulate: 4" in last
    assert "the last checkpoint is" in last
    assert "step-000003" in last


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.OutOfMemoryError("CUDA out of memory."), True), (MemoryError(), True), (RuntimeError("shapes"), False)],
    ids=str,
)
def test_only_memory_is_taken_for_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_another_error_of_a_training_stays_as_it_is(musicgen, tmp_path):
    with (
        pytest.raises(RuntimeError, match="shapes"),
        advice.advised(musicgen, TrainParams(preflight=False), device="cpu", checkpoints=tmp_path),
    ):
        raise RuntimeError("shapes")


def test_without_preflight_a_run_gives_the_same_bytes(project, capsys):
    run.main(arguments(project))
    assert "preflight: a step of 1 x" in capsys.readouterr().err
    before = adapter_bytes(project)
    run.main(arguments(project, *set_all("preflight=false")))
    assert "finished before" in capsys.readouterr().err
    run.main(arguments(project, "--name", "other", *set_all("preflight=false")))
    assert "preflight:" not in capsys.readouterr().err
    assert (project / "runs/other/adapter/adapter_model.safetensors").read_bytes() == before
