"""Plain records from a music21 stream: the bars of a part, their notes and texts, and the marks of all parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.lyrics.score_order import BarMarks
from pipeline.lyrics.score_source import END_LINE, END_PARAGRAPH, HUMMING, MARKS

QPM_RANGE = (4.0, 1000.0)
"""A tempo outside is an error of writing, and is not used."""
MAX_PASSES = 16
JUMP = re.compile(r"\s*(?:(d\.?\s?c\b\.?|da\s+capo)|(d\.?\s?s\b\.?|dal\s+segno))", re.IGNORECASE)
TO_CODA = re.compile(r"\s*(?:to|al)\s*coda\b", re.IGNORECASE)
CODA, SEGNO, FINE = (re.compile(rf"\s*{word}\W*$", re.IGNORECASE) for word in ("coda", "segno", "fine"))
VERSE_LABEL = re.compile(r"^\d{1,2}[.．、)）]\s*(?!\d)")
MELISMA = frozenset("ー－-−–—―‐_＿~〜～・")
"""A text of such letters alone prolongs the syllable before it."""
SECTION_LINES = frozenset({"double", "final", "heavy-light", "heavy-heavy", "light-light", "light-heavy"})


class Text(NamedTuple):
    """One syllable as it is written under a note."""

    text: str
    starts_word: bool
    ends_word: bool
    starts_line: bool = False
    """A karaoke file begins a line here."""
    ends_line: bool = False
    ends_paragraph: bool = False


class WrittenNote(NamedTuple):
    """A note, a chord, or a rest that carries a text; lengths in quarters."""

    onset_q: float
    """From the start of the bar."""
    length_q: float
    verses: dict[int, tuple[Text, ...]]
    """By number of the verse; no texts where that verse prolongs the syllable before."""
    is_tied: bool
    """Held on from the note before."""
    ends_phrase: bool
    """A breath mark, caesura or fermata stands here."""
    is_rest: bool = False


@dataclass(slots=True, kw_only=True)
class WrittenBar:
    """A bar of one part; offsets and lengths in quarters."""

    onset_q: float
    length_q: float
    beat_q: float
    metre_q: float
    """Length of a whole bar by the time signature."""
    notes: list[WrittenNote]


class Tempo(NamedTuple):
    """A tempo from a place in the score on."""

    onset_q: float
    qpm: float


def part_names(parts: Sequence[Any]) -> list[str]:
    """Names of the parts; empty where one has none."""
    return [str(getattr(part, "partName", "") or "").strip() for part in parts]


def has_lyrics(part: Any) -> bool:
    """Whether anything is written under the notes."""
    return any(lyric.text or lyric.isComposite for note in part.recurse().notesAndRests for lyric in note.lyrics)


def read_bars(part: Any) -> list[WrittenBar]:
    """Read the bars of a part, one line of singing: in each bar the first voice that has lyrics there."""
    measures = _measures(part)
    bars: list[WrittenBar] = []
    beat_q, metre_q, voice = 1.0, 4.0, ""
    for n, measure in enumerate(measures):
        signature = measure.getTimeSignatures(returnDefault=False, searchContext=False, sortByCreationTime=False)
        if signature:
            beat_q, metre_q = _beat_q(signature[0]), float(signature[0].barDuration.quarterLength)
        items, voice = _sung_voice(measure, voice)
        next_q = float(measures[n + 1].offset) if n + 1 < len(measures) else math.inf
        onset_q = float(measure.offset)
        length_q = next_q - onset_q if next_q < math.inf else float(measure.duration.quarterLength)
        bars.append(
            WrittenBar(
                onset_q=onset_q, length_q=max(length_q, 0.0), beat_q=beat_q, metre_q=metre_q, notes=list(_notes(items))
            )
        )
    return bars


def _measures(part: Any) -> list[Any]:
    # A part without bars is one long bar.
    return list(part.getElementsByClass("Measure")) or [part.flatten()]


def _beat_q(signature: Any) -> float:
    is_compound = signature.denominator == 8 and signature.numerator % 3 == 0 and signature.numerator > 3
    return 1.5 if is_compound else 4.0 / signature.denominator


def _sung_voice(measure: Any, before: str) -> tuple[list[Any], str]:
    voices = list(getattr(measure, "voices", []))
    if not voices:
        return list(measure.notesAndRests), before
    chosen = next((v for v in voices if any(note.lyrics for note in v.notesAndRests)), None) or next(
        (v for v in voices if str(v.id) == before), voices[0]
    )
    return list(chosen.notesAndRests), str(chosen.id)


def _notes(items: Iterable[Any]) -> Iterator[WrittenNote]:
    for item in items:
        if "Harmony" in item.classes:
            continue  # a chord symbol above the staff
        marks = {kind for mark in (*item.articulations, *item.expressions) for kind in mark.classes}
        yield WrittenNote(
            onset_q=max(float(item.offset), 0.0),
            length_q=max(float(item.duration.quarterLength), 0.0),
            verses=_verses(item.lyrics),
            is_tied=item.tie is not None and item.tie.type in {"stop", "continue"},
            ends_phrase=bool(marks & {"BreathMark", "Caesura", "Fermata"}),
            is_rest=bool(item.isRest),
        )


def _verses(lyrics: Iterable[Any]) -> dict[int, tuple[Text, ...]]:
    verses: dict[int, tuple[Text, ...]] = {}
    for lyric in lyrics:
        parts = lyric.components if lyric.isComposite else [lyric]
        texts = tuple(_text(str(part.text or ""), part.syllabic) for part in parts)
        # Notes of a chord may repeat the text of the chord.
        verses.setdefault(int(lyric.number), tuple(text for text in texts if text.text or text.ends_line))
    return verses


def _text(raw: str, syllabic: str | None) -> Text:
    words = " ".join("".join(letter for letter in raw if letter not in MARKS).split())
    starts_line = words[:1] in {"/", "\\"}
    words = VERSE_LABEL.sub("", words.lstrip("/\\") if starts_line else words)
    return Text(
        text="ン" if HUMMING in raw and not words else words,
        starts_word=syllabic not in {"middle", "end"},
        ends_word=syllabic not in {"begin", "middle"},
        starts_line=starts_line,
        ends_line=END_LINE in raw or END_PARAGRAPH in raw,
        ends_paragraph=END_PARAGRAPH in raw,
    )


def read_marks(parts: Sequence[Any]) -> list[BarMarks]:
    """Read what the bars say of the way through the score, from all parts: most programs write it into one."""
    columns = [_measures(part) for part in parts]
    marks = [BarMarks() for _ in range(max(map(len, columns), default=0))]
    codas: set[tuple[int, bool]] = set()
    for part, measures in zip(parts, columns, strict=True):
        place = {id(measure): n for n, measure in enumerate(measures)}
        for n, measure in enumerate(measures):
            _read_lines(measure, marks, n)
            for item in measure.getElementsByClass(["RepeatExpression", "TextExpression", "RehearsalMark"]):
                _read_expression(item, marks, n, codas)
        for bracket in part.recurse().getElementsByClass("RepeatBracket"):
            spanned = [place[id(item)] for item in bracket.getSpannedElements() if id(item) in place]
            for n in range(min(spanned), max(spanned) + 1) if spanned else ():
                marks[n].endings |= frozenset(int(number) for number in bracket.numberRange)
    _tell_codas_apart(marks, codas)
    _mark_repeat_sections(marks)
    return marks


def _read_lines(measure: Any, marks: list[BarMarks], n: int) -> None:
    for line, is_left in (
        (getattr(measure, "leftBarline", None), True),
        (getattr(measure, "rightBarline", None), False),
    ):
        if line is None:
            continue
        if "Repeat" in line.classes:
            if line.direction == "start":
                marks[n].repeat_start = True
            else:
                marks[n].repeat_times = max(marks[n].repeat_times, min(int(line.times or 2), MAX_PASSES))
        elif line.type in SECTION_LINES and (is_left or n + 1 < len(marks)):
            marks[n if is_left else n + 1].is_section = True


def _read_expression(item: Any, marks: list[BarMarks], n: int, codas: set[tuple[int, bool]]) -> None:
    if "RehearsalMark" in item.classes:
        marks[n].is_section = True
        return
    words = str(item.getText() if "RepeatExpression" in item.classes else item.content or "")
    jump = JUMP.match(words)
    if jump:
        marks[n].jump = "capo" if jump[1] else "segno"
        aims = [aim for aim in ("coda", "fine") if aim in words.lower()]
        marks[n].jump_until = aims[0] if aims else marks[n].jump_until  # pyright: ignore[reportAttributeAccessIssue]
    elif TO_CODA.match(words):
        marks[n].to_coda = True
    elif CODA.match(words):
        codas.add((n, float(item.offset) > 0))
    elif SEGNO.match(words):
        marks[n].segno = True
    elif FINE.match(words):
        marks[n].fine = True


def _tell_codas_apart(marks: list[BarMarks], codas: set[tuple[int, bool]]) -> None:
    """The same sign stands where one leaves and where the coda begins: of several the last is the coda."""
    signs = sorted((n, is_late) for n, is_late in codas if not marks[n].to_coda)
    if len(signs) > 1 and not any(mark.to_coda for mark in marks):
        n, is_late = signs.pop(0)
        marks[n if is_late or n == 0 else n - 1].to_coda = True
    for n, _ in signs:
        marks[n].coda = True


def _mark_repeat_sections(marks: list[BarMarks]) -> None:
    for n, mark in enumerate(marks):
        is_after = n > 0 and marks[n - 1].repeat_times > 0 and not marks[n - 1].endings
        mark.is_section = mark.is_section or mark.repeat_start or is_after


def read_tempos(stream: Any) -> list[Tempo]:
    """Read the tempos of all parts by place; empty where the score has none.

    The first also holds for what stands before it.
    """
    tempos: dict[float, float] = {}
    for item in stream.recurse().getElementsByClass("TempoIndication"):
        mark = item.getSoundingMetronomeMark()
        qpm = mark.getQuarterBPM() if mark is not None else None
        if qpm is not None and QPM_RANGE[0] <= float(qpm) <= QPM_RANGE[1]:
            tempos[float(item.getOffsetInHierarchy(stream))] = float(qpm)
    return [Tempo(onset_q, qpm) for onset_q, qpm in sorted(tempos.items())]
