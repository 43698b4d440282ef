"""The corpora that Setlist reads: one module each, found by name."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.records import Track
from pipeline.engine.params import read_value
from pipeline.errors import ContractError, ParamsError

CORPORA = ("jacappella", "library", "musiccaps", "song_describer")


def corpus_tracks(corpus: str, settings: Mapping[str, Any], root: Path) -> list[Track]:
    """List the recordings of a corpus.

    Args:
        corpus: its name, also that of its module in this folder.
        settings: its section of `sources`.
        root: folder that relative paths start from.

    Raises:
        ParamsError: an unknown corpus, or settings that its source does not take.
        ContractError: an id that comes twice.
    """
    if corpus not in CORPORA:
        raise ParamsError(f"sources.{corpus}: no such corpus; there are: {', '.join(CORPORA)}")
    # By name, so that a change to one source does not make every other corpus run again.
    module: Any = importlib.import_module(f"pipeline.sources.{corpus}")
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
    return tracks
