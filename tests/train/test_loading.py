"""Batches from streams and from threads: the same ones, resumable, with the checks of local tars."""

from __future__ import annotations

import random
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from pipeline.data.epochs import Seat
from pipeline.data.shards import ShardFile
from pipeline.errors import ContractError, ParamsError, TransientError
from tests.train import toys
from tests.train.conftest import sigterm, stopped_at
from tests.train.test_data import CODEC
from tests.train.test_run import adapter_bytes, failing
from train import loading, run
from train.data import PackedShards
from train.inputs import find_shards
from train.loading import Loader, LookAhead, open_loader, open_validation, save_state
from train.params import TrainParams

PARAMS = {"batch_size": 4, "lora_rank": 4, "num_examples": (0, 1, 2, 3)}


@pytest.fixture
def tars(tmp_path):
    return toys.write_pack(tmp_path / "pack", "train", toys.random_samples(20))


@pytest.fixture
def pipes(tars):
    return [f"pipe:cat {path}" for path in tars]


def same(left, right):
    texts = (left.keys, left.prompts, left.lengths) == (right.keys, right.prompts, right.lengths)
    return texts and torch.equal(left.inputs_BKS, right.inputs_BKS) and torch.equal(left.labels_BKS, right.labels_BKS)


def drawn(loader, numbers):
    try:
        return [loader.batch(i) for i in numbers]
    finally:
        loader.close()


def equal(left, right):
    return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))


def test_an_exact_epoch_of_pipes_holds_every_sample_once(tars, pipes):
    batches = drawn(Loader(pipes, CODEC, TrainParams(**PARAMS)), range(10))
    keys = [key for batch in batches for key in batch.keys]
    everything = sorted(key for path in tars for key in ShardFile(path).keys)
    assert sorted(keys[:20]) == sorted(keys[20:]) == everything
    assert keys[:20] != keys[20:]


def test_resampled_pipes_go_on_without_end(pipes):
    batches = drawn(Loader(pipes, CODEC, TrainParams(**PARAMS, stream_mode="resampled")), range(12))
    assert len({key for batch in batches for key in batch.keys}) <= 20


@pytest.mark.parametrize("kind", ["local", "streamed"])
@pytest.mark.parametrize("bucket_batches", [1, 3])
def test_no_number_of_workers_changes_a_batch(tars, pipes, kind, bucket_batches):
    paths = tars if kind == "local" else pipes
    values = PARAMS | {"bucket_batches": bucket_batches, "order": "shuffled"}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, *others = [
        drawn(Loader(paths, CODEC, TrainParams(**values, steps=12, loader_workers=workers)), range(12))
        for workers in (0, 1, 3)
    ]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert all(equal(first, other) for other in others)
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_stream_goes_on_after_a_checkpoint(pipes, tmp_path, monkeypatch, workers, stop):
    params = TrainParams(**PARAMS, steps=12, bucket_batches=3, loader_workers=workers)
    whole = drawn(Loader(pipes, CODEC, params), range(12))
    first = open_loader(pipes, CODEC, params, limit=None, checkpoints=tmp_path)
    drawn(first, range(stop))
    save_state(tmp_path, stop, first)
    (tmp_path / f"step-{stop:06d}").mkdir()
    opened = []
    stream = loading.StreamReader._shard
    monkeypatch.setattr(
        loading.StreamReader, "_shard", lambda self, seat, turn: opened.append(turn) or stream(self, seat, turn)
    )
    again = drawn(open_loader(pipes, CODEC, params, limit=None, checkpoints=tmp_path), range(stop, 12))
    assert equal(again, whole[stop:])
    assert opened[0] == {1: 0, 5: 1, 7: 3}[stop]


def test_states_of_checkpoints_that_are_gone_go_too(pipes, tmp_path):
    loader = Loader(pipes, CODEC, TrainParams(**PARAMS))
    for step in (0, 1, 2):
        save_state(tmp_path, step, loader)
        (tmp_path / f"step-{step:06d}").mkdir()
        loader.batch(step)
        shutil.rmtree(tmp_path / f"step-{step - 1:06d}", ignore_errors=True)
    assert [path.name for path in sorted(tmp_path.glob("reader-*"))] == ["reader-000001-0.json", "reader-000002-0.json"]
    (tmp_path / "reader-000002-0.json").unlink()
    with pytest.raises(ContractError, match=r"reader-000002-0\.json: does not tell where the stream stood"):
        open_loader(pipes, CODEC, TrainParams(**PARAMS), limit=None, checkpoints=tmp_path)


def test_local_tars_need_no_state(tars, tmp_path):
    save_state(tmp_path / "none", 3, Loader(tars, CODEC, TrainParams(**PARAMS)))
    assert not (tmp_path / "none").exists()


