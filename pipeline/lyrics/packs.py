"""Vocal spans packed into windows of a recogniser, and times in a window back to times in the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Span = tuple[float, float]
Quietest = Callable[[float, float], float]
_MIN_FILL = 0.75
"""A pack ends at the longest gap beyond this share of its length: a recogniser pays for a window, full or not."""


class Piece(NamedTuple):
    """A stretch of the recording within a pack."""

    start_s: float
    end_s: float
    offset_s: float
    """Where it begins within the pack."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Pieces of a recording, one after another, for one window of a recogniser."""

    pieces: tuple[Piece, ...]
    spans_s: tuple[Span, ...]
    """The vocal spans inside, in seconds of the recording."""

    @property
    def duration_s(self) -> float:
        """Length of the pack."""
        last = self.pieces[-1]
        return last.offset_s + last.end_s - last.start_s


def make_packs(
    spans_s: Iterable[Span],
    *,
    max_s: float = 30.0,
    max_gap_s: float = 1.0,
    max_reach_s: float = 120.0,
    quietest: Quietest | None = None,
) -> Iterator[Pack]:
    """Pack vocal spans, in the order in which they come; a pack is told soon after nothing more goes into it.

    Gaps up to `max_gap_s` stay, of longer ones half of it on either side. A pack ends at the longest gap of its last
    quarter.

    Args:
        spans_s: (start_s, end_s), in order; spans that touch are one. An empty span is a clock: it goes into no pack,
            and says that no later span begins before it, so that in a long silence nothing waits for the next span.
        max_s: longest pack; a longer span is cut.
        max_gap_s: longest gap that is kept whole.
        max_reach_s: a pack's first and last moment lie no farther apart in the recording, so that a stream need not
            remember more.
        quietest: where to cut between two times of the recording; without it a long span is cut at `max_s`.

    Yields:
        Packs; every moment of a span lies in exactly one of them.
    """
    waiting: list[Span] = []
    last_end_s = 0.0
    for start_s, end_s in _short_spans(spans_s, max_s, quietest):
        # Not before the gap is a long one: what is told must not depend on how often the clock strikes.
        if waiting and start_s > max(waiting[0][0] + max_reach_s, waiting[-1][1]) + max_gap_s:
            yield _pack(waiting, (last_end_s, start_s), max_s, max_gap_s=max_gap_s)
            last_end_s = waiting[-1][1]
            waiting.clear()
        if end_s > start_s:
            waiting.append((start_s, end_s))
        # One alone may lie farther than max_reach_s.
        while len(waiting) > 1 and (
            waiting[-1][1] - waiting[0][0] > max_reach_s or _length_s(waiting, max_gap_s) > max_s
        ):
            num_taken = _best_end(waiting, max_gap_s, max_s)
            edges_s = (last_end_s, waiting[num_taken][0])
            yield _pack(waiting[:num_taken], edges_s, max_s, max_gap_s=max_gap_s)
            last_end_s = waiting[num_taken - 1][1]
            del waiting[:num_taken]
    if waiting:
        yield _pack(waiting, (last_end_s, float("inf")), max_s, max_gap_s=max_gap_s)


def to_track_span(pack: Pack, start_s: float, end_s: float) -> Span:
    """Map a phrase within a pack to the recording.

    A phrase across a place where time was left out gets the times of its larger part: nobody sings through a gap.
    """
    start_s, end_s = (min(max(0.0, time_s), pack.duration_s) for time_s in (start_s, end_s))

    def part(piece: Piece) -> Span:
        length_s = piece.end_s - piece.start_s
        return max(0.0, start_s - piece.offset_s), min(length_s, end_s - piece.offset_s)

    # An empty phrase at a meeting of two pieces belongs to the later one, like any start.
    best = max(pack.pieces, key=lambda piece: (part(piece)[1] - part(piece)[0], piece.offset_s))
    begin_s, finish_s = part(best)
    return best.start_s + begin_s, best.start_s + finish_s


