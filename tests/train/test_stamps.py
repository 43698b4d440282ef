"""Shards of one codec, and of the codec at hand."""

from __future__ import annotations

import pytest

from pipeline.data.shards import Sample, encode_json
from pipeline.errors import ContractError
from tests.train import toys
from tests.train.test_data import CODEC
from train.data import PackedShards
from train.params import TrainParams
from train.stamps import check_clap_vectors, check_one_codec, check_validation, tell_of_golden


def shards_of(folder, *stamps):
    samples = zip(toys.random_samples(len(stamps)), stamps, strict=True)
    stamped = [toys.altered(sample, codec=toys.stamp() | stamp) for sample, stamp in samples]
    return PackedShards(toys.write_pack(folder, "train", stamped, per_shard=1), CODEC)


@pytest.mark.parametrize("name", ["weights_sha256", "golden_sha256"])
def test_shards_of_two_codecs_of_one_shape_are_refused(tmp_path, name):
    check_one_codec(shards_of(tmp_path / "same", {name: "a" * 64}, {}, {name: "a" * 64}))
    with pytest.raises(
        ContractError, match=rf"train-000002\.tar: its codec's {name} is bbbbbbbbbbbb, that of .*000000"
    ):
        check_one_codec(shards_of(tmp_path / "two", {name: "a" * 64}, {}, {name: "b" * 64}))


def test_another_hearing_of_the_golden_clip_is_told(tmp_path):
    shards = shards_of(tmp_path, {}, {"golden_sha256": "a" * 64})
    told = tell_of_golden(shards, {"golden_sha256": "b" * 64})
    assert told is not None
    assert "train-000001.tar: its codec made aaaaaaaaaaaa of the golden clip, here it makes bbbbbbbbbbbb" in told
    assert tell_of_golden(shards, {"golden_sha256": "a" * 64}) is None
    assert tell_of_golden(shards, {}) is None


def test_clap_vectors_of_two_embedders_are_refused_where_they_are_shown(tmp_path):
    embedders = ({"weights_sha256": "a" * 64}, None, {"weights_sha256": "b" * 64})
    samples = zip(toys.random_samples(3), embedders, strict=True)
    stamped = [toys.altered(sample, strategy={"name": "random", "embedder": stamp}) for sample, stamp in samples]
    paths = toys.write_pack(tmp_path, "train", stamped, per_shard=1)
    shown = TrainParams(representation="both", clap_dim=toys.CLAP_DIM)
    check_clap_vectors(PackedShards(paths, CODEC), TrainParams())
    check_clap_vectors(PackedShards(paths[:2], CODEC), shown)
    with pytest.raises(
        ContractError, match=r"train-000002\.tar: its embedder's weights_sha256 is bbbbbbbbbbbb, that of"
    ):
        check_clap_vectors(PackedShards(paths, CODEC), shown)


def test_clap_vectors_of_another_width_are_refused_before_anything_is_read_of_them(tmp_path):
    shards = shards_of(tmp_path, {})
    with pytest.raises(
        ContractError, match=r"train-000000\.tar: holds CLAP vectors of width 4, train\.clap_dim is 512"
    ):
        check_clap_vectors(shards, TrainParams(representation="both"))


def test_shards_of_another_stage_are_no_packed_ones(tmp_path):
    paths = toys.write_pack(tmp_path, "train", [Sample("a", {"json": encode_json({"key": "a"})})])
    for check in (check_one_codec, PackedShards.check_train):
        with pytest.raises(ContractError, match=r"train-000000\.tar: a is no packed sample"):
            check(PackedShards(paths, CODEC))


def test_validation_shards_that_the_model_reads_otherwise_are_refused(tmp_path):
    train = shards_of(tmp_path / "train", {"weights_sha256": "a" * 64})
    val = shards_of(tmp_path / "val", {"weights_sha256": "b" * 64})
    with pytest.raises(
        ContractError, match=r"val/train-000000\.tar: its codec's weights_sha256 is bbbbbbbbbbbb, that of"
    ):
        check_validation(train, val, TrainParams())


def test_weights_are_not_chosen_by_the_test_split(tmp_path):
    train = shards_of(tmp_path / "train", {})
    held_out = {}
    for split in ("val", "test", "train"):
        samples = [toys.altered(sample, split=split) for sample in toys.random_samples(2)]
        held_out[split] = PackedShards(toys.write_pack(tmp_path / split, split, samples), CODEC)
    best = TrainParams(publish="best", validate_every_steps=1)
    assert check_validation(train, held_out["val"], best) is None
    with pytest.raises(ContractError, match=r"test-000000\.tar: holds the split test, and train\.publish best would"):
        check_validation(train, held_out["test"], best)
    assert "holds the split test" in str(check_validation(train, held_out["test"], TrainParams()))
    assert "holds the split train" in str(check_validation(train, held_out["train"], TrainParams()))
