"""The memory plan: within a tenth of what a real step takes on the CPU, and a table for every preset."""

from __future__ import annotations

import gc
from itertools import product

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import MusicgenConfig, MusicgenDecoderConfig, MusicgenForConditionalGeneration, T5Config

from tests.train import toys
from train import memory
from train.data import CodecShape
from train.icl.adapter import make_trainable
from train.icl.footprint import measure
from train.icl.frozen import frozen_bytes, shrink_frozen
from train.icl.loss import mean_loss
from train.icl.model import IclModel, add_separator_rows
from train.icl.recompute import recompute_layers
from train.params import TrainParams
from train.shapes import published_config

COLUMNS, TOKENS, WIDTH = 512, 48, 256


def config() -> MusicgenConfig:
    decoder = MusicgenDecoderConfig(
        vocab_size=128, num_codebooks=4, hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=4,
        ffn_dim=4 * WIDTH, pad_token_id=128, bos_token_id=128,
    )  # fmt: skip
    text = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return MusicgenConfig(text_encoder=text, audio_encoder=toys.codec_config(4, 128), decoder=decoder)


def peak_bytes(params: TrainParams) -> int:
    """Bytes that a step really allocates at its worst moment, beyond the weights."""
    network = MusicgenForConditionalGeneration(config()).requires_grad_(False)
    network.audio_encoder = torch.nn.Identity()
    add_separator_rows(network)
    precision = torch.float32 if params.precision == "fp32" else torch.bfloat16
    model = IclModel(network, None, CodecShape(4, 128, 50.0, 16_000), precision=precision)
    make_trainable(model, params)
    recompute_layers(network, params.gradient_checkpointing)
    model.train()
    ids = torch.randint(0, 128, (params.batch_size, 4, COLUMNS))
    states = torch.randn(params.batch_size, TOKENS, WIDTH).to(precision)
    mask = torch.zeros(params.batch_size, 1, COLUMNS, TOKENS, dtype=precision)
    # What earlier tests left must not be freed meanwhile: it would count as freed by this step.
    gc.collect()
    gc.disable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        loss = mean_loss(model.decode(ids, states, mask), ids)
        loss.backward()
    gc.enable()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


WAYS = list(product(["fp32", "bf16"], [False, True], ["attention", "all"]))
# Each value once; the rest of the matrix comes with the long tests.
QUICK_WAYS = [("fp32", False, "attention"), ("bf16", True, "all")]


@pytest.mark.parametrize(
    ("precision", "recomputed", "targets"),
    [pytest.param(*way, marks=() if way in QUICK_WAYS else pytest.mark.long) for way in WAYS],
)
def test_plan_is_within_a_tenth_of_what_a_step_takes(precision, recomputed, targets):
    params = TrainParams(
        batch_size=2, precision=precision, gradient_checkpointing=recomputed, lora_targets=targets, lora_rank=8
    )
    planned = measure(config(), params, num_columns=COLUMNS, num_text_tokens=TOKENS)
    weights = planned.frozen + planned.trained
    step = planned.kept + planned.peak + planned.gradients
    assert weights + step == pytest.approx(weights + peak_bytes(params), rel=0.1)


@pytest.mark.parametrize(
    ("size", "num_weights"),
    [
        ("small", 420e6),
        pytest.param("medium", 1838e6, marks=pytest.mark.long),
        pytest.param("large", 3255e6, marks=pytest.mark.long),
    ],
)
def test_the_network_planned_is_the_network_published(size, num_weights):
    planned = measure(published_config(size), TrainParams(batch_size=1), num_columns=600, num_text_tokens=128)
    assert planned.frozen == pytest.approx(4 * num_weights, rel=0.01)
    # T5-base's encoder has 109.6 million weights.
    assert planned.text_encoder == pytest.approx(4 * 109.6e6, rel=0.01)


def test_four_bits_take_what_bitsandbytes_really_stores():
    network = MusicgenForConditionalGeneration(config())
    planned = frozen_bytes(network, "nf4")
    shrink_frozen(network, "nf4")
    network.to("cpu")
    stored = 0
    for value in network.decoder.parameters():
        stored += value.nbytes
        state = getattr(value, "quant_state", None)
        if state is not None:
            stored += state.absmax.nbytes + state.state2.absmax.nbytes
    assert planned == pytest.approx(stored + 2 * sum(v.numel() for v in network.enc_to_dec_proj.parameters()), rel=0.01)


LONG = pytest.mark.long


@pytest.mark.parametrize("preset", [pytest.param("gpu10", marks=LONG), "gpu16", pytest.param("gpu24", marks=LONG)])
def test_every_preset_fits_its_card(preset, capsys):
    memory.main(["--preset", preset, "--size", "small"])
    told = capsys.readouterr().out
    assert "text encoder" in told
    assert "is too small" not in told
    assert "QLoRA, layers computed again" in told


def test_another_size_or_preset_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as exit_:
        memory.main(["--preset", "gpu11"])
    assert exit_.value.code == 2
    assert "gpu10, gpu16, gpu24" in capsys.readouterr().err


def test_a_checkpoint_of_ones_own_is_planned_from_its_config_alone(tmp_path, capsys):
    toys.save_musicgen(tmp_path / "own")
    (tmp_path / "own/model.safetensors").write_bytes(b"")
    memory.main(["--preset", "gpu10", "--base", str(tmp_path / "own"), "--root", str(tmp_path)])
    assert "own: " in capsys.readouterr().out
