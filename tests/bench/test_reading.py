"""Reading packed shards: ours beside stock webdataset, np.memmap and litdata on the same samples; medians of three."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline.data import shards
from pipeline.data.epochs import Plan, Seat
from pipeline.data.reading import open_reader
from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npy
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.bench,
    # Stock webdataset leaves its file to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NUM_SAMPLES = 2000
ARRAYS = {"target.npy": (4, 500), "examples.npy": (4, 1440), "clap.npy": (4, 2, 512)}
META = {"prompt": "a slow tune " * 40}


def made_samples(num_samples: int) -> Iterator[Sample]:
    random = np.random.default_rng(0)
    for n in range(num_samples):
        arrays = {name: random.integers(0, 2048, shape, np.uint16) for name, shape in ARRAYS.items()}
        members = {name: shards.encode_npy(array) for name, array in arrays.items()}
        yield Sample(f"toy-{n:06d}", {"json": shards.encode_json(META), **members})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    start = time.process_time()
    entry = shards.write_shard(folder / "train-000000.tar", made_samples(NUM_SAMPLES))
    print(
        f"\nwrite: {NUM_SAMPLES / (time.process_time() - start):,.0f} samples per CPU second, {entry.num_bytes:,} bytes"
    )
    shards.write_folder_index(folder, [entry])
    return folder / "train-000000.tar"


Read = Callable[[Path], int]


def read_ours(order: str) -> Read:
    def read(path: Path) -> int:
        columns = 0
        for sample in open_reader(str(path), Plan(order=order), seat=Seat()):
            members = sample.members
            decode_json(members["json"])
            columns += sum(decode_npy(members[name]).shape[1] for name in ("target.npy", "examples.npy"))
            decode_npy(members["clap.npy"])
        return columns

    return read


def read_stock(buffer_samples: int) -> Read:
    def read(path: Path) -> int:
        dataset = webdataset.WebDataset(str(path), shardshuffle=False)
        dataset = dataset.shuffle(buffer_samples).decode() if buffer_samples else dataset.decode()
        return sum(sample["target.npy"].shape[1] + sample["examples.npy"].shape[1] for sample in dataset)

    return read


def read_memmap(order: np.ndarray) -> Read:
    """The limit: one array of records with known shapes, and json beside it by a table of offsets."""

    def read(path: Path) -> int:
        # As plain arrays: the class np.memmap costs more at every slice than the slice itself.
        records = np.asarray(np.load(path.with_name("records.npy"), mmap_mode="r"))
        texts = memoryview(np.memmap(path.with_name("texts.bin"), np.uint8, "r"))
        size, columns = len(shards.encode_json(META)), 0
        for i in order.tolist():
            row, start = records[i], 0
            for name, shape in ARRAYS.items():
                num = int(np.prod(shape))
                array, start = row[start : start + num].reshape(shape), start + num
                columns += array.shape[1] if name != "clap.npy" else 0
            json.loads(bytes(texts[i * size : (i + 1) * size]))
        return columns

    return read


def write_memmap(path: Path) -> None:
    shard = ShardFile(path)
    rows = [np.concatenate([decode_npy(s.members[name]).ravel() for name in ARRAYS]) for s in shard]
    np.save(path.with_name("records.npy"), np.stack(rows))
    path.with_name("texts.bin").write_bytes(b"".join(bytes(s.members["json"]) for s in shard))


def cpu_s_per_sample(reads: dict[str, Read], path: Path) -> dict[str, float]:
    """Medians of three, in turns, so that a noisy minute is everybody's."""
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(3):
        for name, read in reads.items():
            start = time.process_time()
            assert read(path) == 1940 * NUM_SAMPLES
            seconds[name].append((time.process_time() - start) / NUM_SAMPLES)
    return {name: statistics.median(values) for name, values in seconds.items()}


def test_our_reader_beside_its_peers(packed: Path, tmp_path: Path):
    write_memmap(packed)
    shuffled = np.random.default_rng(1).permutation(NUM_SAMPLES)
    found = cpu_s_per_sample(
        {
            "stock webdataset, in order": read_stock(0),
            "ours, in order": read_ours("as_stored"),
            "np.memmap, in order": read_memmap(np.arange(NUM_SAMPLES)),
            "stock webdataset, shuffled": read_stock(1000),
            "ours, shuffled": read_ours("shuffled"),
            "np.memmap, shuffled": read_memmap(shuffled),
        },
        packed,
    )
    litdata = read_litdata(packed, tmp_path)
    found |= {f"litdata, {order}": litdata[order]["cpu_s"] for order in ("in order", "shuffled") if litdata}
    print()
    for order in ("in order", "shuffled"):
        stock_s = found[f"stock webdataset, {order}"]
        for name in ("ours", "stock webdataset", "litdata", "np.memmap"):
            if (seconds := found.get(f"{name}, {order}")) is not None:
                speed = f"{1 / seconds:>9,.0f} samples per CPU second"
                print(f"read {order}, {name:>16}: {speed}, {stock_s / seconds:5.1f} x stock")
        # Half of what was measured: machines are noisy.
        assert stock_s / found[f"ours, {order}"] > 5
    if litdata:
        print(f"litdata {litdata['version']}: first sample {litdata['first_ms']:.0f} ms")


