from __future__ import annotations

import io
import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.errors import ContractError
from pipeline.fetching.archives import unpack_zip


def write_zip(path: Path, files: dict[str, bytes], link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/hostname")
    return path


def test_files_come_out_and_litter_stays_in(tmp_path: Path):
    files = {"audio/": b"", "audio/02/1002.2min.mp3": b"one", "audio/03/2003.2min.mp3": b"two" * 999}
    litter = {"__MACOSX/audio/._x": b"", "audio/02/._1002.2min.mp3": b"fork"}
    unpacked = unpack_zip(write_zip(tmp_path / "a.zip", files | litter), tmp_path / "out")
    assert unpacked == [tmp_path / "out" / name for name in list(files)[1:]]
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(
        list(files)[1:]
    )
    assert unpacked[1].read_bytes() == b"two" * 999


def test_what_is_there_is_not_unpacked_again(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"a.mp3": b"one", "b.mp3": b"two"})
    first, second = unpack_zip(archive, tmp_path / "out")
    second.write_bytes(b"cut")  # the right size
    first.write_bytes(b"o")
    unpack_zip(archive, tmp_path / "out")
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"cut")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "..", "a/b/../../../evil"]
)
def test_a_name_that_leads_out_stops_everything(tmp_path: Path, name: str):
    archive = write_zip(tmp_path / "a.zip", {"good.mp3": b"one", name: b"two"})
    with pytest.raises(ContractError, match="leads out of its folder"):
        unpack_zip(archive, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_link_stops_everything(tmp_path: Path):
    with pytest.raises(ContractError, match="is a link"):
        unpack_zip(write_zip(tmp_path / "a.zip", {}, link="audio"), tmp_path / "out")


def test_no_zip_is_told(tmp_path: Path):
    (tmp_path / "a.zip").write_bytes(b"<html>an error page</html>")
    with pytest.raises(ContractError, match=r"a\.zip: cannot be unpacked"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_member_is_told_and_not_kept(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {"a.mp3": bytes(range(256)) * 50})
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(ContractError, match="cannot be unpacked"):
        unpack_zip(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_encrypted_zip_is_told(tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.mp3", b"one")
    data = bytearray(buffer.getvalue())
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ContractError, match="encrypted"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_bomb_is_not_lit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(ContractError, match="make room"):
        unpack_zip(write_zip(tmp_path / "a.zip", {"a.mp3": b"one"}), tmp_path / "out")
