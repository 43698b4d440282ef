"""Readers: who gets which key, what resuming costs, that nothing is copied."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.utils.data
import webdataset

from pipeline.data import reading, shards
from pipeline.data.epochs import Plan, Seat, planned_sample
from pipeline.data.reading import LocalShards, Reader, open_reader, seat_here, stock_samples
from pipeline.data.shards import Sample
from pipeline.errors import ContractError, ParamsError, TransientError
from tests.conftest import REPOSITORY
from tests.train.toys import random_samples, write_pack

NUM_SAMPLES = 23
# (workers of the loader; 0 reads in the process itself), ranks
LAYOUTS = [(workers, ranks) for workers in (0, 1, 3) for ranks in (1, 2, 3)]


def write(folder: Path, num_shards: int, num_samples: int = NUM_SAMPLES) -> list[Path]:
    """Write shards of unequal sizes."""
    folder.mkdir(exist_ok=True)
    keys = [f"toy-{n:03d}" for n in range(num_samples)]
    edges = np.linspace(0, num_samples ** (1 / 1.3), num_shards + 1)
    edges = np.round(edges**1.3).astype(int)
    entries = []
    for number, (start, end) in enumerate(pairwise(edges)):
        samples = [Sample(key, {"json": b"{}", "codes.npy": shards.encode_npy(codes(key))}) for key in keys[start:end]]
        entries.append(shards.write_shard(folder / f"train-{number:06d}.tar", samples))
    shards.write_folder_index(folder, entries)
    return sorted(folder.glob("*.tar"))


def codes(key: str) -> np.ndarray:
    return np.full((4, 30), int(key[-3:]), np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "few", 2)
    write(tmp_path / "many", 9)
    return tmp_path


def pipes(folder: Path) -> list[str]:
    return [f"pipe:cat {path}" for path in sorted(folder.glob("*.tar"))]


def seats_of(workers: int, ranks: int) -> list[Seat]:
    num_workers = max(workers, 1)
    return [
        Seat(worker=worker, num_workers=num_workers, rank=rank, num_ranks=ranks)
        for rank in range(ranks)
        for worker in range(num_workers)
    ]


def keys_of(reader: Reader, most: int | None = None) -> list[str]:
    return [sample.key for sample in islice(reader, most)]


EVERY_KEY_ONCE = Counter(f"toy-{n:03d}" for n in range(NUM_SAMPLES))

# --- who gets which key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
@pytest.mark.parametrize("place", ["few", "many"])
def test_exact_epochs_of_local_shards_hold_every_key_once(folder: Path, place: str, workers: int, ranks: int):
    """Two shards for up to nine seats included."""
    readers = [open_reader(str(folder / place), Plan(seed=5), seat=seat) for seat in seats_of(workers, ranks)]
    epochs = []
    for _ in range(3):
        keys = [keys_of(reader) for reader in readers]
        assert sum(map(Counter, keys), Counter()) == EVERY_KEY_ONCE
        assert max(map(len, keys)) - min(map(len, keys)) <= 1
        epochs.append(keys)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("workers", "ranks"), LAYOUTS)
def test_exact_epochs_of_pipes_hold_every_key_once(folder: Path, workers: int, ranks: int):
    seats = seats_of(workers, ranks)
    readers = [open_reader(pipes(folder / "many"), Plan(seed=5), seat=seat) for seat in seats]
    for _ in range(2 if len(seats) < 4 else 1):
        assert sum((Counter(keys_of(reader)) for reader in readers), Counter()) == EVERY_KEY_ONCE


def test_pipes_refuse_more_seats_than_shards_where_local_tars_serve_them(folder: Path):
    seat = Seat(num_workers=3, num_ranks=1)
    with pytest.raises(ContractError, match="2 streamed shards for 3 loader workers x 1 ranks would leave 1 of 3"):
        open_reader(pipes(folder / "few"), seat=seat)
    assert keys_of(open_reader(str(folder / "few"), seat=seat))


def test_more_seats_than_samples_are_refused_with_the_numbers(folder: Path):
    with pytest.raises(ContractError, match="23 samples for 6 loader workers x 4 ranks would leave 1 of 24 empty"):
        open_reader(str(folder / "few"), seat=Seat(num_workers=6, num_ranks=4))


@pytest.mark.parametrize("stream", [False, True])
def test_resampled_is_endless_and_even(folder: Path, stream: bool):
    spec = pipes(folder / "few")[:1] if stream else str(folder / "few")
    seats = seats_of(2, 1)
    counts: Counter[str] = Counter()
    for seat in seats:
        found = keys_of(open_reader(spec, Plan(mode="resampled"), seat=seat), 60 if stream else 2300)
        counts += Counter(found)
    if stream:
        assert sum(counts.values()) == 120  # more than one round of the only shard
    else:
        assert set(counts) == set(EVERY_KEY_ONCE)
        # 4,600 draws of 23: mean 200, standard deviation 14.
        assert max(abs(count - 200) for count in counts.values()) < 70


def test_as_stored_is_the_order_of_the_files(folder: Path):
    plan = Plan(order="as_stored")
    assert keys_of(open_reader(str(folder / "many"), plan)) == sorted(EVERY_KEY_ONCE)
    assert keys_of(open_reader(pipes(folder / "many"), plan)) == sorted(EVERY_KEY_ONCE)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stream", [False, True])
# Three workers are more than some machines have cores. Worker processes leave their queues to the garbage collector.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_torch_loader_over_stock_webdataset_gets_every_key_once(folder: Path, workers: int, stream: bool):
    reader = open_reader(pipes(folder / "many") if stream else str(folder / "many"))
    dataset = webdataset.DataPipeline(lambda: stock_samples(reader), webdataset.decode())
    loader = torch.utils.data.DataLoader(dataset, num_workers=workers, batch_size=None)
    found = {sample["__key__"]: sample["codes.npy"] for sample in loader}
    assert Counter(found.keys()) == EVERY_KEY_ONCE
    assert all(np.array_equal(found[key], codes(key)) for key in found)


# As above.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_torch_loader_over_positions_gives_the_same_batches_with_any_number_of_workers(folder: Path):
    local = LocalShards(sorted((folder / "many").glob("*.tar")))
    order = [planned_sample(Plan(seed=3), position, len(local)) for position in range(2 * NUM_SAMPLES)]
    loaders = [
        torch.utils.data.DataLoader(local, 4, sampler=order, num_workers=workers, collate_fn=keys_in)
        for workers in (0, 1, 3)
    ]
    batches = [list(loader) for loader in loaders]
    assert batches[0] == batches[1] == batches[2]
    assert Counter(key for batch in batches[0] for key in batch) == EVERY_KEY_ONCE + EVERY_KEY_ONCE


def keys_in(samples: list[Sample]) -> list[str]:
    return [sample.key for sample in samples]


def test_the_seat_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert seat_here() == Seat()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert seat_here() == Seat(rank=1, num_ranks=3)


def test_the_seat_is_that_of_torch_s_process_group(tmp_path: Path):
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert seat_here() == Seat()
    finally:
        group.destroy_process_group()


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "resampled"])
@pytest.mark.parametrize("num_read", [0, 1, 10, 23, 30])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_goes_on_where_its_state_was_taken(folder: Path, mode: str, num_read: int, stream: bool):
    spec, plan = pipes(folder / "few") if stream else str(folder / "few"), Plan(mode=mode, seed=2)
    expected = list(islice(endless(open_reader(spec, plan)), 60))
    first = open_reader(spec, plan)
    assert list(islice(endless(first), num_read)) == expected[:num_read]
    state = json.loads(json.dumps(first.state()))
    assert len(json.dumps(state)) < 300
    again = open_reader(spec, plan, state=state)
    assert list(islice(endless(again), 60 - num_read)) == expected[num_read:]


def endless(reader: Reader) -> Iterator[str]:
    while True:
        for sample in reader:
            yield sample.key


def test_local_shards_go_on_with_another_number_of_seats(folder: Path):
    plan = Plan(seed=4)
    first = [open_reader(str(folder / "few"), plan, seat=seat) for seat in seats_of(3, 1)]
    begun = [key for reader in first for key in keys_of(reader, 4)]
    states = [reader.state() for reader in first]
    assert states[0] == states[1] == states[2]
    rest = [open_reader(str(folder / "few"), plan, seat=seat, state=states[0]) for seat in seats_of(1, 2)]
    assert Counter(begun) + sum((Counter(keys_of(reader)) for reader in rest), Counter()) == EVERY_KEY_ONCE


def test_streams_go_on_seat_by_seat_from_the_states_of_all(folder: Path):
    seats, spec = seats_of(3, 1), pipes(folder / "many")
    first = [open_reader(spec, seat=seat) for seat in seats]
    begun = [key for reader in first for key in keys_of(reader, 3)]
    states = [reader.state() for reader in first]
    rest = [open_reader(spec, seat=seat, state=states[::-1]) for seat in seats]
    assert Counter(begun) + sum((Counter(keys_of(reader)) for reader in rest), Counter()) == EVERY_KEY_ONCE


@pytest.mark.parametrize("change", ["seed", "mode", "shards", "seat"])
def test_a_state_of_another_reading_is_refused(folder: Path, change: str):
    stream = change == "seat"
    spec = pipes(folder / "many") if stream else str(folder / "many")
    state = open_reader(spec, Plan(seed=1), seat=Seat(num_workers=2)).state()
    plan = Plan(seed=2 if change == "seed" else 1, mode="resampled" if change == "mode" else "exact")
    other = str(folder / "few") if change == "shards" else spec
    with pytest.raises(ContractError, match="state from another reading"):
        keys_of(open_reader(other, plan, seat=Seat(num_workers=3), state=state))


class Opened:
    """Counts what is opened, and what is touched of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tars: list[str] = []
        mapped, streamed = shards.map_file, reading.stream_shard

        def map_and_count(path: Path) -> memoryview:
            self.tars.append(path.name)
            return mapped(path)

        monkeypatch.setattr(shards, "map_file", map_and_count)

        def stream_and_count(url: str) -> Iterator[Sample]:
            self.tars.append(url)
            return streamed(url)

        monkeypatch.setattr(reading, "stream_shard", stream_and_count)