def read_litdata(packed: Path, folder: Path) -> dict:
    """Figures of litdata, from a Python that has it; nothing where there is none."""
    python = os.environ.get("SETLIST_LITDATA_PYTHON")
    if not python:
        print(
            "\nlitdata: absent; `python -m venv /some/venv && /some/venv/bin/pip install litdata`, then "
            "SETLIST_LITDATA_PYTHON=/some/venv/bin/python make bench"
        )
        return {}
    script = REPOSITORY / "tests/bench/litdata_reading.py"
    ran = subprocess.run(
        [python, script, packed, folder / "litdata"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["in order"]["columns"] == result["shuffled"]["columns"] == 1940 * NUM_SAMPLES
    return result


FIRST_SAMPLE = """
import sys, time
from pipeline.data.epochs import Plan, Seat
from pipeline.data.reading import open_reader
from pipeline.data.shards import decode_json, decode_npy
start, cpu_s = time.perf_counter(), time.process_time()
sample = next(iter(open_reader(sys.argv[1], Plan(seed=1), seat=Seat())))
[decode_npy(data) for name, data in sample.members.items() if name.endswith("npy")]
decode_json(sample.members["json"])
print(1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu_s))
"""


@pytest.mark.parametrize("num_samples", [NUM_SAMPLES, 20_000])
def test_the_first_shuffled_sample_of_a_fresh_process(tmp_path: Path, num_samples: int):
    """What it takes is reading the index, which knows nothing of how long the codes are."""
    small = next(iter(made_samples(1))).members
    per_shard, entries = num_samples // 4, []
    for number in range(4):
        keys = (f"toy-{n:06d}" for n in range(number * per_shard, (number + 1) * per_shard))
        members = {
            name: small["json"] if name == "json" else shards.encode_npy(np.zeros(9, np.uint16)) for name in small
        }
        entries.append(shards.write_shard(tmp_path / f"train-{number:06d}.tar", (Sample(key, members) for key in keys)))
    shards.write_folder_index(tmp_path, entries)
    times_ms, cpu_ms = [], []
    for _ in range(7):
        command = [sys.executable, "-c", FIRST_SAMPLE, str(tmp_path)]
        ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        for values, text in zip((times_ms, cpu_ms), ran.stdout.split(), strict=True):
            values.append(float(text))
    index_bytes = (tmp_path / "index.json").stat().st_size
    wall = f"{min(times_ms):.1f} to {max(times_ms):.1f} ms on the wall"
    print(
        f"\nfirst sample of {num_samples:,}, index of {index_bytes:,} bytes: {wall}, "
        f"{statistics.median(cpu_ms):.1f} ms of CPU"
    )
    # Of CPU: on the wall the neighbours count too.
    assert statistics.median(cpu_ms) < 30


def test_an_integer_mtime_against_webdataset_s_own_writer(packed: Path, tmp_path: Path):
    """Stock reads both files; its own writer puts the clock into every member, which takes two more headers each."""
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for sample in ShardFile(packed):
            writer.write({"__key__": sample.key, **{name: bytes(data) for name, data in sample.members.items()}})
    theirs, ours = (path.stat().st_size for path in (tmp_path / "theirs.tar", packed))
    found = {"theirs": [], "ours": []}
    for _ in range(3):
        for name, path in (("theirs", tmp_path / "theirs.tar"), ("ours", packed)):
            start = time.process_time()
            assert read_stock(0)(path) == 1940 * NUM_SAMPLES
            found[name].append(time.process_time() - start)
    faster = statistics.median(found["theirs"]) / statistics.median(found["ours"])
    print(f"\nwebdataset's writer: {theirs / ours - 1:.1%} larger, stock reads it {faster:.2f} x slower than ours")
    assert theirs > ours
    assert faster > 1.1
    payload = sum(len(data) for sample in ShardFile(packed) for data in sample.members.values())
    print(f"our tar: {ours / payload:.3f} x its payload")


def test_help_answers_at_once():
    seconds: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "stages.encode", "--help"], cwd=REPOSITORY, check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - start)
    print(f"\npython -m stages.encode --help: {statistics.median(seconds):.2f} s")
    assert statistics.median(seconds) < 2
