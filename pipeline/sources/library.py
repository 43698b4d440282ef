"""A user's own folder: recordings as files or in tars of WebDataset, with what side files say of them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.data.records import AUDIO_SUFFIXES, Member, Track
from pipeline.data.storage import walk_files
from pipeline.errors import ParamsError
from pipeline.sources.sidefiles import About, Row, read_rows, read_side
from pipeline.sources.tars import list_tar, read_member

SIDE_SUFFIXES = (".txt", ".json", ".lrc")
LIST_SUFFIXES = (".csv", ".tsv", ".jsonl")
MAX_SIDE_BYTES, MAX_LIST_BYTES = 1 << 20, 1 << 28
_LITTER = re.compile(r"\._|\.[^.]|__MACOSX|PaxHeader")
PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParams:
    """Section `sources.library` of params.yaml."""

    root: str
    """The folder; everything below it is read, hidden files apart."""
    min_score: float | None = None
    """Leaves out recordings whose `dataset_score` (0 to 100, in the JSON beside them) is lower."""
    min_track_s: float | None = None
    """Leaves out recordings whose `duration_sec` there is shorter."""
    max_track_s: float | None = None
    """Leaves out recordings whose `duration_sec` there is longer."""


class _Entry(NamedTuple):
    """A file below the root, or a member of a tar there."""

    name: str
    """Path below the root, for a member that of the tar and then its own."""
    path: Path
    member: Member | None

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1].lower()

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    def num_bytes(self) -> int:
        return self.member.num_bytes if self.member else self.path.stat().st_size

    def read(self) -> bytes:
        return read_member(self.path, self.member) if self.member else self.path.read_bytes()


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List every file below the folder; what is not audio is found out, and counted, when it is decoded.

    A `.tar` stands for the files in it. Of `NAME.wav`, `NAME.txt` holds a caption, `NAME.lrc` lyrics, and `NAME.json`
    whatever `pipeline.sources.sidefiles` knows; a CSV, or JSON lines, with a column `file_name` (or `file`, `path`,
    `filename`) says as much of the recordings it names, and may cut clips from them. A side file that served is no
    item of the corpus; one that belongs to no recording, or cannot be read, is.

    Raises:
        ParamsError: no such folder, or nothing in it.
    """
    folder = root / Path(params.root).expanduser()
    if not folder.is_dir():
        raise ParamsError(f"{folder}: no such folder; set sources.library.root to the folder of your recordings")
    paths = [path for path in walk_files(folder) if not _is_hidden(path.relative_to(folder).parts)]
    if not paths:
        raise ParamsError(f"{folder}: holds no files; set sources.library.root to the folder of your recordings")
    entries, tracks = _entries(paths, folder)
    said, used, faults = _side_files(entries, folder)
    tracks += [_track(entry, said.get(entry.name, About()), params) for entry in entries if entry.name not in used]
    order = {entry.name: number for number, entry in enumerate(entries)}
    tracks.sort(key=lambda track: order.get(track.id, -1))
    return list(_told_apart([*tracks, *faults]))


def _is_hidden(parts: Iterable[str]) -> bool:
    """Whether a program put it there; a name such as `...Baby.wav` is a person's."""
    return any(_LITTER.match(part) for part in parts)


def _entries(paths: Iterable[Path], folder: Path) -> tuple[list[_Entry], list[Track]]:
    """All files and members, and a faulted track for every tar that cannot be read to its end."""
    entries: list[_Entry] = []
    faults: list[Track] = []
    for path in paths:
        # A name that is no UTF-8 is spelt out: the id must survive JSON.
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        if not path.exists():
            faults.append(Track(id=name, path=None, missing="a link that leads nowhere"))
        elif name.lower().endswith(PACKED_TARS):
            faults.append(Track(id=name, path=None, fault="a packed tar cannot be read in place; unpack it"))
        elif not name.lower().endswith(".tar"):
            entries.append(_Entry(name, path, None))
        else:
            members, fault = list_tar(path)
            entries += _members(name, path, members)
            if fault:
                kept = f"; the {len(members)} files before that are used" if members else ""
                faults.append(Track(id=name, path=None, fault=fault + kept))
    return entries, faults


def _members(tar: str, path: Path, members: Iterable[Member]) -> Iterator[_Entry]:
    for member in members:
        inside = posixpath.normpath(member.name).lstrip("/")
        if not _is_hidden(inside.split("/")):
            yield _Entry(f"{tar}/{inside}", path, member)