def test_going_on_after_n_local_samples_opens_nothing_of_the_n(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Plan(order="as_stored")
    first = open_reader(str(folder / "many"), plan)
    keys_of(first, 20)
    opened = Opened(monkeypatch)
    again = open_reader(str(folder / "many"), plan, state=first.state())
    assert opened.tars == []
    assert keys_of(again) == sorted(EVERY_KEY_ONCE)[20:]
    holders = {entry.name for entry in again.shards.entries if set(entry.keys) & set(sorted(EVERY_KEY_ONCE)[20:])}
    assert set(opened.tars) == holders
    assert len(opened.tars) < 9


@pytest.mark.parametrize("num_read", range(1, NUM_SAMPLES))
def test_going_on_after_n_streamed_samples_reads_at_most_one_shard_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_read: int
):
    spec, plan = [str(path) for path in sorted((folder / "many").glob("*.tar"))], Plan(seed=7)
    reader = reading.StreamReader(spec, plan, Seat(), [])
    begun = keys_of(reader, num_read)
    sizes = {str(path): len(shards.ShardFile(path)) for path in map(Path, spec)}
    opened = Opened(monkeypatch)
    again = reading.StreamReader(spec, plan, Seat(), [reader.state()])
    rest = keys_of(again)
    assert Counter(begun + rest) == EVERY_KEY_ONCE
    read_again = sum(sizes[url] for url in opened.tars) - len(rest)
    assert 0 <= read_again <= sizes[opened.tars[0]]
    assert len(opened.tars) == len(set(opened.tars))


