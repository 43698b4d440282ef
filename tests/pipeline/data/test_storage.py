from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.data import storage
from pipeline.errors import ContractError, TransientError


def folder_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text)
    return path


def test_publish_replaces_the_old_folder(tmp_path: Path):
    final = folder_with(tmp_path / "out", "old")
    storage.publish_folder(folder_with(tmp_path / "staged", "new"), final, tmp_path / "work" / "retired")
    assert (final / "file").read_text() == "new"
    assert not (tmp_path / "work" / "retired").exists()


def test_recover_undoes_a_swap_killed_between_its_renames(tmp_path: Path):
    final, retired = tmp_path / "out", folder_with(tmp_path / "retired", "old")
    storage.recover_folder(final, retired)
    assert (final / "file").read_text() == "old"


def test_recover_finishes_a_swap_killed_before_the_old_folder_was_deleted(tmp_path: Path):
    final, retired = folder_with(tmp_path / "out", "new"), folder_with(tmp_path / "retired", "old")
    storage.recover_folder(final, retired)
    assert (final / "file").read_text() == "new"
    assert not retired.exists()


def test_link_or_copy_copies_where_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "a"
    source.write_text("x")
    storage.link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def no_links(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    storage.link_or_copy(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "x"
    assert not (tmp_path / "copied").samefile(source)


def test_a_folder_that_cannot_be_written_is_a_contract_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContractError, match="cannot be written"):
        storage.write_bytes(tmp_path / "file" / "below", b"x")


def test_an_error_of_another_file_keeps_its_own_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), storage.atomic_path(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, TransientError), (errno.EIO, ContractError)])
def test_a_full_disk_may_be_tried_again(tmp_path: Path, number: int, error: type[Exception]):
    with pytest.raises(error), storage.atomic_path(tmp_path / "a"):
        raise OSError(number, "trouble")


def test_walk_follows_links_and_survives_loops(tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a").touch()
    (tmp_path / "own" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "own" / "loop").symlink_to(tmp_path / "own")
    (tmp_path / "own" / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "own" / "pipe.wav")
    found = [str(path.relative_to(tmp_path / "own")) for path in storage.walk_files(tmp_path / "own")]
    assert found == ["a", "dangling", "linked/b"]


def test_half_an_old_folder_is_never_brought_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    final, retired = folder_with(tmp_path / "out", "new"), folder_with(tmp_path / "retired", "old")
    monkeypatch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)  # killed while deleting
    storage.recover_folder(final, retired)
    final.rename(tmp_path / "deleted by dvc")
    storage.recover_folder(final, retired)
    assert not final.exists()
