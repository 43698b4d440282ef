"""The memory plan: within a tenth of what a real step takes on the CPU, and a table for every preset."""

from __future__ import annotations

import gc
import re
from itertools import product

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import MusicgenConfig, MusicgenDecoderConfig, MusicgenForConditionalGeneration, T5Config

from pipeline.engine.params import load_params, section
from pipeline.engine.presets import as_overrides, preset_path, size_changes
from tests.conftest import REPOSITORY
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
from train.planning import GB, plan_memory, rough_bytes
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
SIZES = ("small", "medium", "large")


@pytest.mark.parametrize("preset", [pytest.param("gpu10", marks=LONG), "gpu16", pytest.param("gpu24", marks=LONG)])
def test_a_preset_is_planned_and_its_savings_are_told(preset, capsys):
    memory.main(["--preset", preset, "--size", "small"])
    told = capsys.readouterr().out
    assert "text encoder" in told
    assert "has it" in told
    assert "QLoRA, layers computed again" in told
    assert "the research plan claims 70 % for LoRA" in told
    assert "the research plan claims 40 %" in told


def needed_gb(preset: str, size: str) -> float:
    changes = as_overrides(size_changes(preset, size))
    params = section(load_params(preset_path(preset), changes), "train", TrainParams)
    return plan_memory(published_config(size), params).needed_bytes / GB


@pytest.mark.parametrize("preset", [pytest.param("gpu10", marks=LONG), "gpu16", pytest.param("gpu24", marks=LONG)])
def test_every_size_fits_its_card_with_a_tenth_to_spare_and_pages_tell_what_it_needs(preset):
    needed = [needed_gb(preset, size) for size in SIZES]
    assert max(needed) <= 0.9 * memory.CARDS_GB[preset]
    sizes = preset_path(preset).parent / "sizes" / f"{preset}.yaml"
    comment = re.search(r"Planned at the longest sequence: ([\d.]+), ([\d.]+) and ([\d.]+) GB\.", sizes.read_text())
    row = re.search(rf"\| `{preset}`.*", (REPOSITORY / "docs/train.md").read_text())
    assert [float(told) for told in comment.groups()] == pytest.approx(needed, abs=0.051)
    assert [float(told) for told in re.findall(r"\| ([\d.]+) GB", row[0])] == pytest.approx(needed, abs=0.051)


@pytest.mark.parametrize(
    ("size", "base_weights", "most_gb"),
    [
        ("small", "nf4", 6),
        ("medium", "bf16", 12),
        ("medium", "nf4", 6),
        ("large", "bf16", 20),
    ],
)
def test_three_thousand_columns_keep_to_their_goal(size, base_weights, most_gb):
    params = TrainParams(
        batch_size=1, base_weights=base_weights, gradient_checkpointing=True, num_examples=1, max_example_frames=3000
    )
    plan = plan_memory(published_config(size), params)
    assert plan.num_columns == 3000
    assert plan.needed_bytes <= most_gb * GB


ROUGH = [
    {"lora_targets": "all", "lora_rank": 64, "lora_dropout": 0.1},
    {"method": "full", "num_examples": 5},
    {"text_placement": "inline", "representation": "both"},
    {"base_weights": "nf4", "gradient_checkpointing": True, "num_examples": 0},
    {"cross_attention": "full", "max_text_tokens": 512, "optimiser": "adafactor"},
]


@pytest.mark.parametrize("settings", ROUGH, ids=str)
def test_a_rough_bound_lies_above_the_plan_and_is_no_wild_one(settings):
    params = TrainParams(batch_size=4, **settings)
    planned, rough = plan_memory(config(), params).needed_bytes, rough_bytes(config(), params)
    # What is computed again costs little, so there it lies far above.
    assert planned < rough < (50 if params.gradient_checkpointing else 12) * planned


def test_adapters_of_some_layers_are_counted_as_they_are():
    some = TrainParams(lora_targets=r"decoder\..*layers\.[23]\.(fc1|fc2)", lora_rank=8, separator="none")
    planned = measure(config(), some, num_columns=COLUMNS, num_text_tokens=TOKENS)
    assert planned.trained == 4 * 2 * 2 * 8 * (WIDTH + 4 * WIDTH)
    # Layers without any keep less; planned as if all had one.
    everywhere = measure(config(), TrainParams(lora_targets="all"), num_columns=COLUMNS, num_text_tokens=TOKENS)
    assert 0.9 * everywhere.kept < planned.kept <= everywhere.kept


def test_another_size_or_preset_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as exit_:
        memory.main(["--preset", "gpu11"])
    assert exit_.value.code == 2
    assert "gpu10, gpu16, gpu24" in capsys.readouterr().err


def test_a_length_below_one_column_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        memory.main(["--preset", "gpu16", "--size", "small", "--columns", "0"])
    assert left.value.code == 2
    assert "--columns 0: must be at least 1" in capsys.readouterr().err


def test_a_checkpoint_of_ones_own_is_planned_from_its_config_alone(tmp_path, capsys):
    toys.save_musicgen(tmp_path / "own")
    (tmp_path / "own/model.safetensors").write_bytes(b"")
    memory.main(["--preset", "gpu10", "--base", str(tmp_path / "own"), "--root", str(tmp_path)])
    assert "own: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config_json", "said"),
    [('{"model_type": "t5"}', "its config.json says t5"), ("{", "its config.json does not load")],
)
def test_a_checkpoint_that_is_no_musicgen_is_refused(tmp_path, capsys, config_json, said):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text(config_json)
    with pytest.raises(SystemExit) as left:
        memory.main(["--preset", "gpu10", "--base", str(tmp_path / "own"), "--root", str(tmp_path)])
    assert left.value.code == 1
    assert said in capsys.readouterr().err
