"""jaCappella as its users have it: a folder per song, six voice parts and a mixture, three variants of the score."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.records import Track
from pipeline.data.titles import fold_title
from pipeline.errors import ContractError, ParamsError
from pipeline.sources.rows import read_rows

COLUMNS = ("title_in_en", "subset", "voice_part")
TEST_LIST = "test_song_list_for_vocal_ensemble_separation.txt"
Part = Literal["lead_vocal", "soprano", "alto", "tenor", "bass", "vocal_percussion", "mixture", "mixture_stereo"]
Variant = Literal["default", "SVS", "romaji"]
SCORE_ENDINGS: dict[Variant, str] = {"default": "", "SVS": "_SVS", "romaji": "_romaji"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParams:
    """Section `sources.jacappella` of params.yaml."""

    root: str
    """Folder with `meta.csv`, or the one above it that holds `jaCappella/`."""
    parts: tuple[Part, ...] = ("lead_vocal",)
    """Which recordings of a song become clips."""
    score: Variant = "default"
    """Variant of the score: usual spelling, as it sounds (SVS), or Hepburn (romaji)."""


def read_tracks(params: SourceParams, root: Path) -> list[Track]:
    """List the chosen parts of every song; a song is one group, whatever the part.

    Raises:
        ParamsError: no meta.csv there.
        ContractError: meta.csv is not jaCappella's, or the test list names none of its songs.
    """
    folder = root / Path(params.root).expanduser()
    folder = folder / "jaCappella" if (folder / "jaCappella").is_dir() else folder
    listed = _test_titles(folder / TEST_LIST)
    songs = list(_songs(folder / "meta.csv"))
    # Of a corpus held in part, some titles match nothing; that none does means another spelling, or another list.
    if songs and listed and not any(_titles(song) & listed.keys() for song in songs):
        raise ContractError(
            f"{folder / TEST_LIST}: none of its {len(listed)} titles is in meta.csv, such as "
            f"{next(iter(listed.values()))!r}; take both from one download"
        )
    return [track for song in songs for track in _tracks(song, params, folder=folder, test=frozenset(listed))]


def _songs(path: Path) -> Iterator[dict[str, Mapping[str, str]]]:
    songs: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for _, row in read_rows(path, COLUMNS, corpus="jacappella"):
        songs.setdefault((row["subset"], row["title_in_en"]), {})[row["voice_part"]] = row
    yield from songs.values()


def _tracks(
    song: Mapping[str, Mapping[str, str]], params: SourceParams, *, folder: Path, test: frozenset[str]
) -> Iterator[Track]:
    any_row = next(iter(song.values()))
    title, subset = any_row["title_in_en"], any_row["subset"]
    score = _exact_file(folder / subset / title, f"{title}{SCORE_ENDINGS[params.score]}.musicxml")
    for part in params.parts:
        name = f"{subset}/{title}/{part}"
        path = folder / f"{name}.wav"
        row = song.get(part, any_row)
        groups = {"track": f"jacappella:{name}", "song_in_english": f"title:{fold_title(title)}"}
        if japanese := fold_title(row.get("title_in_ja") or ""):
            groups["song"] = f"title:{japanese}"
        yield Track(
            id=name,
            path=path if path.is_file() else None,
            missing=f"no {name}.wav",
            score=score,
            part=None if part.startswith("mixture") else part,
            aspects=tuple(word for word in ("a cappella", subset.replace("_", " "), part.replace("_", " ")) if word),
            groups=groups,
            official_split="test" if _titles(song) & test else "train",
            licence="jaCappella: research only, no redistribution",
        )


def _exact_file(folder: Path, name: str) -> Path | None:
    """Find a file by its very name: the ending of a variant must not match another one."""
    return next((path for path in (folder.iterdir() if folder.is_dir() else ()) if path.name == name), None)


def _titles(song: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The titles of a song in either script, folded."""
    titles = (row.get(column) for row in song.values() for column in ("title_in_en", "title_in_ja"))
    return {_folded(title) for title in titles if title}


def _test_titles(path: Path) -> dict[str, str]:
    """The titles of the list by what they fold to."""
    if not path.is_file():
        raise ParamsError(f"{path}: no such file; it names the test songs and comes with the corpus")
    lines = path.read_text("utf-8-sig").splitlines()
    return {_folded(line): line.strip() for line in lines if line.strip()}


def _folded(title: str) -> str:
    # Not `fold_title`: of two songs of this list none may be taken for the other.
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", title).casefold())
