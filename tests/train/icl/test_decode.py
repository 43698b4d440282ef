"""Generation: the cache changes nothing, transformers agrees, sampling is seeded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from pipeline.music.sequence import delay_mask, pad_id, undelay
from tests.train.icl.test_model import toy_episodes
from train.augment import nearest_examples, null_episode, without_text
from train.icl.batches import collate
from train.icl.decode import Sampling, choose_codes, generate_codes

GREEDY = Sampling(temperature=0)


def generate(model, episode, sampling, *, num_frames=9):
    return generate_codes(model, episode, num_frames=num_frames, sampling=sampling)


def last_logits(model, episode, chosen_K):
    """Scores after the columns chosen so far, from the whole sequence as training reads it."""
    # Delayed columns as the frames of a target: what the delay pattern of such a target puts below them is not read.
    target_KT = np.zeros((4, len(chosen_K) + 1), np.int64)
    batch = collate([replace(episode, target_KT=target_KT)], codebook_size=16, form=model.params.form)
    first = batch.inputs_BKS.shape[2] - target_KT.shape[1] - 2
    for place, column_K in enumerate(chosen_K):
        batch.inputs_BKS[0, :, first + place] = torch.from_numpy(column_K)
    with torch.no_grad():
        return model.logits(batch)[0, :, first + len(chosen_K) - 1]


def generate_reading_all_anew(model, episode, sampling, *, num_frames=9):
    generator, chosen_K = torch.Generator().manual_seed(sampling.seed), []
    scale, examples, text = sampling.guidance_scale, sampling.examples_guidance, sampling.text_guidance
    for valid_K in delay_mask(4, num_frames).T:
        whole_KV = last_logits(model, episode, chosen_K)
        null_KV = last_logits(model, null_episode(episode), chosen_K)
        alone_KV = last_logits(model, nearest_examples(episode, 0), chosen_K)
        silent_KV = last_logits(model, without_text(episode), chosen_K)
        logits_KV = null_KV + scale * (whole_KV - null_KV)
        logits_KV = logits_KV + examples * (whole_KV - alone_KV) + text * (whole_KV - silent_KV)
        chosen_K.append(np.where(valid_K, choose_codes(logits_KV, sampling, generator).numpy(), pad_id(16)))
    return undelay(np.stack(chosen_K, axis=1))


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_cache_gives_the_codes_of_an_uncached_run(model, scale, temperature):
    sampling = Sampling(temperature=temperature, guidance_scale=scale, seed=5)
    for episode in toy_episodes(model):
        cached = generate(model, episode, sampling)
        assert np.array_equal(cached, generate_reading_all_anew(model, episode, sampling))
        assert cached.shape == (4, 9)
        assert cached.dtype == np.uint16
        assert cached.max() < 16


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_without_examples_the_codes_are_those_of_transformers(model, musicgen, scale):
    stock = MusicgenForConditionalGeneration.from_pretrained(musicgen)
    taken = []
    decode = stock.audio_encoder.decode
    # generate() returns audio; the codes are what it hands to the codec.
    stock.audio_encoder.decode = lambda codes, **options: taken.append(codes) or decode(codes, **options)
    text = AutoTokenizer.from_pretrained(musicgen)("fjord grove", return_tensors="pt")
    stock.generate(**text, do_sample=False, guidance_scale=scale, max_new_tokens=9 + 4 - 1)
    episode = replace(nearest_examples(toy_episodes(model)[0], 0), prompts=["fjord grove"])
    ours = generate(model, episode, Sampling(temperature=0, guidance_scale=scale))
    assert np.array_equal(ours, taken[0].reshape(4, -1).numpy())


def test_examples_and_their_captions_matter(model):
    episode = toy_episodes(model)[0]
    with_examples = generate(model, episode, GREEDY, num_frames=30)
    alone = generate(model, nearest_examples(episode, 0), GREEDY, num_frames=30)
    assert not np.array_equal(with_examples, alone)


def test_sampling_is_a_function_of_its_seed(model):
    episode = toy_episodes(model)[0]
    assert np.array_equal(generate(model, episode, Sampling(seed=1)), generate(model, episode, Sampling(seed=1)))
    assert not np.array_equal(generate(model, episode, Sampling(seed=1)), generate(model, episode, Sampling(seed=2)))


def test_top_k_keeps_to_the_likeliest_codes():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]]).repeat(2, 1)
    generator = torch.Generator().manual_seed(0)
    chosen = {int(c) for _ in range(50) for c in choose_codes(logits, Sampling(top_k=2), generator)}
    assert chosen == {1, 2}
    assert choose_codes(logits, Sampling(top_k=1), generator).tolist() == [1, 1]
