"""Compiled layers: the same losses, one compiled form, the same names."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch._dynamo
import torch._inductor.config

from pipeline.errors import ParamsError
from tests.train.test_loop import make_trainer
from tests.train.toys import random_samples
from train.data import read_episode
from train.icl import compiled
from train.icl.batches import collate
from train.icl.compiled import compile_layers
from train.icl.model import load_model
from train.icl.recompute import recompute_layers
from train.params import TrainParams

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in compiled.COMPILERS), reason="torch.compile on a CPU needs a C++ compiler"
)


def losses(musicgen, *, is_compiled, is_recomputed):
    """Losses of three steps whose batches differ in length, and the names of the weights."""
    params = TrainParams(learning_rate=0.01, lora_rank=4)
    model = load_model(str(musicgen), params=params)
    trainer = make_trainer(model, params=params)
    recompute_layers(model.network, is_recomputed)
    compile_layers(model.network, is_compiled)
    episodes = [read_episode(sample, model.codec, where="toy") for sample in random_samples(9)]
    model.train()
    batches = [collate(episodes[start:end], codebook_size=16) for start, end in ((0, 2), (2, 5), (5, 9))]
    assert len({batch.inputs_BKS.shape for batch in batches}) == 3
    found = [trainer.step([batch]).loss for batch in batches]
    return found, list(trainer.trainable), list(model.network.state_dict())


@needs_compiler
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own; a pass of the trainer alone is strict
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_compiled_layers_give_the_losses_of_eager_ones(musicgen, is_recomputed):
    plain = losses(musicgen, is_compiled=False, is_recomputed=is_recomputed)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(compile_threads=1):
        fast = losses(musicgen, is_compiled=True, is_recomputed=is_recomputed)
    assert fast[0] == pytest.approx(plain[0], rel=1e-4)
    assert fast[1:] == plain[1:]
    # One for both layers and all three lengths.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_layers_are_left_alone_unless_asked(model):
    compile_layers(model.network, is_on=False)
    assert all(layer._compiled_call_impl is None for layer in model.network.decoder.model.decoder.layers)


def test_no_compiler_is_told_before_the_first_step(model, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ParamsError, match=r"train\.compile: needs a C\+\+ compiler; install g\+\+"):
        compile_layers(model.network, is_on=True)
