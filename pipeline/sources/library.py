"""A user's own folder: every file below it, with side files of text where there are some."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.records import Caption, Track
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
    folder = root / params.root
    if not folder.is_dir():
        raise ParamsError(f"{folder}: no such folder; set sources.library.root to the folder of your recordings")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
    if not paths:
        raise ParamsError(f"{folder}: holds no files; set sources.library.root to the folder of your recordings")
    return [_track(path, folder) for path in paths]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _track(path: Path, folder: Path) -> Track:
    name = path.relative_to(folder).as_posix()
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
    return tuple(Caption(text=" ".join(text.split()), source="human") for text in texts if text.strip())


def _caption_fields(path: Path) -> list[str]:
    try:
        value: Any = json.loads(path.read_bytes())
    except ValueError:
        # Not every JSON beside a recording is about it; one that cannot be read says nothing of it.
        return []
    fields = [value.get(name) for name in CAPTION_FIELDS] if isinstance(value, dict) else []
    return [text for text in fields if isinstance(text, str)][:1]
