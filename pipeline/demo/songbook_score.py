"""Songs as MusicXML 4.0, as notation programs write it: all parts in one score, lyrics a mora to a note."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from xml.etree import ElementTree

from pipeline.demo.morae import MELISMA, PROLONGED
from pipeline.demo.songbook import Bar, Note, Paper, Variant, spell

DIVISIONS = 4
"""Ticks of a quarter."""
TYPES = {
    "1/4": ("16th", 0), "1/2": ("eighth", 0), "3/4": ("eighth", 1), "1": ("quarter", 0), "3/2": ("quarter", 1),
    "2": ("half", 0), "3": ("half", 1), "4": ("whole", 0),
}  # fmt: skip
"""Name and dots of a note by its quarters."""
SHARP_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLAT_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
CLEFS = {"tenor": ("G", "2", "-1"), "bass": ("F", "4", ""), "vocal_percussion": ("percussion", "", "")}
DRUM_LINES = {36: ("F", "4"), 42: ("G", "5"), 38: ("C", "5")}
"""Where a drum stands on the staff."""
HEADER = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE score-partwise PUBLIC '
    '"-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">\n'
)

Element = ElementTree.Element


def write_score(paper: Paper, variant: Variant) -> bytes:
    """Write a score.

    Args:
        paper: the song with all its parts.
        variant: how lyrics are spelt.

    Returns:
        A MusicXML file.
    """
    root = Element("score-partwise", version="4.0")
    _header(root, paper)
    for number, (name, notes) in enumerate(paper.parts.items(), 1):
        part = ElementTree.SubElement(root, "part", id=f"P{number}")
        for index, bar in enumerate(paper.bars):
            measure = _measure(part, paper, index)
            if index == 0:
                _attributes(measure, paper, name)
            if number == 1:
                _directions(measure, bar)
            for note, after in zip(notes, [*notes[1:], None], strict=True):
                if note.bar == index:
                    _note(measure, note, paper, variant=variant, ties_on=after is not None and after.is_tied)
            _right_barline(measure, paper.bars, index)
    ElementTree.indent(root, space="")
    return (HEADER + ElementTree.tostring(root, encoding="unicode") + "\n").encode()


def _add(parent: Element, tag: str, text: str | int = "", **attributes: str) -> Element:
    child = ElementTree.SubElement(parent, tag, {name.replace("_", "-"): value for name, value in attributes.items()})
    child.text = str(text) or None
    return child


def _header(root: Element, paper: Paper) -> None:
    song = paper.song
    _add(_add(root, "work"), "work-title", song.title_ja)
    identification = _add(root, "identification")
    _add(identification, "creator", song.composer, type="composer")
    _add(identification, "creator", song.lyricist, type="lyricist")
    _add(identification, "rights", "public domain; transcription and arrangement: the demo of Setlist")
    _add(_add(identification, "encoding"), "software", "Setlist")
    parts = _add(root, "part-list")
    for number, name in enumerate(paper.parts, 1):
        _add(_add(parts, "score-part", id=f"P{number}"), "part-name", name)


def _measure(part: Element, paper: Paper, index: int) -> Element:
    has_pickup = paper.song.pickup_q > 0
    attributes = {"number": str(index + (not has_pickup))}
    if has_pickup and index == 0:
        attributes["implicit"] = "yes"
    measure = ElementTree.SubElement(part, "measure", attributes)
    bar = paper.bars[index]
    opens = bar.volta and (index == 0 or paper.bars[index - 1].volta != bar.volta)
    if bar.repeat_start or opens:
        barline = _add(measure, "barline", location="left")
        if bar.repeat_start:
            _add(barline, "bar-style", "heavy-light")
        if opens:
            _add(barline, "ending", f"{bar.volta}.", number=str(bar.volta), type="start")
        if bar.repeat_start:
            _add(barline, "repeat", direction="forward")
    return measure


def _right_barline(measure: Element, bars: Sequence[Bar], index: int) -> None:
    bar, after = bars[index], bars[index + 1] if index + 1 < len(bars) else None
    closes = bar.volta and (after is None or after.volta != bar.volta)
    doubles = after is not None and after.double_bar
    if not (bar.repeat_end or closes or doubles or after is None):
        return
    barline = _add(measure, "barline", location="right")
    _add(barline, "bar-style", "light-light" if doubles and not bar.repeat_end else "light-heavy")
    if closes:
        _add(barline, "ending", number=str(bar.volta), type="stop" if bar.repeat_end else "discontinue")
    if bar.repeat_end:
        _add(barline, "repeat", direction="backward")


def _attributes(measure: Element, paper: Paper, part: str) -> None:
    song = paper.song
    attributes = _add(measure, "attributes")
    _add(attributes, "divisions", DIVISIONS)
    key = _add(attributes, "key")
    _add(key, "fifths", song.fifths)
    _add(key, "mode", song.mode)
    time = _add(attributes, "time")
    for tag, text in zip(("beats", "beat-type"), song.metre.split("/"), strict=True):
        _add(time, tag, text)
    clef = _add(attributes, "clef")
    sign, line, octave = CLEFS.get(part, ("G", "2", ""))
    for tag, text in (("sign", sign), ("line", line), ("clef-octave-change", octave)):
        if text:
            _add(clef, tag, text)


def _directions(measure: Element, bar: Bar) -> None:
    if bar.rehearsal:
        direction = _add(measure, "direction", placement="above")
        _add(_add(direction, "direction-type"), "rehearsal", bar.rehearsal)
    if bar.bpm:
        direction = _add(measure, "direction", placement="above")
        metronome = _add(_add(direction, "direction-type"), "metronome")
        _add(metronome, "beat-unit", "quarter")
        _add(metronome, "per-minute", f"{bar.bpm:g}")
        _add(direction, "sound", tempo=f"{bar.bpm:g}")


def _note(measure: Element, note: Note, paper: Paper, *, variant: Variant, ties_on: bool) -> None:
    element = _add(measure, "note")
    fills = note.length_q == paper.bars[note.bar].length_q
    if note.midi is None:
        _add(element, "rest", **({"measure": "yes"} if fills else {}))
    elif note.kind == "scat" and note.midi in DRUM_LINES:
        step, octave = DRUM_LINES[note.midi]
        unpitched = _add(element, "unpitched")
        _add(unpitched, "display-step", step)
        _add(unpitched, "display-octave", octave)
    else:
        _pitch(element, note.midi, FLAT_NAMES if paper.song.fifths < 0 else SHARP_NAMES)
    _add(element, "duration", int(note.length_q * DIVISIONS))
    ties = ["stop"] * note.is_tied + ["start"] * ties_on
    for kind in ties:
        _add(element, "tie", type=kind)
    _add(element, "voice", 1)
    _length(element, note.length_q)
    _notations(element, note, ties)
    for number in range(len(note.texts)):
        _lyric(element, note, number, paper=paper, variant=variant)


def _pitch(element: Element, midi: int, names: Sequence[str]) -> None:
    name = names[midi % 12]
    pitch = _add(element, "pitch")
    _add(pitch, "step", name[0])
    if name[1:]:
        _add(pitch, "alter", {"#": 1, "b": -1}[name[1:]])
    _add(pitch, "octave", midi // 12 - 1)


def _length(element: Element, length_q: Fraction) -> None:
    name, num_dots = TYPES[str(length_q)]
    _add(element, "type", name)
    for _ in range(num_dots):
        _add(element, "dot")


def _notations(element: Element, note: Note, ties: Sequence[str]) -> None:
    if not ties and note.end not in ("breath", "fermata"):
        return
    notations = _add(element, "notations")
    for kind in ties:
        _add(notations, "tied", type=kind)
    if note.end == "fermata":
        _add(notations, "fermata", type="upright")
    if note.end == "breath":
        _add(_add(notations, "articulations"), "breath-mark")


def _lyric(element: Element, note: Note, number: int, *, paper: Paper, variant: Variant) -> None:
    text, style = note.texts[number], paper.song.melisma
    if text == MELISMA and style == "blank":
        return
    following = note.following[number] if note.following else ""
    is_prolonged = bool(note.is_prolonged) and note.is_prolonged[number]
    verse = paper.bars[note.bar].volta if len(note.texts) == 1 and paper.bars[note.bar].volta else number + 1
    lyric = _add(element, "lyric", number=str(verse))
    if text != MELISMA:
        _add(lyric, "syllabic", "single")
        _add(lyric, "text", spell(text, following, kind=note.kind, variant=variant))
        if is_prolonged and style == "extend":
            _add(lyric, "extend", type="start")
    elif style == "extend":
        _add(lyric, "extend", type="continue" if is_prolonged else "stop")
    else:
        _add(lyric, "syllabic", "single")
        _add(lyric, "text", PROLONGED if style == "dash" else "\u3000")
    if note.end in ("end-line", "end-paragraph"):
        _add(lyric, note.end)
