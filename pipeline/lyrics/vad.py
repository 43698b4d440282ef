"""Where somebody may be singing: energy over a floor that follows the recording, and a second vote where there is one.

Letters: N samples, T frames of 10 ms.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Span = tuple[float, float]
SecondVote = Callable[[NDArray[np.float32], int], NDArray[np.float32]]

FRAMES_PER_S = 100
_BOXES_PER_FRAME = 40
"""Samples are averaged in boxes of 1/4000 s: what stays lies below 2 kHz, where vowels are and breath is not."""
_BLOCK_FRAMES = 50
"""The floor is known per half second."""
_LOWEST_DB, _NUM_BINS = -120, 140
"""Levels are counted in bins of 1 dB from here."""
_LONGEST_FRAMES = 60 * FRAMES_PER_S
"""A longer span is told in parts that touch, so that nobody must hold all of a sound without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VadParams:
    """Section `transcribe.vad` of params.yaml."""

    vote: Literal["energy", "silero", "both", "either"] = "energy"
    """Who decides; `both` asks that energy and the second vote agree, `either` that one of them hears a voice."""
    floor_margin_db: float = 8.0
    """A voice lies this far above the floor, the level that a tenth of the frames around does not reach."""
    max_range_db: float = 34.0
    """What lies this far under the loud frames is silent, however low the floor: room, reverberation, breath."""
    min_range_db: float = 10.0
    """What lies within this range of the loud frames sounds, however high the floor: singing without a pause."""
    min_level_db: float = -65.0
    """Silent in any case below this level (full scale, under 2 kHz)."""
    memory_s: float = 120.0
    """How far back the floor remembers."""
    lookahead_s: float = 10.0
    """How far ahead the floor looks; a stream's answer lags by it."""
    hangover_s: float = 0.24
    """Gaps up to this length are part of the singing: closed consonants, a short breath."""
    min_sounding_s: float = 0.12
    """Shorter sounds are clicks."""
    pad_s: float = 0.04
    """Added at both ends of a span, up to the middle of the gap."""
    min_speech_prob: float = 0.4
    """The second vote hears a voice from this probability."""
    second_hop_s: float = 0.032
    """Time from one probability of the second vote to the next; silero's is 512 samples at 16 kHz."""


class ActivityStream:
    """Vocal spans of a recording that comes in blocks, the same ones however it is cut; memory does not grow.

    A span is told once it has ended and the floor under it is known, so about `lookahead_s` later; one of over a minute
    minute by minute, in spans that touch.
    """

    def __init__(self, sample_rate_hz: int, params: VadParams) -> None:
        self._levels = _Levels(sample_rate_hz)
        self._floor = _Floor(params)
        self._second = _SecondVote(params)
        self._spans = _Spans(params)
        self._params = params
        self._energy_T = np.zeros(0, np.bool_)

    @property
    def told_s(self) -> float:
        """No span that is still to come begins before this moment of the recording."""
        return self._spans.told_s

    def push(self, wave_N: NDArray[np.float32], speech_prob_T: ArrayLike = ()) -> list[Span]:
        """Take the next samples, and the next probabilities of the second vote where one is asked.

        Returns:
            Spans that ended, (start_s, end_s) from the start of the recording.
        """
        self._second.push(speech_prob_T)
        return self._take(self._floor.push(self._levels.push(wave_N)))

    def finish(self) -> list[Span]:
        """The spans that are left; what the second vote has not said counts as silent."""
        self._second.end()
        return self._take(self._floor.finish()) + self._spans.finish()

    def _take(self, energy_T: NDArray[np.bool_]) -> list[Span]:
        self._energy_T = np.concatenate((self._energy_T, energy_T))
        vote = self._params.vote
        num_frames = self._energy_T.size if vote == "energy" else min(self._energy_T.size, self._second.num_ready)
        energy_T, self._energy_T = self._energy_T[:num_frames], self._energy_T[num_frames:]
        if vote == "energy":
            return self._spans.push(energy_T)
        second_T = self._second.take(num_frames)
        votes = {"silero": second_T, "both": energy_T & second_T, "either": energy_T | second_T}
        return self._spans.push(votes[vote])


def vocal_spans(
    wave_N: NDArray[np.float32],
    sample_rate_hz: int,
    params: VadParams,
    *,
    second_vote: SecondVote | ArrayLike | None = None,
) -> list[Span]:
    """Find the spans of a wave in which somebody may be singing.

    Args:
        wave_N: one channel, the mix or better the vocal stem.
        sample_rate_hz: of the wave, at least 4000.
        params: thresholds, and who decides.
        second_vote: probabilities of a voice [T] every `params.second_hop_s`, or what makes them of wave and rate.

    Returns:
        (start_s, end_s), in order, apart from each other; only the minutes of one of over a minute touch.

    Raises:
        ValueError: `params.vote` asks for a second vote and there is none.
    """
    if second_vote is None and params.vote != "energy":
        raise ValueError(f"vote {params.vote!r} needs the probabilities of a second vote")
    prob_T = second_vote(wave_N, sample_rate_hz) if callable(second_vote) else second_vote
    stream = ActivityStream(sample_rate_hz, params)
    return stream.push(wave_N, () if prob_T is None else prob_T) + stream.finish()


