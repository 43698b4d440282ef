"""The corpora that Setlist reads: one module each, found by name."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.data.keys import CORPUS_PATTERN
from pipeline.data.records import Track
from pipeline.engine.params import read_value
from pipeline.errors import ContractError, ParamsError

CORPORA = ("jacappella", "library", "musiccaps", "song_describer")
# The unlabelled singing that `stages.fetch` brings is a folder of tars, as others have of their own.
KINDS = {"singing": "library"}


def kind_of(corpus: str, settings: Mapping[str, Any]) -> str:
    """Name the module that reads a corpus: `kind` of its settings, by default the corpus' own name.

    Raises:
        ParamsError: there is no such module, the corpus has a name that keys cannot hold, or no settings.
    """
    if not isinstance(settings, Mapping):
        raise ParamsError(f"sources.{corpus}: write `{corpus}: {{root: {settings or '/path'}}}`")
    kind = str(settings.get("kind", KINDS.get(corpus, corpus)))
    if kind not in CORPORA:
        known = ", ".join(CORPORA)
        raise ParamsError(
            f"sources.{corpus}: no such corpus; there are: {known}, or give `kind`, such as kind: library"
        )
    if not CORPUS_PATTERN.fullmatch(corpus):
        raise ParamsError(f"sources.{corpus}: a corpus is named by small letters, digits and underscores")
    return kind


def corpus_tracks(corpus: str, settings: Mapping[str, Any], root: Path) -> list[Track]:
    """List the recordings of a corpus.

    Args:
        corpus: its name; also that of its module in this folder, unless its settings name another `kind`.
        settings: its section of `sources`.
        root: folder that relative paths start from.

    Raises:
        ParamsError: an unknown corpus, or settings that its source does not take.
        ContractError: an id that comes twice.
    """
    kind = kind_of(corpus, settings)
    settings = {name: value for name, value in settings.items() if name != "kind"}
    # By name, so that a change to one source leaves the fingerprint of every other corpus as it was.
    module: Any = importlib.import_module(f"pipeline.sources.{kind}")
    params = read_value(settings, module.SourceParams, f"sources.{corpus}")
    try:
        tracks: list[Track] = module.read_tracks(params, root)
    except ParamsError as error:
        # A source knows its kind only; the setting to mend is that of the corpus.
        raise ParamsError(str(error).replace(f"sources.{kind}.", f"sources.{corpus}.")) from error
    folder = root / Path(settings["root"]).expanduser()
    files = (file for track in tracks for file in (track.path, track.score) if file)
    outside = next((file for file in files if not _spelt_out(file).is_relative_to(_spelt_out(folder))), None)
    if outside:
        raise ParamsError(
            f"sources.{corpus}: {outside} does not lie below its root {folder}; set root to a common folder"
        )
    twice = [track_id for track_id, number in Counter(track.id for track in tracks).items() if number > 1]
    if twice:
        raise ContractError(f"{corpus}: id {twice[0]!r} comes twice; ids are unique: remove one of the two")
    return [_named_after(track, corpus, kind) for track in tracks]


def _spelt_out(path: Path) -> Path:
    # Not resolve(): links that lead out of the folder are how many keep a corpus.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _named_after(track: Track, corpus: str, kind: str) -> Track:
    """Two folders of one kind are two corpora: equal names in them are not the same recording."""
    scope, _, name = track.groups.get("track", "").partition(":")
    return replace(track, groups=track.groups | {"track": f"{corpus}:{name}"}) if scope == kind else track
