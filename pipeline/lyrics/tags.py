"""Lyrics and names in a file's tags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.data.records import Phrase

STAMP = re.compile(r"\[(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)\]")
META_LINE = re.compile(r"\[(?:ar|ti|al|au|by|re|ve|la|length|offset|id|tool):.*\]", re.IGNORECASE)
OFFSET = re.compile(r"\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE)
FIELDS = ("title", "artist", "album", "albumartist", "lyrics")


def read_tags(path: Path) -> dict[str, str]:
    """Read the tags that Setlist uses from an audio file.

    Returns:
        Those of title, artist, album, albumartist and lyrics that the file has; empty where it has no readable tags.
    """
    from tinytag import TinyTag, TinyTagException

    try:
        values: dict[str, Any] = TinyTag.get(path).as_dict()
    except (TinyTagException, OSError, ValueError, IndexError, KeyError):
        # Damaged tags are no reason to lose a recording that decodes.
        return {}
    found = {
        name: values[name][0] if isinstance(values[name], list) else values[name] for name in FIELDS if values.get(name)
    }
    return {name: str(value).replace("\x00", "").strip() for name, value in found.items()}


def parse_lyrics(text: str) -> list[Phrase]:
    """Split the text of a lyrics tag into phrases; times come from LRC stamps such as `[01:23.45]`.

    Returns:
        Phrases in the order of singing. With stamps a phrase ends where the next begins, the last one has no end;
        without stamps all times are None.
    """
    offset = OFFSET.search(text)
    # A positive offset makes the lyrics appear sooner.
    shift_s = -int(offset[1]) / 1000 if offset else 0.0
    timed: list[tuple[float, str]] = []
    plain: list[str] = []
    for line in text.splitlines():
        words = STAMP.sub("", line).strip()
        stamps = [int(m) * 60 + float(s.replace(":", ".")) for m, s in STAMP.findall(line)]
        timed += [(max(stamp_s + shift_s, 0.0), words) for stamp_s in stamps]
        if words and not stamps and not META_LINE.fullmatch(words):
            plain.append(words)
    if not timed:
        return [Phrase(text=words, start_s=None, end_s=None, source="tag") for words in plain]
    timed.sort()
    ends = [start for start, _ in timed[1:]] + [None]
    # A stamp without words ends the phrase before it; it is no phrase itself.
    return [
        Phrase(text=words, start_s=start, end_s=end, source="tag")
        for (start, words), end in zip(timed, ends, strict=True)
        if words
    ]


def phrases_in_span(phrases: list[Phrase], start_s: float, end_s: float) -> list[Phrase]:
    """Take the phrases that sound within a span, with times from its start.

    Phrases without times belong to every clip of a recording only when it has no more than one: see `stages.lyrics`.
    """
    inside: list[Phrase] = []
    for phrase in phrases:
        begin, end = phrase["start_s"], phrase["end_s"]
        if begin is None or begin >= end_s or (begin if end is None else end) < start_s or end == start_s:
            continue  # a phrase without an end, the last one, sounds only where it begins
        cut = Phrase(**phrase)
        cut["start_s"] = round(max(begin - start_s, 0.0), 3)
        cut["end_s"] = None if end is None else round(min(end, end_s) - start_s, 3)
        inside.append(cut)
    return inside
