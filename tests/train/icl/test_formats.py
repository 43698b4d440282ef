"""Every format of a sequence that is allowed: it learns, is kept, generates, and reads each episode for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from pipeline.errors import ContractError, ParamsError
from tests.train.icl.test_decode import generate_reading_all_anew
from tests.train.icl.test_model import run, toy_episodes
from tests.train.toys import CLAP_DIM
from train.augment import draw_context, nearest_examples, plain_context
from train.icl.adapter import load_adapter, load_trained, make_trainable, save_adapter, save_full
from train.icl.batches import collate
from train.icl.decode import Sampling, generate_codes
from train.icl.loss import mean_loss, mean_nll
from train.icl.model import IclModel, load_model
from train.inputs import Run
from train.params import TrainParams

TOY: dict[str, Any] = {"clap_dim": CLAP_DIM, "clap_states": 2, "max_text_tokens": 8, "lora_rank": 4, "num_examples": 2}
VALUES = {
    "text_placement": ["cross", "inline"],
    "cross_attention": ["block", "full"],
    "representation": ["codes", "clap", "both", "text"],
    "separator": ["none", "pad", "learned", "text"],
}


def allowed() -> list[dict[str, str]]:
    found = []
    for values in product(*VALUES.values()):
        variant = dict(zip(VALUES, values, strict=True))
        try:
            TrainParams(**variant)
        except ParamsError:
            continue
        found.append(variant)
    return found


ALLOWED = allowed()
# Each value of each setting, and CLAP vectors in both places: the rest comes with the long tests.
CLAP_STATES = {"text_placement": "cross", "cross_attention": "full", "representation": "clap", "separator": "none"}
CLAP_COLUMNS = {"text_placement": "inline", "cross_attention": "block", "representation": "clap", "separator": "text"}
QUICK = [
    {"text_placement": "cross", "cross_attention": "block", "representation": "codes", "separator": "learned"},
    {"text_placement": "cross", "cross_attention": "full", "representation": "codes", "separator": "text"},
    {"text_placement": "cross", "cross_attention": "full", "representation": "text", "separator": "learned"},
    {"text_placement": "inline", "cross_attention": "block", "representation": "both", "separator": "pad"},
    CLAP_STATES,
    CLAP_COLUMNS,
]
PARAMS = [
    pytest.param(variant, id="-".join(variant.values()), marks=() if variant in QUICK else pytest.mark.long)
    for variant in ALLOWED
]


@dataclass
class Trained:
    """A model after some steps, and what was seen on the way."""

    params: TrainParams
    model: IclModel
    zero_shot: torch.Tensor
    """Logits of an episode without examples before the first step."""
    losses: list[float]
    idle: list[str]
    """Trained weights that never got a gradient."""


def contexts(params):
    return [draw_context(episode, 0, params) for episode in toy_episodes(None)]


def train_a_little(model, params, *, num_steps=6):
    trainable = make_trainable(model, params)
    optimiser = torch.optim.AdamW(trainable.values(), lr=0.02)
    batch = collate(contexts(params), codebook_size=16, form=params.form)
    losses, moved = [], set()
    model.train()
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        moved |= {name for name, value in trainable.items() if value.grad is not None and value.grad.abs().max() > 0}
    model.train(on=False)
    return losses, sorted(set(trainable) - moved)


@pytest.fixture(scope="module", params=PARAMS)
def trained(request, musicgen):
    params = TrainParams(**request.param, **TOY)
    model = load_model(str(musicgen), params=params)
    _, zero_shot = run(model, [nearest_examples(toy_episodes(model)[0], 0)])
    losses, idle = train_a_little(model, params)
    return Trained(params, model, zero_shot, losses, idle)


def test_formats_that_are_allowed_are_counted():
    assert len(ALLOWED) == 36
    assert all(variant in ALLOWED for variant in QUICK)


def test_loss_falls_and_every_trained_weight_has_a_part_in_it(trained):
    assert trained.losses[-1] < trained.losses[0] - 0.05
    assert trained.idle == []


def test_a_saved_adapter_gives_equal_logits(trained, musicgen, tmp_path):
    save_adapter(trained.model, tmp_path, base_label="musicgen@sha256:0123")
    fresh = load_model(str(musicgen), params=trained.params)
    before = run(fresh, contexts(trained.params))[1]
    load_adapter(fresh, tmp_path)
    ours = run(trained.model, contexts(trained.params))[1]
    assert torch.equal(run(fresh, contexts(trained.params))[1], ours)
    assert not torch.equal(before, ours)


def test_an_episode_does_not_depend_on_its_neighbours(trained):
    episodes = [*contexts(trained.params), nearest_examples(toy_episodes(None)[0], 0)]
    batch, together = run(trained.model, episodes)
    for b, episode in enumerate(episodes):
        alone = run(trained.model, [episode])[1]
        torch.testing.assert_close(together[b, :, : batch.lengths[b]], alone[0], rtol=0, atol=1e-5)


def test_a_code_is_predicted_from_what_comes_before_it(trained):
    """Off by one either way would show: a label that its own column gives away, or one column too many left out."""
    episode = contexts(trained.params)[0]
    target_KT = episode.target_KT.copy()
    target_KT[0, 2] = (target_KT[0, 2] + 1) % 16
    batch, before = run(trained.model, [episode])
    _, after = run(trained.model, [replace(episode, target_KT=target_KT)])
    column = batch.starts[0][-1] + 2
    assert torch.equal(before[0, :, :column], after[0, :, :column])
    assert not torch.equal(before[0, :, column], after[0, :, column])


def test_captions_and_what_shows_the_examples_are_read(trained):
    episode = contexts(trained.params)[0]
    last = run(trained.model, [episode])[1][0, :, -1]
    assert episode.clap_ND is not None
    changes: dict[str, Any] = {
        "caption": {"prompts": ["kelp kelp loam", *episode.prompts[1:]]},
        "own": {"prompts": [*episode.prompts[:-1], "kelp kelp loam"]},
        "codes": {"examples_KT": [(codes + 1) % 16 for codes in episode.examples_KT]},
        "clap": {"clap_ND": -episode.clap_ND},
    }
    seen = {
        name
        for name, change in changes.items()
        if not torch.equal(last, run(trained.model, [replace(episode, **change)])[1][0, :, -1])
    }
    form = trained.params.form
    shown = {"codes": form.shows_codes, "clap": form.shows_clap}
    assert seen == {"caption", "own"} | {name for name, is_shown in shown.items() if is_shown}


def test_generation_with_a_cache_reads_what_training_reads(trained):
    sampling = Sampling(temperature=0, guidance_scale=2.0, examples_guidance=0.5, text_guidance=0.5)
    episode = contexts(trained.params)[1]
    codes_KT = generate_codes(trained.model, episode, num_frames=5, sampling=sampling)
    assert codes_KT.shape == (4, 5)
    assert codes_KT.max() < 16
    assert np.array_equal(codes_KT, generate_reading_all_anew(trained.model, episode, sampling, num_frames=5))


@pytest.fixture
def decoded(trained, monkeypatch):
    """All that the decoder is given, call by call."""
    calls, decode = [], trained.model.decode

    def note(columns, states, mask, cache=None):
        calls.append([value for value in (columns, mask, states) if value is not None])
        return decode(columns, states, mask, cache)

    monkeypatch.setattr(trained.model, "decode", note)
    return calls


def test_training_evaluation_and_generation_give_the_decoder_the_same_bytes(trained, decoded):
    episode, params = toy_episodes(None)[0], trained.params
    run(trained.model, [draw_context(episode, 5, params)])
    mean_nll(trained.model, [plain_context(episode, 2, params)], batch_size=1)
    generate_codes(trained.model, plain_context(episode, 2, params), num_frames=1, sampling=Sampling())
    training, evaluation, generation = decoded[:3]
    assert len(training) == len(generation) == (1 if params.text_placement == "inline" else 3)
    assert all(torch.equal(a, b) for a, b in zip(training, evaluation, strict=True))
    columns, *rest = generation
    axis = 1 if columns.is_floating_point() else 2
    size = columns.shape[axis]
    assert torch.equal(training[0].narrow(axis, 0, size), columns)
    if rest:
        assert torch.equal(training[1][:, :, :size], rest[0])
        assert torch.equal(training[2], rest[1])


def test_zero_shot_is_plain_musicgen_before_training(trained, musicgen):
    if trained.params.text_placement == "inline":
        pytest.skip("inline text is new to MusicGen")
    episode = nearest_examples(toy_episodes(None)[0], 0)
    stock = MusicgenForConditionalGeneration.from_pretrained(musicgen)
    text = AutoTokenizer.from_pretrained(musicgen)(episode.prompts[-1], return_tensors="pt")
    batch = collate([episode], codebook_size=16)
    with torch.no_grad():
        out = stock(**text, decoder_input_ids=batch.inputs_BKS[0])
    torch.testing.assert_close(trained.zero_shot[0], out.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [CLAP_STATES, CLAP_COLUMNS], ids=["cross", "inline"])
def test_a_whole_checkpoint_keeps_the_parts(variant, musicgen, tmp_path):
    params = TrainParams(**variant, **(TOY | {"method": "full"}))
    model = load_model(str(musicgen), params=params)
    _, idle = train_a_little(model, params, num_steps=2)
    # Texts that no prompt of the batch holds move no row of a table that is shared; all else moves.
    assert idle == []
    save_full(model, tmp_path / "model", source=str(musicgen))
    other = load_trained(Run(tmp_path, params, "toy@sha256:0", tmp_path / "model"), "not read")
    assert torch.equal(run(other, contexts(params))[1], run(model, contexts(params))[1])


def test_full_attention_without_segment_vectors_is_blind_to_the_order_of_captions(musicgen):
    text = TrainParams(representation="text", cross_attention="full", **TOY)
    episode = contexts(text)[0]
    swapped = replace(episode, prompts=[*episode.prompts[1::-1], episode.prompts[-1]])
    blind = load_model(str(musicgen), params=replace(text, segment_vectors="none"))
    one, two = (run(blind, [shown])[1] for shown in (episode, swapped))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    # From the first step on: vectors that begin alike would have to grow apart before a caption could be told.
    seeing = load_model(str(musicgen), params=text)
    one, two = (run(seeing, [shown])[1] for shown in (episode, swapped))
    assert (one - two).abs().max() > 1e-3


def test_fewer_codebooks_of_the_examples_are_read(musicgen):
    params = TrainParams(example_codebooks=1, **TOY)
    model = load_model(str(musicgen), params=params)
    episode = contexts(params)[0]
    last = run(model, [episode])[1][0, :, -1]
    for row, is_read in ((0, True), (1, False), (3, False)):
        changed = [codes.copy() for codes in episode.examples_KT]
        changed[0][row] = (changed[0][row] + 1) % 16
        other = run(model, [replace(episode, examples_KT=changed)])[1][0, :, -1]
        assert torch.equal(last, other) != is_read


def test_more_codebooks_than_there_are_are_refused(musicgen):
    with pytest.raises(ParamsError, match=r"train\.example_codebooks: 5, the model has 4"):
        load_model(str(musicgen), params=TrainParams(example_codebooks=5))


def test_clap_vectors_of_another_width_are_refused(musicgen):
    model = load_model(str(musicgen), params=TrainParams(representation="both", **(TOY | {"clap_dim": 5})))
    with pytest.raises(ContractError, match=r"CLAP vectors of width 4, train\.clap_dim is 5"):
        run(model, toy_episodes(model))


def test_first_weights_of_parts_come_from_the_seed(musicgen):
    def first(seed):
        params = TrainParams(**CLAP_COLUMNS, **TOY, seed=seed)
        return load_model(str(musicgen), params=params).parts["clap_states"].linear.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
