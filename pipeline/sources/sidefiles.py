"""What stands beside recordings: captions, names and times in `.txt`, `.json`, `.lrc`, CSV and JSON lines."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.data.records import Caption, Cut
from pipeline.data.titles import fold_title, tag_groups
from pipeline.lyrics.encodings import decode_text

FILE_COLUMNS = ("file_name", "file", "path", "filename")
CAPTION_FIELDS = ("caption", "captions", "description", "text")
ASPECT_FIELDS = ("keywords", "genre", "moods", "mood", "instrument", "aspects", "aspect_list", "tags")
START_FIELDS, END_FIELDS = ("start_s", "start"), ("end_s", "end")
NAME_FIELDS = ("title", "artist", "album", "albumartist")
VIDEO_FIELDS = {"dataset_category", "dataset_score", "dataset_genre", "channel_id"}
SINGING_LICENCE = "CC BY-NC 4.0 (as stated by the card); user's own copy"
NOTHING = {"", "none", "null", "nan", "n/a"}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a side file, or a row of one, says of a recording."""

    captions: tuple[Caption, ...] = ()
    aspects: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict[str, str])
    lyrics: str = ""
    licence: str | None = None
    cuts: tuple[Cut, ...] = ()
    score: float | None = None
    """The corpus' own mark of quality, 0 to 100."""
    duration_s: float | None = None

    def __or__(self, other: About) -> About:
        """Both; where only one thing can be said, this one says it."""
        return About(
            captions=self.captions + other.captions,
            aspects=tuple(dict.fromkeys(self.aspects + other.aspects)),
            groups=other.groups | self.groups,
            lyrics=self.lyrics or other.lyrics,
            licence=self.licence or other.licence,
            cuts=_joined(self.cuts + other.cuts),
            score=self.score if self.score is not None else other.score,
            duration_s=self.duration_s if self.duration_s is not None else other.duration_s,
        )


class Row(NamedTuple):
    """A row of a list of recordings."""

    number: int
    """From 1, below the header."""
    file: str
    """As the row names it; empty where the row cannot be read."""
    about: About
    fault: str = ""


def read_side(suffix: str, data: bytes) -> About | None:
    """Read the side file of one recording.

    Args:
        suffix: `.txt`, `.lrc` or `.json`.
        data: its bytes, in any encoding.

    Returns:
        What it says; None where it cannot be read.
    """
    text = decode_text(data)
    if text is None:
        return None
    if suffix == ".txt":
        return About(captions=_captions([text]))
    if suffix == ".lrc":
        return About(lyrics=_sound(text).strip())
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return about(value) if isinstance(value, dict) else None


def about(fields: Mapping[str, Any]) -> About:
    """Read named fields: audiocraft's, japanese-singing-voice's, or those of a list's row.

    Raises:
        ValueError: a start without an end, or times that are no span.
    """
    values = {str(name).strip().casefold(): value for name, value in fields.items()}
    if VIDEO_FIELDS & values.keys():
        return _video(values)
    captions = _captions(next((texts for name in CAPTION_FIELDS if (texts := _texts(values.get(name)))), []))
    span = _span_s(values)
    return About(
        captions=() if span else captions,
        cuts=(Cut(*span, captions),) if span else (),
        aspects=_aspects(values),
        groups=tag_groups({name: _one(values.get(name)) for name in NAME_FIELDS}),
        lyrics=_one(values.get("lyrics"), keep_lines=True),
        licence=_one(values.get("licence", values.get("license"))) or None,
    )


def read_rows(suffix: str, data: bytes) -> list[Row] | None:
    """Read a list of recordings: CSV with a column such as `file_name`, or JSON lines with such a field.

    Returns:
        Its rows, in order; None where it is no such list.
    """
    text = decode_text(data)
    if text is None:
        return None
    return _json_rows(text) if suffix == ".jsonl" else _csv_rows(text)


