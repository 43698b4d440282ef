"""Steps, schedule, bad steps, log."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
import torch

from pipeline.errors import ContractError
from tests.train.toys import random_samples, save_musicgen
from train import loop, stopping
from train.data import read_episode
from train.icl.adapter import make_trainable
from train.icl.batches import collate
from train.icl.loss import mean_loss, mean_nll
from train.icl.model import load_model
from train.loop import Hooks, Position, RunLog, Trainer, learning_rate_at, read_log, run_loop, seed_step
from train.params import TrainParams


def make_trainer(model, *, params=None, **values):
    params = params or TrainParams(**{"learning_rate": 0.01, "lora_rank": 4, "log_every_steps": 1, **values})

    def loss_of(batch):
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    return Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)


@pytest.fixture
def batches(model):
    episodes = [read_episode(sample, model.codec, where="toy") for sample in random_samples(8)]
    return [collate(episodes[start : start + 4], codebook_size=16) for start in (0, 4)]


def hooks(batches, **changes):
    plain = {"batch": lambda i: batches[i % 2], "validate": dict, "save": lambda: None}
    return Hooks(**(plain | changes))


def test_schedule_rises_then_falls_to_zero():
    params = TrainParams(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(step, params) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)
    assert learning_rate_at(99, TrainParams(steps=100, schedule="constant", learning_rate=1.0)) == 1.0


def test_one_episode_is_learnt_by_heart(tmp_path):
    folder = save_musicgen(tmp_path / "musicgen", width=32)
    params = TrainParams(method="full", steps=120, learning_rate=0.01, log_every_steps=120)
    model = load_model(str(folder), params=params)
    episode = read_episode(random_samples(1)[0], model.codec, where="toy")
    batch = collate([episode], codebook_size=16)
    run_loop(make_trainer(model, params=params), hooks([batch, batch]), tmp_path / "log.jsonl")
    assert mean_nll(model, [episode], batch_size=1)[0] < 0.05


def test_training_lowers_the_loss(model, batches, tmp_path):
    trainer = make_trainer(model, steps=20)
    run_loop(trainer, hooks(batches), tmp_path / "log.jsonl")
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5


def test_accumulation_is_the_mean_of_its_batches(model, batches):
    trainer = make_trainer(model, accumulate=2)
    single = [trainer.loss_of(batch).item() for batch in batches]
    assert trainer.step(batches).loss == pytest.approx(sum(single) / 2, abs=1e-5)


def spoil(trainer):
    """Make the next losses NaN; returns the way back."""
    value = next(iter(trainer.trainable.values()))
    kept = value.detach().clone()
    with torch.no_grad():
        value.fill_(torch.nan)
    return lambda: value.data.copy_(kept)


def test_a_bad_step_is_skipped_and_counted(model, batches, tmp_path):
    trainer = make_trainer(model)
    trainer.step(batches[:1])
    before = {name: value.detach().clone() for name, value in trainer.trainable.items()}
    mend = spoil(trainer)
    result = trainer.step(batches[:1])
    mend()
    assert not result.finite
    assert all(torch.equal(before[name], value) for name, value in trainer.trainable.items())
    assert (trainer.position.step, trainer.position.num_bad_steps, trainer.position.num_bad_in_a_row) == (2, 1, 1)
    assert trainer.step(batches[:1]).finite
    assert (trainer.position.num_bad_steps, trainer.position.num_bad_in_a_row) == (1, 0)


def test_bad_steps_in_a_row_stop_the_run_and_are_logged(model, batches, tmp_path):
    trainer = make_trainer(model, max_bad_steps=3)
    spoil(trainer)
    with pytest.raises(ContractError, match=r"step 3: .* not finite 3 steps in a row; lower train\.learning_rate"):
        run_loop(trainer, hooks(batches), tmp_path / "log.jsonl")
    assert [line["loss"] for line in read_log(tmp_path / "log.jsonl")] == [None, None]


def test_validation_comes_at_its_steps_and_at_the_end(model, batches, tmp_path):
    trainer = make_trainer(model, steps=5, validate_every_steps=2)
    figures = run_loop(trainer, hooks(batches, validate=lambda: {"validation_loss": 1.0}), tmp_path / "log.jsonl")
    steps = [line["step"] for line in read_log(tmp_path / "log.jsonl") if "validation_loss" in line]
    assert steps == [2, 4, 5]
    assert figures["validation"] == {"step": 5, "validation_loss": 1.0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(model, batches, tmp_path, number, capsys):
    trainer, saved = make_trainer(model, steps=50), []

    def batch(i):
        if i == 2:
            os.kill(os.getpid(), number)
        return batches[0]

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        run_loop(trainer, hooks(batches, batch=batch, save=lambda: saved.append(1)), tmp_path / "log.jsonl")
    assert left.value.code == 128 + number
    assert (trainer.position.step, saved) == (3, [1])
    assert "stopped at step 3" in capsys.readouterr().err
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("where", "steps"), [("validate", [2]), ("save", [2, 3])])
def test_a_signal_while_the_loop_is_at_something_else_is_not_lost(model, batches, tmp_path, where, steps):
    trainer, saved = make_trainer(model, steps=50, checkpoint_every_steps=2, validate_every_steps=2), []

    def once():
        if trainer.position.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    def save():
        saved.append(trainer.position.step)
        if where == "save":
            once()

    at = {"validate": once} if where == "validate" else {}
    with pytest.raises(SystemExit):
        run_loop(trainer, hooks(batches, save=save, **at), tmp_path / "log.jsonl")
    assert saved == steps
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == steps[-1]


def test_a_second_ctrl_c_leaves_a_step_that_hangs(model, batches, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(stopping, "AGAIN_AFTER_S", 0.05)
    trainer, saved = make_trainer(model, steps=50), []

    def hanging(i):
        if i == 2:
            # Two at once are one: launchers pass on what the terminal has told everybody.
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("it did not leave")
        return batches[0]

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_loop(trainer, hooks(batches, batch=hanging, save=lambda: saved.append(1)), tmp_path / "log.jsonl")
    assert saved == []
    assert capfd.readouterr().err.count("Ctrl-C once more leaves at once") == 1
    assert signal.getsignal(signal.SIGINT) == before


def test_a_stop_is_saved_though_nobody_reads_what_is_said(model, batches, tmp_path, monkeypatch):
    """As in `train.run 2>&1 | tee log`, where Ctrl-C ends tee first."""
    reader, writer = os.pipe()
    trainer, saved = make_trainer(model, steps=50), []

    def batch(i):
        if i == 2:
            os.close(reader)
            os.kill(os.getpid(), signal.SIGINT)
        return batches[0]

    with os.fdopen(writer, "w") as deaf, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", deaf)
        with pytest.raises(SystemExit) as left:
            run_loop(trainer, hooks(batches, batch=batch, save=lambda: saved.append(1)), tmp_path / "log.jsonl")
    assert (left.value.code, saved) == (128 + signal.SIGINT, [1])


def test_the_last_step_is_saved_whatever_comes_after_it(model, batches, tmp_path):
    trainer, saved = make_trainer(model, steps=5, checkpoint_every_steps=3), []
    run_loop(trainer, hooks(batches, save=lambda: saved.append(trainer.position.step)), tmp_path / "log.jsonl")
    assert saved == [3, 5]


def test_a_validation_that_is_not_finite_is_logged_as_nothing(model, batches, tmp_path):
    trainer = make_trainer(model, steps=1)
    nothing = {"validation_loss": float("nan"), "num_validation_episodes": 4}
    figures = run_loop(trainer, hooks(batches, validate=lambda: nothing), tmp_path / "log.jsonl")
    assert figures["validation"] == {"step": 1, "validation_loss": None, "num_validation_episodes": 4}


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    log = RunLog(path, steps=10, position=Position(step=3))
    log.write({"step": 4, "loss": 0.5})
    log.close()
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4]
    assert "step 4, loss 0.5, 0 columns/s, data wait 0.0 %, ETA" in capsys.readouterr().err


def test_the_log_is_on_disk_before_a_checkpoint_that_counts_on_it(model, batches, tmp_path, monkeypatch):
    path, order = tmp_path / "log.jsonl", []
    monkeypatch.setattr(loop, "sync", lambda synced: order.append((synced.name, len(read_log(path)))))
    trainer = make_trainer(model, steps=4, checkpoint_every_steps=2)
    run_loop(trainer, hooks(batches, save=lambda: order.append(("saved", len(read_log(path))))), path)
    assert order == [("log.jsonl", 2), ("saved", 2), ("log.jsonl", 4), ("saved", 4)]


def test_dropout_is_seeded_by_step():
    draws = []
    for step in (3, 4, 3):
        seed_step(0, step)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
