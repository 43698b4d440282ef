"""Corpora are found by name or kind, and keep their names apart."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from pipeline.data.records import Track
from pipeline.errors import ContractError, ParamsError
from pipeline.sources import table
from pipeline.sources.library import SourceParams
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


@pytest.mark.parametrize("settings", ["/path", ["/path"], 5])
def test_a_corpus_without_settings_says_how_to_write_them(tmp_path: Path, settings: object):
    with pytest.raises(ParamsError, match=r"sources.singing: write `singing: \{root: "):
        corpus_tracks("singing", settings, tmp_path)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("kind", "key"), [("library", "root"), ("musiccaps", "root")])
def test_a_root_that_is_not_there_goes_by_the_name_of_the_corpus(tmp_path: Path, kind: str, key: str):
    with pytest.raises(ParamsError, match=rf"set sources\.mine\.{key} to"):
        corpus_tracks("mine", {"kind": kind, "root": "nowhere"}, tmp_path)


def test_an_id_that_comes_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hymns = module_of(monkeypatch, [Track(id="a", path=None), Track(id="a", path=None)])
    with pytest.raises(ContractError, match="'a' comes twice"):
        corpus_tracks(hymns, {"root": "x"}, tmp_path)


@pytest.mark.parametrize("root", ["x", "../x"])
def test_audio_outside_the_root_is_named_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
):
    folder = tmp_path / "here"
    hymns = module_of(monkeypatch, [Track(id="a", path=folder / root / ".." / "evil.mp3")])
    with pytest.raises(ParamsError, match="does not lie below its root"):
        corpus_tracks(hymns, {"root": root}, folder)
    hymns = module_of(monkeypatch, [Track(id="a", path=folder / root / "b" / ".." / "good.mp3")])
    assert corpus_tracks(hymns, {"root": root}, folder)[0].id == "a"


def module_of(monkeypatch: pytest.MonkeyPatch, tracks: list[Track]) -> str:
    """A source that lists these tracks."""
    module = types.ModuleType("pipeline.sources.hymns")
    module.__dict__.update(SourceParams=SourceParams, read_tracks=lambda _params, _root: tracks)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(table, "CORPORA", (*table.CORPORA, "hymns"))
    return "hymns"