def _side_files(entries: list[_Entry], folder: Path) -> tuple[dict[str, About], set[str], list[Track]]:
    """What is said of every recording, which files said it, and the rows that lead nowhere."""
    by_stem: dict[str, list[str]] = {}
    for entry in entries:
        if entry.suffix in AUDIO_SUFFIXES or not entry.suffix:
            by_stem.setdefault(entry.stem, []).append(entry.name)
    said: dict[str, About] = {}
    used: set[str] = set()
    for suffix in SIDE_SUFFIXES:
        for entry in entries:
            if entry.suffix == suffix and (about := _about(entry) if entry.stem in by_stem else None):
                used.add(entry.name)
                said |= {name: said.get(name, About()) | about for name in by_stem[entry.stem]}
    names = {entry.name for entry in entries}
    faults: list[Track] = []
    for entry in entries:
        if entry.suffix in LIST_SUFFIXES and (rows := _rows(entry)) is not None:
            used.add(entry.name)
            for row in rows:
                name = _named(row.file, entry.name, names, folder)
                if name in names and not row.fault:
                    said[name] = said.get(name, About()) | row.about
                else:
                    faults.append(_lost_row(row, entry.name, name))
    return said, used, faults


def _about(entry: _Entry) -> About | None:
    try:
        about = read_side(entry.suffix, entry.read()) if entry.num_bytes() <= MAX_SIDE_BYTES else None
    except (OSError, ValueError):
        return None
    return None if about == About() else about


def _rows(entry: _Entry) -> list[Row] | None:
    try:
        return read_rows(entry.suffix, entry.read()) if entry.num_bytes() <= MAX_LIST_BYTES else None
    except OSError:
        return None


def _named(file: str, row_of: str, names: set[str], folder: Path) -> str:
    """The recording that a row means: its path starts where the list lies."""
    places = [file, file.replace("\\", "/")]
    places = [os.path.relpath(place, folder) if place.startswith("/") else place for place in places]
    starts = [posixpath.dirname(row_of), ""] if file.startswith("/") else [posixpath.dirname(row_of)]
    found = [posixpath.normpath(posixpath.join(start, place)) for start in reversed(starts) for place in places]
    return next((name for name in found if name in names), found[-1])


def _lost_row(row: Row, row_of: str, name: str) -> Track:
    if row.fault:
        return Track(id=f"{row_of}#{row.number}", path=None, fault=f"row {row.number}: {row.fault}")
    return Track(id=name, path=None, missing=f"no {name}, which row {row.number} of {row_of} names")


def _track(entry: _Entry, about: About, params: SourceParams) -> Track:
    return Track(
        id=entry.name,
        path=entry.path,
        member=entry.member,
        unwanted=_unwanted(about, params),
        cuts=about.cuts,
        lyrics=about.lyrics,
        captions=about.captions,
        aspects=about.aspects,
        groups={"track": f"library:{entry.name}"} | about.groups,
        licence=about.licence,
    )


def _unwanted(about: About, params: SourceParams) -> str:
    score, duration_s = about.score, about.duration_s
    if params.min_score is not None and score is not None and score < params.min_score:
        return f"score {score:g} is below min_score {params.min_score:g}"
    if params.min_track_s is not None and duration_s is not None and duration_s < params.min_track_s:
        return f"{duration_s:g} s is below min_track_s {params.min_track_s:g}"
    if params.max_track_s is not None and duration_s is not None and duration_s > params.max_track_s:
        return f"{duration_s:g} s is above max_track_s {params.max_track_s:g}"
    return ""


def _told_apart(tracks: Iterable[Track]) -> Iterator[Track]:
    """Tracks with ids of their own; the same name again, or the same video with as many bytes, is a fault."""
    numbers: dict[str, int] = {}
    videos: dict[tuple[str, int, str], str] = {}
    for track in tracks:
        numbers[track.id] = number = numbers.get(track.id, 0) + 1
        if number > 1 and track.path is None and not track.fault:
            continue  # a second row about the same missing file
        video = _video(track)
        first = videos.setdefault(video, track.id) if video else track.id
        if number > 1:
            while (name := f"{track.id}#{number}") in numbers:
                number += 1
            numbers[name] = 1
            yield replace(track, id=name, fault=track.fault or f"{track.id} comes again")
        elif first != track.id:
            yield replace(track, fault=f"the same video as {first}, with as many bytes")
        else:
            yield track


def _video(track: Track) -> tuple[str, int, str] | None:
    video = track.groups.get("video")
    return (video, track.member.num_bytes, posixpath.splitext(track.id)[1]) if video and track.member else None
