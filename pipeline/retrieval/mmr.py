"""Picks that are near the query and unlike each other.

C candidates, D embedding, k picks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def pick_diverse(
    relevance_C: Float32,
    vectors_CD: Float32,
    num_picks: int,
    *,
    relevance_weight: float,
    authors_C: NDArray[np.int64] | None = None,
    max_per_author: int = 0,
) -> NDArray[np.int64]:
    """Pick greedily by maximal marginal relevance (Carbonell and Goldstein 1998).

    The first pick is the most relevant candidate; each further one has the largest
    `relevance_weight * relevance - (1 - relevance_weight) * (largest similarity to a pick)`. With weight 0 that is
    farthest-first traversal (Gonzalez 1985). Ties go to the earlier candidate.

    Args:
        relevance_C: similarity to the query.
        vectors_CD: inner products of its rows are the similarities among candidates.
        num_picks: k; fewer are given where there are fewer candidates.
        relevance_weight: lambda, 0 to 1.
        authors_C: number of the caption's author, -1 where it is not known.
        max_per_author: most picks by one known author; 0 for no limit.

    Returns:
        Places among the candidates [k], in the order of the picks.
    """
    # A running maximum: every pick costs one product with the candidates, however many came before it.
    closest_C = np.full(len(relevance_C), -np.inf, np.float32)
    wanted_C = np.float32(relevance_weight) * relevance_C
    novelty_weight = np.float32(1.0 - relevance_weight)
    gain_C = relevance_C
    picks: list[int] = []
    while len(picks) < min(num_picks, len(relevance_C)):
        best = int(gain_C.argmax())
        if gain_C[best] == -np.inf:
            break
        picks.append(best)
        wanted_C[best] = -np.inf
        if max_per_author and authors_C is not None:
            wanted_C[_full_author(authors_C, picks, max_per_author)] = -np.inf
        np.maximum(closest_C, vectors_CD @ vectors_CD[best], out=closest_C)
        gain_C = wanted_C - novelty_weight * closest_C
    return np.array(picks, np.int64)


def _full_author(authors_C: NDArray[np.int64], picks: list[int], max_per_author: int) -> NDArray[np.bool_]:
    """Candidates by the author of the last pick, if that one has its share."""
    author = authors_C[picks[-1]]
    is_full = author >= 0 and int((authors_C[picks] == author).sum()) >= max_per_author
    return (authors_C == author) & is_full
