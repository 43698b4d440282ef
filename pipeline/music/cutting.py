"""Cut a recording into clips while it is decoded: windows, at silences, or at given times.

Shape letters: N samples. All cutters hold no more of the recording than their longest clip and one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Blocks = Iterable[NDArray[np.float32]]
Span = tuple[float, float]

_QUIET_S = 0.1
"""A silence is judged over this long; short enough for the gap between two sung phrases."""
_QUIET_STEP_S = 0.02


class Window(NamedTuple):
    """A stretch of a recording."""

    start_s: float
    end_s: float
    wave_N: NDArray[np.float32]


class _Held:
    """What is still needed of the blocks that came."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = iter(blocks)
        self._parts: list[NDArray[np.float32]] = []
        self._first = 0
        self.end = 0
        """Number of samples that came so far."""

    def reach(self, end: int) -> bool:
        """Take blocks until sample `end` is there; False if the recording ends before."""
        while self.end < end:
            block_N = next(self._blocks, None)
            if block_N is None:
                return False
            self._parts.append(block_N)
            self.end += len(block_N)
        return True

    def take(self, start: int, end: int) -> NDArray[np.float32]:
        """Copy samples `start` to `end`, as far as they came."""
        pieces: list[NDArray[np.float32]] = []
        at = self._first
        for part_N in self._parts:
            if at < end and at + len(part_N) > start:
                pieces.append(part_N[max(start - at, 0) : end - at])
            at += len(part_N)
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def forget(self, before: int) -> None:
        """Let go of blocks that end at or before a sample."""
        while self._parts and self._first + len(self._parts[0]) <= before:
            self._first += len(self._parts.pop(0))


def cut_windows(
    blocks: Blocks, sample_rate_hz: int, *, max_clip_s: float, min_clip_s: float, overlap_s: float = 0.0
) -> Iterator[Window]:
    """Cut into windows of one length.

    Args:
        blocks: mono samples in order.
        sample_rate_hz: their rate.
        max_clip_s: length of a window.
        min_clip_s: shortest rest to keep; a recording shorter than that comes as one window all the same.
        overlap_s: how far a window reaches into the next one; less than `max_clip_s`.

    Yields:
        As many whole windows as fit, then the rest if it is long enough and not all in the window before.

    Raises:
        ValueError: unless 0 < min_clip_s <= max_clip_s and 0 <= overlap_s < max_clip_s.
    """
    if not (0 < min_clip_s <= max_clip_s and 0 <= overlap_s < max_clip_s):
        raise ValueError(
            f"need 0 < min_clip_s <= max_clip_s > overlap_s >= 0, not {min_clip_s}, {max_clip_s}, {overlap_s}"
        )
    held = _Held(blocks)
    for number in count():
        start_s = number * (max_clip_s - overlap_s)
        end_s = start_s + max_clip_s if overlap_s else (number + 1) * max_clip_s
        start, end = round(start_s * sample_rate_hz), round(end_s * sample_rate_hz)
        if not held.reach(end):
            duration_s = held.end / sample_rate_hz
            rest_s = duration_s - start_s
            if number == 0 or (rest_s >= min_clip_s and rest_s > overlap_s):
                yield Window(start_s, duration_s, held.take(start, held.end))
            return
        yield Window(start_s, end_s, held.take(start, end))
        held.forget(round((number + 1) * (max_clip_s - overlap_s) * sample_rate_hz))


def cut_at_silences(blocks: Blocks, sample_rate_hz: int, *, max_clip_s: float, min_clip_s: float) -> Iterator[Window]:
    """Cut where it is quietest, between the middle of `max_clip_s` and its end.

    Args:
        blocks: mono samples in order.
        sample_rate_hz: their rate.
        max_clip_s: longest clip.
        min_clip_s: shortest rest to keep; a recording shorter than that comes as one window all the same.

    Yields:
        Windows that follow each other without gaps.

    Raises:
        ValueError: unless 0 < min_clip_s <= max_clip_s.
    """
    if not 0 < min_clip_s <= max_clip_s:
        raise ValueError(f"need 0 < min_clip_s <= max_clip_s, not {min_clip_s} and {max_clip_s}")
    held, start = _Held(blocks), 0
    longest = round(max_clip_s * sample_rate_hz)
    while held.reach(start + longest + 1):
        wave_N = held.take(start, start + longest)
        half = max(longest // 2, min(round(min_clip_s * sample_rate_hz), longest))
        end = start + half + _quietest(wave_N[half:], sample_rate_hz)
        yield Window(start / sample_rate_hz, end / sample_rate_hz, wave_N[: end - start])
        held.forget(end)
        start = end
    if start == 0 or held.end - start >= min_clip_s * sample_rate_hz:
        yield Window(start / sample_rate_hz, held.end / sample_rate_hz, held.take(start, held.end))


def _quietest(wave_N: NDArray[np.float32], sample_rate_hz: int) -> int:
    """Middle of the stretch of `_QUIET_S` with the least energy, the last of equals; the end if there is no room."""
    width, step = max(round(_QUIET_S * sample_rate_hz), 1), max(round(_QUIET_STEP_S * sample_rate_hz), 1)
    if len(wave_N) < width:
        return len(wave_N)
    # float64 and no NaN: a sum over seconds must keep what a hundredth of a second adds.
    energy_N = np.concatenate(
        ([0.0], np.cumsum(np.square(np.nan_to_num(wave_N, posinf=0, neginf=0), dtype=np.float64)))
    )
    starts = np.arange(0, len(wave_N) - width + 1, step)[::-1]
    sums = energy_N[starts + width] - energy_N[starts]
    return int(starts[int(np.argmin(sums))]) + width // 2


def cut_at(blocks: Blocks, sample_rate_hz: int, spans_s: Sequence[Span]) -> Iterator[Window]:
    """Cut at given times.

    Args:
        blocks: mono samples in order.
        sample_rate_hz: their rate.
        spans_s: start and end of each clip, by start; they may overlap, and end together at the most.

    Yields:
        A window for every span, ended where the recording ends; empty where it lies beyond.

    Raises:
        ValueError: spans that are not in order of their starts.
    """
    if list(spans_s) != sorted(spans_s, key=lambda span: span[0]):
        raise ValueError("spans must come in order of their starts")
    held = _Held(blocks)
    for number, (start_s, end_s) in enumerate(spans_s):
        start, end = round(start_s * sample_rate_hz), round(end_s * sample_rate_hz)
        # What lies between two spans is not held.
        while held.end < start and held.reach(held.end + 1):
            held.forget(start)
        reached = held.reach(end)
        last_s = end_s if reached else max(min(end_s, held.end / sample_rate_hz), start_s)
        yield Window(start_s, last_s, held.take(start, end))
        held.forget(round(spans_s[number + 1][0] * sample_rate_hz) if number + 1 < len(spans_s) else held.end)
    while held.reach(held.end + 1):
        held.forget(held.end)
