"""Songs put together again from their clips: the longest stretch without a hole, and all phrases, whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.records import ClipJson, Phrase, known_phrases
from pipeline.data.shards import Sample

EDGE_S = 0.01
"""Times this close to the edge of a clip are at it."""
_SLACK_S = EDGE_S + 2e-3
"""Parts of a phrase that are this close touch: times are rounded."""

MAX_HOLE_S = 5.0
"""Hardly a phrase goes on across a longer hole."""

Span = tuple[float, float]
Clip = tuple[ClipJson, Sample]


@dataclass(frozen=True, slots=True)
class Song:
    """A recording, put together from its clips."""

    idx: str
    """Key of its first clip, without the number."""
    track: Mapping[str, Any]
    """Its line of tracks.jsonl."""
    clips: list[Clip]
    """All of them, by start."""
    stretch: list[Clip]
    """Those of the longest stretch without a hole; all times are from its start."""
    start_s: float
    """Where in the recording the stretch starts."""
    span_s: Span
    """Of the stretch, but for phrases at its ends that go on beyond them."""
    phrases: Sequence[Phrase]
    """What is sung in the stretch."""
    all_phrases: Sequence[Phrase]
    """What is sung in all clips, by the times of the recording."""

    @property
    def num_phrases_outside(self) -> int:
        """Phrases of which nothing lies in the stretch."""
        return len(self.all_phrases) - len(self.phrases)


def make_song(track: Mapping[str, Any], clips: Sequence[Clip]) -> Song:
    """Put one recording together; its clips may overlap."""
    ordered = sorted(clips, key=lambda clip: clip[0]["span_s"])
    (zero_s, end_s), stretch = _longest_stretch(ordered)
    phrases, all_phrases = (
        join_phrases([(_span(clip), known_phrases(sample.members)) for clip, sample in part])
        for part in (stretch, ordered)
    )
    for phrase in phrases:
        for name in ("start_s", "end_s"):
            time_s = phrase[name]
            phrase[name] = None if time_s is None else round(time_s - zero_s, 3)
    idx = ordered[0][1].key.rpartition("-")[0]
    return Song(
        idx, track, ordered, stretch, zero_s, _whole_span(phrases, end_s - zero_s), phrases, bridge_holes(all_phrases)
    )


def _span(clip: ClipJson) -> Span:
    start_s, end_s = clip["span_s"]
    return start_s, end_s


def _longest_stretch(ordered: Sequence[Clip]) -> tuple[Span, list[Clip]]:
    """Where in the recording clips follow each other longest, and which they are."""
    found: list[tuple[Span, list[Clip]]] = []
    for pair in ordered:
        start_s, end_s = _span(pair[0])
        if found and start_s <= found[-1][0][1] + EDGE_S:
            (first_s, last_s), clips = found[-1]
            found[-1] = (first_s, max(last_s, end_s)), [*clips, pair]
        else:
            found.append(((start_s, end_s), [pair]))
    return max(found, key=lambda stretch: stretch[0][1] - stretch[0][0])


def _whole_span(phrases: Sequence[Phrase], end_s: float) -> Span:
    """What of a stretch that ends at `end_s` holds whole phrases."""
    start_s = 0.0
    for phrase in phrases:
        begin_s, stop_s = phrase["start_s"] or 0.0, phrase["end_s"] or end_s
        if phrase.get("is_cut") and begin_s <= EDGE_S:
            start_s = max(start_s, stop_s)
        elif phrase.get("is_cut"):
            end_s = min(end_s, begin_s)
    return start_s, max(start_s, end_s)


# --- phrases ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """A phrase as far as it is put together; only parts of phrases with times are open."""

    phrase: Phrase
    open_start: bool
    open_end: bool

    @property
    def start_s(self) -> float:
        return self.phrase["start_s"] or 0.0

    @property
    def end_s(self) -> float:
        """End; a phrase without one sounds only where it begins."""
        return self.start_s if self.phrase["end_s"] is None else self.phrase["end_s"]


def join_phrases(clips: Sequence[tuple[Span, Sequence[Phrase]]]) -> list[Phrase]:
    """Put the phrases of a recording's clips together again.

    Args:
        clips: span within the recording, and phrases with times from the start of the clip; by start.

    Returns:
        Phrases with times within the recording. The parts of a phrase that cuts went through are one again, and what
        two clips hold comes once; `is_cut` stays where a part is missing.
    """
    joined: list[_Part] = []
    before_s: list[Span] = []
    for span_s, phrases in clips:
        waiting = [part for part in joined if part.end_s >= span_s[0] - _SLACK_S]
        for part in (_part(phrase, span_s) for phrase in phrases):
            known = next((other for other in waiting if _is_same(other, part)), None)
            if known is not None:
                waiting.remove(known)
                _extend(known, part)
                continue
            # Nothing of it in a clip that holds the time before: at the edge by chance, and cut at its other end.
            part.open_start &= not (part.open_end and _is_held(part.start_s, before_s))
            joined.append(part)
        for part in waiting:
            # Nothing of it in a clip that holds the time after: it ended at the edge.
            part.open_end &= not span_s[0] - _SLACK_S <= part.end_s < span_s[1] - _SLACK_S
        before_s.append(span_s)
    for part in joined:
        if part.open_start or part.open_end:
            part.phrase["is_cut"] = True
    return [part.phrase for part in joined]


def bridge_holes(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Make one of two parts of a phrase, cut on both sides of a hole of at most `MAX_HOLE_S`."""
    bridged: list[Phrase] = []
    for phrase in phrases:
        last = next((p for p in reversed(bridged) if p["text"] == phrase["text"]), None)
        if last is None or not _is_across_a_hole(last, phrase):
            bridged.append(Phrase(**phrase))
        else:
            last["end_s"] = phrase["end_s"]
    return bridged


