"""What may never be an example of a target: itself, its group, its near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.index import Pool

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Target:
    """A clip that examples are sought for."""

    key: str
    group: str
    """Joined group; equal to a pool clip's if they share any group at any level."""
    query_D: Float32
    """Unit-length embedding of the caption: what is known at inference."""
    audio_D: Float32
    """Unit-length embedding of the audio: for leaving out near-duplicates only, never for ranking."""


def allowed_rows(target: Target, pool: Pool, *, near_duplicate_cosine: float) -> NDArray[np.bool_]:
    """Mark the pool clips that may stand as examples before a target.

    Args:
        target: the clip that examples are sought for.
        pool: train clips.
        near_duplicate_cosine: audio at least this close counts as the same recording.

    Returns:
        Mask [M].
    """
    allowed_M = pool.audio_MD @ target.audio_D < near_duplicate_cosine
    allowed_M[pool.groups.get(target.group, [])] = False
    return allowed_M
