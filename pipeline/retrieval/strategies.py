"""How examples are picked: pure functions from a target and a pool to ranked rows of the pool."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.draws import draw
from pipeline.retrieval.filters import Target, allowed_rows
from pipeline.retrieval.index import ExactIndex, Pool, joint_queries, joint_vectors

Picks = list[tuple[int, float]]
"""Rows of the pool with their score, best first."""


def random_picker(
    pool: Pool, *, num_examples: int, near_duplicate_cosine: float, seed: int
) -> Callable[[Target], Picks]:
    """Pick allowed clips at random: the control, without which no claim about examples can be made.

    The choice is a function of (seed, target key) and the pool; the score is the text-audio cosine, as information.
    """

    def pick(target: Target) -> Picks:
        rows = np.flatnonzero(allowed_rows(target, pool, near_duplicate_cosine=near_duplicate_cosine))
        # numpy promises the stream of a bit generator, not that of Generator.choice: draw keys to sort by.
        draws = np.random.PCG64(draw(seed, "random", target.key)).random_raw(len(rows))
        chosen = rows[np.lexsort((rows, draws))][:num_examples]
        return [(int(row), float(pool.audio_MD[row] @ target.query_D)) for row in chosen]

    return pick


def semantic_picker(
    pool: Pool, *, num_examples: int, near_duplicate_cosine: float, text_weight: float
) -> Callable[[Target], Picks]:
    """Pick the allowed clips whose caption and audio are closest to the target's caption."""
    index = ExactIndex(joint_vectors(pool.text_MD, pool.audio_MD, text_weight=text_weight))

    def pick(target: Target) -> Picks:
        allowed_M = allowed_rows(target, pool, near_duplicate_cosine=near_duplicate_cosine)
        # However many rows are not allowed, this many hold enough that are.
        num_rows = num_examples + int((~allowed_M).sum())
        scores_BN, rows_BN = index.search(joint_queries(target.query_D[None]), num_rows)
        ranked = [(row, score) for row, score in zip(rows_BN[0], scores_BN[0], strict=True) if allowed_M[row]]
        return [(int(row), float(score)) for row, score in ranked[:num_examples]]

    return pick
