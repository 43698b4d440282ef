"""The command: results, resume after any stop, messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.train.conftest import killed, result_bytes, sigterm, stopped_at
from tests.train.toys import random_samples, save_encodec, write_empty_pack, write_pack
from train import run
from train.inputs import read_run

RUN_FILES = {"README.md", "adapter", "config.yaml", "metrics.json", "train_log.jsonl"}


def arguments(root: Path, *more: str) -> list[str]:
    return ["--root", str(root), "--shards", str(root / "shards/train"), "--name", "toy", *more]


def adapter_bytes(root: Path) -> bytes:
    return (root / "runs/toy/adapter/adapter_model.safetensors").read_bytes()


def failing(arguments, capsys):
    """Exit code and the one line on stderr."""
    with pytest.raises(SystemExit) as left:
        run.main(arguments)
    return left.value.code, capsys.readouterr().err


def test_a_run_publishes_adapter_metrics_log_settings_and_card(project):
    run.main(arguments(project, "--val", str(project / "shards/test")))
    result = project / "runs/toy"
    assert {path.name for path in result.iterdir()} == RUN_FILES
    metrics = json.loads((result / "metrics.json").read_text())
    assert metrics["step"] == 6
    assert metrics["validation"]["num_validation_episodes"] == 5
    assert len((result / "train_log.jsonl").read_text().splitlines()) == 7
    settings = yaml.safe_load((project / "params.yaml").read_text())["train"]
    kept = read_run(result).params
    assert all(getattr(kept, name) == value for name, value in settings.items() if name in ("steps", "lora_rank"))
    assert kept.num_examples == tuple(settings["num_examples"])
    card = (result / "README.md").read_text()
    assert "train-000002.tar" in card
    assert "examples as codes, captions cross (block), separator learned" in card
    assert "musicgen@sha256:" in card
    assert not any(str(project) in path.read_text() for path in result.rglob("*.*") if path.suffix != ".safetensors")


def test_two_runs_give_the_same_bytes(project, tmp_path):
    run.main(arguments(project))
    first = result_bytes(project)
    shutil.rmtree(project / "runs")
    run.main(arguments(project))
    assert result_bytes(project) == first


def test_a_finished_run_is_only_put_in_place_again(project, capsys):
    run.main(arguments(project))
    before = adapter_bytes(project)
    shutil.rmtree(project / "runs/toy")
    capsys.readouterr()
    run.main(arguments(project, "--set", "train.keep_checkpoints=3"))
    assert "finished before" in capsys.readouterr().err
    assert adapter_bytes(project) == before


@pytest.mark.parametrize("change", ["train.seed=1", "train.learning_rate=0.02", "train.num_examples=1"])
def test_a_changed_setting_trains_anew(project, change, capsys):
    run.main(arguments(project))
    before = adapter_bytes(project)
    run.main(arguments(project, "--set", change))
    assert "finished before" not in capsys.readouterr().err
    assert adapter_bytes(project) != before


def test_changed_shards_train_anew(project):
    run.main(arguments(project))
    before = adapter_bytes(project)
    write_pack(project / "shards/train", "train", random_samples(20, seed=9))
    run.main(arguments(project))
    assert adapter_bytes(project) != before


def test_shards_of_one_name_in_two_folders_both_count(project):
    write_pack(project / "shards/more", "train", random_samples(20, seed=9))
    run.main(arguments(project, "--shards", str(project / "shards/more")))
    before = adapter_bytes(project)
    write_pack(project / "shards/train", "train", random_samples(20, seed=8))
    run.main(arguments(project, "--shards", str(project / "shards/more")))
    assert adapter_bytes(project) != before


DRAWN = ("order=shuffled", "example_crop=random", "null_share=0.2", "bucket_batches=3", "max_batch_columns=70")


@pytest.mark.parametrize("drawn", [(), DRAWN], ids=["default", "all that is drawn"])
def test_sigterm_then_the_same_command_ends_with_the_same_bytes(project, capsys, drawn):
    more = [part for value in drawn for part in ("--set", f"train.{value}")]
    run.main(arguments(project, *more))
    undisturbed, log = adapter_bytes(project), (project / "runs/toy/train_log.jsonl").read_bytes()
    shutil.rmtree(project / "runs")
    with stopped_at(2, sigterm) as left:
        run.main(arguments(project, *more))
    assert left.value.code == 128 + signal.SIGTERM
    assert not (project / "runs/toy").exists()
    run.main(arguments(project, *more))
    assert "going on from step 3" in capsys.readouterr().err
    assert adapter_bytes(project) == undisturbed
    assert (project / "runs/toy/train_log.jsonl").read_bytes() == log


@pytest.mark.timeout(1200)
def test_kill_9_then_the_same_command_ends_with_the_same_bytes(project, capsys):
    long = arguments(project, "--set", "train.steps=120", "--set", "train.lora_dropout=0.1")
    run.main(long)
    undisturbed = adapter_bytes(project)
    shutil.rmtree(project / "runs")
    command, told = [sys.executable, "-m", "train.run", *long], project / "told.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with told.open("w") as stderr, subprocess.Popen(command, stderr=stderr, env=environment) as process:
        deadline = time.monotonic() + 600
        while not list((project / "runs").glob(".work/toy/*/checkpoints/step-*")):
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not (project / "runs/toy").exists()
    # No library's remark among them: a process of its own imports all of them anew.
    assert all(
        line.startswith(("memory: ", "episodes take up to", "preflight: ", "step "))
        for line in told.read_text().splitlines()
    )
    [folder] = (project / "runs/.work/toy").glob("*/checkpoints")
    capsys.readouterr()
    run.main(long)
    assert (folder.parent / "result").exists(), "the same command made another fingerprint: was code edited meanwhile?"
    assert "going on from step" in capsys.readouterr().err
    assert adapter_bytes(project) == undisturbed


def test_settings_of_no_effect_may_change_between_a_kill_and_the_resume(project, capsys):
    run.main(arguments(project))
    undisturbed = result_bytes(project)
    shutil.rmtree(project / "runs")
    with stopped_at(5, killed):
        run.main(arguments(project))
    changed = ("checkpoint_every_steps=1", "keep_checkpoints=9", "loader_workers=2", "preflight=false")
    flags = [part for value in (*changed, "tracking=tensorboard") for part in ("--set", f"train.{value}")]
    run.main(arguments(project, *flags))
    assert "going on from step 4" in capsys.readouterr().err
    assert result_bytes(project) == undisturbed


@pytest.mark.parametrize("where", ["validate", "keep_best"])
def test_a_stop_while_validating_ends_with_the_same_bytes(project, monkeypatch, capsys, where):
    flags = arguments(project, "--val", str(project / "shards/test"), "--set", "train.validate_every_steps=3")
    run.main(flags)
    undisturbed = result_bytes(project)
    shutil.rmtree(project / "runs")
    real = getattr(run, where)

    def interrupted(*rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(run, where, interrupted)
        with pytest.raises(SystemExit):
            run.main(flags)
    run.main(flags)
    assert "going on from step 3" in capsys.readouterr().err
    assert result_bytes(project) == undisturbed


def test_a_stop_after_the_last_step_costs_no_step(project, monkeypatch, capsys):
    flags = arguments(project, "--set", "train.checkpoint_every_steps=4")
    run.main(flags)
    undisturbed = result_bytes(project)
    shutil.rmtree(project / "runs")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_result", stopped)
        with pytest.raises(SystemExit) as left:
            run.main(flags)
    assert left.value.code == 130
    run.main(flags)
    assert "going on from step 6" in capsys.readouterr().err
    assert result_bytes(project) == undisturbed


def test_validation_is_an_exact_epoch_unless_asked_for_less(project):
    flags = arguments(project, "--val", str(project / "shards/train"), "--set", "train.batch_size=3")
    run.main(flags)
    metrics = json.loads((project / "runs/toy/metrics.json").read_text())
    assert metrics["validation"]["num_validation_episodes"] == 20
    run.main([*flags, "--set", "train.validation_batches=2"])
    metrics = json.loads((project / "runs/toy/metrics.json").read_text())
    assert metrics["validation"]["num_validation_episodes"] == 6


def test_a_limit_holds_for_both_splits_and_is_another_run(project):
    flags = arguments(project, "--val", str(project / "shards/test"))
    run.main(flags)
    whole = adapter_bytes(project)
    run.main([*flags, "--limit", "3"])
    assert adapter_bytes(project) != whole
    metrics = json.loads((project / "runs/toy/metrics.json").read_text())
    assert metrics["validation"]["num_validation_episodes"] == 3
    card = (project / "runs/toy/README.md").read_text()
    assert "| train | toy | 3 |" in card
    assert "| val | toy | 3 |" in card


def test_a_validation_loss_that_is_not_finite_does_not_cost_the_run(project, monkeypatch):
    monkeypatch.setattr(run, "validate", lambda *_: {"validation_loss": float("nan"), "num_validation_episodes": 5})
    run.main(arguments(project, "--val", str(project / "shards/test")))
    metrics = json.loads((project / "runs/toy/metrics.json").read_text())
    assert metrics["validation"]["validation_loss"] is None
    assert metrics["best_validation"] is None
    assert "last validation loss: not finite (step 6)" in (project / "runs/toy/README.md").read_text()


def test_full_training_publishes_a_whole_checkpoint(project):
    run.main(arguments(project, "--set", "train.method=full"))
    files = {path.name for path in (project / "runs/toy/model").iterdir()}
    assert {"config.json", "model.safetensors", "parts.safetensors", "tokenizer.json"} <= files


def test_dry_run_says_what_it_would_do_and_does_nothing(project, capsys):
    run.main(arguments(project, "--dry-run"))
    assert "would train 6 steps on 3 shards" in capsys.readouterr().out
    assert not (project / "runs").exists()


def test_bad_settings_are_one_line_and_exit_2(project, capsys):
    code, text = failing(arguments(project, "--set", "train.steps=-1"), capsys)
    assert (code, text.count("\n")) == (2, 1)
    assert "train.steps: must be above 0, not -1" in text
    code, text = failing([*arguments(project), "--name", "../x"], capsys)
    assert code == 2
    assert "--name" in text


def test_a_name_that_holds_something_else_is_refused(project, capsys):
    (project / "runs/toy").mkdir(parents=True)
    (project / "runs/toy/mine.txt").touch()
    code, text = failing(arguments(project), capsys)
    assert code == 2
    assert "holds something that train.run did not make" in text
    assert (project / "runs/toy/mine.txt").exists()


def test_a_missing_base_model_is_one_line_and_exit_1(project, capsys):
    code, text = failing(arguments(project, "--set", "models.generator=nowhere"), capsys)
    assert (code, text.count("\n")) == (1, 1)
    assert "generator" in text


@pytest.mark.parametrize("preflight", ["true", "false"])
def test_a_base_that_is_no_musicgen_is_one_line_and_exit_1(project, capsys, preflight):
    save_encodec(project / "checkpoints/encodec")
    code, line = failing(
        arguments(project, "--set", "models.generator=encodec", "--set", f"train.preflight={preflight}"), capsys
    )
    assert code == 1
    assert "checkpoints/encodec" in line
    assert ("its config.json says encodec" in line) == (preflight == "true")


def test_validation_shards_of_another_codec_are_refused_before_the_first_step(project, capsys):
    write_pack(project / "shards/other", "val", random_samples(3, num_codebooks=2))
    code, said = failing(arguments(project, "--val", str(project / "shards/other")), capsys)
    assert code == 1
    assert "holds codes of another codec" in said
    assert "step 1," not in said


def test_what_asks_for_validation_without_val_is_told(project, capsys):
    run.main(arguments(project, "--set", "train.num_samples=1"))
    assert "no --val names tars, so neither has an effect" in capsys.readouterr().err


def test_shards_of_another_codec_are_refused(project, capsys):
    sample = random_samples(1, codebook_size=8)[0]
    write_pack(project / "shards/train", "train", [sample])
    code, text = failing(arguments(project), capsys)
    assert code == 1
    assert "codes of another codec" in text


def test_an_empty_set_is_refused(project, capsys):
    shutil.rmtree(project / "shards/train")
    write_empty_pack(project / "shards/train", "train")
    code, text = failing(arguments(project), capsys)
    assert (code, text.count("not one sample")) == (1, 1)


def test_an_empty_validation_set_is_none_and_says_so(project, capsys):
    empty = write_empty_pack(project / "shards/val", "val")
    run.main(arguments(project, "--val", str(empty)))
    assert capsys.readouterr().err.count("no sample to validate on") == 1
    assert json.loads((project / "runs/toy/metrics.json").read_text())["validation"] is None


@pytest.mark.parametrize(("num_examples", "said"), [("[0, 5]", 1), ("3", 0)])
def test_more_examples_than_were_packed_are_told_once(project, num_examples, said, capsys):
    run.main(arguments(project, "--set", f"train.num_examples={num_examples}"))
    assert capsys.readouterr().err.count("train.num_examples asks for 5, these shards hold at most 3") == said


def test_shards_are_looked_for_below_root_too(project, capsys):
    run.main(["--root", str(project), "--shards", "shards/train/train-*.tar", "--name", "toy", "--dry-run"])
    assert "on 3 shards" in capsys.readouterr().out
    code, text = failing(["--root", str(project), "--shards", "shards/none-*.tar", "--name", "toy"], capsys)
    assert (code, text.count("\n")) == (2, 1)
    assert "shards/none-*.tar: no such tar" in text


def test_help_needs_no_heavy_package():
    check = (
        "import sys, train.run, train.generate, train.evaluate; print('torch' in sys.modules, 'peft' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
