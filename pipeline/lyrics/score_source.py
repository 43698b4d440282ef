"""A score file as a music21 stream, with the marks of MusicXML that music21 does not keep written into its texts."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pipeline.errors import ContractError

SCORE_SUFFIXES = frozenset({".musicxml", ".xml", ".mxl", ".mid", ".midi", ".abc", ".krn"})
MAX_SCORE_BYTES = 64 * 2**20
"""More than any song; an archive that claims more is a trap."""
# Marks for what music21 drops, as private-use letters inside the text of a syllable.
END_LINE, END_PARAGRAPH, HUMMING = "\ue001", "\ue002", "\ue003"
MARKS = END_LINE + END_PARAGRAPH + HUMMING
SYLLABICS = frozenset({"single", "begin", "middle", "end"})
ROAD_WORDS = {
    "dacapo": "D.C.",
    "dalsegno": "D.S.",
    "fine": "Fine",
    "tocoda": "To Coda",
    "coda": "Coda",
    "segno": "Segno",
}
"""Attributes of `<sound>` that tell the way through a score, and the words that mean the same."""
MAX_COUNT = 64
"""Beats in a bar, and passes under a volta; music21 lays all of them out, and never ends with millions."""
MIDI_ENCODINGS = ("utf-8", "cp932")


@contextmanager
def refusing(path: Path) -> Generator[None]:
    """Say of whatever goes wrong while a score is read that it is no score that can be read.

    Raises:
        ContractError: instead of any other error.
    """
    try:
        with warnings.catch_warnings():
            # music21 warns of every odd mark; what it could not read is not used.
            warnings.simplefilter("ignore")
            yield
    except ContractError:
        raise
    except Exception as error:
        # music21 lets the errors of its many parsers through, of any class, some only when a mark is asked for.
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ContractError(f"{path}: not a score that can be read ({cause})") from error


def load_stream(path: Path) -> Any:
    """Parse a score into a music21 stream; of a file with several tunes, the first."""
    suffix = path.suffix.lower()
    stream = _parse_midi(path) if suffix in {".mid", ".midi"} else _parse_text(path, suffix)
    return stream.scores[0] if hasattr(stream, "scores") else stream


def _parse_midi(path: Path) -> Any:
    from music21 import converter

    stream: Any = None
    for encoding in MIDI_ENCODINGS:
        # A performance is not set right to a grid of notes: its times are what was played.
        stream = converter.parse(
            path, format="midi", forceSource=True, storePickle=False, quantizePost=False, encoding=encoding
        )
        if any(note.lyrics for note in stream.recurse().notes):
            break
    return stream


def _parse_text(path: Path, suffix: str) -> Any:
    from music21 import converter

    data = path.read_bytes()
    if suffix == ".mxl" or data.startswith(b"PK\x03\x04"):
        data = _unpack(data)
    text = _decode(data)
    if suffix in {".abc", ".krn"}:
        return converter.parseData(text, format="abc" if suffix == ".abc" else "humdrum")
    return converter.parseData(_marked(text), format="musicxml")


def _unpack(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".xml", ".musicxml"))]
        scores = [name for name in names if not name.startswith("META-INF")]
        if "META-INF/container.xml" in names:
            container = ET.fromstring(_decode(archive.read("META-INF/container.xml")))
            rooted = [str(item.get("full-path")) for item in container.iter() if _tag(item) == "rootfile"]
            scores = [name for name in rooted if name in scores] or scores
        if not scores or archive.getinfo(scores[0]).file_size > MAX_SCORE_BYTES:
            raise ValueError("no score in the archive, or one beyond 64 MiB")
        return archive.read(scores[0])


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    named = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)[\"']", data.removeprefix(b"\xef\xbb\xbf")[:200])
    encoding = named[1].decode() if named else "utf-8"
    return data.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding)


def _tag(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _marked(text: str) -> str:
    """MusicXML with what music21 would drop written as marks and words that it keeps."""
    if "<!ENTITY" in text:
        raise ValueError("entities are not read")
    root = ET.fromstring(text)
    if root.tag != "score-partwise":
        raise ValueError(f"<{_tag(root)}> is no part-wise MusicXML")
    counts = [item.text or "" for tag in ("beats", "beat-type") for item in root.iter(tag)]
    counts += [item.get("number", "") for item in root.iter("ending")]
    for count in counts:
        if any(int(number) > MAX_COUNT for number in re.findall(r"\d{1,18}", count)):
            raise ValueError(f"a bar of {count[:20]} beats, or as many passes")
    for lyric in root.iter("lyric"):
        _mark_lyric(lyric)
    for measure in root.iter("measure"):
        _mark_sounds(measure)
    return ET.tostring(root, encoding="unicode")


def _mark_lyric(lyric: ET.Element) -> None:
    for syllabic in lyric.findall("syllabic"):
        if syllabic.text not in SYLLABICS:
            lyric.remove(syllabic)
    marks = "".join(
        mark
        for name, mark in (("humming", HUMMING), ("end-line", END_LINE), ("end-paragraph", END_PARAGRAPH))
        if lyric.find(name) is not None
    )
    if not marks:
        return
    texts = lyric.findall("text") or [ET.SubElement(lyric, "text")]
    texts[-1].text = (texts[-1].text or "") + marks


def _mark_sounds(measure: ET.Element) -> None:
    for place, child in reversed(list(enumerate(measure))):
        for sound in [child] if child.tag == "sound" else child.findall("sound") if child.tag == "direction" else []:
            for words in _road_words(sound):
                direction = ET.Element("direction")
                ET.SubElement(ET.SubElement(direction, "direction-type"), "words").text = words
                measure.insert(place, direction)
            if child.tag == "direction" and sound.get("tempo"):
                # What is played counts before what is printed; music21 would read the print alone.
                for kind in [item for item in child.findall("direction-type") if item.find("metronome") is not None]:
                    child.remove(kind)


def _road_words(sound: ET.Element) -> Iterator[str]:
    for name, words in ROAD_WORDS.items():
        if sound.get(name) not in (None, "", "no"):
            yield words
