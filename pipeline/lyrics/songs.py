"""Songs put together again from their clips: one wave at one loudness, phrases whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import ClipJson, Phrase
from pipeline.data.shards import Sample, decode_json
from pipeline.errors import ContractError

EDGE_S = 0.01
"""Times this close to the edge of a clip are at it."""


@dataclass(frozen=True, slots=True)
class Song:
    """A recording, put together from its clips."""

    idx: str
    """Key of its first clip, without the number."""
    track: Mapping[str, Any]
    """Its line of tracks.jsonl."""
    clips: Sequence[Sample]
    """All of them."""
    stretch: Sequence[Sample]
    """Those of the longest stretch without a hole; all times are from its start."""
    start_s: float
    """Where in the recording the stretch starts."""
    span_s: tuple[float, float]
    """Of the stretch, but for phrases at its ends that go on beyond them."""
    phrases: Sequence[Phrase]
    """What is sung in the stretch."""


def make_song(track: Mapping[str, Any], clips: Sequence[Sample]) -> Song:
    """Put one recording together."""
    ordered = sorted(clips, key=lambda sample: clip_of(sample)["span_s"])
    runs: list[list[Sample]] = [[ordered[0]]]
    for before, after in pairwise(ordered):
        follows = abs(clip_of(after)["span_s"][0] - clip_of(before)["span_s"][1]) <= EDGE_S
        runs[-1].append(after) if follows else runs.append([after])
    stretch = max(runs, key=lambda run: clip_of(run[-1])["span_s"][1] - clip_of(run[0])["span_s"][0])
    spans_s = [clip_of(sample)["span_s"] for sample in stretch]
    zero_s = spans_s[0][0]
    phrases = join_phrases([((a, b), known_phrases(sample)) for (a, b), sample in zip(spans_s, stretch, strict=True)])
    for phrase in phrases:
        for name in ("start_s", "end_s"):
            time_s = phrase[name]
            phrase[name] = None if time_s is None else round(time_s - zero_s, 3)
    idx = ordered[0].key.rpartition("-")[0]
    return Song(idx, track, ordered, stretch, zero_s, _whole_span(phrases, spans_s[-1][1] - zero_s), phrases)


def _whole_span(phrases: Sequence[Phrase], end_s: float) -> tuple[float, float]:
    """What of a stretch that ends at `end_s` holds whole phrases."""
    start_s = 0.0
    for phrase in phrases:
        begin_s, stop_s = phrase["start_s"] or 0.0, phrase["end_s"] or end_s
        if phrase.get("is_cut") and begin_s <= EDGE_S:
            start_s = max(start_s, stop_s)
        elif phrase.get("is_cut"):
            end_s = min(end_s, begin_s)
    return start_s, max(start_s, end_s)


def clip_of(sample: Sample) -> ClipJson:
    """What ingest knows of a clip."""
    return decode_json(sample.members["json"])


def known_phrases(sample: Sample) -> list[Phrase]:
    """Phrases of a clip: its lyrics, or else what a recogniser heard."""
    column = next((sample.members[name] for name in ("lyrics.json", "asr.json") if name in sample.members), None)
    return decode_json(column)["phrases"] if column is not None else []


@dataclass(slots=True)
class _Part:
    """A phrase as far as it is put together."""

    phrase: Phrase
    open_start: bool
    open_end: bool


def join_phrases(clips: Sequence[tuple[tuple[float, float], Sequence[Phrase]]]) -> list[Phrase]:
    """Put the phrases of neighbouring clips together again.

    Args:
        clips: span within the recording, and phrases with times from the start of the clip; in order.

    Returns:
        Phrases with times within the recording. The parts of a phrase that cuts went through are one again; `is_cut`
        stays where a part is missing.
    """
    joined: list[_Part] = []
    for span_s, phrases in clips:
        parts = [_part(phrase, span_s) for phrase in phrases]
        waiting = [part for part in joined if part.open_end]
        for part in parts:
            before = next((other for other in waiting if part.open_start and _goes_on(other, part)), None)
            if before is None:
                # At the edge by chance, and cut at its other end.
                part.open_start &= not (joined and part.open_end)
                joined.append(part)
            else:
                waiting.remove(before)
                before.phrase["end_s"], before.open_end = part.phrase["end_s"], part.open_end
        for part in waiting:
            part.open_end = False  # nothing of it in the next clip: it ended at the edge
    for part in joined:
        if part.open_start or part.open_end:
            part.phrase["is_cut"] = True
    return [part.phrase for part in joined]


def _part(phrase: Phrase, span_s: tuple[float, float]) -> _Part:
    whole = Phrase(**phrase)
    is_cut = whole.pop("is_cut", False)
    for name in ("start_s", "end_s"):
        time_s = phrase[name]
        whole[name] = None if time_s is None else round(span_s[0] + time_s, 3)
    begins_at_edge = (phrase["start_s"] or 0.0) <= EDGE_S
    ends_at_edge = (whole["end_s"] or span_s[1]) >= span_s[1] - EDGE_S
    # Nothing is sung before a recording begins.
    return _Part(whole, is_cut and begins_at_edge and span_s[0] > EDGE_S, is_cut and ends_at_edge)


def _goes_on(before: _Part, after: _Part) -> bool:
    gap_s = (after.phrase["start_s"] or 0.0) - (before.phrase["end_s"] or 0.0)
    return abs(gap_s) <= EDGE_S and before.phrase["text"] == after.phrase["text"]


def join_audio(stretch: Sequence[Sample]) -> tuple[NDArray[np.float32], int]:
    """Join clips to one wave [N] at one loudness; ingest gave each clip its own.

    Returns:
        The wave, no louder than the clips, and its rate in Hz.
    """
    from pipeline.music.audio import decode_flac

    gains_db = [float(clip_of(sample)["audio"]["gain_db"]) for sample in stretch]
    waves = [decode_flac(sample.members["flac"]) for sample in stretch]
    if len({rate for _, rate in waves}) > 1:
        raise ContractError(f"{stretch[0].key}: its clips have several rates; run `python -m stages.ingest` again")
    levels = [10 ** ((min(gains_db) - gain_db) / 20) for gain_db in gains_db]
    parts = [(wave_N * level).astype(np.float32) for (wave_N, _), level in zip(waves, levels, strict=True)]
    return np.concatenate(parts), waves[0][1]
