"""Packed shards as episodes and batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.data.shards import Sample, decode_json, encode_json, encode_npy
from pipeline.errors import ContractError
from pipeline.music.sequence import PLAIN, Budget
from tests.train import toys
from tests.train.toys import random_samples, write_pack
from train.augment import blank_examples, draw_context, fit_episode, nearest_examples, swap_captions
from train.data import CodecShape, PackedShards, read_episode, sample_at
from train.icl.batches import train_batch
from train.params import TrainParams

CODEC = CodecShape(4, 16, 50.0, 16_000)


@pytest.fixture
def shards(tmp_path):
    return PackedShards(write_pack(tmp_path, "train", random_samples(21)), CODEC)


def altered(**changes):
    return toys.altered(random_samples(1)[0], **changes)


def test_every_epoch_holds_every_sample_once_in_another_order(shards):
    epochs = [[sample_at(21 * epoch + n, 21, 7) for n in range(21)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_run_over_the_end_of_an_epoch(shards):
    params = TrainParams(batch_size=8)
    keys = [key for i in range(21) for key in train_batch(shards, i, params, codebook_size=16).keys]
    assert set(Counter(keys).values()) == {8}


def test_a_batch_is_a_function_of_seed_and_number(shards, tmp_path):
    params = TrainParams(batch_size=4)
    afresh = PackedShards(sorted(tmp_path.glob("*.tar")), CODEC)
    for i in range(8):
        train_batch(shards, i, params, codebook_size=16)
    one, two = (train_batch(source, 5, params, codebook_size=16) for source in (shards, afresh))
    assert one.keys == two.keys
    assert one.prompts == two.prompts
    assert torch.equal(one.inputs_BKS, two.inputs_BKS)
    other = train_batch(afresh, 5, TrainParams(batch_size=4, seed=1), codebook_size=16)
    assert other.keys != one.keys


def test_counts_of_examples_are_drawn_from_the_list(shards):
    params = TrainParams(num_examples=(0, 2))
    counts = Counter(len(draw_context(shards[0], i, params).examples_KT) for i in range(200))
    assert set(counts) == {0, 2}
    assert min(counts.values()) > 60


def test_null_share_drops_examples_and_text_together(shards):
    params = TrainParams(num_examples=2, null_share=0.25)
    drawn = [draw_context(shards[0], i, params) for i in range(400)]
    nulls = [episode for episode in drawn if episode.prompts == [None]]
    assert all(not episode.examples_KT for episode in nulls)
    assert 60 < len(nulls) < 140
    assert all(None not in episode.prompts for episode in drawn if len(episode.examples_KT) == 2)


def test_nearest_examples_are_the_last_ones(shards):
    whole = shards[3]
    nearest = nearest_examples(whole, 2)
    assert nearest.prompts == whole.prompts[1:]
    assert nearest.examples_KT[0] is whole.examples_KT[1]
    assert nearest_examples(whole, 9).prompts == whole.prompts


def test_examples_dropped_for_the_budget_take_their_prompts_with_them(shards):
    whole = shards[3]
    fitted = fit_episode(whole, Budget(5, 6, 2 * (5 + 4) + 6 + 3), PLAIN)
    assert len(fitted.examples_KT) == 2
    assert fitted.prompts == whole.prompts[1:]


def test_controls_change_only_what_they_say(shards):
    episode = shards[0]
    swapped = swap_captions(episode)
    assert swapped is not None
    assert swapped.prompts == [*episode.prompts[1:3], episode.prompts[0], episode.prompts[3]]
    assert all(np.array_equal(a, b) for a, b in zip(swapped.examples_KT, episode.examples_KT, strict=True))
    blank = blank_examples(episode, 16)
    assert blank.prompts == episode.prompts
    assert all((clip == 16).all() for clip in blank.examples_KT)
    assert swap_captions(nearest_examples(episode, 1)) is None


def test_limit_keeps_the_first_samples(tmp_path):
    paths = write_pack(tmp_path, "train", random_samples(21))
    assert len(PackedShards(paths, CODEC, limit=5)) == 5


@pytest.mark.parametrize("limit", [None, 0])
def test_an_empty_set_is_refused_and_named(tmp_path, limit):
    samples = [] if limit is None else random_samples(3)
    paths = write_pack(tmp_path, "train", samples) or []
    with pytest.raises(ContractError, match="not one sample"):
        PackedShards(paths, CODEC, limit=limit)


@pytest.mark.parametrize("keep_index", [True, False])
def test_a_damaged_tar_is_refused_and_named(tmp_path, keep_index):
    paths = write_pack(tmp_path, "train", random_samples(8))
    paths[0].write_bytes(paths[0].read_bytes()[:-12_000])
    if not keep_index:
        (tmp_path / "index.json").unlink()
    with pytest.raises(ContractError, match=r"train-000000\.tar"):
        PackedShards(paths, CODEC)


@pytest.mark.parametrize("field", ["num_codebooks", "codebook_size", "frame_rate_hz", "sample_rate_hz"])
def test_codes_of_another_codec_are_refused(field):
    codec = CODEC._asdict() | {field: 99}
    with pytest.raises(ContractError, match="codes of another codec"):
        read_episode(altered(codec=codec), CODEC, where="x.tar")


def test_codes_beyond_the_codebook_are_refused():
    sample = random_samples(1)[0]
    target = encode_npy(np.full((4, 3), 16, np.uint16))
    with pytest.raises(ContractError, match=r"x\.tar: codes of toy-0-0000 do not fit"):
        read_episode(Sample(sample.key, sample.members | {"target.npy": target}), CODEC, where="x.tar")


@pytest.mark.parametrize("shape", [(3, 3), (4, 0), (4,)])
def test_targets_of_a_wrong_shape_are_refused(shape):
    sample = random_samples(1)[0]
    target = encode_npy(np.zeros(shape, np.uint16))
    with pytest.raises(ContractError, match="do not fit"):
        read_episode(Sample(sample.key, sample.members | {"target.npy": target}), CODEC, where="x.tar")


def test_examples_that_contradict_the_json_are_refused():
    meta = decode_json(random_samples(1)[0].members["json"])
    meta["examples"][0]["num_frames"] += 1
    with pytest.raises(ContractError, match="do not fit its json"):
        read_episode(altered(examples=meta["examples"]), CODEC, where="x.tar")


def test_a_sample_that_is_not_packed_is_refused():
    with pytest.raises(ContractError, match="no packed sample"):
        read_episode(Sample("a", {"json": encode_json({})}), CODEC, where="x.tar")


def test_a_sample_without_examples_is_an_episode():
    sample = random_samples(1)[0]
    none = {"examples.npy": np.zeros((4, 0), np.uint16), "clap.npy": np.zeros((1, 2, 4), np.float16)}
    members = altered(examples=[]).members | {name: encode_npy(array) for name, array in none.items()}
    empty = Sample(sample.key, members)
    assert read_episode(empty, CODEC, where="x.tar").examples_KT == []


def test_shards_of_another_split_are_refused(tmp_path):
    paths = write_pack(tmp_path, "train", random_samples(3))
    PackedShards(paths, CODEC).check_train()
    val = write_pack(tmp_path, "val", [toys.altered(random_samples(1)[0], split="val")])
    with pytest.raises(ContractError, match=r"val-000000\.tar: holds the split val"):
        PackedShards([*paths, *val], CODEC).check_train()


def test_codes_are_views_of_the_mapped_shards_in_sixteen_bits(shards):
    for i in range(len(shards)):
        episode = shards[i]
        whole = np.frombuffer(shards.shards.shard(shards.shards.find(i)[0]).content, np.uint8)
        for codes_KT in (episode.target_KT, *episode.examples_KT):
            assert codes_KT.dtype == np.uint16
            assert np.shares_memory(codes_KT, whole)


def test_a_damaged_member_is_named_with_its_shard():
    sample = random_samples(1)[0]
    cut = Sample(sample.key, sample.members | {"target.npy": sample.members["target.npy"][:-2]})
    with pytest.raises(ContractError, match=r"a\.tar: toy-0-0000: damaged \.npy member"):
        read_episode(cut, CODEC, where="a.tar")
