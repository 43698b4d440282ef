from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import shards
from pipeline.data.shards import Sample, ShardFile, write_shard
from pipeline.errors import ContractError, ParamsError


def some_samples(num: int = 3) -> list[Sample]:
    return [
        Sample(
            f"toy-{i}",
            {
                "json": shards.encode_json({"n": i, "text": "歌"}),
                "codes.npy": shards.encode_npy(np.full((2, i + 1), i, np.uint16)),
            },
        )
        for i in range(num)
    ]


def test_write_shard_gives_the_same_bytes_twice(tmp_path: Path):
    write_shard(tmp_path / "a.tar", some_samples())
    write_shard(tmp_path / "b.tar", some_samples())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_write_shard_bears_no_clock_no_user_and_no_pax_headers(tmp_path: Path):
    entry = write_shard(tmp_path / "a.tar", some_samples())
    with tarfile.open(tmp_path / "a.tar") as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos][:2] == ["toy-0.codes.npy", "toy-0.json"]
    assert all((info.mtime, info.uid, info.gid, info.pax_headers) == (0, 0, 0, {}) for info in infos)
    # 6 members of one header and one or two blocks, then tar's own end: nothing more.
    assert entry.num_bytes == (tmp_path / "a.tar").stat().st_size <= 10240


# Stock webdataset leaves its file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_three_readers_agree(tmp_path: Path):
    path = tmp_path / "a.tar"
    shards.write_folder_index(tmp_path, [write_shard(path, some_samples(5))])
    ours = [(s.key, {name: bytes(data) for name, data in s.members.items()}) for s in ShardFile(path)]
    stock = webdataset.WebDataset(str(path), shardshuffle=False)
    theirs = [(s["__key__"], {n: d for n, d in s.items() if not n.startswith("__")}) for s in stock]
    with tarfile.open(path) as tar:
        plain = {info.name: tar.extractfile(info).read() for info in tar}
    assert ours == theirs
    assert plain == {f"{key}.{name}": data for key, members in ours for name, data in members.items()}


def test_shard_without_index_is_scanned(tmp_path: Path):
    path = tmp_path / "a.tar"
    write_shard(path, some_samples())
    shard = ShardFile(path)
    assert shard.keys == ["toy-0", "toy-1", "toy-2"]
    assert shards.decode_npy(shard[-1].members["codes.npy"]).tolist() == [[2, 2, 2], [2, 2, 2]]
    with pytest.raises(IndexError):
        shard[3]


@pytest.mark.parametrize("with_index", [True, False])
def test_shard_cut_short_is_named(tmp_path: Path, with_index: bool):
    path = tmp_path / "a.tar"
    entry = write_shard(path, some_samples())
    if with_index:
        shards.write_folder_index(tmp_path, [entry])
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ContractError, match=r"a\.tar"):
        ShardFile(path)


def test_shard_that_is_no_tar_is_named(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ContractError, match=r"a\.tar"):
        ShardFile(tmp_path / "a.tar")
    with pytest.raises(ContractError, match=r"none\.tar"):
        ShardFile(tmp_path / "none.tar")


def test_empty_shard_file_is_named(tmp_path: Path):
    entry = write_shard(tmp_path / "a.tar", some_samples())
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ContractError, match="cannot be read"):
        ShardFile(tmp_path / "a.tar", entry)


@pytest.mark.parametrize(
    "samples",
    [
        [Sample("a", {"json": b"1"}), Sample("a", {"json": b"2"})],
        [Sample("dotted.key", {"json": b"1"})],
        [Sample("a", {})],
    ],
)
def test_write_shard_refuses_bad_keys_and_leaves_nothing(tmp_path: Path, samples: list[Sample]):
    with pytest.raises(ContractError):
        write_shard(tmp_path / "a.tar", samples)
    assert list(tmp_path.iterdir()) == []


def test_write_shard_that_fails_half_way_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "a.tar"
    write_shard(path, some_samples())
    before = path.read_bytes()

    def failing():
        yield some_samples()[0]
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_shard(path, failing())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_long_key_survives_in_a_pax_header(tmp_path: Path):
    key = "library-" + "x" * 150
    write_shard(tmp_path / "a.tar", [Sample(key, {"json": b"{}"}), *some_samples()])
    shard = ShardFile(tmp_path / "a.tar", None)
    assert shard.keys[0] == key
    assert bytes(shard[1].members["json"]) == some_samples()[0].members["json"]


def test_index_of_another_schema_or_form_is_refused(tmp_path: Path):
    with pytest.raises(ContractError, match="no such file"):
        shards.load_index(tmp_path)
    for text in ('{"schema": 99, "shards": []}', "no json", '{"shards": [{"name": 1}]}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ContractError, match=r"index\.json"):
            shards.load_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_samples": 5}, "numbers for 5 samples"),
        ({"keys": []}, "0 keys for"),
        ({"num_bytes": 700}, "outside of its tar of 700 bytes"),
        ({"members": {"json": ["x", 2, 3, 4, 5, 6]}}, "invalid literal"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, Any], words: str):
    """Else a reader would give a sample without members, or bytes that are none."""
    entry = write_shard(tmp_path / "a.tar", some_samples())
    shards.write_folder_index(tmp_path, [entry])
    content = json.loads((tmp_path / "index.json").read_bytes())
    content["shards"][0] |= change
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(ContractError, match=words):
        shards.load_index(tmp_path)


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        shards.encode_json({"x": float("nan")})


