"""The network on episodes: agreement with transformers, isolation of segments, padding, bad checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from pipeline.errors import ContractError
from pipeline.music.sequence import IGNORED_LABEL
from tests.train.test_data import CODEC
from tests.train.toys import random_samples, save_musicgen
from train.augment import nearest_examples, null_episode
from train.data import read_episode
from train.icl.batches import collate
from train.icl.loss import mean_loss
from train.icl.model import load_model
from train.icl.text import TextEncoder
from train.params import TrainParams


def toy_episodes(_model, number=3):
    return [read_episode(sample, CODEC, where="toy") for sample in random_samples(number)]


def run(model, episodes):
    batch = collate(episodes, codebook_size=model.codec.codebook_size, form=model.params.form)
    with torch.no_grad():
        return batch, model.logits(batch)


def test_without_examples_logits_and_loss_are_those_of_transformers(model, musicgen):
    episode = nearest_examples(toy_episodes(model)[0], 0)
    batch, logits = run(model, [episode])
    stock = MusicgenForConditionalGeneration.from_pretrained(musicgen)
    text = AutoTokenizer.from_pretrained(musicgen)(episode.prompts[-1], return_tensors="pt")
    # Labels are laid out by transformers' own delay pattern: [B * K, 1 + T] -> [B * K, T + K].
    pad = model.codec.codebook_size
    clip = torch.from_numpy(episode.target_KT.astype(np.int64))
    begun = torch.cat([torch.full((4, 1), pad), clip], dim=1)
    _, delayed = stock.decoder.build_delay_pattern_mask(begun, pad, max_length=clip.shape[1] + 4)
    with torch.no_grad():
        # transformers' labels are not shifted when ids are given too: label j is what column j predicts.
        out = stock(**text, decoder_input_ids=delayed[:, :-1], labels=delayed[:, 1:].T[None].contiguous())
    assert torch.equal(batch.inputs_BKS[0], delayed[:, :-1])
    torch.testing.assert_close(logits[0], out.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(mean_loss(logits, batch.labels_BKS), out.loss, rtol=0, atol=1e-5)


def test_a_segment_sees_its_own_text_and_no_other(model):
    episode = toy_episodes(model)[0]
    batch, before = run(model, [episode])
    _, after = run(model, [replace(episode, prompts=[*episode.prompts[:-1], "loam loam kelp"])])
    is_target = batch.segments_BS[0] == len(episode.examples_KT)
    assert torch.equal(before[0][:, ~is_target], after[0][:, ~is_target])
    assert not torch.equal(before[0][:, is_target], after[0][:, is_target])


def test_later_segments_feel_an_earlier_caption_only_through_the_columns(model):
    episode = toy_episodes(model)[0]
    _, before = run(model, [episode])
    _, after = run(model, [replace(episode, prompts=["loam loam kelp", *episode.prompts[1:]])])
    assert not torch.equal(before[0][:, -1], after[0][:, -1])


def test_padding_is_out_of_view_and_out_of_the_loss(model):
    episodes = toy_episodes(model)
    batch, together = run(model, episodes)
    for b, episode in enumerate(episodes):
        alone_batch, alone = run(model, [episode])
        length = alone.shape[2]
        torch.testing.assert_close(together[b, :, :length], alone[0], rtol=0, atol=1e-5)
        assert torch.equal(batch.labels_BKS[b, :, :length], alone_batch.labels_BKS[0])
        assert (batch.labels_BKS[b, :, length:] == IGNORED_LABEL).all()


def test_the_null_prompt_says_nothing(model):
    null = null_episode(toy_episodes(model)[0])
    batch, logits = run(model, [null])
    with torch.no_grad():
        out = model.network.decoder(batch.inputs_BKS[0], encoder_hidden_states=torch.zeros(1, 1, 16))
    torch.testing.assert_close(logits[0], out.logits.view(logits[0].shape), rtol=0, atol=1e-6)


def test_bfloat16_keeps_segments_apart(musicgen):
    model = load_model(str(musicgen), params=TrainParams(precision="bf16"))
    exact = load_model(str(musicgen), params=TrainParams())
    episode = toy_episodes(model)[0]
    batch, logits = run(model, [episode])
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), run(exact, [episode])[1], rtol=0, atol=0.15)
    _, after = run(model, [replace(episode, prompts=[*episode.prompts[:-1], "loam loam kelp"])])
    is_target = batch.segments_BS[0] == len(episode.examples_KT)
    assert torch.equal(logits[0][:, ~is_target], after[0][:, ~is_target])


def test_the_separator_begins_as_the_pad_row_and_the_codec_is_gone(model):
    for table in model.network.decoder.model.decoder.embed_tokens:
        assert torch.equal(table.weight[17], table.weight[16])
    assert not any(True for _ in model.network.audio_encoder.parameters())


def test_the_text_cache_is_bounded_and_changes_nothing(model, musicgen):
    text = TextEncoder(model.network.text_encoder, AutoTokenizer.from_pretrained(musicgen), max_tokens=3, max_prompts=2)
    first = text.encode("amber").clone()
    for prompt in ("basalt", "cedar", "amber"):
        text.encode(prompt)
    assert torch.equal(text.encode("amber"), first)
    assert len(text) == 2
    assert len(text.encode("amber basalt cedar delta")) == 3


def edit_config(folder, target, section, **values):
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config[section] |= values
    (target / "config.json").write_text(json.dumps(config))
    return str(target)


def test_a_checkpoint_that_is_missing_is_named():
    with pytest.raises(ContractError, match="generator: no folder"):
        load_model("nowhere", params=TrainParams())


def test_a_checkpoint_with_another_pad_id_is_refused(musicgen, tmp_path):
    with pytest.raises(ContractError, match="pad id is 16"):
        load_model(edit_config(musicgen, tmp_path / "odd", "decoder", pad_token_id=3), params=TrainParams())


def test_a_checkpoint_without_its_tokenizer_is_refused(musicgen, tmp_path):
    shutil.copytree(musicgen, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ContractError, match="tokenizer"):
        load_model(str(tmp_path / "bare"), params=TrainParams())


def test_a_tokenizer_that_knows_no_words_is_refused(musicgen, tmp_path):
    shutil.copytree(musicgen, tmp_path / "empty")
    tokenizer = json.loads((tmp_path / "empty" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    (tmp_path / "empty" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ContractError, match="knows 0 pieces"):
        load_model(str(tmp_path / "empty"), params=TrainParams())


def test_text_of_another_width_goes_through_the_projection(tmp_path):
    folder = save_musicgen(tmp_path / "narrow", text_width=8)
    model = load_model(str(folder), params=TrainParams())
    _, logits = run(model, toy_episodes(model, 1))
    assert torch.isfinite(logits).all()