def cut_pack(pack: Pack, wave_N: NDArray[np.float32], sample_rate_hz: int, first_s: float = 0.0) -> NDArray[np.float32]:
    """Cut a pack's samples from the recording, or from a part of it that begins at `first_s`.

    Each piece takes the samples of its place within the pack, so no time is gained or lost over many pieces.
    """
    parts: list[NDArray[np.float32]] = []
    for piece in pack.pieces:
        num_samples = round((piece.offset_s + piece.end_s - piece.start_s) * sample_rate_hz)
        num_samples -= round(piece.offset_s * sample_rate_hz)
        begin = max(0, round((piece.start_s - first_s) * sample_rate_hz))
        parts.append(wave_N[begin : begin + num_samples])
    return np.concatenate(parts)


def quietest_moment(levels_T: NDArray[np.float32], frames_per_s: int, start_s: float, end_s: float) -> float:
    """The middle of the quietest 100 ms between two times, from levels per frame; for `make_packs`."""
    first, last = int(start_s * frames_per_s), min(int(end_s * frames_per_s), levels_T.size)
    width = max(1, frames_per_s // 10)
    if last - first <= width:
        return end_s
    sums = np.cumsum(np.concatenate((np.zeros(1), levels_T[first:last])))
    return (first + int(np.argmin(sums[width:] - sums[:-width])) + width / 2) / frames_per_s


def _short_spans(spans_s: Iterable[Span], max_s: float, quietest: Quietest | None) -> Iterator[Span]:
    """Spans that touch joined, then cut to length; before each, and for each empty one, a clock."""
    begin_s = last_s = 0.0
    for start_s, end_s in spans_s:
        if start_s > last_s:
            yield begin_s, last_s
            yield start_s, start_s
            begin_s = start_s
        last_s = end_s
        while last_s - begin_s > max_s:
            latest_s = begin_s + max_s
            cut_s = quietest(begin_s + max_s / 2, latest_s) if quietest else latest_s
            cut_s = min(max(cut_s, begin_s + max_s / 2), latest_s)
            yield begin_s, cut_s
            begin_s = cut_s
    yield begin_s, last_s


def _gaps_s(spans_s: Sequence[Span]) -> list[float]:
    """The gap before each span but the first."""
    return [start_s - end_s for (_, end_s), (start_s, _) in pairwise(spans_s)]


def _length_s(spans_s: Sequence[Span], max_gap_s: float) -> float:
    """Length of a pack of these spans, without silence at its edges."""
    kept_s = sum(min(gap_s, max_gap_s) for gap_s in _gaps_s(spans_s))
    return kept_s + sum(end_s - start_s for start_s, end_s in spans_s)


def _best_end(spans_s: Sequence[Span], max_gap_s: float, max_s: float) -> int:
    """How many of the spans to take: all but the last fit."""
    gaps_s = _gaps_s(spans_s)
    full = [n for n in range(1, len(spans_s)) if _length_s(spans_s[:n], max_gap_s) >= _MIN_FILL * max_s]
    return max(full or [len(spans_s) - 1], key=lambda n: gaps_s[n - 1])


def _pack(spans_s: Sequence[Span], edges_s: Span, max_s: float, *, max_gap_s: float) -> Pack:
    """Make a pack of spans between the end of the one before and the start of the one after."""
    room_s = max(0.0, max_s - _length_s(spans_s, max_gap_s))
    gaps_s = [spans_s[0][0] - edges_s[0], *_gaps_s(spans_s), edges_s[1] - spans_s[-1][1]]
    pads_s = [min(gap_s, max_gap_s) / 2 for gap_s in gaps_s]
    pads_s[0], pads_s[-1] = min(pads_s[0], room_s / 2), min(pads_s[-1], room_s / 2)
    pieces: list[Piece] = []
    for n, (start_s, end_s) in enumerate(spans_s):
        begin_s, finish_s = start_s - pads_s[n], end_s + pads_s[n + 1]
        if pieces and gaps_s[n] <= max_gap_s:
            pieces[-1] = pieces[-1]._replace(end_s=finish_s)
            continue
        offset_s = pieces[-1].offset_s + pieces[-1].end_s - pieces[-1].start_s if pieces else 0.0
        pieces.append(Piece(begin_s, finish_s, offset_s))
    return Pack(tuple(pieces), tuple(spans_s))
