"""The corpora that Setlist reads: one module each, found by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.records import Track
from pipeline.engine.params import read_value
from pipeline.errors import ParamsError

CORPORA = ("library", "musiccaps")


def corpus_tracks(corpus: str, settings: Mapping[str, Any], root: Path) -> list[Track]:
    """List the recordings of a corpus.

    Args:
        corpus: its name, also that of its module in this folder.
        settings: its section of `sources`.
        root: folder that relative paths start from.

    Raises:
        ParamsError: an unknown corpus, or settings that its source does not take.
    """
    if corpus not in CORPORA:
        raise ParamsError(f"sources.{corpus}: no such corpus; there are: {', '.join(CORPORA)}")
    # By name, so that a change to one source does not make every other corpus run again.
    module: Any = importlib.import_module(f"pipeline.sources.{corpus}")
    return module.read_tracks(read_value(settings, module.SourceParams, f"sources.{corpus}"), root)