@given(st.lists(st.integers(0, 6), max_size=4), st.sampled_from(["<u2", "<f2", "<f4", "<i8"]))
def test_npy_survives_any_shape(shape: list[int], dtype: str):
    array = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    back = shards.decode_npy(memoryview(shards.encode_npy(array)))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_npy_in_fortran_order_is_read():
    out = io.BytesIO()
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.save(out, array)
    assert np.array_equal(shards.decode_npy(out.getvalue()), array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no npy",
        shards.encode_npy(np.zeros(9))[:-8],
        b"\x93NUMPY\x02\x00" + b" " * 90,
        shards.encode_npy(np.zeros(9)).replace(b"}", b"{"),
    ],
)
def test_damaged_npy_is_a_contract_error(data: bytes):
    with pytest.raises(ContractError, match="damaged"):
        shards.decode_npy(data)


def test_npz_bears_no_clock():
    arrays = {"text": np.eye(2, dtype=np.float16), "audio": np.zeros(3, np.float16)}
    data = shards.encode_npz(**arrays)
    assert data == shards.encode_npz(**dict(reversed(arrays.items())))
    assert {name: array.tolist() for name, array in shards.decode_npz(data).items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_expand_shards_reads_braces_globs_folders_and_lists(tmp_path: Path):
    names = [f"train-{n:06d}.tar" for n in range(12)]
    for name in [*names, "val-000000.tar"]:
        write_shard(tmp_path / name, some_samples(1))
    some = shards.expand_shards(f"{tmp_path}/train-{{000008..000011}}.tar")
    assert [path.name for path in some] == names[8:]
    assert [path.name for path in shards.expand_shards(f"{tmp_path}/train-*.tar")] == names
    assert len(shards.expand_shards(str(tmp_path))) == 13
    assert len(shards.expand_shards([f"{tmp_path}/val-000000.tar", f"{tmp_path}/train-00000?.tar"])) == 11
    for nothing in ("train-{000000..000099}.tar", "other-*.tar", "none.tar"):
        with pytest.raises(ParamsError, match="no such tar"):
            shards.expand_shards(f"{tmp_path}/{nothing}")


def test_a_tar_that_the_index_names_and_that_is_gone_is_not_passed_over(tmp_path: Path):
    entries = [write_shard(tmp_path / f"{name}.tar", []) for name in ("train-0", "train-1", "val-0")]
    shards.write_folder_index(tmp_path, entries)
    (tmp_path / "train-1.tar").unlink()
    for pattern in (tmp_path, tmp_path / "train-*.tar"):
        with pytest.raises(
            ContractError, match=r"train-1\.tar is named by index\.json, and not there; copy it, or name"
        ):
            shards.expand_shards(str(pattern))
    assert [path.name for path in shards.expand_shards([f"{tmp_path}/train-0.tar", f"{tmp_path}/val-*.tar"])] == [
        "train-0.tar",
        "val-0.tar",
    ]


@pytest.mark.parametrize("stream", ["pipe:cat a.tar", "s3://bucket/a-{0..9}.tar", "https://example.org/a.tar", "-"])
def test_a_stream_is_not_taken_for_a_missing_file(stream: str):
    with pytest.raises(ParamsError, match="a stream, where local tars are wanted"):
        shards.expand_shards(stream)


def test_the_index_knows_where_every_member_lies_and_its_checksum(tmp_path: Path):
    samples = [*some_samples(2), Sample("toy-9", {"json": b"{}"})]
    shards.write_folder_index(tmp_path, [write_shard(tmp_path / "a.tar", samples)])
    entry, whole = shards.load_index(tmp_path)[0], (tmp_path / "a.tar").read_bytes()
    for name, flat in entry.members.items():
        for number, sample in enumerate(samples):
            start, size = flat[2 * number : 2 * number + 2]
            told = entry.crc32[name][8 * number : 8 * number + 8]
            if name in sample.members:
                assert whole[start : start + size] == sample.members[name]
                assert told == f"{zlib.crc32(sample.members[name]):08x}"
            else:
                assert (start, size, told) == (shards.ABSENT, shards.ABSENT, "00000000")


def test_an_index_without_checksums_is_read(tmp_path: Path):
    """Those of earlier versions."""
    shards.write_folder_index(tmp_path, [write_shard(tmp_path / "a.tar", some_samples())])
    content = json.loads((tmp_path / "index.json").read_bytes())
    del content["shards"][0]["crc32"]
    (tmp_path / "index.json").write_text(json.dumps(content))
    assert ShardFile(tmp_path / "a.tar").check().keys == ["toy-0", "toy-1", "toy-2"]


def test_jsonl_survives_letters_that_look_like_line_ends(tmp_path: Path):
    values = [{"lyrics": "one\u2028two\u0085three"}, {"n": 2}]
    (tmp_path / "a.jsonl").write_bytes(shards.encode_jsonl(values))
    assert shards.read_jsonl(tmp_path / "a.jsonl") == values
    with pytest.raises(ContractError, match="cannot be read"):
        shards.read_jsonl(tmp_path / "none.jsonl")


def test_an_index_that_was_written_anew_is_read_anew(tmp_path: Path):
    for num in (2, 3):
        shards.write_folder_index(tmp_path, [write_shard(tmp_path / "a.tar", some_samples(num))])
        assert len(ShardFile(tmp_path / "a.tar")) == num
