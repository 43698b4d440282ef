"""What may never be an example of a target: itself, its group, its near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import Facts
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
    """Unit-length embedding of the audio: for leaving out near-duplicates, and for `oracle`; never for ranking else.

    Zeros for a prompt that has no audio.
    """
    facts: Facts = field(default_factory=dict[str, frozenset[str]])
    """What the prompt's text tells; never what was measured of the audio."""


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


def cap_authors(authors: Sequence[int], num_kept: int, *, max_per_author: int) -> list[int]:
    """Keep the first candidates, but no more than so many by one author, so that phrasing does not pass for meaning.

    Args:
        authors: author's number of each candidate, best candidate first; -1, unknown, is never limited.
        num_kept: most candidates to keep.
        max_per_author: most candidates by one known author; 0 for no limit.

    Returns:
        Places of the candidates that stay.
    """
    counts: dict[int, int] = {}
    kept: list[int] = []
    for place, author in enumerate(authors):
        if len(kept) == num_kept:
            break
        counts[author] = counts.get(author, 0) + 1
        if author < 0 or not max_per_author or counts[author] <= max_per_author:
            kept.append(place)
    return kept
