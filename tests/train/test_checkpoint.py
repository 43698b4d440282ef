"""Checkpoints, results put in place."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.layout import Layout
from pipeline.errors import ContractError, ParamsError
from tests.train.test_loop import make_trainer
from tests.train.toys import random_samples
from train import checkpoint
from train.data import read_episode
from train.icl.batches import collate
from train.icl.model import load_model
from train.params import TrainParams


def toy_batch(model):
    episodes = [read_episode(sample, model.codec, where="toy") for sample in random_samples(4)]
    return [collate(episodes, codebook_size=16)]


def test_a_loaded_checkpoint_goes_on_bit_by_bit(model, musicgen, tmp_path):
    one = make_trainer(model)
    for _ in range(3):
        one.step(toy_batch(model))
    path = checkpoint.save_checkpoint(tmp_path, one, keep=2)
    two = make_trainer(load_model(str(musicgen), params=TrainParams()))
    checkpoint.load_checkpoint(path, two)
    assert two.position == one.position
    results = [trainer.step(toy_batch(model)) for trainer in (one, two)]
    assert results[0] == results[1]
    for name, value in one.trainable.items():
        assert torch.equal(value, two.trainable[name]), name


def test_only_the_newest_checkpoints_stay(model, tmp_path):
    trainer = make_trainer(model)
    for step in (9, 10, 100):
        trainer.position.step = step
        checkpoint.save_checkpoint(tmp_path, trainer, keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-000010", "step-000100"]


def test_a_checkpoint_under_way_is_no_checkpoint(model, tmp_path):
    with checkpoint.whole_folder(tmp_path / "step-000001") as part:
        (part / checkpoint.WEIGHTS_FILE).touch()
        assert checkpoint.list_checkpoints(tmp_path) == []
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-000001"]


def test_a_checkpoint_of_other_weights_is_refused(model, musicgen, tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, make_trainer(model), keep=1)
    other = make_trainer(load_model(str(musicgen), params=TrainParams()), lora_targets="all")
    with pytest.raises(ContractError, match="other weights"):
        checkpoint.load_checkpoint(path, other)


def test_one_process_at_a_time_trains_a_name(tmp_path):
    with (
        checkpoint.claim(tmp_path / "semantic"),
        pytest.raises(ContractError, match="semantic: another process"),
        checkpoint.claim(tmp_path / "semantic"),
    ):
        pass


def test_a_published_result_replaces_the_old_one_and_can_be_published_again(tmp_path):
    work, final = tmp_path / ".work" / "semantic", tmp_path / "semantic"
    final.mkdir()
    (final / "old.txt").touch()
    checkpoint.finish(work / "abc", final, lambda part: (part / "new.txt").write_text("new"))
    assert [path.name for path in final.iterdir()] == ["new.txt"]
    (final / "new.txt").unlink()
    final.rmdir()
    checkpoint.publish_result(work / "abc" / checkpoint.RESULT_FOLDER, final, work)
    assert (final / "new.txt").read_text() == "new"


def test_a_newer_result_takes_the_place_of_older_scratch(tmp_path):
    work = tmp_path / ".work" / "semantic"
    (work / "another-name").mkdir(parents=True)
    for name in ("a" * 16, "b" * 16):
        (work / name / "checkpoints").mkdir(parents=True)
        checkpoint.finish(work / name, tmp_path / "semantic", lambda part: (part / "x").touch())
    assert sorted(path.name for path in work.iterdir() if path.is_dir()) == ["another-name", "b" * 16]
    assert not (work / ("b" * 16) / "checkpoints").exists()


def test_a_checkpoint_is_on_disk_before_older_ones_go(model, tmp_path, monkeypatch):
    trainer = make_trainer(model)
    trainer.position.step = 1
    old = checkpoint.save_checkpoint(tmp_path, trainer, keep=1)
    trainer.position.step = 2
    seen, new = [], tmp_path / "step-000002"

    def note(path):
        seen.append((path.name, new.exists(), old.exists()))

    monkeypatch.setattr(checkpoint, "sync", note)
    checkpoint.save_checkpoint(tmp_path, trainer, keep=1)
    files = {checkpoint.WEIGHTS_FILE, checkpoint.MOMENTS_FILE, checkpoint.POSITION_FILE}
    assert {name for name, named, _ in seen if not named} == {*files, ".step-000002.part"}
    assert seen[-1] == (tmp_path.name, True, True)
    assert not old.exists()


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS_FILE, checkpoint.MOMENTS_FILE, checkpoint.POSITION_FILE])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(model, tmp_path, name, damage):
    trainer = make_trainer(model)
    trainer.step(toy_batch(model))
    path = checkpoint.save_checkpoint(tmp_path, trainer, keep=1)
    if damage == "cut":
        (path / name).write_bytes((path / name).read_bytes()[:20])
    else:
        (path / name).unlink()
    with pytest.raises(ContractError, match=r"step-000001: damaged \(.*\); delete it, and the same command goes on"):
        checkpoint.load_checkpoint(path, trainer)


def test_a_training_takes_no_name_inside_a_result_nor_one_of_other_commands(tmp_path):
    layout = Layout(tmp_path)
    layout.run("mine").mkdir(parents=True)
    checkpoint.write_settings(layout.run("mine"), "train.run", {})
    with pytest.raises(ParamsError, match=r"--name mine/second: .*mine is a result itself; choose another name"):
        checkpoint.open_place(layout, "mine/second", made_by="train.run")
    with pytest.raises(ParamsError, match=r"--name report: .*report is where other commands put their results"):
        checkpoint.open_place(layout, "report", made_by="train.run")
    assert checkpoint.open_place(layout, "compare/one", made_by="train.run")[1] == layout.run("compare/one")
