"""Tars of other programs: read as tarfile and webdataset read them, scanned once, cached outside their folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from pipeline.data import foreign_tars
from pipeline.data.shards import Sample, ShardFile, scan_shard, write_shard
from pipeline.data.tar_headers import scan_headers
from pipeline.errors import ContractError

LONG = "folder/" + "歌" * 60


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def foreign(path: Path, format: int) -> Path:
    """Everything that people put into tars."""
    with tarfile.open(path, "w", format=format) as tar:
        add(tar, "./", b"", type=tarfile.DIRTYPE)
        add(tar, "./a.json", b'{"a":1}')
        add(tar, "./a.NPY", b"data")
        add(tar, "no_ending", b"skipped")
        add(tar, "__meta__/x.json", b"skipped too")
        add(tar, f"{LONG}.flac", b"long", mtime=0.5 if format == tarfile.PAX_FORMAT else 1)
        add(tar, f"{LONG}.json", b"{}")
        add(tar, "b.json", b"1" * 1500)
        add(tar, "link.json", b"", type=tarfile.SYMTYPE, linkname="b.json")
        add(tar, "b.two.dots.txt", b"t")
        add(tar, "a.json", b"a again, elsewhere")
    return path


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
# Stock webdataset leaves its file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_foreign_tar_is_read_as_stock_webdataset_reads_it(tmp_path: Path, format: int):
    path = foreign(tmp_path / "a.tar", format)
    stock = webdataset.WebDataset(str(path), shardshuffle=False)
    theirs = [(s["__key__"], {n: d for n, d in s.items() if not n.startswith("__")}) for s in stock]
    ours = [(s.key, {name: bytes(data) for name, data in s.members.items()}) for s in ShardFile(path)]
    assert ours == theirs
    assert [key for key, _ in ours] == ["./a", LONG, "b", "a"]
    assert [sorted(members) for _, members in ours] == [
        ["json", "npy"],
        ["flac", "json"],
        ["json", "two.dots.txt"],
        ["json"],
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_of_webdataset_s_own_writer_are_read(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for n in range(5):
            writer.write({"__key__": f"{n:03d}", "json": {"n": n}, "txt": "歌"})
    found = {sample.key: json.loads(bytes(sample.members["json"])) for sample in ShardFile(tmp_path / "a.tar")}
    assert found == {f"{n:03d}": {"n": n} for n in range(5)}


def test_members_of_eight_gigabytes_are_found_behind_their_headers():
    """GNU's base 256 and pax sizes, which no ordinary number holds; the members themselves are cut off."""
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.flac")
        info.size = 9 << 30
        header = info.tobuf(format)
        damage = scan_headers(memoryview(header)).damage
        assert damage is not None
        assert str((9 << 30) + len(header)) in damage.words


def test_a_member_twice_in_one_sample_is_named(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.json")
        add(tar, "a.json")
    with pytest.raises(ContractError, match=r"a\.json comes twice in one sample, again at byte 1024"):
        scan_shard(tmp_path / "a.tar")


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "setlist" / "tars"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    (tmp_path / "foreign").mkdir()
    write_shard(tmp_path / "foreign" / "a.tar", [Sample(f"toy-{n}", {"x": bytes(1 << 17)}) for n in range(10)])
    return tmp_path / "foreign" / "a.tar"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files whose headers were scanned."""
    done: list[int] = []

    def scan_and_count(content: memoryview) -> object:
        done.append(len(content))
        return scan_headers(content)

    monkeypatch.setattr(foreign_tars, "scan_headers", scan_and_count)
    return done


def test_a_foreign_tar_is_scanned_once(cache: Path, tar: Path, scans: list[int]):
    first, second = scan_shard(tar), scan_shard(tar)
    assert first == second
    assert len(scans) == 1
    assert len(list(cache.iterdir())) == 1


def test_a_read_only_folder_is_read_and_never_written_to(cache: Path, tar: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path: path.stat().st_mtime_ns for path in [tar.parent, *tar.parent.iterdir()]}
    tar.chmod(0o444)
    tar.parent.chmod(0o555)
    written: list[Path] = []
    real = foreign_tars.write_bytes
    monkeypatch.setattr(foreign_tars, "write_bytes", lambda path, data: written.append(path) or real(path, data))
    try:
        assert len(ShardFile(tar)) == 10
        assert {path: path.stat().st_mtime_ns for path in [tar.parent, *tar.parent.iterdir()]} == before
    finally:
        tar.parent.chmod(0o755)
    assert [path.parent for path in written] == [cache]


def test_another_file_of_the_name_is_scanned_anew(cache: Path, tar: Path, scans: list[int]):
    scan_shard(tar)
    write_shard(tar, [Sample(f"other-{n}", {"x": bytes(1 << 17)}) for n in range(10)])
    os.utime(tar, ns=(1, 1))
    assert scan_shard(tar).keys[0] == "other-0"
    assert len(scans) == 2
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"{"), lambda p: p.write_bytes(b"[]"), Path.unlink])
def test_a_damaged_cache_costs_a_scan(cache: Path, tar: Path, scans: list[int], spoil: Callable[[Path], object]):
    expected = scan_shard(tar)
    spoil(next(cache.iterdir()))
    assert scan_shard(tar) == expected
    assert len(scans) == 2


def test_a_home_that_cannot_be_written_costs_a_scan(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert scan_shard(tar).num_samples == 10


def test_without_a_cache_home_scans_lie_in_the_user_s_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert foreign_tars.cache_folder() == Path.home() / ".cache/setlist/tars"


def test_small_tars_leave_no_trace(cache: Path, tmp_path: Path):
    write_shard(tmp_path / "small.tar", [Sample("toy", {"x": b"1"})])
    scan_shard(tmp_path / "small.tar")
    assert not cache.exists()
