"""A song on paper and as it is sung: bars and notes, repeats unfolded, times, and the phrases a reader must find."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from pipeline.data.records import Phrase
from pipeline.demo.morae import MELISMA, PROLONGED, to_hepburn, to_katakana, to_scat
from pipeline.demo.songs import End, Line, Song

Variant = Literal["default", "SVS", "romaji"]
PHRASE_REST_S = 0.4
"""A rest of this length, or of a quarter, ends a phrase."""

_NOTE = re.compile(r"(?P<tie>~?)(?:(?P<rest>r)|(?P<step>[A-G])(?P<sharp>#?)(?P<octave>\d))(?:/(?P<length>[\d.]+))?")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar as it is written once."""

    length_q: Fraction
    rehearsal: str = ""
    double_bar: bool = False
    """Before this bar."""
    repeat_start: bool = False
    repeat_end: bool = False
    volta: int = 0
    bpm: float = 0.0
    """New tempo, or 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note or rest as it is written once."""

    bar: int
    at_q: Fraction
    """From the start of the bar."""
    length_q: Fraction
    midi: int | None
    """None for a rest."""
    texts: tuple[str, ...] = ()
    """Syllable of each verse as `usual>sung` or alike; `_` prolongs; none on rests and tied notes."""
    following: tuple[str, ...] = ()
    """Syllable sung after it, of each verse."""
    is_prolonged: tuple[bool, ...] = ()
    """Whether the next note prolongs it, of each verse."""
    written: tuple[str, ...] = ()
    """On the first note of a line: its words as they are usually written, of each verse."""
    kind: Literal["words", "scat"] = "words"
    is_tied: bool = False
    end: End = "none"
    """What the last note of a phrase bears."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A song as written: its bars and the notes of one part or of all."""

    song: Song
    bars: tuple[Bar, ...]
    parts: dict[str, tuple[Note, ...]] = field(default_factory=dict[str, tuple[Note, ...]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sung:
    """A note as it is sung; tied notes are one."""

    start_s: float
    end_s: float
    midi: int
    usual: str
    sung: str
    following: str
    written: str
    kind: Literal["words", "scat"]
    end: End
    new_section: bool
    gap_q: float
    """Rest before it."""


def write_lead(song: Song) -> Paper:
    """Put the tune and words of a song on paper.

    Raises:
        ValueError: notes and words that do not match, or a line that breaks the bars.
    """
    length_q = Fraction(*(int(number) for number in song.metre.split("/"))) * 4
    bars: list[Bar] = []
    notes: list[Note] = []
    room_q = Fraction(song.pickup_q) if song.pickup_q else length_q
    at_q = Fraction(0)
    for line in song.lines:
        first = len(bars) - (at_q > 0)
        for note in _line_notes(line):
            if at_q == 0:
                bars.append(Bar(length_q=room_q))
            if at_q + note.length_q > room_q:
                raise ValueError(f"{song.title}: a note crosses the end of bar {len(bars)}; write it as two, tied")
            notes.append(replace(note, bar=len(bars) - 1, at_q=at_q))
            at_q += note.length_q
            if at_q == room_q:
                at_q, room_q = Fraction(0), length_q
        _mark(bars, first, line)
    if at_q:
        bars[-1] = replace(bars[-1], length_q=at_q)
    bars[0] = replace(bars[0], bpm=song.bpm)
    return Paper(song=song, bars=tuple(bars), parts={"lead_vocal": tuple(notes)})


def _mark(bars: list[Bar], first: int, line: Line) -> None:
    start = line.repeat in ("start", "both")
    bars[first] = replace(
        bars[first],
        rehearsal=line.rehearsal,
        double_bar=line.double_bar,
        repeat_start=start,
        bpm=line.bpm or bars[first].bpm,
    )
    for number in range(first, len(bars)):
        bars[number] = replace(bars[number], volta=line.volta)
    if line.repeat in ("end", "both"):
        bars[-1] = replace(bars[-1], repeat_end=True)


def _line_notes(line: Line) -> list[Note]:
    """Notes of a line, not yet placed, with their syllables."""
    verses = [verse.split() for verse in line.verses]
    notes = [_parse_note(token) for token in line.notes.split()]
    sung = [index for index, note in enumerate(notes) if note.midi is not None and not note.is_tied]
    if any(len(verse) != len(sung) for verse in verses):
        raise ValueError(f"as many syllables as notes are wanted in every verse of {line.notes!r}")
    for number, index in enumerate(sung):
        notes[index] = replace(
            notes[index],
            texts=tuple(verse[number] for verse in verses),
            following=tuple(next((t for t in verse[number + 1 :] if t != MELISMA), "") for verse in verses),
            is_prolonged=tuple(verse[number + 1 : number + 2] == [MELISMA] for verse in verses),
            written=line.written if number == 0 else (),
            kind=line.kind,
        )
    last = max((number for number, note in enumerate(notes) if note.midi is not None), default=None)
    if last is not None and line.end != "rest":
        notes[last] = replace(notes[last], end=line.end)
    return notes


def _parse_note(token: str) -> Note:
    found = _NOTE.fullmatch(token)
    if found is None:
        raise ValueError(f"{token!r} is not a note")
    length_q = Fraction(found["length"] or 1)
    if found["rest"]:
        return Note(bar=0, at_q=Fraction(0), length_q=length_q, midi=None)
    midi = 12 * (int(found["octave"]) + 1) + _STEPS[found["step"]] + len(found["sharp"])
    return Note(bar=0, at_q=Fraction(0), length_q=length_q, midi=midi, is_tied=bool(found["tie"]))


def sing_order(bars: Sequence[Bar]) -> Iterator[tuple[int, int]]:
    """Unfold repeats and endings.

    Yields:
        Number of the bar, and which time it is sung, from 0.
    """
    start, turn, number = 0, 0, 0
    while number < len(bars):
        bar = bars[number]
        if bar.repeat_start and number != start:
            start, turn = number, 0
        if bar.volta and bar.volta != turn + 1:
            number += 1
            continue
        yield number, turn
        if bar.repeat_end and turn == 0:
            number, turn = start, 1
            continue
        number += 1


def perform(paper: Paper, part: str = "lead_vocal") -> list[Sung]:
    """Sing one part as written, in strict tempo."""
    by_bar: dict[int, list[Note]] = {}
    for note in paper.parts[part]:
        by_bar.setdefault(note.bar, []).append(note)
    sung: list[Sung] = []
    clock_s, bpm, gap_q, new_section = 0.0, paper.song.bpm, 0.0, False
    for number, turn in sing_order(paper.bars):
        bar = paper.bars[number]
        bpm = bar.bpm or bpm
        notes = by_bar.get(number, [])
        new_section |= bool(bar.rehearsal) or bar.double_bar or all(note.midi is None for note in notes)
        for note in notes:
            start_s = clock_s + float(note.at_q) * 60 / bpm
            end_s = start_s + float(note.length_q) * 60 / bpm
            if note.midi is None:
                gap_q += float(note.length_q)
            elif note.is_tied:
                sung[-1] = _longer(sung[-1], end_s, note.end)
            else:
                sung.append(_sing(note, turn, (start_s, end_s), gap_q=gap_q, new_section=new_section))
                gap_q, new_section = 0.0, note.end == "end-paragraph"
        clock_s += float(bar.length_q) * 60 / bpm
    return sung


def length_s(paper: Paper) -> float:
    """Length of a song in strict tempo, repeats unfolded."""
    bpm, total_s = paper.song.bpm, 0.0
    for number, _ in sing_order(paper.bars):
        bpm = paper.bars[number].bpm or bpm
        total_s += float(paper.bars[number].length_q) * 60 / bpm
    return total_s


def _longer(note: Sung, end_s: float, end: End) -> Sung:
    return replace(note, end_s=end_s, end=end)


def _sing(note: Note, turn: int, span_s: tuple[float, float], *, gap_q: float, new_section: bool) -> Sung:
    usual, sung = spellings(of_verse(note.texts, turn))
    return Sung(
        start_s=span_s[0],
        end_s=span_s[1],
        midi=note.midi or 0,
        usual=usual,
        sung=sung,
        following=spellings(of_verse(note.following, turn))[1],
        written=of_verse(note.written, turn),
        kind=note.kind,
        end=note.end,
        new_section=new_section,
        gap_q=gap_q,
    )


def of_verse(texts: Sequence[str], turn: int) -> str:
    """Syllable of a verse, or of the last one that is written."""
    return texts[min(turn, len(texts) - 1)] if texts else ""


def spellings(text: str) -> tuple[str, str]:
    """Usual spelling and sound of `usual>sung`."""
    usual, _, sung = text.partition(">")
    return usual, sung or usual


def spell(text: str, following: str, *, kind: str, variant: Variant) -> str:
    """Spell a syllable as a variant of the score does; `following` is the syllable after it."""
    usual, sung = spellings(text)
    if kind == "scat":
        return {"default": sung, "SVS": to_scat(sung), "romaji": to_scat(sung).lower()}[variant]
    after = spellings(following)[1]
    return {"default": usual, "SVS": sung, "romaji": to_hepburn(sung, after)}[variant]


def truth(song: Song, *, variant: Variant = "default", part: str = "lead_vocal") -> list[Phrase]:
    """Phrases that a right reader finds in the score of a song, in singing order.

    A phrase ends at a rest of a quarter or of 0.4 s, a breath mark, a fermata, `end-line` and `end-paragraph`; a
    section at a bar of rest, a rehearsal mark, a double bar and `end-paragraph`. The text is spelt as in that variant,
    Latin letters with a space between notes; prolonged notes add nothing. A fermata does not stretch the time.
    """
    from pipeline.demo.arrangement import arrange

    paper = write_lead(song) if part == "lead_vocal" else arrange(write_lead(song))
    return list(_phrases(perform(paper, part), variant))


def usual_writing(song: Song) -> list[str]:
    """Phrases of `truth` as they are usually written, with kanji."""
    return ["".join(note.written for note in group) for group in _groups(perform(write_lead(song)))]


def _phrases(notes: Iterable[Sung], variant: Variant) -> Iterator[Phrase]:
    section = 0
    for number, group in enumerate(_groups(notes)):
        section += group[0].new_section and number > 0
        said = [note for note in group if note.usual not in (MELISMA, "")]
        kind = said[0].kind
        words = [_said(note, variant) for note in said]
        kana = to_katakana("".join(note.sung for note in said))
        yield Phrase(
            text=(" " if words[0].isascii() else "").join(words),
            start_s=round(group[0].start_s, 3),
            end_s=round(group[-1].end_s, 3),
            source="score",
            kana=kana.replace(PROLONGED, ""),
            kind=kind,
            section=section,
        )


def _said(note: Sung, variant: Variant) -> str:
    return spell(f"{note.usual}>{note.sung}", note.following, kind=note.kind, variant=variant)


def _groups(notes: Iterable[Sung]) -> Iterator[list[Sung]]:
    group: list[Sung] = []
    for note in notes:
        rest_s = note.start_s - group[-1].end_s if group else 0.0
        rested = note.gap_q >= 1 or rest_s >= PHRASE_REST_S
        if group and (rested or note.new_section or group[-1].end != "none"):
            yield group
            group = []
        group.append(note)
    if group:
        yield group
