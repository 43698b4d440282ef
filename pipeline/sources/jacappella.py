"""jaCappella as its users have it: a folder per song, six voice parts and a mixture, three variants of the score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.records import Track
from pipeline.data.titles import fold_title
from pipeline.errors import ParamsError
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
        ContractError: meta.csv is not jaCappella's.
    """
    folder = root / Path(params.root).expanduser()
    folder = folder / "jaCappella" if (folder / "jaCappella").is_dir() else folder
    test = _test_titles(folder / TEST_LIST)
    return [track for song in _songs(folder / "meta.csv") for track in _tracks(song, params, folder=folder, test=test)]


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
            official_split="test" if title in test else "train",
            licence="jaCappella: research only, no redistribution",
        )


def _exact_file(folder: Path, name: str) -> Path | None:
    """Find a file by its very name: the ending of a variant must not match another one."""
    return next((path for path in (folder.iterdir() if folder.is_dir() else ()) if path.name == name), None)


def _test_titles(path: Path) -> frozenset[str]:
    if not path.is_file():
        raise ParamsError(f"{path}: no such file; it names the test songs and comes with the corpus")
    return frozenset(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
