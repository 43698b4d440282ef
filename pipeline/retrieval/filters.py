"""What may never be an example of a target: itself, its group, its near-duplicates; where asked, its caption's author.

B targets, M pool clips, P pairs of a target and a row of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import Facts
from pipeline.retrieval.index import Float32, Pool
from pipeline.retrieval.search import Ints, pair_products

Bools = NDArray[np.bool_]
_TARGETS_AT_ONCE = 32
_MARGIN = 1e-4
"""Single floats err by less: cosines this close to the limit are worked out again, pair by pair."""


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
    author: str = ""
    """Author of the caption, "" where it is not known."""


class Limits(NamedTuple):
    """Settings that say which clips may be examples."""

    near_duplicate_cosine: float
    """Audio at least this close counts as the same recording."""
    other_authors_only: bool = False
    """Whether a known author of the target's caption may write no example."""


def allowed_pairs(targets: Sequence[Target], pool: Pool, limits: Limits, *, target_P: Ints, row_P: Ints) -> Bools:
    """Mark the pairs whose pool clip may stand as an example before the target.

    Args:
        targets: the clips that examples are sought for.
        pool: train clips.
        limits: the settings.
        target_P: places in `targets`.
        row_P: rows of the pool.

    Returns:
        Mask [P].
    """
    audio_BD = np.stack([target.audio_D for target in targets])
    allowed_P = pair_products(audio_BD, pool.audio_MD, target_P, row_P) < limits.near_duplicate_cosine
    # One number for each pair, so that one look-up serves all targets.
    num_rows = len(pool.keys)
    barred = [n * num_rows + row for n, target in enumerate(targets) for row in pool.groups.get(target.group, ())]
    allowed_P &= ~np.isin(target_P * num_rows + row_P, np.array(barred, np.int64))
    if limits.other_authors_only and pool.authors:
        authors = [pool.authors[row] for row in row_P.tolist()]
        own = [targets[n].author for n in target_P.tolist()]
        same = [bool(author) and author == other for author, other in zip(authors, own, strict=True)]
        allowed_P &= ~np.array(same, np.bool_)
    return allowed_P


def allowed_masks(targets: Sequence[Target], pool: Pool, limits: Limits) -> Iterator[Bools]:
    """Mark for each target all the pool clips [M] that may stand as examples before it."""
    authors_M = np.asarray(pool.authors) if limits.other_authors_only and pool.authors else None
    for start in range(0, len(targets), _TARGETS_AT_ONCE):
        block = targets[start : start + _TARGETS_AT_ONCE]
        audio_BD = np.stack([target.audio_D for target in block])
        cosine_BM = (audio_BD @ pool.audio_MD.T).astype(np.float64)
        near_P = np.nonzero(np.abs(cosine_BM - limits.near_duplicate_cosine) < _MARGIN)
        cosine_BM[near_P] = pair_products(audio_BD, pool.audio_MD, *near_P)
        for target, cosine_M in zip(block, cosine_BM, strict=True):
            allowed_M = cosine_M < limits.near_duplicate_cosine
            allowed_M[pool.groups.get(target.group, [])] = False
            if authors_M is not None and target.author:
                allowed_M &= authors_M != target.author
            yield allowed_M


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
