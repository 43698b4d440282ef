"""What has gone wrong for others without a word: positions, embeddings, masks, gradients, scalers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.icl.test_formats import TOY, contexts
from tests.train.icl.test_model import run, toy_episodes
from tests.train.test_loop import make_trainer
from train.icl.adapter import make_trainable
from train.icl.batches import collate
from train.icl.columns import ColumnPositions, embed_codes, insert_states
from train.icl.loss import mean_loss
from train.icl.model import load_model
from train.icl.recompute import recompute_layers
from train.icl.states import read_states, states_mask
from train.icl.text import NO_SEGMENT, block_mask, full_mask
from train.params import TrainParams

INLINE = TrainParams(text_placement="inline", **TOY)
FULL = TrainParams(cross_attention="full", **TOY)


def test_embeddings_in_place_of_ids_are_read_alike_and_only_with_our_positions(model):
    batch = collate(toy_episodes(model, 2), codebook_size=16)
    decoder = model.network.decoder.model.decoder
    read = read_states(model, batch.prompts, batch.clap_ND)
    mask = states_mask(model, batch.segments_BS, read)
    with torch.no_grad():
        vectors = embed_codes(decoder.embed_tokens, batch.inputs_BKS)
        by_ids = model.decode(batch.inputs_BKS, read.states_BLD, mask)
        assert torch.equal(model.decode(vectors, read.states_BLD, mask), by_ids)
        # As transformers has it; should this ever fail, ColumnPositions can go.
        decoder.embed_positions = decoder.embed_positions.sinusoids
        assert (model.decode(vectors, read.states_BLD, mask) - by_ids).abs().max() > 0.1


def test_positions_run_on_over_states_and_codes(musicgen):
    model = load_model(str(musicgen), params=INLINE)
    positions = model.network.decoder.model.decoder.embed_positions
    assert isinstance(positions, ColumnPositions)
    given = []
    positions.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    batch, _ = run(model, contexts(INLINE)[:1])
    num_states = sum(len(model.text.encode(prompt)) for prompt in batch.prompts[0])
    assert torch.equal(given[0], positions.sinusoids.weights[: batch.lengths[0] + num_states])


def test_states_stand_before_their_segment_and_the_last_of_them_predicts_its_first_code():
    columns = torch.arange(1.0, 6.0).view(1, 5, 1)
    states = [[torch.tensor([[10.0], [11.0]]), torch.zeros(0, 1), torch.tensor([[12.0]])]]
    vectors, places = insert_states(columns, [[1, 3, 5]], states)
    assert vectors[0, :, 0].tolist() == [1, 10, 11, 2, 3, 4, 5, 12]
    # The first column's successor is predicted by state 11, that of the last by state 12.
    assert places.tolist() == [[2, 3, 4, 5, 7]]


@pytest.mark.parametrize("params", [TrainParams(**TOY), FULL], ids=["block", "full"])
def test_masks_are_read_alike_by_every_kind_of_attention(musicgen, params):
    model = load_model(str(musicgen), params=params)
    batch, fused = run(model, contexts(params))
    model.network.decoder.config._attn_implementation = "eager"
    torch.testing.assert_close(run(model, contexts(params))[1], fused, rtol=0, atol=1e-5)
    mask = states_mask(model, batch.segments_BS, read_states(model, batch.prompts, batch.clap_ND))
    assert mask is not None
    assert mask.is_floating_point()
    assert torch.isfinite(mask).all()


@pytest.mark.parametrize("params", [TrainParams(**TOY), INLINE, FULL], ids=["block", "inline", "full"])
def test_checkpointed_layers_give_every_adapter_the_same_gradient(musicgen, params):
    grads = []
    for is_on in (False, True):
        model = load_model(str(musicgen), params=params)
        trainable = make_trainable(model, params)
        with torch.no_grad():
            for value in trainable.values():
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(value.numel()))
        recompute_layers(model.network, is_on)
        model.train()
        batch = collate(contexts(params), codebook_size=16, form=params.form)
        mean_loss(model.logits(batch), batch.labels_BKS).backward()
        grads.append({name: value.grad for name, value in trainable.items()})
    for name, grad in grads[0].items():
        assert grad is not None, name
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("params", [TrainParams(**TOY), INLINE, FULL], ids=["block", "inline", "full"])
def test_bfloat16_needs_no_scaler(musicgen, params):
    norms = []
    for precision in ("fp32", "bf16"):
        model = load_model(str(musicgen), params=replace(params, precision=precision))
        batch = collate(contexts(params), codebook_size=16, form=params.form)
        trainer = make_trainer(model, params=replace(params, precision=precision))
        result = trainer.step([batch])
        norms.append(result.grad_norm)
        assert all(value.dtype == torch.float32 for value in trainer.trainable.values())
    assert norms[1] == pytest.approx(norms[0], rel=0.15)


def test_a_batch_run_in_parts_takes_the_step_of_the_whole(musicgen):
    results = []
    for limit in (0, 60):
        params = TrainParams(max_batch_columns=limit, learning_rate=0.01, **TOY)
        trainer = make_trainer(load_model(str(musicgen), params=params), params=params)
        batch = collate(contexts(params), codebook_size=16)
        assert len(batch.split(limit)) == (1 if limit == 0 else 2)
        results.append(trainer.step([batch]))
    assert results[1].loss == pytest.approx(results[0].loss, abs=1e-5)
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=1e-4)
    assert results[1].num_codes == results[0].num_codes


@pytest.mark.parametrize("params", [INLINE, FULL], ids=["inline", "full"])
def test_parts_are_trained_in_float32_beside_a_bfloat16_base(musicgen, params):
    params = replace(params, base_weights="bf16")
    model = load_model(str(musicgen), params=params)
    trainer = make_trainer(model, params=params)
    losses = [trainer.step([collate(contexts(params), codebook_size=16, form=params.form)]).loss for _ in range(3)]
    assert losses[-1] < losses[0]
    assert all(value.dtype == torch.float32 for name, value in trainer.trainable.items() if "parts" in name)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_mask_shows_a_column_the_texts_it_should_see_and_no_padding(tokens):
    """Per episode the tokens of each segment's text."""
    longest = max(sum(own) for own in tokens)
    segments_BL = torch.full((len(tokens), longest), NO_SEGMENT)
    for b, own in enumerate(tokens):
        segments_BL[b, : sum(own)] = torch.repeat_interleave(torch.arange(len(own)), torch.tensor(own))
    columns_BS = torch.stack([torch.arange(4).clamp(max=len(own) - 1) for own in tokens])
    block = block_mask(columns_BS, segments_BL, torch.float32)
    full = full_mask(4, segments_BL, torch.float32)
    for b, own in enumerate(tokens):
        for s in range(4):
            segment = int(columns_BS[b, s])
            assert (block[b, 0, s] == 0).nonzero().flatten().tolist() == list(
                range(sum(own[:segment]), sum(own[: segment + 1]))
            )
            assert (full[b, 0, s] == 0).nonzero().flatten().tolist() == list(range(sum(own)))
