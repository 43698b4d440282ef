"""Lyrics from a score: the syllables of one part, joined to phrases, with times from its tempo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.records import Phrase
from pipeline.errors import ContractError

SCORE_SUFFIXES = frozenset({".musicxml", ".xml", ".mxl", ".mid", ".midi", ".abc", ".krn"})
PHRASE_REST_S = 0.4
"""A rest of this length, or of a beat, ends a phrase."""
PART_WORDS = ("lead", "melody", "vocal", "voice", "vo")
"""Names by which the leading part is known, best first."""


@dataclass(frozen=True, slots=True)
class _Syllable:
    text: str
    starts_word: bool
    start_s: float
    end_s: float
    rest_before: bool


def read_score(path: Path) -> list[Phrase]:
    """Read the sung phrases of a score.

    The leading part is the one whose name says so, else the first with lyrics; repeats are unfolded where the score's
    marks can be followed. Only the first verse of each note is read.

    Args:
        path: MusicXML (plain or compressed), MIDI or another format of music21.

    Returns:
        Phrases with times in seconds from the start of the score; none where it has no lyrics.

    Raises:
        ContractError: not a score that music21 can read.
    """
    from music21 import converter

    try:
        score: Any = converter.parse(path, forceSource=True)
    except Exception as error:
        # music21 lets the errors of its many parsers through, of any class.
        raise ContractError(f"{path}: not a score that can be read ({type(error).__name__}: {error})") from error
    part = _lead_part(list(score.parts) or [score])
    return _phrases(list(_syllables(_unfolded(part))))


def _lead_part(parts: Sequence[Any]) -> Any:
    sung = [part for part in parts if any(note.lyrics for note in part.flatten().notes)] or list(parts)

    def rank(part: Any) -> int:
        name = str(part.partName or "").lower()
        return next((n for n, word in enumerate(PART_WORDS) if word in name), len(PART_WORDS))

    return min(sung, key=rank)


def _unfolded(part: Any) -> Any:
    from music21.repeat import ExpanderException

    try:
        return part.expandRepeats()
    except (ExpanderException, ValueError, TypeError, AttributeError):
        # Repeat marks that contradict each other: better the notes once than none.
        return part


def _syllables(part: Any) -> Iterator[_Syllable]:
    clock = list(part.flatten().secondsMap)
    last_end_s = 0.0
    for spot in clock:
        note = spot["element"]
        if not getattr(note, "isNote", False) and not getattr(note, "isChord", False):
            continue
        start_s, end_s = float(spot["offsetSeconds"]), float(spot["endTimeSeconds"])
        beat_s = float(spot["durationSeconds"]) / max(float(note.quarterLength), 1e-9) if note.quarterLength else 0.0
        gap_s = start_s - last_end_s
        rest = gap_s > 1e-3 and gap_s >= min(PHRASE_REST_S, beat_s or PHRASE_REST_S)
        lyric = note.lyrics[0] if note.lyrics else None
        text = str(lyric.text or "").strip().strip("\u3000") if lyric else ""
        if lyric and text:
            starts_word = lyric.syllabic in {"begin", "single", None}
            yield _Syllable(text, starts_word, start_s, end_s, rest)
        elif not rest:
            # A note without a syllable of its own prolongs the one before.
            yield _Syllable("", False, start_s, end_s, False)
        last_end_s = max(last_end_s, end_s)


def _phrases(syllables: Sequence[_Syllable]) -> list[Phrase]:
    phrases: list[Phrase] = []
    for syllable in syllables:
        if not phrases and not syllable.text:
            continue
        if not phrases or (syllable.rest_before and syllable.text):
            phrases.append(Phrase(text="", start_s=round(syllable.start_s, 3), end_s=None, source="score"))
        phrase = phrases[-1]
        # Words in Latin letters are set apart; Japanese is written without spaces.
        space = " " if syllable.text and syllable.starts_word and phrase["text"] and syllable.text.isascii() else ""
        phrase["text"] += space + syllable.text
        phrase["end_s"] = round(syllable.end_s, 3)
    return phrases
