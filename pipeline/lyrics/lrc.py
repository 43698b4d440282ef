"""Lyrics as an LRC file, which players show while a recording plays and `parse_lyrics` reads again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.data.records import Phrase

MIN_PAUSE_S = 1.0
"""A pause of this length after a phrase gets a stamp without words, which ends the phrase."""


def lrc_text(phrases: Iterable[Phrase], *, tags: Mapping[str, str], duration_s: float | None = None) -> str:
    """Write phrases as plain LRC: tags, then a line per phrase, with its start in hundredths of a second where known.

    Phrases without times stand without stamps if none has times; otherwise they cannot be placed, and are left out.

    Args:
        phrases: in the order of singing.
        tags: `ti`, `ar`, `al`, ...; empty ones are left out.
        duration_s: length of the recording, for the tag `length`.
    """
    head = [f"[{name}:{_one_line(value)}]" for name, value in tags.items() if value.strip()]
    if duration_s is not None:
        head.append(f"[length:{stamp(duration_s)}]")
    listed = list(phrases)
    timed = sorted((p["start_s"], n) for n, p in enumerate(listed) if p["start_s"] is not None)
    if not timed:
        return "\n".join(head + [_one_line(phrase["text"]) for phrase in listed]) + "\n"
    lines: list[str] = []
    for place, (start_s, n) in enumerate(timed):
        end_s = listed[n]["end_s"]
        next_s = timed[place + 1][0] if place + 1 < len(timed) else None
        lines.append(f"[{stamp(start_s)}]{_one_line(listed[n]['text'])}")
        if end_s is not None and (next_s is None or next_s - end_s >= MIN_PAUSE_S):
            lines.append(f"[{stamp(end_s)}]")
    return "\n".join(head + lines) + "\n"


def stamp(time_s: float) -> str:
    """Write a time as LRC does: minutes, seconds, hundredths."""
    hundredths = round(max(time_s, 0.0) * 100)
    return f"{hundredths // 6000:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"


def _one_line(text: str) -> str:
    # A bracket at the start of a line would be read as a stamp or a tag.
    return " ".join(text.split()).replace("[", "(").replace("]", ")")
