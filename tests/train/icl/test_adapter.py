"""What is trained and how it is kept."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import MusicgenForConditionalGeneration

from pipeline.errors import ContractError, ParamsError
from pipeline.music.sequence import separator_id
from tests.train.icl.test_model import run, toy_episodes
from train.icl.adapter import load_adapter, load_trained, make_trainable, merge_adapter, save_adapter, save_full
from train.icl.batches import collate
from train.icl.loss import mean_loss
from train.icl.model import load_model
from train.inputs import Run
from train.params import TrainParams

LORA = TrainParams(lora_rank=4, lora_targets="all")


def take_steps(model, params, number=2):
    """Train a little, so that every matrix has moved."""
    trainable = make_trainable(model, params)
    optimiser = torch.optim.AdamW(trainable.values(), lr=0.05)
    batch = collate(toy_episodes(model), codebook_size=model.codec.codebook_size)
    for _ in range(number):
        optimiser.zero_grad()
        mean_loss(model.logits(batch), batch.labels_BKS).backward()
        optimiser.step()
    return trainable


def test_every_adapter_and_separator_row_gets_a_gradient_at_the_first_step(model):
    trainable = take_steps(model, LORA, number=1)
    layers, modules, codebooks = 2, 10, 4
    assert len(trainable) == layers * modules * 2 + codebooks
    for name, value in trainable.items():
        assert value.grad is not None, name
        # A of LoRA meets a B of zeros at the first step: its gradient is exactly zero until the second.
        assert (value.grad.abs().max() > 0) == ("lora_A" not in name), name


def test_only_the_adapter_is_trained_and_in_float32(model):
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    trainable = take_steps(model, LORA)
    assert all(value.dtype == torch.float32 for value in trainable.values())
    plain = {
        name.replace(".token_adapter", "").replace(".base_layer", ""): value
        for name, value in model.network.named_parameters()
        if name not in trainable
    }
    assert set(before) == set(plain)
    for name, value in before.items():
        assert torch.equal(plain[name], value), name


def test_saved_adapter_gives_equal_logits_on_a_fresh_model(model, musicgen, tmp_path):
    take_steps(model, LORA)
    model.train(on=False)
    save_adapter(model, tmp_path / "adapter", base_label="musicgen@sha256:0123")
    other = load_model(str(musicgen), params=TrainParams())
    assert not torch.equal(run(other, toy_episodes(other))[1], run(model, toy_episodes(model))[1])
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(run(other, toy_episodes(other))[1], run(model, toy_episodes(model))[1])


def test_adapter_files_are_stock_peft_and_name_no_path(model, musicgen, tmp_path):
    take_steps(model, LORA)
    save_adapter(model, tmp_path, base_label="musicgen@sha256:0123")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "musicgen@sha256:0123"
    assert str(musicgen.parent) not in (tmp_path / "adapter_config.json").read_text()
    rows = [value for name, value in load_file(tmp_path / "adapter_model.safetensors").items() if "tokens" in name]
    assert [tuple(row.shape) for row in rows] == [(1, 16)] * 4
    fresh = load_model(str(musicgen), params=TrainParams())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        loaded = PeftModel.from_pretrained(fresh.network, tmp_path)
    table = loaded.base_model.model.decoder.model.decoder.embed_tokens[0]
    ids = torch.tensor([separator_id(16)])
    assert torch.equal(table(ids), model.network.decoder.model.decoder.embed_tokens[0](ids))


def test_an_adapter_for_a_hubs_model_names_its_id_and_commit(model, tmp_path):
    take_steps(model, LORA)
    save_adapter(model, tmp_path, base_label="facebook/musicgen-small@sha256:0123", revision="a" * 40)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("facebook/musicgen-small", "a" * 40)


@pytest.mark.parametrize("format", [{}, {"cross_attention": "full", "separator": "text"}], ids=["default", "parts"])
def test_a_merged_adapter_says_the_same_and_is_gone(musicgen, tmp_path, format):
    params = TrainParams(lora_rank=4, lora_targets="all", **format)
    model = load_model(str(musicgen), params=params)
    take_steps(model, params)
    model.train(on=False)
    expected = run(model, toy_episodes(model))[1]
    merge_adapter(model)
    assert torch.allclose(run(model, toy_episodes(model))[1], expected, atol=1e-4)
    assert not any("lora" in name or "modules_to_save" in name for name, _ in model.network.named_parameters())
    (tmp_path / "base").symlink_to(musicgen)
    save_full(model, tmp_path / "model", source=str(tmp_path / "base"))
    whole = load_model(str(tmp_path / "model"), params=params)
    assert torch.allclose(run(whole, toy_episodes(whole))[1], expected, atol=1e-4)


def test_a_whole_checkpoint_keeps_the_files_of_the_processor(model, musicgen, tmp_path):
    base = shutil.copytree(musicgen, tmp_path / "base")
    (base / "preprocessor_config.json").write_text('{"feature_size": 1}')
    save_full(model, tmp_path / "model", source=str(base))
    assert (tmp_path / "model/preprocessor_config.json").read_text() == '{"feature_size": 1}'


def test_lora_targets_choose_modules(model):
    names = set(make_trainable(model, TrainParams(lora_targets=r"decoder\..*\.fc1")))
    assert {name.split(".")[-4] for name in names if "lora" in name} == {"fc1"}


def test_attention_is_the_default_and_leaves_the_text_encoder_alone(model):
    names = [name for name in make_trainable(model, TrainParams()) if "lora" in name]
    assert len(names) == 2 * 8 * 2
    assert all(name.startswith("decoder.") and "fc" not in name for name in names)


def test_lora_targets_that_fit_nothing_are_named(model):
    with pytest.raises(ParamsError, match=r"train\.lora_targets: 'nowhere' fits no module"):
        make_trainable(model, TrainParams(lora_targets="nowhere"))


def test_first_adapter_weights_come_from_the_seed(musicgen):
    def first(seed):
        trainable = make_trainable(load_model(str(musicgen), params=TrainParams()), TrainParams(seed=seed))
        return next(value for name, value in trainable.items() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_full_checkpoint_loads_in_stock_transformers_and_keeps_the_separator(model, musicgen, tmp_path):
    full = TrainParams(method="full")
    take_steps(model, full)
    model.train(on=False)
    save_full(model, tmp_path / "model", source=str(musicgen))
    stock, info = MusicgenForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    old = MusicgenForConditionalGeneration.from_pretrained(musicgen)
    for name, value in stock.audio_encoder.state_dict().items():
        assert torch.equal(value, old.audio_encoder.state_dict()[name])
    other = load_trained(Run(tmp_path, full, "toy@sha256:0", tmp_path / "model"), "not read")
    assert torch.equal(run(other, toy_episodes(other))[1], run(model, toy_episodes(model))[1])


def test_an_adapter_for_another_model_is_refused(model, tmp_path):
    with pytest.raises(ContractError, match="no adapter for this base model"):
        load_adapter(model, tmp_path)
