"""Small scores as MusicXML, made note by note."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.data.records import Phrase
from pipeline.lyrics.score import read_score

HEAD = "<?xml version='1.0' encoding='UTF-8'?><score-partwise version='3.1'>"
BREATH = "<notations><articulations><breath-mark/></articulations></notations>"
FERMATA = "<notations><fermata/></notations>"
TIE = "<tie type='start'/>", "<tie type='stop'/>"
DOUBLE = "<barline location='right'><bar-style>light-light</bar-style></barline>"
REPEAT = "<barline location='right'><repeat direction='backward'/></barline>"
FORWARD = "<barline location='left'><repeat direction='forward'/></barline>"


def lyric(text: str, syllabic: str = "single", *, number: int = 1, after: str = "") -> str:
    return f"<lyric number='{number}'><syllabic>{syllabic}</syllabic><text xml:lang='ja'>{text}</text>{after}</lyric>"


def note(lyrics: str = "", *, beats: float = 1, marks: str = "", head: str = "", voice: int = 1) -> str:
    pitch = "<pitch><step>C</step><octave>4</octave></pitch>"
    duration = "" if "grace" in head else f"<duration>{round(beats * 4)}</duration>"
    return f"<note>{head}{pitch}{duration}<voice>{voice}</voice>{marks}{lyrics}</note>"


def sung(line: str, *, number: int = 1) -> str:
    """Notes of a beat, one per word; `-` is a note without text, `=` a rest."""
    signs = {"-": note(), "=": rest()}
    return "".join(signs.get(word) or note(lyric(word, number=number)) for word in line.split())


def rest(beats: float = 1) -> str:
    return f"<note><rest/><duration>{round(beats * 4)}</duration><voice>1</voice></note>"


def words(text: str, sound: str = "") -> str:
    return f"<direction><direction-type><words>{text}</words></direction-type>{sound}</direction>"


def tempo(qpm: float) -> str:
    return f"<direction><direction-type><words>x</words></direction-type><sound tempo='{qpm}'/></direction>"


def volta(number: str, bar: str, close: str = "") -> str:
    return (
        f"<barline location='left'><ending number='{number}' type='start'/></barline>{bar}"
        f"<barline location='right'><ending number='{number}' type='stop'/>{close}</barline>"
    )


def score_xml(parts: dict[str, Sequence[str]], *, head: str = tempo(60), metre: tuple[int, int] = (4, 4)) -> str:
    """MusicXML: by part name, its bars; the first bar of the first part gets the head."""
    names = "".join(f"<score-part id='P{n}'><part-name>{name}</part-name></score-part>" for n, name in enumerate(parts))
    time = f"<time><beats>{metre[0]}</beats><beat-type>{metre[1]}</beat-type></time>"
    body = ""
    for n, bars in enumerate(parts.values()):
        body += f"<part id='P{n}'>"
        for m, bar in enumerate(bars):
            start = f"<attributes><divisions>4</divisions>{time}</attributes>" + (head if n == 0 else "")
            body += f"<measure number='{m + 1}'>{start if m == 0 else ''}{bar}</measure>"
        body += "</part>"
    return f"{HEAD}<part-list>{names}</part-list>{body}</score-partwise>"


def read(folder: Path, *bars: str, head: str = tempo(60), metre: tuple[int, int] = (4, 4)) -> list[Phrase]:
    path = folder / "a.musicxml"
    path.write_text(score_xml({"Voice": bars}, head=head, metre=metre))
    return read_score(path)


def lines(phrases: Sequence[Phrase]) -> list[tuple[str, float | None, float | None]]:
    return [(phrase["text"], phrase["start_s"], phrase["end_s"]) for phrase in phrases]


def texts(phrases: Sequence[Phrase]) -> list[str]:
    return [phrase["text"] for phrase in phrases]