def _csv_rows(text: str) -> list[Row] | None:
    header = text.lstrip("\ufeff\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = {name.strip().casefold() for name in reader.fieldnames or ()}
    except csv.Error:
        return None
    if columns.isdisjoint(FILE_COLUMNS):
        return None
    rows: list[Row] = []
    try:
        for number, fields in enumerate(reader, 1):
            rows.append(_row(number, {name: value for name, value in fields.items() if name}))
    except csv.Error as error:
        rows.append(Row(len(rows) + 1, "", About(), f"not readable from here on: {error}"))
    return rows


def _json_rows(text: str) -> list[Row] | None:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            rows.append(Row(number, "", About(), "no JSON object"))
        else:
            rows.append(_row(number, value))
    return rows if any(row.file for row in rows) else None


def _row(number: int, fields: Mapping[str, Any]) -> Row:
    values = {name.strip().casefold(): value for name, value in fields.items()}
    file = next((file for name in FILE_COLUMNS if (file := _one(values.get(name)))), "")
    if not file:
        return Row(number, "", About(), "names no file")
    try:
        return Row(number, file, about(values))
    except ValueError as error:
        return Row(number, file, About(), str(error))


def _video(values: Mapping[str, Any]) -> About:
    """A video of japanese-singing-voice, by the facts that its JSON gives."""
    groups = tag_groups({"title": _one(values.get("title"))}, (_one(values.get("channel_title")),))
    if video := _one(values.get("id")):
        groups["video"] = f"youtube:{video}"
    channel = _one(values.get("channel_id")) or fold_title(_one(values.get("channel_title")))
    # Of official uploads one channel holds many singers.
    if channel and _one(values.get("dataset_category")).casefold() == "cover":
        groups["artist"] = f"youtube:{channel}"
    topics = [topic.rpartition("/")[2].replace("_", " ") for topic in _texts(values.get("topic_categories"))]
    aspects = (word.casefold() for word in [*topics, *_texts(values.get("dataset_genre"))])
    return About(
        aspects=tuple(dict.fromkeys(aspects)),
        groups=groups,
        licence=SINGING_LICENCE,
        score=_float(values.get("dataset_score")),
        duration_s=_float(values.get("duration_sec")),
    )


def _captions(texts: list[str]) -> tuple[Caption, ...]:
    clean = (" ".join(_sound(text).split()) for text in texts)
    return tuple(Caption(text=text, source="human") for text in clean if text)


def _sound(text: str) -> str:
    # Half of a letter pair is legal in JSON and nowhere else.
    return text.encode("utf-8", "replace").decode()


def _texts(value: Any) -> list[str]:
    """The texts of a field: one, or a list of them; numbers as they are written."""
    items: list[Any] = value if isinstance(value, list) else [value]
    texts = (_sound(str(item)) for item in items if isinstance(item, (str, int, float)) and not isinstance(item, bool))
    return [text for text in texts if text.strip().casefold() not in NOTHING]


def _one(value: Any, *, keep_lines: bool = False) -> str:
    text = next(iter(_texts(value)), "")
    return text.strip() if keep_lines else " ".join(text.split())


def _aspects(values: Mapping[str, Any]) -> tuple[str, ...]:
    words = (word for name in ASPECT_FIELDS for text in _texts(values.get(name)) for word in _words(text))
    return tuple(dict.fromkeys(word for word in words if word))


def _words(text: str) -> Iterator[str]:
    """Words of `a, b`, of `a; b`, and of a list as Python or JSON write it."""
    if text.strip().startswith("["):
        try:
            value: Any = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
        if isinstance(value, list):
            yield from (" ".join(word.split()) for word in _texts(value))
            return
    yield from (" ".join(word.split()) for word in re.split(r"[,;|]", text))


def _span_s(values: Mapping[str, Any]) -> tuple[float, float] | None:
    start, end = (
        next((text for name in names if (text := _one(values.get(name)))), "") for names in (START_FIELDS, END_FIELDS)
    )
    if not start and not end:
        return None
    start_s, end_s = (_float(text) for text in (start, end))
    if start_s is None or end_s is None or not 0 <= start_s < end_s:
        raise ValueError(f"start {start or None} and end {end or None} are no span in seconds")
    return start_s, end_s


def _float(value: Any) -> float | None:
    try:
        number = float(_one(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _joined(cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
    """Cuts by start; of one clip all captions, in the order of the rows."""
    captions: dict[tuple[float, float], tuple[Caption, ...]] = {}
    for cut in cuts:
        captions[cut[:2]] = captions.get(cut[:2], ()) + cut.captions
    return tuple(Cut(*span, captions[span]) for span in sorted(captions))
