"""`python -m pipeline ls|show|verify|stats` on good and on damaged shards."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.data import shards
from pipeline.data.shards import Sample, ShardFile, load_index, write_folder_index, write_shard
from pipeline.errors import ContractError
from pipeline.inspection.damage import find_damage, verify_shards
from tests.conftest import REPOSITORY
from tests.train.toys import altered, random_samples, write_pack


def clip(n: int, *, frames: int = 50) -> Sample:
    value = {"key": f"toy-{n}", "num_samples": 16000 * (n + 1), "sample_rate_hz": 16000, "captions": [{"text": "歌"}]}
    members = {
        "json": shards.encode_json(value),
        "codes.npy": shards.encode_npy(np.full((4, frames + n), n, np.uint16)),
        "clap.npz": shards.encode_npz(audio=np.ones(3, np.float16)),
        "examples.json": shards.encode_json({"examples": [{"key": "toy-0"}] * n}),
        "lyrics.json": shards.encode_json({"phrases": [{"text": "la"}] * n}),
        "flac": b"fLaC" * 300,
    }
    return Sample(f"toy-{n}", members)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "shards" / "ingest" / "toys"
    place.mkdir(parents=True)
    entries = [write_shard(place / f"{s:06d}.tar", [clip(n) for n in range(4 * s, 4 * s + 4)]) for s in range(2)]
    write_folder_index(place, entries)
    counts = {"in": 9, "used": 8, "dropped": {"silent": 1}, "out": 8, "clips_dropped": {}}
    manifest = {"schema": 1, "stage": "ingest", "params": {}, "parents": {}, "models": {}, "counts": counts}
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str, int]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    return out, err, int(caught.value.code or 0)


# --- ls, show, stats --------------------------------------------------------------------------------------------------


def test_ls_counts_shards_columns_and_drops(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = said(capsys, "ls", folder)
    assert re.search(r"000001\.tar +4 samples", out)
    assert "2 shards, 8 samples" in out
    assert re.search(r"codes\.npy +in +8 samples", out)
    assert "made by ingest" in out
    assert "items in 9, used 8, dropped {'silent': 1}" in out


def test_ls_finds_the_folders_below_and_passes_scratch_by(folder: Path, capsys: pytest.CaptureFixture[str]):
    top = folder.parents[1]
    shutil.copytree(folder, top / ".work" / "toys")
    shutil.copytree(folder, top / "encode" / "toys")
    out = said(capsys, "ls", top)
    assert [line for line in out.splitlines() if line.endswith(":")] == [f"{top}/encode/toys:", f"{top}/ingest/toys:"]
    assert "shards," not in said(capsys, "ls", folder / "000000.tar").split("000000.tar")[0]


def test_ls_of_a_foreign_folder_needs_no_index(folder: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("index.json", "manifest.json"):
        (folder / name).unlink()
    assert "2 shards, 8 samples" in said(capsys, "ls", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["000000.tar", "000001.tar"]


def test_show_tells_a_packed_sample_as_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pack(tmp_path, "train", [altered(sample, strategy={"strategy": "random"}) for sample in random_samples(9)])
    out = said(capsys, "show", tmp_path, "toy-0-0008")
    assert "train-000001.tar: toy-0-0008" in out
    assert "3 examples, nearest last, by random" in out
    assert re.search(r"  3   0\.\d\d s from 0\.00 s  score 0\.500  toy-0-0008-2: ", out)
    assert "target.npy: uint16 [4, " in out
    assert said(capsys, "show", tmp_path) == said(capsys, "show", tmp_path, "toy-0-0000")


def test_show_tells_every_kind_of_member(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = said(capsys, "show", folder / "000000.tar", "toy-1")
    assert '"text": "歌"' in out
    assert "codes.npy: uint16 [4, 51], from 1 to 1" in out
    assert "clap.npz: audio float16 [3]" in out
    assert "flac: 1200 bytes" in out


def test_show_says_when_there_is_no_such_sample(folder: Path, capsys: pytest.CaptureFixture[str]):
    _, err, code = refused(capsys, "show", folder, "toy-99")
    assert code == 2
    assert "no sample toy-99" in err


def test_a_place_without_shards_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for command in ("ls", "show", "verify", "stats"):
        _, err, code = refused(capsys, command, tmp_path)
        assert code == 2
        assert "no shards here" in err


def test_stats_of_columns(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = said(capsys, "stats", folder)
    assert "clip, seconds: 8 values, sum 36" in out
    assert "codes, frames: 8 values, sum 428" in out
    assert "least 50  5 % 50  25 % 51  median 53  75 % 55  95 % 57  most 57" in out
    assert re.search(r"50 up to 51 +1  #{40}", out)
    assert "examples ranked: 8 values, sum 28" in out
    assert "lyrics.json, phrases" in out


def test_stats_of_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    samples = random_samples(30)
    write_pack(tmp_path, "train", samples)
    out = said(capsys, "stats", tmp_path)
    frames = [np.load(io.BytesIO(s.members["target.npy"])).shape[1] for s in samples]
    assert f"target, frames: 30 values, sum {sum(frames)}" in out
    assert f"target, seconds: 30 values, sum {sum(frames) / 50:.10g}" in out
    assert "examples: 30 values, sum 90" in out
    assert "  least 3  5 % 3  25 % 3  median 3  75 % 3  95 % 3  most 3" in out
    bars = re.findall(r"up to +[\d.,]+ +(\d+)  (#+)", out.split("target, frames")[1].split("seconds")[0])
    assert sum(int(count) for count, _ in bars) == 30


def test_stats_of_an_empty_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_folder_index(tmp_path, [write_shard(tmp_path / "val-000000.tar", [])])
    assert "no samples" in said(capsys, "stats", tmp_path)


@pytest.mark.parametrize("command", ["ls", "stats", "verify", "show"])
def test_a_reader_that_leaves_is_no_error(folder: Path, command: str):
    line = f"{sys.executable} -m pipeline {command} {folder} | true"
    ran = subprocess.run(["sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.stderr == ""


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_of_good_shards_says_good(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = said(capsys, "verify", folder)
    assert [line.strip() for line in out.splitlines()[1:]] == [
        "000000.tar  good",
        "000001.tar  good",
        "manifest.json  good",
    ]


def span(folder: Path, key: str, name: str) -> tuple[int, int]:
    entry = next(entry for entry in load_index(folder) if key in entry.keys)
    number = entry.keys.index(key)
    start, size = entry.members[name][2 * number : 2 * number + 2]
    return start, size


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


Harm = Callable[[Path, Path], int]


def cut_in_header(tar: Path, folder: Path) -> int:
    at = span(folder, "toy-6", "flac")[0] - 300
    tar.write_bytes(tar.read_bytes()[:at])
    return at // 512 * 512


def cut_in_payload(tar: Path, folder: Path) -> int:
    at = span(folder, "toy-6", "flac")[0] + 700
    tar.write_bytes(tar.read_bytes()[:at])
    return at


def cut_between_members(tar: Path, folder: Path) -> int:
    at = span(folder, "toy-6", "flac")[0] - 512
    tar.write_bytes(tar.read_bytes()[:at])
    return at


def flip_in_header(tar: Path, folder: Path) -> int:
    at = span(folder, "toy-6", "flac")[0] - 512
    flip(tar, at + 3)
    return at


def flip_in_payload(tar: Path, folder: Path) -> int:
    at = span(folder, "toy-6", "codes.npy")[0]
    flip(tar, at + 200)
    return at


def flip_in_padding(tar: Path, folder: Path) -> int:
    start, size = span(folder, "toy-6", "flac")
    flip(tar, start + size + 3)
    return start + size + 3


def garbage_behind(tar: Path, _: Path) -> int:
    size = tar.stat().st_size
    tar.write_bytes(tar.read_bytes() + bytes(100) + b"garbage")
    return size + 100


def no_tar(tar: Path, _: Path) -> int:
    tar.write_bytes(b"no tar at all, " * 1000)
    return 0


def compressed(tar: Path, _: Path) -> int:
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    return 0


def empty(tar: Path, _: Path) -> int:
    tar.write_bytes(b"")
    return 0


HARMS: list[tuple[Harm, str]] = [
    (cut_in_header, "cut short: 212 of 512 bytes of a header"),
    (cut_in_payload, "cut short: toy-6.flac should end at byte"),
    (cut_between_members, "end-of-archive mark is missing"),
    (flip_in_header, "does not agree with its own checksum"),
    (flip_in_payload, "flipped: toy-6.codes.npy"),
    (flip_in_padding, "flipped: the padding after toy-6.flac"),
    (garbage_behind, "garbage after the end of the archive, 7 bytes"),
    (no_tar, "not a tar"),
    (compressed, "not a tar but gzip"),
    (empty, "empty file"),
]


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_verify_names_the_tar_and_the_byte(folder: Path, capsys: pytest.CaptureFixture[str], harm: Harm, words: str):
    at = harm(folder / "000001.tar", folder)
    out, err, code = refused(capsys, "verify", folder)
    assert code == 1
    assert f"000001.tar  DAMAGED at byte {at}: " in out
    assert words in out
    assert "000000.tar  good" in out
    assert "1 faults in 2 tars" in err


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_verify_without_an_index_finds_what_a_tar_tells_of_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], harm: Harm, words: str
):
    at = harm(folder / "000001.tar", folder)
    (folder / "index.json").unlink()
    out, err, _ = refused(capsys, "verify", folder)
    assert "index.json  DAMAGED" in out
    assert "no such file" in out
    found = f"000001.tar  DAMAGED at byte {at}: " in out
    # A flipped code is a code: only the index knows better.
    assert found == (harm is not flip_in_payload)
    assert f"{1 + found} faults" in err


@pytest.mark.parametrize("name", ["json", "codes.npy", "clap.npz"])
def test_verify_without_an_index_decodes_members(folder: Path, name: str):
    start, size = span(folder, "toy-6", name)
    tar = folder / "000001.tar"
    data = bytearray(tar.read_bytes())
    data[start : start + size] = bytes(size)
    tar.write_bytes(data)
    damage = find_damage(tar, None)
    assert damage is not None
    assert damage.at_byte == start
    assert f"toy-6.{name} cannot be decoded" in damage.words


def test_verify_tells_a_stale_index(folder: Path, capsys: pytest.CaptureFixture[str]):
    """A tar made anew, one more, one fewer, and a manifest of other days."""
    write_shard(folder / "000001.tar", [clip(n, frames=900) for n in range(4, 8)])
    write_shard(folder / "000002.tar", [clip(9)])
    (folder / "000000.tar").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["counts"]["out"] = 7
    (folder / "manifest.json").write_text(json.dumps(manifest))
    out, err, _ = refused(capsys, "verify", folder)
    assert re.search(r"000001\.tar  DAMAGED at byte \d+: toy-4\.\S+ lies at byte \d+: index\.json is stale", out)
    assert "000002.tar  DAMAGED stale: index.json does not name it" in out
    assert "000000.tar  DAMAGED missing: index.json names it" in out
    assert "manifest.json  DAMAGED stale: it counts 7 samples, index.json 8" in out
    assert "4 faults" in err


def test_verify_tells_an_index_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "index.json").write_text("{")
    out, _, _ = refused(capsys, "verify", folder)
    assert "index.json  DAMAGED" in out
    assert "not an index of shards" in out
    assert out.count("tar  good") == 2


def test_verify_without_checksums_still_sees_that_something_differs(folder: Path):
    entry = load_index(folder)[1]
    flip_in_payload(folder / "000001.tar", folder)
    damage = find_damage(folder / "000001.tar", shards.ShardEntry(**{**vars_of(entry), "crc32": {}}))
    assert damage is not None
    assert "SHA-256 differs" in damage.words


def test_verify_tells_zeros_that_nobody_wrote(folder: Path):
    tar = folder / "000001.tar"
    size = tar.stat().st_size
    tar.write_bytes(tar.read_bytes() + bytes(512))
    damage = find_damage(tar, load_index(folder)[1])
    assert damage == (size, f"{size + 512} bytes, index.json says {size}")


def test_a_tar_that_is_gone_is_damage(folder: Path):
    damage = find_damage(folder / "none.tar", None)
    assert damage is not None
    assert "none.tar" in damage.words


def vars_of(entry: shards.ShardEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_is_found_at_or_before_it(folder: Path, data: st.DataObject):
    entry = load_index(folder)[0]
    whole = (folder / "000000.tar").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    (folder / "spoilt.tar").write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    damage = find_damage(folder / "spoilt.tar", entry)
    assert damage is not None
    assert damage.at_byte <= at
    # Named within the header, member or padding that holds it: the longest is a member of 1,200 bytes.
    assert at - damage.at_byte < 2048


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_cut_is_found_at_its_byte(folder: Path, data: st.DataObject):
    entry = load_index(folder)[0]
    whole = (folder / "000000.tar").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    (folder / "spoilt.tar").write_bytes(whole[:at])
    damage = find_damage(folder / "spoilt.tar", entry)
    assert damage is not None
    assert at - 511 <= damage.at_byte <= at


def test_a_damaged_long_name_is_named(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x" * 150 + ".json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[512:515] = b"zzz"
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ContractError, match="damaged at byte 512: flipped: the long name"):
        ShardFile(tmp_path / "a.tar")


def test_a_sparse_member_is_not_taken_for_bytes(tmp_path: Path):
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    (tmp_path / "a.tar").write_bytes(header + bytes(1024))
    with pytest.raises(ContractError, match="sparse"):
        ShardFile(tmp_path / "a.tar")


def test_verify_looks_at_all_before_it_fails(folder: Path):
    for name in ("000000.tar", "000001.tar"):
        (folder / name).write_bytes(b"")
    lines: list[str] = []
    with pytest.raises(ContractError, match="2 faults in 2 tars"):
        lines.extend(verify_shards(folder))
    assert sum("DAMAGED at byte 0: empty file" in line for line in lines) == 2


# --- what other programs write ----------------------------------------------------------------------------------------


def foreign(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("command", ["show", "stats"])
@pytest.mark.parametrize(
    "members",
    [
        {"a.json": b"{oops", "a.examples.json": b"{oops"},
        {"a.json": b'{"num_samples": 1, "captions": null}', "a.npz": b"zzz"},
        {"a.json": b'{"prompt": 1, "examples": [{}], "codec": {}}', "a.target.npy": b"xx"},
        {"a.examples.json": b"[", "a.lyrics.json": b"{}"},
    ],
)
def test_a_member_of_another_form_is_named_by_its_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, members: dict[str, bytes]
):
    tar = foreign(tmp_path / "foreign" / "a.tar", members)
    _, err, code = refused(capsys, command, tar.parent)
    assert code == 1
    assert f"{tar}: sample a: a member is damaged, or of a form that Setlist does not write" in err


def test_verify_does_not_blame_other_programs_for_having_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tar = foreign(tmp_path / "foreign" / "a.tar", {"a.flac": b"123"})
    out = said(capsys, "verify", tar.parent)
    assert out.splitlines() == [f"{tar.parent}: no index.json, tars tell of themselves", "  a.tar  good"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(b"", mtime=0), "not a tar but gzip; unpack it first"),
        (b"hello", "not a tar, 5 bytes"),
        (b"hello" * 200, "not a tar;"),
        (b"", "cannot be read (an empty file); make it again"),
    ],
)
def test_what_is_no_tar_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, words: str):
    (tmp_path / "a.tar").write_bytes(data)
    assert words in refused(capsys, "ls", tmp_path)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", "cannot be read"),
        ('{"schema": 1}', "no manifest of schema 1"),
        ('{"schema": 1, "params": {}, "parents": {}, "models": {}, "counts": {}}', "says nothing of its counts"),
    ],
)
def test_verify_tells_a_manifest_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
):
    (folder / "manifest.json").write_text(text)
    out, err, _ = refused(capsys, "verify", folder)
    assert out.count("tar  good") == 2
    assert "manifest.json  DAMAGED" in out
    assert words in out
    assert "1 faults in 2 tars" in err
