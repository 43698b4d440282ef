"""Batches: buckets, parts under a budget of columns, padding out of the loss."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.music.sequence import IGNORED_LABEL, Format
from tests.train.test_data import CODEC
from tests.train.toys import random_samples, write_pack
from train.data import PackedShards, read_episode
from train.icl.batches import batch_positions, collate, deal_by_length, split_by_columns, train_batch
from train.icl.loss import mean_loss, mean_nll
from train.icl.model import load_model
from train.params import TrainParams


@pytest.fixture
def shards(tmp_path):
    return PackedShards(write_pack(tmp_path, "train", random_samples(21)), CODEC)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_every_item_is_in_one_group_that_keeps_the_limit(lengths, limit):
    groups = split_by_columns(lengths, limit)
    assert sorted(item for group in groups for item in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) * max(lengths[item] for item in group) <= limit or len(group) == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=12, max_size=12), st.integers(0, 9))
def test_dealt_batches_pad_no_more_than_drawn_ones(lengths, seed):
    batches = deal_by_length(lengths, 4, np.random.default_rng(seed))
    assert sorted(item for batch in batches for item in batch) == list(range(12))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    drawn = [list(range(start, start + 4)) for start in (0, 4, 8)]
    padded = [sum(4 * max(lengths[item] for item in batch) for batch in of) for of in (batches, drawn)]
    assert padded[0] <= padded[1]


def test_buckets_hold_the_same_episodes_as_drawn_batches(shards):
    plain, bucketed = TrainParams(batch_size=3), TrainParams(batch_size=3, bucket_batches=4)
    for pool in range(3):
        kept = [
            Counter(position for i in range(4 * pool, 4 * pool + 4) for position in batch_positions(shards, i, params))
            for params in (plain, bucketed)
        ]
        assert kept[0] == kept[1]
    batch = train_batch(shards, 5, bucketed, codebook_size=16)
    afresh = train_batch(PackedShards(shards.shards.paths, CODEC), 5, bucketed, codebook_size=16)
    assert batch.keys == afresh.keys
    assert torch.equal(batch.inputs_BKS, afresh.inputs_BKS)


def test_buckets_pad_less(shards):
    def padded(params):
        batches = [train_batch(shards, i, params, codebook_size=16) for i in range(8)]
        return sum(batch.inputs_BKS[:, 0].numel() - batch.num_columns for batch in batches)

    assert padded(TrainParams(batch_size=4, bucket_batches=8)) < 0.6 * padded(TrainParams(batch_size=4))


@pytest.mark.parametrize("loss_on", ["target", "all"])
def test_losses_of_parts_add_up_to_that_of_the_whole(loss_on):
    episodes = [read_episode(sample, CODEC, where="toy") for sample in random_samples(6)]
    batch = collate(episodes, codebook_size=16, loss_on=loss_on, form=Format(example_codebooks=2))
    logits = torch.randn(*batch.labels_BKS.shape, 16, generator=torch.Generator().manual_seed(0))
    parts = batch.split(max_columns=2 * max(batch.lengths))
    assert len(parts) > 1
    assert sorted(key for part in parts for key in part.keys) == sorted(batch.keys)
    assert sum(part.num_codes for part in parts) == batch.num_codes
    total = 0.0
    for part in parts:
        rows = [batch.keys.index(key) for key in part.keys]
        assert part.inputs_BKS.shape[2] == max(part.lengths)
        total += mean_loss(logits[rows, :, : max(part.lengths)], part.labels_BKS, part.counts_K).item()
    assert total == pytest.approx(mean_loss(logits, batch.labels_BKS).item(), abs=1e-5)
    assert batch.split(0) == [batch]


def test_validation_keeps_to_the_budget_of_columns_and_to_its_order(musicgen, monkeypatch):
    episodes = [read_episode(sample, CODEC, where="toy") for sample in random_samples(6)]
    plain, tight = (load_model(str(musicgen), params=TrainParams(max_batch_columns=limit)) for limit in (0, 80))
    sizes, logits = [], tight.logits

    def note(batch):
        sizes.append(batch.inputs_BKS[:, 0].numel())
        return logits(batch)

    monkeypatch.setattr(tight, "logits", note)
    assert mean_nll(tight, episodes, batch_size=4) == pytest.approx(mean_nll(plain, episodes, batch_size=4), abs=1e-5)
    assert len(sizes) > 2
    assert max(sizes) <= 80


def test_padding_is_never_a_label_and_never_a_separator():
    episodes = [read_episode(sample, CODEC, where="toy") for sample in random_samples(6)]
    batch = collate(episodes, codebook_size=16, loss_on="all")
    for b, length in enumerate(batch.lengths):
        assert (batch.labels_BKS[b, :, length:] == IGNORED_LABEL).all()
        assert (batch.inputs_BKS[b, :, length:] == 16).all()
    assert len(set(batch.lengths)) > 1


def test_inline_text_counts_against_the_budget_of_a_batch():
    episodes = [read_episode(sample, CODEC, where="toy") for sample in random_samples(2)]
    batch = collate(episodes, codebook_size=16, form=Format(text_placement="inline", state_columns=5))
    assert batch.sizes == [length + 4 * 5 for length in batch.lengths]
