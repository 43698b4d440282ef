"""A recording again, from the clips that were cut from it.

Shape letters: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import ClipJson
from pipeline.data.shards import Sample, decode_json
from pipeline.music.audio import decode_flac, resample

_HOLE_S = 10
"""Silence that no clip holds comes in blocks of this length: it may be most of a recording."""


def by_track(samples: Iterable[Sample]) -> Iterator[list[tuple[ClipJson, Sample]]]:
    """Gather the clips of each recording; they stand together in a shard, in order of time."""
    clips = ((decode_json(sample.members["json"]), sample) for sample in samples)
    for _, its in groupby(clips, key=lambda pair: pair[0]["track"]):
        yield list(its)


def track_blocks(clips: Iterable[tuple[ClipJson, Sample]], sample_rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """Play a recording from its clips, at the level that it had.

    Args:
        clips: of one recording, by start.
        sample_rate_hz: rate to play at.

    Yields:
        Mono samples [N] that follow each other from second 0 on; what no clip holds is silence, what two clips hold
        comes once.
    """
    num_samples = 0
    for clip, sample in clips:
        start = round(clip["span_s"][0] * sample_rate_hz)
        while start > num_samples:
            hole_N = np.zeros(min(start - num_samples, _HOLE_S * sample_rate_hz), np.float32)
            num_samples += len(hole_N)
            yield hole_N
        wave_N = resample(*decode_flac(sample.members["flac"]), sample_rate_hz)
        # Every clip was brought to one loudness; in the recording they had each their own.
        wave_N = wave_N[num_samples - start :] * np.float32(10 ** (-clip["audio"]["gain_db"] / 20))
        num_samples += len(wave_N)
        if len(wave_N):
            yield wave_N


def joined_blocks(blocks: Iterable[NDArray[np.float32]], num_samples: int) -> Iterator[NDArray[np.float32]]:
    """Cut a recording into blocks [N] of one length; the last is what is left."""
    held_N = np.zeros(0, np.float32)
    for block_N in blocks:
        held_N = np.concatenate((held_N, block_N))
        whole = len(held_N) - len(held_N) % num_samples
        yield from held_N[:whole].reshape(-1, num_samples)
        held_N = held_N[whole:]
    if len(held_N):
        yield held_N