# --- nothing is copied ------------------------------------------------------------------------------------------------


def test_arrays_are_views_of_the_mapped_file(folder: Path):
    local = LocalShards(sorted((folder / "many").glob("*.tar")))
    for i in range(len(local)):
        array = shards.decode_npy(local[i].members["codes.npy"])
        whole = np.frombuffer(local.shard(local.find(i)[0]).content, np.uint8)
        assert np.shares_memory(array, whole)
        assert array.dtype == np.uint16
        assert not array.flags.writeable


def test_views_outlive_the_file_s_turn_among_the_open_ones(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MAX_OPEN_SHARDS", 2)
    local = LocalShards(sorted((folder / "many").glob("*.tar")))
    arrays = [shards.decode_npy(local[i].members["codes.npy"]) for i in range(len(local))]
    assert len(local._open) == 2
    assert [int(array[0, 0]) for array in arrays] == list(range(NUM_SAMPLES))


def test_local_shards_travel_to_another_process(folder: Path):
    local = LocalShards(sorted((folder / "many").glob("*.tar")))
    assert local[3].key == pickle.loads(pickle.dumps(local))[3].key
    for beyond in (-1, NUM_SAMPLES):
        with pytest.raises(IndexError):
            local[beyond]
    assert len(LocalShards([])) == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(folder: Path):
    with pytest.raises(ParamsError, match="no such tar"):
        open_reader(str(folder / "none-*.tar"))
    gone = sorted((folder / "few").glob("*.tar"))[0]
    gone.unlink()
    with pytest.raises(ContractError, match=gone.name):
        LocalShards([gone])


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("head -c 1000 {}", ContractError, "not a whole tar"),
        ("echo no tar at all", ContractError, "not a whole tar"),
        ("cat {}; exit 3", TransientError, r"cannot be read \(the command ended with exit code 3\); try again"),
        ("false", (ContractError, TransientError), "false"),
    ],
)
def test_a_pipe_that_breaks_is_named(folder: Path, command: str, error: type[Exception], words: str):
    tar = sorted((folder / "few").glob("*.tar"))[1]
    with pytest.raises(error, match=words):
        keys_of(open_reader(f"pipe:{command.format(tar)}"))


def test_a_pipe_that_is_left_in_the_middle_is_no_error(tmp_path: Path):
    big = [Sample(f"toy-{n}", {"x": bytes(1 << 18)}) for n in range(20)]
    shards.write_shard(tmp_path / "a.tar", big)
    reader = iter(open_reader(f"pipe:cat {tmp_path}/a.tar"))
    assert next(reader).key in ("toy-0", "toy-1")
    reader.close()


# Stock webdataset leaves its file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_documentation_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pack(tmp_path / "shards/pack/semantic", "train", random_samples(20))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/shards.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    assert names["state"]["position"] == 1
    assert len({sample.key for sample in names["batch"]}) == 4
    assert len(names["prompts"]) == 20
