"""Five parts to sing under a tune: chords guessed from it, scat on four voices, and a mouth for a drum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipeline.demo.songbook import Note, Paper
from pipeline.demo.songs import Song

BACKING = ("soprano", "alto", "tenor", "bass", "vocal_percussion")
HALF_Q, EIGHTH_Q = Fraction(2), Fraction(1, 2)
DRUM_MIDI = {"ブン": 36, "ツ": 42, "カ": 38}
"""General MIDI's kick, closed hi-hat and snare."""
_TONICS = {"major": 0, "minor": 9}
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_DEGREES = {"major": (0, 4, 3, 5), "minor": (0, 3, 4, 5)}
"""Degrees whose triads are tried, the most wanted first."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A stretch of at most a half note under one chord."""

    bar: int
    at_q: Fraction
    length_q: Fraction
    chord: tuple[int, ...]
    """Pitch classes, the root first."""


def arrange(paper: Paper) -> Paper:
    """Add five backing parts under the lead."""
    slots = list(_slots(paper))
    soprano = _cycle(slots, ("ラ", "バ", "ダ", "ダ"), every_q=Fraction(1), around=71, voice=1)
    alto = _cycle(slots, ("ル",), every_q=HALF_Q, around=64, voice=2)
    tenor = list(_off_beats(slots))
    bass = list(_bass(slots))
    drums = list(_drums(slots))
    parts = dict(zip(BACKING, (soprano, alto, tenor, bass, drums), strict=True))
    return Paper(
        song=paper.song, bars=paper.bars, parts=paper.parts | {name: tuple(notes) for name, notes in parts.items()}
    )


def _slots(paper: Paper) -> Iterator[_Slot]:
    chord = _triads(paper.song)[0]
    lead = paper.parts["lead_vocal"]
    for number, bar in enumerate(paper.bars):
        at_q = Fraction(0)
        while at_q < bar.length_q:
            length_q = min(HALF_Q, bar.length_q - at_q)
            inside = [n for n in lead if n.bar == number and n.at_q < at_q + length_q and n.at_q + n.length_q > at_q]
            chord = _best_chord(inside, paper.song) or chord
            yield _Slot(number, at_q, length_q, chord)
            at_q += length_q


def _triads(song: Song) -> list[tuple[int, ...]]:
    tonic = (song.fifths * 7 + _TONICS[song.mode]) % 12
    scale = _SCALES[song.mode]
    return [tuple((tonic + scale[(degree + third) % 7]) % 12 for third in (0, 2, 4)) for degree in _DEGREES[song.mode]]


def _best_chord(notes: Sequence[Note], song: Song) -> tuple[int, ...] | None:
    """Pick the triad that holds most of what is sung; none where nothing is."""
    sung = [note for note in notes if note.midi is not None]
    if not sung:
        return None
    fits = [sum(note.length_q for note in sung if (note.midi or 0) % 12 in triad) for triad in _triads(song)]
    return _triads(song)[fits.index(max(fits))]


def _near(chord: Sequence[int], around: int) -> int:
    return min((note for note in range(around - 11, around + 12) if note % 12 in chord), key=lambda n: abs(n - around))


def _cycle(
    slots: Sequence[_Slot], syllables: Sequence[str], *, every_q: Fraction, around: int, voice: int
) -> list[Note]:
    """Sing the chord's third or fifth over and over, syllable after syllable."""
    notes: list[Note] = []
    for slot in slots:
        at_q = Fraction(0)
        while at_q < slot.length_q:
            length_q = min(every_q, slot.length_q - at_q)
            midi = _near((slot.chord[voice],), around)
            notes.append(_scat(slot, at_q, length_q, midi=midi, text=syllables[len(notes) % len(syllables)]))
            at_q += length_q
    return notes


def _off_beats(slots: Sequence[_Slot]) -> Iterator[Note]:
    """Rest on the beat and sing two eighths after it."""
    for slot in slots:
        midi = _near(slot.chord[:1], 57)
        rest_q = max(slot.length_q - 1, Fraction(0))
        if rest_q:
            yield _rest(slot, Fraction(0), rest_q)
        for number in range(int((slot.length_q - rest_q) / EIGHTH_Q)):
            yield _scat(slot, rest_q + number * EIGHTH_Q, EIGHTH_Q, midi=midi, text="トゥ")


def _bass(slots: Sequence[_Slot]) -> Iterator[Note]:
    for slot in slots:
        root, fifth = _near(slot.chord[:1], 45), _near(slot.chord[2:], 45)
        short_q = EIGHTH_Q if slot.length_q > 1 else Fraction(0)
        yield _scat(slot, Fraction(0), slot.length_q - short_q, midi=root, text="ドゥ")
        if short_q:
            yield _scat(slot, slot.length_q - short_q, short_q, midi=fifth, text="ワ")


def _drums(slots: Sequence[_Slot]) -> Iterator[Note]:
    for slot in slots:
        for number in range(int(slot.length_q / EIGHTH_Q)):
            text = ("ブン", "ツ", "カ", "ツ")[number % 4]
            yield _scat(slot, number * EIGHTH_Q, EIGHTH_Q, midi=DRUM_MIDI[text], text=text)


def _scat(slot: _Slot, at_q: Fraction, length_q: Fraction, *, midi: int, text: str) -> Note:
    kind: Literal["scat"] = "scat"
    return Note(bar=slot.bar, at_q=slot.at_q + at_q, length_q=length_q, midi=midi, texts=(text,), kind=kind)


def _rest(slot: _Slot, at_q: Fraction, length_q: Fraction) -> Note:
    return Note(bar=slot.bar, at_q=slot.at_q + at_q, length_q=length_q, midi=None)
