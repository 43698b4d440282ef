"""Song Describer as its users have it: one CSV of captions, two-minute excerpts, a licence for every track."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.records import Caption, Track
from pipeline.sources.rows import read_rows

COLUMNS = ("track_id", "caption", "is_valid_subset", "artist_id", "album_id", "path")
Validity = Literal["valid", "not_invalid", "all"]
# The column has three values: judged good, judged bad, and judged in between, which is empty.
KEPT: dict[Validity, frozenset[str]] = {
    "valid": frozenset({"True"}),
    "not_invalid": frozenset({"True", ""}),
    "all": frozenset({"True", "", "False"}),
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
    for _, row in read_rows(folder / params.csv, COLUMNS, corpus="song_describer"):
        rows.setdefault(row["track_id"].strip(), []).append(row)
    return [_track(track_id, captions, params, folder=folder, licences=licences) for track_id, captions in rows.items()]


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


def _track(
    track_id: str, rows: Sequence[Mapping[str, str]], params: SourceParams, *, folder: Path, licences: Mapping[str, str]
) -> Track:
    licence = licences.get(track_id)
    kept = [row for row in rows if row["is_valid_subset"].strip() in KEPT[params.validity]]
    path = _find_audio(folder / params.audio, rows[0]["path"].strip(), track_id)
    return Track(
        id=track_id,
        path=path,
        missing=f"no {params.audio}/{rows[0]['path'].replace('.mp3', '.2min.mp3')}",
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


def _find_audio(audio: Path, listed: str, track_id: str) -> Path | None:
    """Find a track under the names that archives and users give it; the CSV's own path is never one of them."""
    excerpt = Path(listed).with_suffix(".2min.mp3")
    places = [
        audio / excerpt,
        audio / "audio" / excerpt,
        audio / listed,
        audio / excerpt.name,
        audio / f"{track_id}.mp3",
    ]
    return next((place for place in places if place.is_file()), None)
