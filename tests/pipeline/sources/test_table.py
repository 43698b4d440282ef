"""Corpora are found by name or kind, and keep their names apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.sources.table import corpus_tracks, kind_of


def test_two_folders_of_one_kind_are_two_corpora(tmp_path: Path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    tracks = [corpus_tracks(name, {"kind": "library", "root": name}, tmp_path)[0] for name in ("one", "other")]
    assert [track.groups["track"] for track in tracks] == ["one:a.wav", "other:a.wav"]
    assert [track.path and track.path.parent.name for track in tracks] == ["one", "other"]


def test_a_corpus_without_a_kind_of_ours_is_named(tmp_path: Path):
    assert kind_of("library", {}) == kind_of("singing", {}) == "library"
    with pytest.raises(ParamsError, match=r"sources.mine: no such corpus; .* give `kind`"):
        kind_of("mine", {})
    with pytest.raises(ParamsError, match="small letters"):
        corpus_tracks("My-Songs", {"kind": "library", "root": "x"}, tmp_path)
