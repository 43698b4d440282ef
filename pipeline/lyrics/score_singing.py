"""The notes of a part as they are sung: bars in their order, the verse of each pass, times in seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import NamedTuple

from pipeline.lyrics.romaji import is_japanese
from pipeline.lyrics.score_bars import Tempo, Text, WrittenBar, WrittenNote
from pipeline.lyrics.score_order import BarMarks, PlayedBar, play_order

DEFAULT_QPM = 120.0
"""Quarters per minute where a score has no tempo: music21's own default."""
PHRASE_REST_S = 0.4
"""A rest of this length, or of a beat where that is shorter, ends a phrase."""
MIN_REFRAIN_NOTES = 3
"""So many notes in a row without the verse that is due are a refrain; fewer prolong its last syllable."""
SLACK_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class SungNote:
    """A note at its time, with the syllables that are sung on it; none where it prolongs the one before."""

    start_s: float
    end_s: float
    texts: tuple[Text, ...]
    is_tied: bool
    is_rest: bool
    ends_phrase: bool
    after_rest: bool
    """The silence before the note ends a phrase."""
    after_bar_rest: bool
    """The silence before the note is a bar or longer."""
    section_s: float | None
    """Time of a place since the note before at which a section may begin."""
    bar_s: float
    is_guess: bool
    """The score does not say that this verse follows here."""


class Song(NamedTuple):
    """A part as it is sung."""

    notes: list[SungNote]
    is_clean: bool
    """Every mark of the way through the score could be followed."""


class _Placed(NamedTuple):
    written: WrittenNote
    bar: WrittenBar
    start_s: float
    end_s: float
    quarter_s: float
    rest_s: float
    section_s: float | None
    turn: int
    last_turn: int
    """The highest turn of the same bar in the whole song."""
    has_choice: bool
    """The bar is sung more than once, so its verses take turns."""
    is_guess: bool

    @property
    def after_rest(self) -> bool:
        return self.rest_s >= min(PHRASE_REST_S, self.bar.beat_q * self.quarter_s) - SLACK_S


def sing(bars: Sequence[WrittenBar], marks: Sequence[BarMarks], tempos: Sequence[Tempo]) -> Song:
    """Put the notes of a part into the order of singing.

    Pass n through a repeated bar sings verse n; where a stretch lacks that verse, as a refrain does, the nearest one
    before it. A plain repeat with more verses below it than two is sung once for each. A score with several verses and
    nothing repeated is sung once for each verse, from its first bar to its last.

    Args:
        bars: of the part, as written.
        marks: of all parts, at least one per bar.
        tempos: by place; where there are none, 120 quarters a minute.
    """
    verses = verse_numbers(bars)
    written, is_clean = play_order(marks[: len(bars)])
    order, _ = play_order(_repeat_for_verses(bars, marks[: len(bars)], verses))
    if len(verses) > 1 and all(played.turn == 1 and not played.is_return for played in order):
        order = [
            played._replace(turn=verse, is_return=verse > 1 and n == 0)
            for verse in range(1, len(verses) + 1)
            for n, played in enumerate(order)
        ]
    told = _last_turns(written)
    placed = list(_place(bars, marks, order, clock=Clock(tempos), told=told))
    notes = [note for stretch in _stretches(placed) for note in _sing_stretch(stretch, verses)]
    return Song(notes, is_clean)


def _repeat_for_verses(bars: Sequence[WrittenBar], marks: Sequence[BarMarks], verses: Sequence[int]) -> list[BarMarks]:
    """Let a repeat without voltas be taken as often as there are verses below it."""
    repeated, first = list(marks), 0
    for n, mark in enumerate(marks):
        first = n if mark.repeat_start else first
        if mark.repeat_times and not any(bar.endings for bar in marks[first : n + 2]):
            below = {number for bar in bars[first : n + 1] for note in bar.notes for number in note.verses}
            passes = max((turn for turn, number in enumerate(verses, 1) if number in below), default=0)
            repeated[n] = replace(mark, repeat_times=max(mark.repeat_times, passes))
        first = n + 1 if mark.repeat_times else first
    return repeated


def verse_numbers(bars: Sequence[WrittenBar]) -> list[int]:
    """Numbers of the verses in order; a line of another script than the first is its reading, not a verse."""
    lines: dict[int, list[str]] = {}
    for note in (note for bar in bars for note in bar.notes):
        for number, texts in note.verses.items():
            lines.setdefault(number, []).extend(text.text for text in texts if text.text)
    sung = sorted(number for number, line in lines.items() if line)
    scripts = {number: is_japanese("".join(lines[number])) for number in sung}
    return [number for number in sung if scripts[number] == scripts[sung[0]]]


