"""MusicCaps as its users have it: one CSV, and a folder of audio under one of several naming habits."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.records import AUDIO_SUFFIXES, Caption, Track
from pipeline.sources.rows import read_rows

COLUMNS = ("ytid", "start_s", "end_s", "aspect_list", "caption", "author_id", "is_audioset_eval")
# `{ytid}.wav` of most downloaders, `[ytid]-[start-end].webm`, `{ytid}_{start}_{end}.wav`.
FILE_NAMES = (
    re.compile(r"(?P<ytid>[\w-]{11})"),
    re.compile(r"\[(?P<ytid>[\w-]{11})\]-\[[\d.]+-[\d.]+\]"),
    re.compile(r"(?P<ytid>[\w-]{11})_\d+_\d+"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParams:
    """Section `sources.musiccaps` of params.yaml."""

    root: str
    """Folder with the CSV and `audio/`."""
    csv: str = "musiccaps-public.csv"
    """The CSV below root, or one of the derived lists with the same columns."""
    audio: str = "audio"
    """Folder of audio files below root."""


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List the clips of MusicCaps.

    Args:
        params: where they lie.
        root: folder that relative paths start from.

    Raises:
        ParamsError: no CSV there.
        ContractError: the CSV is not MusicCaps'.
    """
    folder = root / Path(params.root).expanduser()
    rows = read_rows(folder / params.csv, COLUMNS, corpus="musiccaps")
    audio = _files_by_ytid(folder / params.audio)
    return [_track(row, number, audio, params.audio) for number, row in rows]


def _track(row: Mapping[str, str], number: int, audio: Mapping[str, Path], folder: str) -> Track:
    ytid = row["ytid"] or f"row {number}"
    try:
        aspects, span_s, is_test = _aspects(row["aspect_list"]), _span_s(row), _truth(row["is_audioset_eval"])
    except (ValueError, SyntaxError) as error:
        return Track(id=ytid, path=None, fault=f"row {number}: {error}")
    return Track(
        id=ytid,
        path=audio.get(ytid),
        missing=f"no {folder}/{ytid}.*",
        span_s=span_s,
        captions=(Caption(text=" ".join(row["caption"].split()), source="human", author=row["author_id"]),),
        aspects=tuple(aspects),
        groups={"video": f"youtube:{ytid}"},
        official_split="test" if is_test else "train",
        licence="CC BY-SA 4.0 (text); audio: its uploader's",
    )


def _aspects(text: str) -> list[str]:
    aspects: Any = ast.literal_eval(text)
    if not isinstance(aspects, list) or not all(isinstance(aspect, str) for aspect in aspects):
        raise ValueError(f"aspect_list is no list of texts: {text[:40]!r}")
    return aspects


def _span_s(row: Mapping[str, str]) -> tuple[float, float]:
    start_s, end_s = float(row["start_s"]), float(row["end_s"])
    if not 0 <= start_s < end_s < math.inf:
        raise ValueError(f"start_s {start_s} and end_s {end_s} are no span")
    return start_s, end_s


def _truth(word: str) -> bool:
    if word.strip().lower() not in ("true", "false"):
        raise ValueError(f"is_audioset_eval is {word!r}, neither True nor False")
    return word.strip().lower() == "true"


def _files_by_ytid(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    # Audio first: downloaders leave thumbnails and descriptions under the same name.
    for path in sorted(paths, key=lambda path: path.suffix.lower() not in AUDIO_SUFFIXES):
        match = next((m for pattern in FILE_NAMES if (m := pattern.fullmatch(path.stem))), None)
        if match and path.is_file():
            found.setdefault(match["ytid"], path)
    return found