def frame_levels(wave_N: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Level of every whole frame of 10 ms in dB of full scale, of what lies between about 100 Hz and 2 kHz [T]."""
    return _Levels(sample_rate_hz).push(wave_N)


def sounding_share(start_s: float, end_s: float, spans_s: Sequence[Span]) -> float:
    """Share of a stretch of time that lies within spans, which are in order and apart; 0 for an empty stretch."""
    if end_s <= start_s:
        return 0.0
    inside_s = 0.0
    for n in range(bisect_right(spans_s, start_s, key=lambda span: span[1]), len(spans_s)):
        if spans_s[n][0] >= end_s:
            break
        inside_s += min(end_s, spans_s[n][1]) - max(start_s, spans_s[n][0])
    return min(1.0, inside_s / (end_s - start_s))


class _Levels:
    """Samples in, levels of whole frames out; keeps less than a frame."""

    def __init__(self, sample_rate_hz: int) -> None:
        if sample_rate_hz < FRAMES_PER_S * _BOXES_PER_FRAME:
            raise ValueError(f"{sample_rate_hz} Hz is too low a rate for vocal activity, resample to 4000 or more")
        self._rate_hz = sample_rate_hz
        self._num_frames = 0
        self._rest_N = np.zeros(0, np.float32)

    def push(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        wave_N = np.concatenate((self._rest_N, np.asarray(wave_N, np.float32)))
        boxes_per_s = FRAMES_PER_S * _BOXES_PER_FRAME
        # Edges are counted from the start of the recording in whole numbers, so no block moves them.
        first = self._num_frames * self._rate_hz // FRAMES_PER_S
        total = (first + wave_N.size) * FRAMES_PER_S // self._rate_hz
        boxes = np.arange(self._num_frames * _BOXES_PER_FRAME, total * _BOXES_PER_FRAME + 1, dtype=np.int64)
        edges = boxes * self._rate_hz // boxes_per_s - first
        num_new, self._num_frames = total - self._num_frames, total
        self._rest_N = wave_N[edges[-1] :].copy()
        if not num_new:
            return np.zeros(0, np.float32)
        means = np.add.reduceat(wave_N[: edges[-1]], edges[:-1]) / np.diff(edges)
        frames = means.reshape(num_new, _BOXES_PER_FRAME)
        # The mean of 10 ms goes: a constant offset, rumble, handling noise.
        power_T = np.maximum((frames**2).mean(axis=1) - frames.mean(axis=1) ** 2, 1e-12)
        return (10 * np.log10(power_T)).astype(np.float32)


class _Floor:
    """Levels in, votes out; each half second is judged by the levels of some time before and after it."""

    def __init__(self, params: VadParams) -> None:
        self._params = params
        self._ahead = max(0, round(params.lookahead_s * FRAMES_PER_S / _BLOCK_FRAMES))
        self._behind = max(0, round(params.memory_s * FRAMES_PER_S / _BLOCK_FRAMES))
        self._levels_T = np.zeros(0, np.float32)
        self._counts = np.zeros((0, _NUM_BINS), np.int32)
        self._num_past = 0

    def push(self, levels_T: NDArray[np.float32]) -> NDArray[np.bool_]:
        self._levels_T = np.concatenate((self._levels_T, levels_T))
        num_known = self._counts.shape[0] - self._num_past
        num_whole = self._levels_T.size // _BLOCK_FRAMES
        new_T = self._levels_T[num_known * _BLOCK_FRAMES : num_whole * _BLOCK_FRAMES]
        self._counts = np.concatenate((self._counts, _count(new_T.reshape(-1, _BLOCK_FRAMES))))
        return self._judge(max(0, num_whole - self._ahead))

    def finish(self) -> NDArray[np.bool_]:
        num_known = self._counts.shape[0] - self._num_past
        rest_T = self._levels_T[num_known * _BLOCK_FRAMES :]
        if rest_T.size:
            self._counts = np.concatenate((self._counts, _count(rest_T.reshape(1, -1))))
        return self._judge(self._counts.shape[0] - self._num_past)

    def _judge(self, num_blocks: int) -> NDArray[np.bool_]:
        """Decide the next blocks and forget what no later block looks at."""
        if not num_blocks:
            return np.zeros(0, np.bool_)
        here = np.arange(self._num_past, self._num_past + num_blocks)
        sums = np.concatenate((np.zeros((1, _NUM_BINS), np.int32), self._counts.cumsum(axis=0, dtype=np.int32)))
        ends = np.minimum(here + self._ahead + 1, self._counts.shape[0])
        around = sums[ends] - sums[np.maximum(here - self._behind, 0)]
        threshold_T = np.repeat(_threshold_db(around, self._params), _BLOCK_FRAMES)
        levels_T, self._levels_T = np.split(self._levels_T, [num_blocks * _BLOCK_FRAMES])
        forget = max(0, self._num_past + num_blocks - self._behind)
        self._counts, self._num_past = self._counts[forget:], self._num_past + num_blocks - forget
        return levels_T > threshold_T[: levels_T.size]


def _count(levels_BT: NDArray[np.float32]) -> NDArray[np.int32]:
    """Histogram of each row, bins of 1 dB."""
    bins = np.clip(np.floor(levels_BT).astype(np.int64) - _LOWEST_DB, 0, _NUM_BINS - 1)
    rows = np.arange(levels_BT.shape[0])[:, None] * _NUM_BINS
    counts = np.bincount((bins + rows).ravel(), minlength=levels_BT.shape[0] * _NUM_BINS)
    return counts.reshape(-1, _NUM_BINS).astype(np.int32)


def _threshold_db(counts: NDArray[np.int32], params: VadParams) -> NDArray[np.float32]:
    """Level from which a frame sounds, for each row of bin counts."""
    shares = counts.cumsum(axis=1) / counts.sum(axis=1, keepdims=True)
    floor_db = (shares >= 0.1).argmax(axis=1) + _LOWEST_DB
    loud_db = (shares >= 0.95).argmax(axis=1) + _LOWEST_DB
    level_db = np.clip(floor_db + params.floor_margin_db, loud_db - params.max_range_db, loud_db - params.min_range_db)
    return np.maximum(level_db, params.min_level_db).astype(np.float32)


class _SecondVote:
    """Probabilities at their own pace in, votes per frame out."""

    def __init__(self, params: VadParams) -> None:
        self._hop_frames = params.second_hop_s * FRAMES_PER_S
        self._min_prob = params.min_speech_prob
        self._voice_T = np.zeros(0, np.bool_)
        self._num_dropped = 0
        self._num_taken = 0
        self._is_ended = False

    @property
    def num_ready(self) -> int:
        """Frames that can be taken."""
        if self._is_ended:
            return 1 << 62
        return int((self._num_dropped + self._voice_T.size) * self._hop_frames) - self._num_taken

    def push(self, prob_T: ArrayLike) -> None:
        self._voice_T = np.concatenate((self._voice_T, np.asarray(prob_T, np.float32) >= self._min_prob))

    def end(self) -> None:
        self._is_ended = True

    def take(self, num_frames: int) -> NDArray[np.bool_]:
        frames = np.arange(self._num_taken, self._num_taken + num_frames)
        at = (frames / self._hop_frames).astype(np.int64) - self._num_dropped
        known = at < self._voice_T.size
        votes_T = np.zeros(num_frames, np.bool_)
        votes_T[known] = self._voice_T[at[known]]
        self._num_taken += num_frames
        forget = min(int(self._num_taken / self._hop_frames) - self._num_dropped, self._voice_T.size)
        self._voice_T, self._num_dropped = self._voice_T[forget:], self._num_dropped + forget
        return votes_T


class _Spans:
    """Votes in, spans out: short gaps closed, clicks left out, edges padded, long ones in parts."""

    def __init__(self, params: VadParams) -> None:
        self._max_gap = round(params.hangover_s * FRAMES_PER_S)
        self._min_frames = round(params.min_sounding_s * FRAMES_PER_S)
        self._pad = min(round(params.pad_s * FRAMES_PER_S), self._max_gap // 2)
        self._num_seen = 0
        self._num_told = 0
        self._open: tuple[int, int] | None = None

    @property
    def told_s(self) -> float:
        return self._begin() / FRAMES_PER_S

    def push(self, votes_T: NDArray[np.bool_]) -> list[Span]:
        edges = np.flatnonzero(np.diff(votes_T.astype(np.int8), prepend=0, append=0)) + self._num_seen
        self._num_seen += votes_T.size
        spans: list[Span] = []
        for start, end in edges.reshape(-1, 2).tolist():
            if self._open and start - self._open[1] <= self._max_gap:
                self._open = (self._open[0], end)
            else:
                spans += self._close()
                self._open = (start, end)
        if self._open and self._num_seen - self._open[1] > self._max_gap:
            spans += self._close()
        return spans + self._tell(self._minutes())

    def finish(self) -> list[Span]:
        return self._close()

    def _begin(self) -> int:
        """Where what is not told begins, at the earliest."""
        start = self._open[0] if self._open else self._num_seen
        return max(self._num_told, start - self._pad)

    def _minutes(self) -> list[int]:
        """Where the open span begins, and where it is cut as far as it is known."""
        return list(range(self._begin(), self._open[1], _LONGEST_FRAMES)) if self._open else []

    def _close(self) -> list[Span]:
        if not self._open:
            return []
        start, end = self._open
        edges = [*self._minutes(), min(end + self._pad, self._num_seen)]
        self._open = None
        return self._tell(edges) if end - start >= self._min_frames else []

    def _tell(self, edges: list[int]) -> list[Span]:
        if edges:
            self._num_told = edges[-1]
        return [(start / FRAMES_PER_S, end / FRAMES_PER_S) for start, end in pairwise(edges)]
