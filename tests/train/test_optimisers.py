"""Optimisers, frozen weights in few bits, float16's scale: each trains, and a resumed run goes on bit by bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.errors import ParamsError
from tests.train import toys
from tests.train.test_checkpoint import toy_batch
from train import checkpoint
from train.icl.adapter import make_trainable
from train.icl.loss import mean_loss
from train.icl.model import IclModel, load_model
from train.icl.recompute import recompute_layers
from train.loop import Trainer
from train.optimisers import MAX_SCALE, MIN_SCALE, next_scale
from train.params import TrainParams

# What bitsandbytes says of a package that would only make it quicker.
pytestmark = pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*:UserWarning")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MusicGen as wide as 4-bit weights need."""
    return toys.save_musicgen(tmp_path_factory.mktemp("wide") / "musicgen", width=64, text_width=64)


def trainer_of(source: Path, **settings: object) -> tuple[IclModel, Trainer]:
    params = TrainParams(steps=100, learning_rate=0.003, lora_rank=64, **settings)  # pyright: ignore[reportArgumentType]
    model = load_model(str(source), params=params)
    trainable = make_trainable(model, params)
    recompute_layers(model.network, params.gradient_checkpointing)
    model.train()

    def loss_of(batch):
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    return model, Trainer(model, trainable, loss_of=loss_of, params=params)


@pytest.mark.parametrize("optimiser", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("base_weights", ["fp32", "nf4"])
def test_a_resumed_run_goes_on_bit_by_bit(wide, tmp_path, optimiser, base_weights):
    model, one = trainer_of(wide, optimiser=optimiser, base_weights=base_weights)
    first = [one.step(toy_batch(model)) for _ in range(3)]
    path = checkpoint.save_checkpoint(tmp_path, one, keep=1)
    _, two = trainer_of(wide, optimiser=optimiser, base_weights=base_weights)
    checkpoint.load_checkpoint(path, two)
    later = [one.step(toy_batch(model)) for _ in range(3)]
    assert later == [two.step(toy_batch(two.model)) for _ in range(3)]
    assert later[-1].loss < first[0].loss
    for name, value in one.trainable.items():
        assert torch.equal(value, two.trainable[name]), name


@pytest.mark.parametrize(("base_weights", "most"), [("bf16", 0.05), ("nf4", 0.6)])
def test_weights_in_fewer_bits_say_nearly_the_same(wide, base_weights, most):
    plain, _ = trainer_of(wide)
    packed, _ = trainer_of(wide, base_weights=base_weights)
    [batch] = toy_batch(plain)
    with torch.no_grad():
        exact, near = plain.logits(batch), packed.logits(batch).float()
    assert 0 < float((exact - near).abs().mean() / exact.std()) < most


def test_layers_computed_again_give_equal_gradients(wide):
    gradients = []
    for recomputed in (False, True):
        model, trainer = trainer_of(wide, gradient_checkpointing=recomputed)
        [batch] = toy_batch(model)
        mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K).backward()
        gradients.append({name: value.grad for name, value in trainer.trainable.items()})
    for name, value in gradients[0].items():
        assert value is not None
        assert value.abs().sum() > 0 or ".lora_A." in name
        assert torch.equal(value, gradients[1][name]), name


def test_float16_trains_and_its_scale_falls_where_gradients_overflow(wide):
    model, trainer = trainer_of(wide, precision="fp16")
    assert model.precision == torch.float16
    losses = [trainer.step(toy_batch(model)).loss for _ in range(8)]
    assert losses[-1] < losses[0]
    # So large that nothing can be finite: the step is skipped, and counted.
    trainer.position.loss_scale = 2.0**200
    before = {name: value.detach().clone() for name, value in trainer.trainable.items()}
    assert not trainer.step(toy_batch(model)).finite
    assert trainer.position.num_bad_steps == 1
    assert trainer.position.loss_scale == 2.0**199
    assert all(torch.equal(before[name], value) for name, value in trainer.trainable.items())


def test_the_scale_keeps_within_its_limits():
    assert next_scale(MIN_SCALE, is_finite=False, num_good_steps=3) == MIN_SCALE
    assert next_scale(MAX_SCALE, is_finite=True, num_good_steps=1000) == MAX_SCALE
    assert next_scale(8.0, is_finite=True, num_good_steps=999) == 8.0
    assert next_scale(8.0, is_finite=True, num_good_steps=1000) == 16.0
    assert math.isfinite(next_scale(1024.0, is_finite=False, num_good_steps=0))


def test_few_bits_are_refused_where_they_cannot_be():
    with pytest.raises(ParamsError, match="only frozen weights"):
        TrainParams(method="full", base_weights="nf4")
    with pytest.raises(ParamsError, match=r"needs train\.precision bf16 or fp16"):
        TrainParams(base_weights="bf16", precision="fp32")