def test_processes_share_streams_between_them(pipes):
    params = TrainParams(**PARAMS | {"batch_size": 2}, steps=20, loader_workers=1)
    keys = []
    for rank in range(2):
        loader = Loader(pipes, CODEC, params, seat=Seat(rank=rank, num_ranks=2))
        keys.append({key for batch in drawn(loader, range(rank, 8, 2)) for key in batch.keys})
    assert not keys[0] & keys[1]
    with pytest.raises(ContractError, match="3 streamed shards for"):
        Loader(pipes, CODEC, params, seat=Seat(rank=0, num_ranks=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, "holds the split val; train on train shards alone"),
        ({"codec": toys.stamp() | {"weights_sha256": "b" * 64}}, "its codec's weights_sha256 is bbbbbbbbbbbb, that of"),
        ({"codec": toys.stamp() | {"codebook_size": 8}}, "codes of another codec"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_streams_is_checked_as_it_comes(tmp_path, changes, message, workers):
    first, *rest, last = toys.random_samples(6)
    good = [toys.altered(sample, codec=toys.stamp() | {"weights_sha256": "a" * 64}) for sample in (first, *rest)]
    paths = toys.write_pack(tmp_path, "train", [*good, toys.altered(last, **changes)], per_shard=3)
    loader = Loader([f"pipe:cat {path}" for path in paths], CODEC, TrainParams(**PARAMS, loader_workers=workers))
    with pytest.raises(ContractError, match=message):
        drawn(loader, range(4))


def test_what_came_before_a_checkpoint_is_still_compared_with(tmp_path):
    stamps = [{"weights_sha256": letter * 64} for letter in "ab"]
    for number, stamp in enumerate(stamps):
        samples = [toys.altered(s, codec=toys.stamp() | stamp) for s in toys.random_samples(4, seed=number)]
        toys.write_pack(tmp_path / str(number), "train", samples)
    urls = [f"pipe:cat {tmp_path}/{number}/train-000000.tar" for number in range(2)]
    params = next(
        params
        for params in (TrainParams(**PARAMS, seed=seed) for seed in range(9))
        if Loader(urls, CODEC, params).batch(0).keys[0].startswith("toy-0")
    )
    loader = Loader(urls, CODEC, params)
    loader.batch(0)
    again = loader.state_at(1)
    with pytest.raises(ContractError, match=r"that of pipe:cat .*/0/train"):
        Loader(urls, CODEC, params, state=again).batch(1)


def test_addresses_of_stores_are_opened_by_fsspec(tars):
    import fsspec

    for path in tars:
        fsspec.filesystem("memory").pipe(f"/bucket/{path.name}", path.read_bytes())
    stored = find_shards(["memory://bucket/train-{000000..000002}.tar"], tars[0].parent)
    piped = [f"pipe:cat {path}" for path in tars]
    batches = [drawn(Loader(urls, CODEC, TrainParams(**PARAMS)), range(6)) for urls in (stored, piped)]
    assert equal(*batches)
    local = [f"file://{path}" for path in tars]
    assert equal(drawn(Loader(local, CODEC, TrainParams(**PARAMS)), range(6)), batches[0])
    gone = ["memory://bucket/none.tar"]
    with pytest.raises(TransientError, match="cannot be read"):
        Loader(gone, CODEC, TrainParams(**PARAMS))


def test_an_address_that_nobody_opens_says_what_to_do():
    with pytest.raises(ParamsError, match=r"nonsense://a\.tar: cannot be opened .*: 'pipe:PROGRAM nonsense://a\.tar'"):
        Loader(["nonsense://a.tar"], CODEC, TrainParams(**PARAMS))


def test_a_stream_that_breaks_off_is_opened_again(tars, tmp_path, monkeypatch):
    # One draw may fill the whole pool, and so meet every break.
    monkeypatch.setattr(loading, "RETRY_AFTER_S", (0.0,) * len(tars))
    plain = [f"pipe:cat {path}" for path in tars]
    flag = tmp_path / "broken"
    # Each fails once, after all of its bytes.
    flaky = [f"pipe:cat {path}; test -e {flag}-{n} || {{ touch {flag}-{n}; exit 3; }}" for n, path in enumerate(tars)]
    params = TrainParams(**PARAMS)
    assert equal(drawn(Loader(flaky, CODEC, params), range(8)), drawn(Loader(plain, CODEC, params), range(8)))
    with pytest.raises(TransientError):
        drawn(Loader([f"pipe:cat {tars[0]}; exit 3"], CODEC, params), range(8))


@pytest.mark.parametrize("mode", ["exact", "resampled"])
def test_streams_without_samples_are_refused(tmp_path, mode):
    urls = [f"pipe:cat {toys.write_empty_pack(tmp_path / str(number), 'train')}" for number in range(3)]
    with pytest.raises(ContractError, match="not one sample in 3 streamed shards"):
        Loader(urls, CODEC, TrainParams(**PARAMS, stream_mode=mode))


def test_an_empty_shard_among_resampled_ones_is_passed_over(tmp_path, tars):
    urls = [f"pipe:cat {path}" for path in (toys.write_empty_pack(tmp_path, "train"), tars[0])]
    batches = drawn(Loader(urls, CODEC, TrainParams(**PARAMS, stream_mode="resampled")), range(12))
    assert {key for batch in batches for key in batch.keys} == set(ShardFile(tars[0]).keys)


def test_a_position_that_was_passed_is_not_given_again(pipes):
    loader = Loader(pipes, CODEC, TrainParams(**PARAMS))
    drawn(loader, range(3))
    with pytest.raises(ContractError, match="position 0 of a stream was passed"):
        loader.batch(0)


def test_validation_reads_of_a_stream_what_it_needs(tars, pipes, capsys, tmp_path):
    params = TrainParams(**PARAMS, validation_batches=2)
    val = open_validation(pipes, CODEC, params, limit=None)
    assert [val[i].key for i in range(len(val))] == [PackedShards(tars, CODEC)[i].key for i in range(8)]
    assert len(open_validation(pipes, CODEC, params, limit=3)) == 3
    assert open_validation([], CODEC, params, limit=None) is None
    assert open_validation([f"pipe:cat {toys.write_empty_pack(tmp_path, 'val')}"], CODEC, params, limit=None) is None
    assert "no sample to validate on" in capsys.readouterr().err


def test_streams_and_local_tars_do_not_mix(tars):
    with pytest.raises(ParamsError, match="a stream beside local tars"):
        find_shards([str(tars[0]), f"pipe:cat {tars[1]}"], tars[0].parent)


def test_errors_of_a_worker_come_out_where_the_batch_is_asked_for():
    def make(number):
        if number == 3:
            raise ContractError("sample three is damaged")
        return number

    ahead = LookAhead(make, 2, end=10)
    assert [ahead(i) for i in range(3)] == [0, 1, 2]
    with pytest.raises(ContractError, match="sample three is damaged"):
        ahead(3)
    assert [ahead(i) for i in range(4, 10)] == list(range(4, 10))
    ahead.close()


def test_workers_make_no_more_than_is_asked_for_and_leave_when_told():
    made = []
    before = threading.active_count()
    ahead = LookAhead(lambda number: made.append(number) or number, 3, step=2, end=9)
    assert [ahead(i) for i in (1, 3, 5, 7)] == [1, 3, 5, 7]
    ahead.close()
    assert sorted(made) == [1, 3, 5, 7]
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def arguments(root, *more):
    tars = sorted((root / "shards/train").glob("*.tar"))
    urls = [part for path in tars for part in ("--shards", f"pipe:cat {path}")]
    return ["--root", str(root), *urls, "--name", "toy", *more]


@pytest.mark.parametrize("mode", ["exact", "resampled"])
def test_a_run_over_pipes_that_was_stopped_ends_with_the_same_bytes(project, capsys, mode):
    more = ("--set", f"train.stream_mode={mode}", "--set", "train.bucket_batches=2")
    run.main(arguments(project, *more))
    undisturbed, log = adapter_bytes(project), (project / "runs/toy/train_log.jsonl").read_bytes()
    shutil.rmtree(project / "runs")
    with stopped_at(2, sigterm):
        run.main(arguments(project, *more))
    run.main(arguments(project, *more, "--set", "train.loader_workers=2"))
    assert "going on from step 3" in capsys.readouterr().err
    assert adapter_bytes(project) == undisturbed
    assert (project / "runs/toy/train_log.jsonl").read_bytes() == log
    assert str(project) not in (project / "runs/toy/config.yaml").read_text()


def test_a_run_with_workers_ends_with_the_same_bytes_as_one_without(project, capsys):
    plain = ["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy"]
    run.main(plain)
    undisturbed = adapter_bytes(project)
    shutil.rmtree(project / "runs")
    run.main([*plain, "--set", "train.loader_workers=3"])
    assert adapter_bytes(project) == undisturbed
    code, text = failing([*plain, "--set", "train.loader_workers=-1"], capsys)
    assert code == 2
    assert "train.loader_workers: must be at least 0" in text


def test_limit_takes_the_first_samples_of_streams(tars, pipes):
    params = TrainParams(**PARAMS)
    pair = [drawn(Loader(paths, CODEC, params, limit=6), range(5)) for paths in (tars, pipes)]
    assert equal(*pair)
    assert len({key for batch in pair[0] for key in batch.keys}) == 6
