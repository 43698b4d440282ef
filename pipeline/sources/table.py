"""The corpora that Setlist reads: one module each, found by name."""

from __future__ import annotations

import importlib
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
        ParamsError: there is no such module, or the corpus has a name that keys cannot hold.
    """
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
    tracks: list[Track] = module.read_tracks(read_value(settings, module.SourceParams, f"sources.{corpus}"), root)
    folder = root / Path(settings["root"]).expanduser()
    outside = next(
        (file for t in tracks for file in (t.path, t.score) if file and not file.is_relative_to(folder)), None
    )
    if outside:
        raise ParamsError(
            f"sources.{corpus}: {outside} does not lie below its root {folder}; set root to a common folder"
        )
    twice = [track_id for track_id, number in Counter(track.id for track in tracks).items() if number > 1]
    if twice:
        raise ContractError(f"{corpus}: id {twice[0]!r} comes twice; ids are unique: remove one of the two")
    return [_named_after(track, corpus, kind) for track in tracks]


def _named_after(track: Track, corpus: str, kind: str) -> Track:
    """Two folders of one kind are two corpora: equal names in them are not the same recording."""
    scope, _, name = track.groups.get("track", "").partition(":")
    return replace(track, groups=track.groups | {"track": f"{corpus}:{name}"}) if scope == kind else track
