"""MusicCaps as its users have it: one CSV, and a folder of audio under one of several naming habits."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.records import AUDIO_SUFFIXES, Caption, Track
from pipeline.sources.rows import read_rows

COLUMNS = ("ytid", "start_s", "end_s", "aspect_list", "caption", "author_id", "is_audioset_eval")
# `{ytid}.wav` of most downloaders, `[ytid]-[start-end].webm`, `{ytid}_{start}_{end}.wav`.
SECONDS = r"\d+(?:\.\d+)?"
FILE_NAMES = (
    re.compile(r"(?P<ytid>[\w-]{11})"),
    re.compile(rf"\[(?P<ytid>[\w-]{{11}})\]-\[(?P<start>{SECONDS})-(?P<end>{SECONDS})\]"),
    re.compile(rf"(?P<ytid>[\w-]{{11}})_(?P<start>{SECONDS})_(?P<end>{SECONDS})"),
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


class _File(NamedTuple):
    """A file of a video, with the part of it that its name tells."""

    path: Path
    span_s: tuple[float, float] | None


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List the clips of MusicCaps.

    A row that comes again, with the same span of the same video, adds its caption; another span of a video is a track
    of its own, in the group of that video.

    Args:
        params: where they lie.
        root: folder that relative paths start from.

    Raises:
        ParamsError: no CSV there.
        ContractError: the CSV is not MusicCaps'.
    """
    folder = root / Path(params.root).expanduser()
    rows = read_rows(folder / params.csv, COLUMNS, corpus="musiccaps")
    tracks = _merged(_track(row, number) for number, row in rows)
    files = _files_by_ytid(folder / params.audio)
    return [track if track.fault else _with_audio(track, files, params.audio) for track in tracks]


def _track(row: Mapping[str, str], number: int) -> Track:
    ytid = row["ytid"].strip()
    if not ytid:
        return Track(id=f"row {number}", path=None, fault=f"row {number}: no ytid")
    try:
        aspects, span_s, is_test = _aspects(row["aspect_list"]), _span_s(row), _truth(row["is_audioset_eval"])
    except (ValueError, SyntaxError) as error:
        return Track(id=f"{ytid}@row {number}", path=None, fault=f"row {number}: {error}")
    return Track(
        id=ytid,
        path=None,
        span_s=span_s,
        captions=(Caption(text=" ".join(row["caption"].split()), source="human", author=row["author_id"]),),
        aspects=tuple(aspects),
        groups={"video": f"youtube:{ytid}"},
        official_split="test" if is_test else "train",
        licence="CC BY-SA 4.0 (text); audio: its uploader's",
    )


def _merged(tracks: Iterable[Track]) -> list[Track]:
    """One track for every span of a video; the first one has the id of the video, later ones tell their span."""
    first: dict[str, tuple[float, float] | None] = {}
    merged: dict[str, Track] = {}
    for track in tracks:
        span_s = first.setdefault(track.id, track.span_s)
        name = track.id if span_s == track.span_s else f"{track.id}@{'{:.10g}-{:.10g}'.format(*track.span_s or ())}"
        before = merged.get(name)
        merged[name] = _both(before, track) if before else replace(track, id=name)
    return list(merged.values())


def _both(one: Track, other: Track) -> Track:
    return replace(
        one,
        captions=one.captions + other.captions,
        aspects=tuple(dict.fromkeys(one.aspects + other.aspects)),
        official_split=min(one.official_split or "", other.official_split or ""),  # test before train
    )


def _with_audio(track: Track, files: Mapping[str, Sequence[_File]], folder: str) -> Track:
    ytid, _, later = track.id.partition("@")
    start_s, end_s = track.span_s or (0.0, 0.0)
    wide = [file for file in files.get(ytid, ()) if file.span_s is None or _holds(file.span_s, start_s, end_s)]
    # A name that tells times is surer than one that does not, and the shortest file is the nearest to the span.
    file = min(wide, key=lambda file: file.span_s[1] - file.span_s[0] if file.span_s else math.inf, default=None)
    if file is None:
        return replace(track, missing=f"no {folder}/{ytid}.*" + (f" with {start_s:g} to {end_s:g} s" if later else ""))
    if file.span_s is not None:
        return replace(track, path=file.path, file_start_s=file.span_s[0])
    # The file may be the cut span of the first row, so for a later one it can only serve as the whole video.
    return replace(track, path=file.path, file_start_s=0.0 if later else None)


def _holds(span_s: tuple[float, float], start_s: float, end_s: float) -> bool:
    return span_s[0] <= start_s and end_s <= span_s[1]


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


def _files_by_ytid(folder: Path) -> dict[str, list[_File]]:
    found: dict[str, list[_File]] = {}
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    # Audio first: downloaders leave thumbnails and descriptions under the same name.
    for path in sorted(paths, key=lambda path: path.suffix.lower() not in AUDIO_SUFFIXES):
        match = next((m for pattern in FILE_NAMES if (m := pattern.fullmatch(path.stem))), None)
        if match and path.is_file():
            found.setdefault(match["ytid"], []).append(_File(path, _named_span_s(match.groupdict())))
    return found


def _named_span_s(fields: Mapping[str, str]) -> tuple[float, float] | None:
    return (float(fields["start"]), float(fields["end"])) if "start" in fields else None
