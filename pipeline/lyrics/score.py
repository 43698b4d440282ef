"""Lyrics from a score: the phrases of one part in the order of singing, with times from its tempo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.data.records import Phrase
from pipeline.errors import ContractError
from pipeline.lyrics.score_bars import has_lyrics, part_names, read_bars, read_marks, read_tempos
from pipeline.lyrics.score_phrases import join_phrases
from pipeline.lyrics.score_singing import sing
from pipeline.lyrics.score_source import load_stream, refusing

LEAD_WORDS = (
    "lead",
    "melody",
    "vocal",
    "voice",
    "vox",
    "主旋律",
    "メロディ",
    "ヴォーカル",
    "ボーカル",
    "歌",
    "うた",
    "vo",
)
"""Names by which the leading part is known, best first."""
BACKING_WORDS = ("percussion", "perc", "back", "chorus", "choir", "harmony", "コーラス")
"""A part with such a name does not lead, whatever else it is called."""


class NoPartError(ContractError):
    """The score has no part of the name that was asked for."""


def read_score(path: Path, *, part: str | None = None) -> list[Phrase]:
    """Read the sung phrases of one part of a score.

    The leading part is the one whose name says so, else the first with lyrics. Where the part that leads by its name
    has no lyrics, there are none: what the others sing behind it is not read instead. How bars, verses, phrases,
    sections and confidence are told is said at `score_order.play_order`, `score_singing.sing` and
    `score_phrases.join_phrases`. music21 reads no lyrics from ABC.

    Args:
        path: MusicXML (plain or compressed), MIDI or another format of music21.
        part: name of another part, in any letter case; the part of that name, else the first that has it in its name.

    Returns:
        Phrases with times in seconds from the start of the score; none where it has no lyrics.

    Raises:
        ContractError: not a score that music21 can read.
        NoPartError: no part of that name.
    """
    with refusing(path):
        stream = load_stream(path)
        parts = list(getattr(stream, "parts", ())) or [stream]
        chosen = _find_lead(parts) if part is None else _find_part(parts, part)
        if chosen is None and part is not None:
            names = ", ".join(repr(name) for name in part_names(parts))
            raise NoPartError(f"{path}: no part {part!r}; there are {names}")
        if chosen is None or not has_lyrics(chosen):
            return []
        bars, marks, tempos = read_bars(chosen), read_marks(parts), read_tempos(stream)
    return join_phrases(sing(bars, marks, tempos), has_tempo=bool(tempos))


def _find_part(parts: Sequence[Any], name: str) -> Any | None:
    wanted = _folded(name)
    names = [_folded(found) for found in part_names(parts)]
    exact = [part for part, found in zip(parts, names, strict=True) if found == wanted]
    alike = [part for part, found in zip(parts, names, strict=True) if wanted and wanted in found]
    return next(iter(exact or alike), None)


def _find_lead(parts: Sequence[Any]) -> Any | None:
    ranks = [_lead_rank(name) for name in part_names(parts)]
    sung = [(rank, part) for rank, part in zip(ranks, parts, strict=True) if has_lyrics(part)]
    if not sung:
        return None
    rank, part = min(sung, key=lambda pair: pair[0])
    is_backing = rank >= len(LEAD_WORDS) and min(ranks) < len(LEAD_WORDS)
    return None if is_backing else part


def _lead_rank(name: str) -> int:
    folded = _folded(name)
    if any(word in folded for word in BACKING_WORDS):
        return len(LEAD_WORDS) + 1
    return next((n for n, word in enumerate(LEAD_WORDS) if word in folded), len(LEAD_WORDS))


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
