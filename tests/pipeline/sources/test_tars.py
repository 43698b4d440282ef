from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.files import open_source
from pipeline.sources.tars import list_tar, read_member

FORMATS: dict[str, Any] = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def make_tar(path: Path, files: list[tuple[str, bytes]], format_name: str = "pax") -> Path:
    with tarfile.open(path, "w", format=FORMATS[format_name]) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format_name", FORMATS)
def test_files_of_every_kind_of_tar_are_found_where_they_lie(tmp_path: Path, format_name: str):
    deep = "/".join(["a folder of a name"] * 7) + "/x.mp3"
    files = [
        ("--0fvYUtDas.json", b"{}"),
        ("--0fvYUtDas.mp3", b"m" * 1300),
        ("empty", b""),
        (deep, b"deep"),
        ("z.mp3", b"z"),
    ]
    if format_name != "ustar":
        files += [("歌/" * 60 + "夢.mp3", b"far")]
    path = make_tar(tmp_path / "a.tar", files, format_name)
    listing = list_tar(path)
    assert listing.fault == ""
    assert [(member.name, read_member(path, member)) for member in listing.members] == files
    with open_source(path, listing.members[1]) as source:
        assert source.read() == b"m" * 1300


def test_folders_and_links_are_no_files(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "x"}) as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("l" * 120, tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere" * 20
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("file"))
    assert [member.name for member in list_tar(tmp_path / "a.tar").members] == ["file"]


def test_sizes_from_8_gb_on_are_read(tmp_path: Path):
    for format_name in ("gnu", "pax"):
        info = tarfile.TarInfo("big.wav")
        info.size = 9 << 30
        with (tmp_path / f"{format_name}.tar").open("wb") as file:
            file.write(info.tobuf(FORMATS[format_name]))
            end = file.tell() + info.size
            file.truncate(end + 1024)  # holes, no bytes
        (member,) = list_tar(tmp_path / f"{format_name}.tar").members
        assert (member.num_bytes, member.start_byte + member.num_bytes) == (9 << 30, end)


def test_a_tar_that_is_cut_short_gives_what_lies_before(tmp_path: Path):
    files = [(f"{number}.mp3", bytes([number]) * 700) for number in range(4)]
    data = make_tar(tmp_path / "whole.tar", files).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(data[: 3 * 1536 + 600])
    listing = list_tar(path)
    assert [member.name for member in listing.members] == ["0.mp3", "1.mp3", "2.mp3"]
    assert listing.fault == f"cut short at byte {3 * 1536 + 600}, within 3.mp3"
    path.write_bytes(data[: 2 * 1536])
    assert (len(list_tar(path).members), list_tar(path).fault) == (2, "cut short at byte 3072, without an end")
    path.write_bytes(data[:1536] + b"#" * 512 + data[2048:])
    assert (len(list_tar(path).members), list_tar(path).fault) == (1, "no tar header at byte 1536")


def test_what_is_no_tar_says_so(tmp_path: Path):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(make_tar(tmp_path / "b.tar", [("a.mp3", bytes(999))]).read_bytes()))
    assert "packed by gzip" in list_tar(path).fault
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    assert list_tar(path).fault == "packed by gzip; unpack it"
    for data, fault in ((b"", "cut short at byte 0"), (b"no tar" * 300, "no tar header at byte 0")):
        path.write_bytes(data)
        assert list_tar(path).members == []
        assert fault in list_tar(path).fault
    assert "No such file" in list_tar(tmp_path / "none.tar").fault


def test_sparse_files_and_bad_sizes_break_off(tmp_path: Path):
    info = tarfile.TarInfo("holes.wav")
    info.type = b"S"
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "holes.wav at byte 512 is sparse" in list_tar(tmp_path / "a.tar").fault
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"no number..."
    header[148:156] = b"%06o\x00 " % (sum(header[:148]) + 256 + sum(header[156:]))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    assert list_tar(tmp_path / "a.tar").fault == "no size in the header at byte 0"


@settings(deadline=None)
@given(st.data())
def test_damage_anywhere_ends_in_a_listing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    whole = make_tar(path, [("歌" * 50 + ".mp3", b"a" * 600), ("b.json", b"{}")]).read_bytes()[:6144]
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=600)) + whole[at + data.draw(st.integers(0, 600)) :])
    listing = list_tar(path)
    assert all(member.start_byte + member.num_bytes <= path.stat().st_size for member in listing.members)
