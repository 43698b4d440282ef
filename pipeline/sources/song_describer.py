"""Song Describer as its users have it: one CSV of captions, two-minute excerpts, a licence for every track."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.data.records import AUDIO_SUFFIXES, Caption, Track
from pipeline.sources.rows import read_rows

COLUMNS = ("track_id", "caption", "is_valid_subset", "artist_id", "album_id", "path")
Validity = Literal["valid", "not_invalid", "all"]
# The column has three values: judged good, judged bad, and judged in between, which is empty.
KEPT: dict[Validity, frozenset[str]] = {
    "valid": frozenset({"true"}),
    "not_invalid": frozenset({"true", ""}),
    "all": frozenset({"true", "", "false"}),
}
NO_DERIVATIVES = re.compile(r"\bND\b|[-/]nd\b|no\s*deriv", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParams:
    """Section `sources.song_describer` of params.yaml."""

    root: str
    """Folder with the CSV, `audio/` and `audio_licenses.txt`."""
    csv: str = "song_describer.csv"
    """The CSV below root, or a derived list with the same columns."""
    audio: str = "audio"
    """Folder of excerpts below root."""
    validity: Validity = "not_invalid"
    """Captions to keep: `valid` (judged good), `not_invalid` (or in between), `all`."""
    allow_training: bool = False
    """Its authors mean it for evaluation. True puts every track into train and val, by artist, and none into test."""


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List the tracks of Song Describer, each with all its captions.

    Args:
        params: where they lie, and which captions count.
        root: folder that relative paths start from.

    Raises:
        ParamsError: no CSV there.
        ContractError: the CSV is not Song Describer's.
    """
    folder = root / Path(params.root).expanduser()
    licences = read_licences(folder / "audio_licenses.txt")
    rows: dict[str, list[Mapping[str, str]]] = {}
    faults: list[Track] = []
    for number, row in read_rows(folder / params.csv, COLUMNS, corpus="song_describer"):
        track_id = row["track_id"].strip()
        if fault := _fault(track_id, row["path"].strip(), params.audio):
            faults.append(Track(id=track_id or f"row {number}", path=None, fault=f"row {number}: {fault}"))
        else:
            rows.setdefault(track_id, []).append(row)
    find = partial(_find_audio, folder / params.audio, cache(_audio_by_stem))
    tracks = [_track(name, captions, params, find=find, licences=licences) for name, captions in rows.items()]
    return tracks + list(_named_apart(faults, rows))


def read_licences(path: Path) -> dict[str, str]:
    """Read `audio_licenses.txt`: blocks of four lines, `NN/ID.mp3`, title, licence, `--`.

    Returns:
        Licence by track id; empty where the file is absent.
    """
    if not path.is_file():
        return {}
    lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
    named = ((line, lines[n + 2]) for n, line in enumerate(lines[:-2]) if re.fullmatch(r"\d\d/\d+\.mp3", line))
    return {Path(name).stem: licence for name, licence in named}


def _fault(track_id: str, path: str, folder: str) -> str:
    if not track_id or track_id.startswith(".") or {"/", "\\", "\0"} & {*track_id}:
        return f"track_id {track_id!r} is no name of a file"
    if not path:
        return "no path"
    listed = PurePosixPath(path)
    if not listed.name or listed.is_absolute() or ".." in listed.parts or "\0" in path:
        return f"path {path!r} is none below {folder}"
    return ""


def _named_apart(faults: Iterable[Track], taken: Iterable[str]) -> Iterator[Track]:
    """Faulted rows by their track, unless something else has its id."""
    names = {*taken}
    for track in faults:
        yield track if track.id not in names else replace(track, id=track.fault.partition(":")[0])
        names.add(track.id)


def _track(
    track_id: str,
    rows: Sequence[Mapping[str, str]],
    params: SourceParams,
    *,
    find: Callable[[str, str], Path | None],
    licences: Mapping[str, str],
) -> Track:
    licence = licences.get(track_id)
    kept = [row for row in rows if row["is_valid_subset"].strip().lower() in KEPT[params.validity]]
    listed = rows[0]["path"].strip()
    return Track(
        id=track_id,
        path=find(listed, track_id),
        missing=f"no {params.audio}/{Path(listed).with_suffix('.2min.*')}, nor the like",
        unwanted="" if kept else f"validity: {params.validity}; none of its {len(rows)} captions is",
        captions=tuple(Caption(text=" ".join(row["caption"].split()), source="human") for row in kept),
        groups={
            "track": f"jamendo:{track_id}",
            "artist": f"jamendo:{rows[0]['artist_id']}",
            "album": f"jamendo:{rows[0]['album_id']}",
        },
        official_split="train" if params.allow_training else "test",
        licence=f"{licence} (no derivatives)" if licence and NO_DERIVATIVES.search(licence) else licence,
    )


def _find_audio(audio: Path, by_stem: Callable[[Path], Mapping[str, Path]], listed: str, track_id: str) -> Path | None:
    """Find a track under the names that archives and users give it; the CSV's own path is never one of them."""
    stem = Path(listed).stem
    below = [audio / Path(listed).parent, audio / "audio" / Path(listed).parent]
    places = [(folder, name) for name in (f"{stem}.2min", stem) for folder in (*below, audio)]
    return next((path for folder, name in [*places, (audio, track_id)] if (path := by_stem(folder).get(name))), None)


def _audio_by_stem(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return {path.stem: path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()}
