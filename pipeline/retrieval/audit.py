"""A second, separately written look for leaks: from the examples and the splits alone, without the picking code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def find_leak(
    examples: Iterable[tuple[str, Sequence[str]]], *, split: Mapping[str, str], group: Mapping[str, str]
) -> str | None:
    """Look for the first example that gives something away.

    Args:
        examples: target key and the keys of its examples.
        split: split by key.
        group: joined group by key.

    Returns:
        What leaks, in words; None if nothing does.
    """
    for target, keys in examples:
        for key in keys:
            if key == target:
                return f"{target}: is its own example"
            if split.get(key) != "train":
                return f"{target}: example {key} is in split {split.get(key)}, not train"
            if group[key] == group[target]:
                return f"{target}: example {key} is of the same group {group[target]}"
        if len(set(keys)) != len(keys):
            return f"{target}: an example comes twice"
    return None


def find_near_duplicate(audio_BD: NDArray[np.floating], *, near_duplicate_cosine: float) -> int | None:
    """Look for an example that sounds like its target.

    Args:
        audio_BD: audio embeddings, the target's first, of any length above 0.
        near_duplicate_cosine: audio at least this close counts as the same recording.

    Returns:
        Number of the first such example, from 0; None if there is none.
    """
    wide_BD = audio_BD.astype(np.float64)
    lengths_B = np.sqrt((wide_BD**2).sum(axis=1))
    cosines_B = (wide_BD[1:] * wide_BD[0]).sum(axis=1) / (lengths_B[1:] * lengths_B[0])
    # Half floats and another order of sums move the cosine by less than this.
    close = np.flatnonzero(cosines_B >= near_duplicate_cosine + 1e-4)
    return int(close[0]) if len(close) else None
