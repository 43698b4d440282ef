from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data import storage
from pipeline.errors import ContractError


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