def _is_across_a_hole(last: Phrase, phrase: Phrase) -> bool:
    if None in (last["end_s"], phrase["start_s"]) or not (last.get("is_cut") and phrase.get("is_cut")):
        return False
    return 0 < (phrase["start_s"] or 0.0) - (last["end_s"] or 0.0) <= MAX_HOLE_S


def _part(phrase: Phrase, span_s: Span) -> _Part:
    whole = Phrase(**phrase)
    is_cut = whole.pop("is_cut", False)
    for name in ("start_s", "end_s"):
        time_s = phrase[name]
        whole[name] = None if time_s is None else round(span_s[0] + time_s, 3)
    begins_at_edge = (phrase["start_s"] or 0.0) <= EDGE_S
    ends_at_edge = (whole["end_s"] or span_s[1]) >= span_s[1] - EDGE_S
    # Nothing is sung before a recording begins.
    return _Part(whole, is_cut and begins_at_edge and span_s[0] > EDGE_S, is_cut and ends_at_edge)


def _is_held(time_s: float, spans_s: Sequence[Span]) -> bool:
    """Whether a clip holds what lies just before a time."""
    return any(start_s < time_s - _SLACK_S and end_s >= time_s - _SLACK_S for start_s, end_s in spans_s)


def _is_same(one: _Part, other: _Part) -> bool:
    """Whether two clips hold parts of the same phrase, or both all of it: the parts touch, none beyond a known edge."""
    texts, times = (one.phrase["text"], other.phrase["text"]), (one.phrase["start_s"], other.phrase["start_s"])
    if texts[0] != texts[1] or None in times:
        return False
    return (
        max(one.start_s, other.start_s) <= min(one.end_s, other.end_s) + _SLACK_S
        and (one.open_start or one.start_s <= other.start_s + _SLACK_S)
        and (other.open_start or other.start_s <= one.start_s + _SLACK_S)
        and (one.open_end or other.end_s <= one.end_s + _SLACK_S)
        and (other.open_end or one.end_s <= other.end_s + _SLACK_S)
    )


def _extend(known: _Part, part: _Part) -> None:
    """Add what another clip holds of a phrase."""
    known.phrase["start_s"] = min(known.start_s, part.start_s)
    if known.phrase["end_s"] is not None or part.phrase["end_s"] is not None:
        known.phrase["end_s"] = max(known.end_s, part.end_s)
    known.open_start &= part.open_start
    known.open_end &= part.open_end
