"""Lyrics and names in a file's tags."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.data.records import Phrase

_CLOCK = r"(?:(\d{1,2}):(?=\d{1,2}:\d{1,2}[.,]))?(\d{1,3}):(\d{1,2}(?:[.:,]\d{1,6})?)"
STAMP = re.compile(rf"\[\s*{_CLOCK}\s*\]")
"""Hours, where a fraction behind seconds tells that there are any; minutes; seconds."""
WORD_STAMP = re.compile(rf"<\s*{_CLOCK}\s*>")
META_LINE = re.compile(r"\[(?:ar|ti|al|au|by|re|ve|la|length|offset|id|tool|kana|#):.*\]", re.IGNORECASE)
HEADING_LINE = re.compile(r"\[[^\[\]]*\]")
OFFSET = re.compile(r"\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE)
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
SCRIPTS = (
    ("kana", KANA),
    ("hanzi", re.compile("[\u3400-\u9fff\uf900-\ufaff]")),
    ("hangul", re.compile("[\uac00-\ud7a3]")),
    ("latin", re.compile("[A-Za-z\u00c0-\u024f]")),
    ("other", re.compile(r"\w")),
)
FIELDS = ("title", "artist", "album", "albumartist")
LYRICS_FIELDS = ("syncedlyrics", "lyrics", "unsynced lyrics")
GARBLED = "garbled"
"""Key under which `read_tags` names, between spaces, what is in the file and cannot be read."""


class _Clipped:
    """A file as tag readers need it: no read allocates more than there is, no seek leaves it."""

    name = ""

    def __init__(self, file: BinaryIO | io.RawIOBase) -> None:
        self._file = file
        self._num_bytes = file.seek(0, io.SEEK_END)
        self._at = 0

    def read(self, num_bytes: int = -1, /) -> bytes:
        left = self._num_bytes - self._at
        wanted = left if num_bytes < 0 else min(num_bytes, left)
        self._file.seek(self._at)
        data = b""
        while len(data) < wanted and (more := self._file.read(wanted - len(data))):
            data += more
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = min(max(start + offset, 0), self._num_bytes)
        return self._at

    def tell(self) -> int:
        return self._at


def read_tags(source: Path | BinaryIO | io.RawIOBase, *, name: str = "") -> dict[str, str]:
    """Read the tags that Setlist uses from an audio file.

    Lyrics with times come before those without. A text in an encoding that it does not claim is put right; where that
    is not possible it is left out, and its name stands under `garbled`.

    Args:
        source: the file, or one that is open, seekable, and stays so.
        name: what an open file is called, for a kind of file that its bytes do not tell.

    Returns:
        Those of title, artist, album, albumartist and lyrics that the file has; empty where it has no readable tags.
    """
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return _read(file, name or source.name)
        except OSError:
            # Whatever keeps the tags from being read keeps the audio too, and decoding says so.
            return {}
    return _read(source, name)


def _read(source: BinaryIO | io.RawIOBase, name: str) -> dict[str, str]:
    from pipeline.lyrics.encodings import LOST, repair_texts
    from pipeline.lyrics.id3 import Id3, read_id3
    from pipeline.lyrics.rawtags import read_raw_tags

    file = cast("BinaryIO", _Clipped(source))
    values, id3 = _by_tinytag(file, name), read_id3(file) or Id3()
    if any(LOST in text for texts in values.values() for text in texts):
        values |= {field: [_bytes_as_text(text) for text in texts] for field, texts in read_raw_tags(file).items()}
    found = {field: texts[0] for field in FIELDS if (texts := values.get(field))} | id3.names
    other = [text for field in LYRICS_FIELDS for text in values.get(field, [])]
    lyrics = id3.synced + id3.lyrics
    lyrics = lyrics or sorted(other, key=lambda text: not STAMP.search(text))
    found |= {f"lyrics {number}": text for number, text in enumerate(lyrics)}
    tags: dict[str, str] = {}
    garbled: list[str] = []
    for key, text in repair_texts({key: _clean(text) for key, text in found.items()}).items():
        field = key.split()[0]
        if text:
            tags.setdefault(field, text)
        elif text is None:
            garbled.append(field)
    lost = [field for field in dict.fromkeys(garbled) if field not in tags]
    return tags | ({GARBLED: " ".join(lost)} if lost else {})


def _by_tinytag(file: BinaryIO, name: str) -> dict[str, list[str]]:
    from tinytag import TinyTag, TinyTagException
    from tinytag.tinytag import UnsupportedFormatError

    for filename in (None, name):  # what a file is, its bytes tell; its name may be wrong
        try:
            values: dict[str, Any] = TinyTag.get(filename, file, duration=False).as_dict()
        except UnsupportedFormatError:
            continue
        except TinyTagException:
            # Damaged tags are no reason to lose a recording that decodes.
            break
        return {key: [str(text) for text in texts] for key, texts in values.items() if isinstance(texts, list)}
    return {}


def _bytes_as_text(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _clean(text: str) -> str:
    return text.replace("\x00", "").replace("\ufeff", "").strip()


def parse_lyrics(text: str, dropped: Counter[str] | None = None) -> list[Phrase]:
    """Split the text of a lyrics tag into phrases; times come from LRC stamps such as `[01:23.45]`.

    Lines without a stamp share the time of the stamped line before them, each by its letters; those before the first
    stamp share the time up to it. Of lines with the same stamp that differ in script one is sung and the others
    translate it.

    Args:
        text: of the tag.
        dropped: where to count what is left out: `translation`, and `duplicate` for a line given twice at a stamp.

    Returns:
        Phrases in the order of singing. With stamps a phrase ends where the next begins, the last one has no end;
        without stamps, and where most lines lie outside of them, all times are None.
    """
    before, stamped = _stamped_lines(text)
    if not _are_timed(before, stamped):
        lines = (STAMP.sub("", WORD_STAMP.sub("", line)).strip() for line in text.splitlines())
        return [_phrase(words, None, None) for words in lines if words and not META_LINE.fullmatch(words)]
    offset = OFFSET.search(text)
    # A positive offset makes the lyrics appear sooner.
    shift_s = -int(offset[1]) / 1000 if offset else 0.0
    places: defaultdict[float, list[_Line]] = defaultdict(list)
    for line in stamped:
        for time_s in line.times_s:
            places[max(time_s + shift_s, 0.0)].append(line)
    kept = _without_translations(
        [places[time_s] for time_s in sorted(places)], Counter() if dropped is None else dropped
    )
    texts = dict(zip(sorted(places), kept, strict=True))
    texts[0.0] = [line for line in before if not HEADING_LINE.fullmatch(line)] + texts.get(0.0, [])
    starts_s = sorted(texts)
    spans = [*pairwise(starts_s), (starts_s[-1], None)]
    # A stamp without words ends the phrase before it; it is no phrase itself.
    return [phrase for start_s, end_s in spans for phrase in _share(texts[start_s], start_s, end_s)]


class _Line(NamedTuple):
    """A line with stamps, and the lines without any that follow it."""

    times_s: list[float]
    words: str
    more: list[str]


def _stamped_lines(text: str) -> tuple[list[str], list[_Line]]:
    """The lines before the first stamp, and those from there on."""
    before: list[str] = []
    stamped: list[_Line] = []
    for line in text.splitlines():
        times_s = [_seconds(*parts) for parts in STAMP.findall(line)]
        words = WORD_STAMP.sub("", STAMP.sub("", line)).strip()
        if times_s:
            stamped.append(_Line(times_s, words, []))
        elif words and not META_LINE.fullmatch(words):
            (stamped[-1].more if stamped and not HEADING_LINE.fullmatch(words) else before).append(words)
    return before, stamped


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(re.sub("[:,]", ".", seconds))


def _are_timed(before: Sequence[str], stamped: Sequence[_Line]) -> bool:
    """Whether the stamps tell when most of the lines are sung, rather than stand by chance at one end."""
    if not stamped:
        return False
    sung = [line for line in before if not HEADING_LINE.fullmatch(line)]
    inside = sum(bool(line.words) + len(line.more) for line in stamped) - len(stamped[-1].more)
    return len(sung) + len(stamped[-1].more) <= max(inside, 1)


def _without_translations(places: Sequence[Sequence[_Line]], dropped: Counter[str]) -> list[list[str]]:
    """What is sung at every stamp: the line in kana if the song has any, else the first with those of its script."""
    rows = [[line for line in place if line.words] for place in places]
    at = _usual_place_of_kana([[_script(line.words) for line in row] for row in rows])
    found: list[list[str]] = []
    for place, row in zip(places, rows, strict=True):
        sung = _sung(row, at)
        words = list(dict.fromkeys(line.words for line in sung))
        more = [text for line in place if not line.words or line in sung for text in line.more]
        found.append(([" ".join(words)] if words else []) + more)
        dropped.update(["translation"] * (len(row) - len(sung)) + ["duplicate"] * (len(sung) - len(words)))
    return found


def _usual_place_of_kana(rows: Sequence[Sequence[str]]) -> int | None:
    """Which line of a stamp is mostly kana, from 0; one of kanji alone, or of English, stands there too."""
    mixed = [scripts for scripts in rows if "kana" in scripts and len(set(scripts)) > 1]
    counts = Counter(scripts.index("kana") for scripts in mixed)
    return counts.most_common(1)[0][0] if counts else None


def _sung(row: list[_Line], usual: int | None) -> list[_Line]:
    """Those lines of a stamp that are no translation."""
    scripts = [_script(line.words) for line in row]
    if usual is not None and len(row) > 1 and "kana" not in scripts:
        return [row[min(usual, len(row) - 1)]]
    wanted = "kana" if "kana" in scripts else next((script for script in scripts if script), "")
    return [line for line, script in zip(row, scripts, strict=True) if script == wanted]


def _script(text: str) -> str:
    return next((name for name, letters in SCRIPTS if letters.search(text)), "")


def _share(texts: Sequence[str], start_s: float, end_s: float | None) -> list[Phrase]:
    """Phrases of the lines that share a span, by their letters; without an end they are one phrase."""
    if not texts or end_s is None:
        return [_phrase(" ".join(texts), start_s, None)] if texts else []
    letters = [max(sum(letter.isalnum() for letter in text), 1) for text in texts]
    inner_s = [round(start_s + (end_s - start_s) * part / sum(letters), 3) for part in accumulate(letters)]
    edges_s = [start_s, *inner_s[:-1], end_s]
    return [_phrase(text, *span_s) for text, span_s in zip(texts, pairwise(edges_s), strict=True)]


def _phrase(text: str, start_s: float | None, end_s: float | None) -> Phrase:
    return Phrase(text=text, start_s=start_s, end_s=end_s, source="tag")
