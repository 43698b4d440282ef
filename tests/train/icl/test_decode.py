"""Generation: the cache changes nothing, transformers agrees, sampling is seeded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from pipeline.music.sequence import build_prefix, delay_mask, pad_id, undelay
from tests.train.icl.test_model import toy_episodes
from train.icl.decode import Sampling, choose_codes, generate_codes

GREEDY = Sampling(temperature=0)


def generate(model, episode, sampling, *, num_frames=9):
    return generate_codes(model, episode.examples_KT, prompts=episode.prompts, num_frames=num_frames, sampling=sampling)


def last_logits(model, examples_KT, prompts, chosen_K):
    """Scores after the columns chosen so far, from the whole sequence as training reads it."""
    prefix_KP, segments_P = build_prefix(examples_KT, num_codebooks=4, codebook_size=16)
    columns_KS = np.stack([*prefix_KP.T, *chosen_K], axis=1)
    segments_S = np.concatenate([segments_P, np.full(len(chosen_K), segments_P[-1])])
    inputs = torch.from_numpy(columns_KS)[None], torch.from_numpy(segments_S)[None], [prompts]
    with torch.no_grad():
        return model.logits(*inputs)[0, :, -1]


def generate_reading_all_anew(model, episode, sampling, *, num_frames=9):
    generator, chosen_K = torch.Generator().manual_seed(sampling.seed), []
    for valid_K in delay_mask(4, num_frames).T:
        logits_KV = last_logits(model, episode.examples_KT, episode.prompts, chosen_K)
        if sampling.guidance_scale != 1.0:
            null_KV = last_logits(model, [], [None], chosen_K)
            logits_KV = null_KV + sampling.guidance_scale * (logits_KV - null_KV)
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
    ours = generate_codes(
        model, [], prompts=["fjord grove"], num_frames=9, sampling=Sampling(temperature=0, guidance_scale=scale)
    )
    assert np.array_equal(ours, taken[0].reshape(4, -1).numpy())


def test_examples_and_their_captions_matter(model):
    episode = toy_episodes(model)[0]
    with_examples = generate(model, episode, GREEDY, num_frames=30)
    alone = generate_codes(model, [], prompts=episode.prompts[-1:], num_frames=30, sampling=GREEDY)
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
