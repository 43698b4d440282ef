"""A user's own folder: every file below it, with side files of text where there are some."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.records import Caption, Track
from pipeline.data.storage import walk_files
from pipeline.errors import ParamsError

CAPTION_FIELDS = ("caption", "description", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParams:
    """Section `sources.library` of params.yaml."""

    root: str
    """The folder; everything below it is read, hidden files apart."""


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List every file below the folder; what is not audio is found out, and counted, when it is decoded.

    A caption comes from `NAME.txt` or from a field of `NAME.json` beside `NAME.wav`.

    Raises:
        ParamsError: no such folder, or nothing in it.
    """
    folder = root / Path(params.root).expanduser()
    if not folder.is_dir():
        raise ParamsError(f"{folder}: no such folder; set sources.library.root to the folder of your recordings")
    paths = [path for path in walk_files(folder) if not _hidden(path.relative_to(folder))]
    if not paths:
        raise ParamsError(f"{folder}: holds no files; set sources.library.root to the folder of your recordings")
    return [_track(path, folder) for path in paths]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _track(path: Path, folder: Path) -> Track:
    # A name that is no UTF-8 is spelt out: the id must survive JSON.
    name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
    return Track(id=name, path=path, captions=_side_captions(path), groups={"track": f"library:{name}"})


def _side_captions(path: Path) -> tuple[Caption, ...]:
    if path.suffix.lower() in {".txt", ".json"}:
        return ()
    text_path, json_path = path.with_suffix(".txt"), path.with_suffix(".json")
    texts: list[str] = []
    if text_path.is_file():
        texts.append(text_path.read_text("utf-8", "replace"))
    if json_path.is_file():
        texts += _caption_fields(json_path)
    # Half of a letter pair is legal in JSON and nowhere else.
    clean = (" ".join(text.encode("utf-8", "replace").decode().split()) for text in texts)
    return tuple(Caption(text=text, source="human") for text in clean if text)


def _caption_fields(path: Path) -> list[str]:
    try:
        value: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        # Not every JSON beside a recording is about it; one that cannot be read says nothing of it.
        return []
    fields = [value.get(name) for name in CAPTION_FIELDS] if isinstance(value, dict) else []
    return [text for text in fields if isinstance(text, str)][:1]
