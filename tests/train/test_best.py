"""The weights of the lowest validation loss: kept beside the newest, published on request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import ParamsError
from tests.train.conftest import killed, result_bytes, stopped_at
from tests.train.test_loop import make_trainer
from train import best, checkpoint, run
from train.params import TrainParams

LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0}
"""Validation losses by step: lowest at 4, which 8 only equals."""


def arguments(root: Path, *settings: str) -> list[str]:
    named = ["--root", str(root), "--shards", str(root / "shards/train"), "--val", str(root / "shards/test")]
    every = ("train.steps=8", "train.validate_every_steps=2", *settings)
    return [*named, "--name", "toy", *(part for setting in every for part in ("--set", setting))]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Training whose validation losses are LOSSES, whatever was learned; counts the validations."""
    seen: dict[str, list[int]] = {"steps": []}
    real = best.keep_best

    def keep(folder, trainer, figures):
        seen["steps"].append(trainer.position.step)
        figures |= {"validation_loss": LOSSES[trainer.position.step]}
        real(folder, trainer, figures)

    monkeypatch.setattr(run, "keep_best", keep)
    return seen


def metrics(root: Path) -> dict:
    return json.loads((root / "runs/toy/metrics.json").read_text())


def adapter_bytes(root: Path) -> bytes:
    return result_bytes(root)["adapter/adapter_model.safetensors"]


def test_the_best_survives_newer_checkpoints_and_gives_way_to_a_better_one(model, tmp_path):
    trainer = make_trainer(model)
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5), (4, float("nan")), (5, 2.0)):
        trainer.position.step = step
        best.keep_best(tmp_path, trainer, {"validation_loss": loss, "num_validation_episodes": 1})
        checkpoint.save_checkpoint(tmp_path, trainer, keep=1)
    best.keep_best(tmp_path, trainer, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-000002", "step-000005"]
    assert best.read_figures(tmp_path / "best-000002")["validation_loss"] == 2.0
    trainer.position.step = 6
    best.keep_best(tmp_path, trainer, {"validation_loss": 1.9})
    assert best.best_checkpoint(tmp_path) == tmp_path / "best-000006"
    assert not (tmp_path / "best-000002").exists()


def test_a_best_under_way_does_not_replace_the_one_before(model, tmp_path, monkeypatch):
    trainer = make_trainer(model)
    trainer.position.step = 1
    best.keep_best(tmp_path, trainer, {"validation_loss": 2.0})
    trainer.position.step = 2

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(best, "save_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        best.keep_best(tmp_path, trainer, {"validation_loss": 1.0})
    assert best.best_checkpoint(tmp_path) == tmp_path / "best-000001"


def test_a_kill_between_new_and_old_leaves_two_of_which_the_better_counts(model, tmp_path):
    trainer = make_trainer(model)
    trainer.position.step = 1
    best.keep_best(tmp_path, trainer, {"validation_loss": 2.0})
    shutil.copytree(tmp_path / "best-000001", tmp_path / "kept")
    trainer.position.step = 2
    best.keep_best(tmp_path, trainer, {"validation_loss": 1.0})
    (tmp_path / "kept").rename(tmp_path / "best-000001")
    assert best.best_checkpoint(tmp_path) == tmp_path / "best-000002"


def test_publishing_the_best_puts_its_weights_in_place(model, tmp_path):
    trainer = make_trainer(model, publish="best", steps=8, validate_every_steps=2)
    trainer.position.step = 4
    best.keep_best(tmp_path, trainer, {"validation_loss": 2.0})
    at_best = {name: value.clone() for name, value in trainer.trainable.items()}
    with torch.no_grad():
        for value in trainer.trainable.values():
            value.add_(1)
    trainer.position.step = 8
    told = best.choose_published(tmp_path, trainer)
    assert told == {"best_validation": {"step": 4, "validation_loss": 2.0}, "published": {"which": "best", "step": 4}}
    assert all(torch.equal(value, at_best[name]) for name, value in trainer.trainable.items())


def test_a_run_without_a_finite_loss_has_no_best_to_publish(model, tmp_path):
    trainer = make_trainer(model, publish="best", steps=8, validate_every_steps=2)
    with pytest.raises(ParamsError, match="no validation gave a finite loss"):
        best.choose_published(tmp_path, trainer)


def test_metrics_and_card_tell_the_last_and_the_lowest_loss(project, scripted):
    run.main(arguments(project))
    said = metrics(project)
    assert scripted["steps"] == [2, 4, 6, 8]
    assert said["validation"]["step"] == 8
    assert (said["best_validation"]["step"], said["best_validation"]["validation_loss"]) == (4, 2.0)
    assert said["published"] == {"which": "last", "step": 8}
    card = (project / "runs/toy/README.md").read_text()
    assert "lowest validation loss: 2 nats per code (step 4)" in card
    assert "these weights: of step 8 (last)" in card


def test_the_published_best_is_what_a_run_of_so_many_steps_had(project, scripted):
    run.main(arguments(project, "train.schedule=constant"))
    last = adapter_bytes(project)
    shutil.rmtree(project / "runs")
    run.main(arguments(project, "train.schedule=constant", "train.publish=best"))
    assert metrics(project)["published"] == {"which": "best", "step": 4}
    assert "these weights: of step 4 (best)" in (project / "runs/toy/README.md").read_text()
    at_best = adapter_bytes(project)
    shutil.rmtree(project / "runs")
    run.main(arguments(project, "train.schedule=constant", "train.steps=4"))
    assert at_best == adapter_bytes(project)
    assert at_best != last


def test_a_killed_run_ends_with_the_same_best(project, scripted, capsys):
    settings = ("train.publish=best", "train.checkpoint_every_steps=3")
    run.main(arguments(project, *settings))
    undisturbed = result_bytes(project)
    shutil.rmtree(project / "runs")
    with stopped_at(5, killed):
        run.main(arguments(project, *settings))
    [kept] = (project / "runs/.work/toy").glob("*/checkpoints")
    assert sorted(path.name for path in kept.iterdir()) == ["best-000004", "step-000003"]
    run.main(arguments(project, *settings))
    assert "going on from step 3" in capsys.readouterr().err
    assert result_bytes(project) == undisturbed


def test_a_full_training_publishes_its_best_too(project, scripted):
    run.main(arguments(project, "train.method=full", "train.publish=best"))
    assert metrics(project)["published"] == {"which": "best", "step": 4}
    assert load_file(project / "runs/toy/model/model.safetensors")


@pytest.mark.parametrize(("every", "steps"), [(0, 8), (8, 8), (9, 8)])
def test_the_best_of_one_validation_is_refused(every, steps):
    with pytest.raises(ParamsError, match=r"train\.publish best: .* the last step alone is validated"):
        TrainParams(publish="best", validate_every_steps=every, steps=steps)


def test_the_best_without_validation_shards_is_refused_before_training(project, capsys):
    shutil.rmtree(project / "shards/test")
    flags = arguments(project, "train.publish=best")
    del flags[flags.index("--val") : flags.index("--val") + 2]
    with pytest.raises(SystemExit) as left:
        run.main(flags)
    assert left.value.code == 2
    assert "train.publish best: nothing to validate on" in capsys.readouterr().err
    assert not (project / "runs/toy").exists()