def _place(
    bars: Sequence[WrittenBar],
    marks: Sequence[BarMarks],
    order: Sequence[PlayedBar],
    *,
    clock: Clock,
    told: Mapping[int, int],
) -> Iterator[_Placed]:
    num_plays = Counter(played.bar for played in order)
    last_turns = _last_turns(order)
    bar_start_s, sounded_s, section_s = 0.0, 0.0, None
    for at, turn, is_return in order:
        bar = bars[at]
        shift_s = bar_start_s - clock.seconds(bar.onset_q)
        section_s = bar_start_s if marks[at].is_section or is_return else section_s
        for note in bar.notes:
            if note.is_rest and not note.ends_phrase and not any(note.verses.values()):
                continue
            onset_q = bar.onset_q + note.onset_q
            start_s, end_s = (shift_s + clock.seconds(q) for q in (onset_q, onset_q + note.length_q))
            yield _Placed(
                written=note,
                bar=bar,
                start_s=start_s,
                end_s=end_s,
                quarter_s=clock.quarter_s(onset_q),
                rest_s=start_s - sounded_s,
                section_s=section_s,
                turn=turn,
                last_turn=last_turns[at],
                has_choice=num_plays[at] > 1,
                is_guess=turn > told.get(at, 0),
            )
            if not note.is_rest or any(note.verses.values()):
                sounded_s, section_s = max(sounded_s, end_s), None
        bar_start_s = shift_s + clock.seconds(bar.onset_q + bar.length_q)


def _last_turns(order: Sequence[PlayedBar]) -> dict[int, int]:
    return {played.bar: played.turn for played in sorted(order, key=lambda played: played.turn)}


def _stretches(placed: Sequence[_Placed]) -> Iterator[list[_Placed]]:
    """Cut where phrases end for sure, so that a refrain of one word is a stretch by itself."""
    stretch: list[_Placed] = []
    for note in placed:
        if stretch and (note.after_rest or note.section_s is not None or stretch[-1].written.ends_phrase):
            yield stretch
            stretch = []
        stretch.append(note)
    if stretch:
        yield stretch


def _sing_stretch(stretch: Sequence[_Placed], verses: Sequence[int]) -> Iterator[SungNote]:
    chosen: dict[int, int] = {}
    texted = [n for n, note in enumerate(stretch) if note.written.verses]
    runs = [list(run) for _, run in groupby(texted, key=lambda n: _due(stretch[n], verses))]
    for run in runs:
        for n in run:
            note, due = stretch[n], _due(stretch[n], verses)
            if due is not None:
                chosen[n] = due
            elif not note.has_choice or len(run) >= MIN_REFRAIN_NOTES or len(run) == len(texted):
                chosen[n] = _instead(note, verses)
    for n, note in enumerate(stretch):
        yield SungNote(
            start_s=note.start_s,
            end_s=note.end_s,
            texts=note.written.verses.get(chosen.get(n, -1), ()),
            is_tied=note.written.is_tied,
            is_rest=note.written.is_rest,
            ends_phrase=note.written.ends_phrase,
            after_rest=note.after_rest,
            after_bar_rest=note.rest_s >= note.bar.metre_q * note.quarter_s - SLACK_S,
            section_s=note.section_s,
            bar_s=note.bar.metre_q * note.quarter_s,
            is_guess=note.is_guess,
        )


def _due(note: _Placed, verses: Sequence[int]) -> int | None:
    """The verse of this pass, if the note has it."""
    number = verses[note.turn - 1] if note.turn <= len(verses) else None
    return number if number in note.written.verses else None


def _instead(note: _Placed, verses: Sequence[int]) -> int:
    """Another verse of the note: the nearest before, or one after that no later pass sings; else none (-1)."""
    turns = [n + 1 for n, number in enumerate(verses) if number in note.written.verses]
    before = [turn for turn in turns if turn < note.turn]
    after = [turn for turn in turns if turn > note.last_turn]
    return verses[before[-1] - 1] if before else verses[after[0] - 1] if after else -1


class Clock:
    """Seconds from the start of the written score, as if it were played once from end to end."""

    def __init__(self, tempos: Sequence[Tempo]) -> None:
        # The first tempo also holds for what stands before it.
        first = tempos[0].qpm if tempos else DEFAULT_QPM
        self.steps = [Tempo(0.0, first), *(tempo for tempo in tempos if tempo.onset_q > 0)]
        self.onsets_q = [step.onset_q for step in self.steps]
        self.at_s = [0.0]
        for before, after in pairwise(self.steps):
            self.at_s.append(self.at_s[-1] + (after.onset_q - before.onset_q) * 60 / before.qpm)

    def seconds(self, onset_q: float) -> float:
        """When a place in the score is reached."""
        n = self._step(onset_q)
        return self.at_s[n] + (onset_q - self.steps[n].onset_q) * 60 / self.steps[n].qpm

    def quarter_s(self, onset_q: float) -> float:
        """Length of a quarter there."""
        return 60 / self.steps[self._step(onset_q)].qpm

    def _step(self, onset_q: float) -> int:
        return max(bisect_right(self.onsets_q, onset_q + 1e-9) - 1, 0)
