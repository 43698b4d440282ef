"""MusicCaps as its users have it: one CSV, and a folder of audio under one of several naming habits."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.records import Caption, Track
from pipeline.errors import ContractError
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
        ContractError: the CSV is not MusicCaps', or a row is damaged; the message gives the row.
    """
    folder = root / params.root
    rows = read_rows(folder / params.csv, COLUMNS, corpus="musiccaps")
    audio = _files_by_ytid(folder / params.audio)
    return [_track(row, number, audio, params.audio) for number, row in rows]


def _track(row: Mapping[str, str], number: int, audio: Mapping[str, Path], folder: str) -> Track:
    ytid = row["ytid"]
    try:
        aspects: list[str] = ast.literal_eval(row["aspect_list"])
        span_s = (float(row["start_s"]), float(row["end_s"]))
    except (ValueError, SyntaxError, TypeError) as error:
        raise ContractError(
            f"musiccaps row {number} ({ytid}): cannot be read ({error}); mend or remove the row"
        ) from error
    return Track(
        id=ytid,
        path=audio.get(ytid),
        missing=f"no {folder}/{ytid}.*",
        span_s=span_s,
        captions=(Caption(text=" ".join(row["caption"].split()), source="human", author=row["author_id"]),),
        aspects=tuple(aspects),
        groups={"video": f"youtube:{ytid}"},
        official_split="test" if row["is_audioset_eval"].strip().lower() == "true" else "train",
        licence="CC BY-SA 4.0 (text); audio: its uploader's",
    )


def _files_by_ytid(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = next((m for pattern in FILE_NAMES if (m := pattern.fullmatch(path.stem))), None)
        if match and path.is_file():
            found.setdefault(match["ytid"], path)
    return found
