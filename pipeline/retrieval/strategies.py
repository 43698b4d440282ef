"""How examples are picked: pure functions from a target and a pool to ranked rows of the pool.

M pool clips, C candidates, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.draws import draw
from pipeline.retrieval.filters import Target, allowed_rows, cap_authors
from pipeline.retrieval.index import ExactIndex, Float32, Pool, joint_queries, joint_vectors
from pipeline.retrieval.mmr import pick_diverse
from pipeline.retrieval.structured import FactTable, Rule, pick_varied, possible_rules

FEW_FACTS = "the prompt tells fewer than two attributes that the pool has"
NO_SET = "no set of clips shares two attributes and varies a third"


@dataclass(frozen=True, slots=True, kw_only=True)
class PickParams:
    """What the strategies need of the settings; see `RetrieveParams` for what each means."""

    num_examples: int = 5
    near_duplicate_cosine: float = 0.98
    text_weight: float = 0.5
    diverse_rule: Literal["mmr", "farthest_first"] = "mmr"
    mmr_lambda: float = 0.7
    num_candidates: int = 64
    min_values: int = 2
    max_per_author: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Picks:
    """What a strategy picked for a target."""

    ranked: list[tuple[int, float]]
    """Rows of the pool with their score, best first."""
    rule: Rule | None = None
    """What holds for the whole set, where the strategy has rules."""
    fallback: str = ""
    """Strategy that stepped in."""
    why: str = ""
    """Why it had to."""


Picker = Callable[[Target], Picks]


def random_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick allowed clips at random: the control, without which no claim about examples can be made.

    The choice is a function of (seed, target key) and the pool; the score is the text-audio cosine, as information.
    """
    authors_M = pool.author_numbers()

    def pick(target: Target) -> Picks:
        rows = np.flatnonzero(allowed_rows(target, pool, near_duplicate_cosine=params.near_duplicate_cosine))
        # numpy promises the stream of a bit generator, not that of Generator.choice: draw keys to sort by.
        draws = np.random.PCG64(draw(params.seed, "random", target.key)).random_raw(len(rows))
        drawn = rows[np.lexsort((rows, draws))]
        kept = cap_authors(authors_M[drawn].tolist(), params.num_examples, max_per_author=params.max_per_author)
        return Picks([(int(row), float(pool.audio_MD[row] @ target.query_D)) for row in drawn[kept]])

    return pick


def semantic_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick the allowed clips whose caption and audio are closest to the target's caption."""
    index = ExactIndex(joint_vectors(pool.text_MD, pool.audio_MD, text_weight=params.text_weight))
    return _nearest_picker(pool, params, index, lambda target: joint_queries(target.query_D[None]))


def oracle_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick the allowed clips that sound most like the target: an upper bound, since nobody has the target's audio."""
    return _nearest_picker(pool, params, ExactIndex(pool.audio_MD), lambda target: target.audio_D[None])


def diverse_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick, among the closest clips, some that are unlike each other: by MMR or farthest-first."""
    index = ExactIndex(joint_vectors(pool.text_MD, pool.audio_MD, text_weight=params.text_weight))
    authors_M = pool.author_numbers()
    # Likeness of two clips, weighted as likeness to the query is; within one modality cosines lie higher than across.
    text_share, audio_share = np.sqrt(params.text_weight), np.sqrt(1.0 - params.text_weight)
    relevance_weight = params.mmr_lambda if params.diverse_rule == "mmr" else 0.0

    def pick(target: Target) -> Picks:
        allowed_M = allowed_rows(target, pool, near_duplicate_cosine=params.near_duplicate_cosine)
        num_candidates = max(params.num_candidates, params.num_examples)
        rows, scores_C = _nearest(index, joint_queries(target.query_D[None]), allowed_M, num_candidates)
        vectors_CD = np.concatenate([text_share * pool.text_MD[rows], audio_share * pool.audio_MD[rows]], axis=1)
        places = pick_diverse(
            scores_C,
            vectors_CD.astype(np.float32),
            params.num_examples,
            relevance_weight=relevance_weight,
            authors_C=authors_M[rows],
            max_per_author=params.max_per_author,
        )
        return Picks([(int(rows[place]), float(scores_C[place])) for place in places])

    return pick


def structured_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick sets by a rule: at least two facts as in the prompt, and one that changes; the nearest clips first.

    Where no set exists `semantic` steps in, and the picks say so.
    """
    table, authors_M = FactTable(pool.facts), pool.author_numbers()
    fall_back = semantic_picker(pool, params)

    def pick(target: Target) -> Picks:
        allowed_M = allowed_rows(target, pool, near_duplicate_cosine=params.near_duplicate_cosine)
        why = FEW_FACTS
        for rule in possible_rules(target.facts, table):
            why = NO_SET
            rows = table.rows_of(rule.shared, allowed_M)
            if len(rows) < params.num_examples:
                continue
            rows, scores_C = _by_score(rows, target, pool, params.text_weight)
            places = pick_varied(
                [pool.facts[row].get(rule.varied, frozenset()) for row in rows],
                authors_M[rows].tolist(),
                params.num_examples,
                min_values=params.min_values,
                max_per_author=params.max_per_author,
            )
            if places is not None:
                return Picks([(int(rows[place]), float(scores_C[place])) for place in places], rule)
        return Picks(fall_back(target).ranked, fallback="semantic", why=why)

    return pick


STRATEGIES: dict[str, Callable[[Pool, PickParams], Picker]] = {
    "random": random_picker,
    "semantic": semantic_picker,
    "diverse": diverse_picker,
    "structured": structured_picker,
    "oracle": oracle_picker,
}
"""Every strategy by its name; each looks at the pool once and answers for any number of targets."""


def _nearest_picker(pool: Pool, params: PickParams, index: ExactIndex, query_of: Callable[[Target], Float32]) -> Picker:
    authors_M = pool.author_numbers()

    def pick(target: Target) -> Picks:
        allowed_M = allowed_rows(target, pool, near_duplicate_cosine=params.near_duplicate_cosine)
        num_rows = params.num_examples
        while True:
            rows, scores_C = _nearest(index, query_of(target), allowed_M, num_rows)
            authors = authors_M[rows].tolist()
            kept = cap_authors(authors, params.num_examples, max_per_author=params.max_per_author)
            if len(kept) == params.num_examples or len(rows) < num_rows:
                return Picks([(int(rows[place]), float(scores_C[place])) for place in kept])
            num_rows *= 4

    return pick


def _nearest(
    index: ExactIndex, query_1D: Float32, allowed_M: NDArray[np.bool_], num_rows: int
) -> tuple[NDArray[np.int64], Float32]:
    """Rows and scores [C] of the nearest allowed clips."""
    # However many rows are not allowed, this many hold enough that are.
    scores_BN, rows_BN = index.search(query_1D, num_rows + int((~allowed_M).sum()))
    is_allowed_N = allowed_M[rows_BN[0]]
    return rows_BN[0][is_allowed_N][:num_rows], scores_BN[0][is_allowed_N][:num_rows]


def _by_score(
    rows: NDArray[np.int64], target: Target, pool: Pool, text_weight: float
) -> tuple[NDArray[np.int64], Float32]:
    text_C, audio_C = pool.text_MD[rows] @ target.query_D, pool.audio_MD[rows] @ target.query_D
    # Rounded, since a product of matrices may give equal clips scores that differ in their last bit.
    scores_C = np.round(text_weight * text_C + (1.0 - text_weight) * audio_C, 6).astype(np.float32)
    order = np.lexsort((rows, -scores_C))
    return rows[order], scores_C[order]
