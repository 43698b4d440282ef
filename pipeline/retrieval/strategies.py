"""How examples are picked: pure functions from targets and a pool to ranked rows of the pool.

All targets of a shard are answered at once. Which clips a target may have depends on the target, so a strategy looks
a few clips deeper than it needs, and deeper still for those targets that lost too many of them: what it picks is what
it would pick if every clip of the pool were looked at.

B targets, M pool clips, C candidates of one target, P pairs of a target and a row of the pool, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.data.draws import draw
from pipeline.retrieval.filters import Bools, Limits, Target, allowed_masks, allowed_pairs, cap_authors
from pipeline.retrieval.index import Float32, Pool
from pipeline.retrieval.mmr import pick_diverse
from pipeline.retrieval.search import ExactIndex, Floats, Ints, Ranked, pair_products
from pipeline.retrieval.structured import FactTable, Rule, pick_varied, possible_rules

FEW_FACTS = "the prompt tells fewer than two attributes that the pool has"
NO_SET = "no set of clips shares two attributes and varies a third"
_SPARE_CLIPS = 4
"""Looked at beyond those wanted: most targets lose a few to their group."""
_DEEPER = 4
"""Times deeper that those are searched which lost more."""
_PAIRS_AT_ONCE = 1 << 20


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
    other_authors_only: bool = False
    seed: int = 0

    @property
    def limits(self) -> Limits:
        """What no example may be."""
        return Limits(self.near_duplicate_cosine, self.other_authors_only)


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


Propose = Callable[[Sequence[Target], int], Ranked]
"""Gives, for each of some targets, so many best rows of the pool, or all; allowed or not."""
Choose = Callable[[Ints, Floats, bool], Picks | None]
"""Picks among the best allowed rows of a target; None to see more, which it may not if told that these are all."""


@dataclass(frozen=True, slots=True)
class Picker:
    """A strategy that has looked at its pool; `picker(target)` answers for one target, `many` for all of a shard."""

    many: Callable[[Sequence[Target]], list[Picks]]

    def __call__(self, target: Target) -> Picks:
        """Pick for one target."""
        return self.many([target])[0]


def random_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick allowed clips at random: the control, without which no claim about examples can be made.

    The choice is a function of (seed, target key) and the pool; the score is the text-audio cosine, as information.
    """

    def propose(targets: Sequence[Target], depth: int) -> Ranked:
        rows = [drawn_rows(draw(params.seed, "random", target.key), len(pool.keys), depth) for target in targets]
        target_P, row_P = np.repeat(np.arange(len(rows)), [len(own) for own in rows]), np.concatenate(rows)
        query_BD = np.stack([target.query_D for target in targets])
        return Ranked(target_P, row_P, pair_products(query_BD, pool.audio_MD, target_P, row_P))

    return _first_allowed(pool, params, propose)


def drawn_rows(seed: int, num_rows: int, depth: int) -> Ints:
    """Draw rows one after another, no row twice.

    Args:
        seed: of the draws.
        num_rows: rows that there are.
        depth: how many are wanted; fewer are given where there are fewer.

    Returns:
        The first rows of an order of all of them, which is the same for every depth.
    """
    depth, most_draws = min(depth, num_rows), 4 * num_rows
    num_draws = 2 * depth + 16
    while True:
        # numpy promises the stream of a bit generator, not that of Generator.choice.
        stream = np.random.PCG64(seed)
        drawn = (stream.random_raw(min(num_draws, most_draws)) % np.uint64(num_rows)).astype(np.int64)
        rows = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        if len(rows) >= depth:
            return rows[:depth]
        if num_draws >= most_draws:
            break
        num_draws *= 4
    # Nearly all are wanted: the few that so many draws have missed follow in an order of their own.
    rest = np.setdiff1d(np.arange(num_rows), rows)
    return np.concatenate([rows, rest[np.argsort(stream.random_raw(len(rest)), kind="stable")]])[:depth]


def semantic_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick the allowed clips whose caption and audio are closest to the target's caption."""
    index = ExactIndex(pool.mixed(params.text_weight), device=pool.device)
    return _first_allowed(pool, params, lambda targets, depth: index.search(_queries(targets), depth))


def oracle_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick the allowed clips that sound most like the target: an upper bound, since nobody has the target's audio."""
    index = ExactIndex(pool.audio_MD, device=pool.device)
    return _first_allowed(
        pool, params, lambda targets, depth: index.search(np.stack([target.audio_D for target in targets]), depth)
    )


def diverse_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick, among the closest clips, some that are unlike each other: by MMR or farthest-first."""
    index = ExactIndex(pool.mixed(params.text_weight), device=pool.device)
    authors_M = pool.author_numbers()
    num_candidates = max(params.num_candidates, params.num_examples)
    # Likeness of two clips, weighted as likeness to the query is; within one modality cosines lie higher than across.
    text_share, audio_share = (np.float32(share**0.5) for share in (params.text_weight, 1.0 - params.text_weight))
    relevance_weight = params.mmr_lambda if params.diverse_rule == "mmr" else 0.0

    def of_candidates(row_C: Ints, score_C: Floats) -> Picks:
        places = pick_diverse(
            score_C.astype(np.float32),
            np.concatenate([text_share * pool.text_MD[row_C], audio_share * pool.audio_MD[row_C]], axis=1),
            params.num_examples,
            relevance_weight=relevance_weight,
            authors_C=authors_M[row_C],
            max_per_author=params.max_per_author,
        )
        return Picks([(int(row_C[place]), float(score_C[place])) for place in places])

    def choose(row_C: Ints, score_C: Floats, is_all: bool) -> Picks | None:
        # More candidates only where few authors write most of them, and the limit on authors leaves too few picks.
        count = num_candidates
        while count <= len(row_C) or is_all:
            picks = of_candidates(row_C[:count], score_C[:count])
            if len(picks.ranked) == params.num_examples or count >= len(row_C):
                return picks if len(picks.ranked) == params.num_examples or is_all else None
            count *= _DEEPER
        return None

    def propose(targets: Sequence[Target], depth: int) -> Ranked:
        return index.search(_queries(targets), depth)

    def many(targets: Sequence[Target]) -> list[Picks]:
        return _pick_in_order(targets, pool, params.limits, propose=propose, choose=choose, depth=num_candidates)

    return Picker(many)


def structured_picker(pool: Pool, params: PickParams) -> Picker:
    """Pick sets by a rule: at least two facts as in the prompt, and one that changes; the nearest clips first.

    Where no set exists `semantic` steps in, and the picks say so.
    """
    table, authors_M, mixed_MD = FactTable(pool.facts), pool.author_numbers(), pool.mixed(params.text_weight)
    fall_back = semantic_picker(pool, params)

    def by_rule(target: Target, allowed_M: Bools) -> Picks:
        why = FEW_FACTS
        for rule in possible_rules(target.facts, table):
            why = NO_SET
            rows = table.rows_of(rule.shared, allowed_M)
            if len(rows) < params.num_examples:
                continue
            score_C = pair_products(target.query_D[None], mixed_MD, np.zeros_like(rows), rows)
            order = np.lexsort((rows, -score_C))
            rows, score_C = rows[order], score_C[order]
            places = pick_varied(
                [pool.facts[row].get(rule.varied, frozenset()) for row in rows],
                authors_M[rows].tolist(),
                params.num_examples,
                min_values=params.min_values,
                max_per_author=params.max_per_author,
            )
            if places is not None:
                return Picks([(int(rows[place]), float(score_C[place])) for place in places], rule)
        return Picks([], fallback="semantic", why=why)

    def many(targets: Sequence[Target]) -> list[Picks]:
        masks = allowed_masks(targets, pool, params.limits)
        picks = [by_rule(target, allowed_M) for target, allowed_M in zip(targets, masks, strict=True)]
        without = [n for n, found in enumerate(picks) if found.rule is None]
        for n, instead in zip(without, fall_back.many([targets[n] for n in without]), strict=True):
            picks[n] = replace(picks[n], ranked=instead.ranked)
        return picks

    return Picker(many)


STRATEGIES: dict[str, Callable[[Pool, PickParams], Picker]] = {
    "random": random_picker,
    "semantic": semantic_picker,
    "diverse": diverse_picker,
    "structured": structured_picker,
    "oracle": oracle_picker,
}
"""Every strategy by its name; each looks at the pool once and answers for any number of targets."""


# --- deeper and deeper -----------------------------------------------------------------------------------------------


def _first_allowed(pool: Pool, params: PickParams, propose: Propose) -> Picker:
    """Pick the first of the proposed rows that may be examples, within the limit on authors."""
    authors_M, num_examples = pool.author_numbers(), params.num_examples

    def choose(row_C: Ints, score_C: Floats, is_all: bool) -> Picks | None:
        kept = cap_authors(authors_M[row_C].tolist(), num_examples, max_per_author=params.max_per_author)
        if len(kept) < num_examples and not is_all:
            return None
        return Picks([(int(row_C[place]), float(score_C[place])) for place in kept])

    def many(targets: Sequence[Target]) -> list[Picks]:
        return _pick_in_order(targets, pool, params.limits, propose=propose, choose=choose, depth=num_examples)

    return Picker(many)


def _pick_in_order(
    targets: Sequence[Target], pool: Pool, limits: Limits, *, propose: Propose, choose: Choose, depth: int
) -> list[Picks]:
    """Pick for all targets, looking deeper for those whose first rows are not enough.

    Args:
        targets: the clips that examples are sought for.
        pool: train clips.
        limits: which of them may be examples.
        propose: ranks rows.
        choose: picks among the allowed ones.
        depth: rows that most targets need.
    """
    picks: list[Picks | None] = [None] * len(targets)
    todo, depth = list(range(len(targets))), depth + _SPARE_CLIPS
    while todo:
        depth = min(depth, len(pool.keys))
        at_once = max(_PAIRS_AT_ONCE // depth, 1)
        for start in range(0, len(todo), at_once):
            numbers = todo[start : start + at_once]
            some = [targets[n] for n in numbers]
            ranked = propose(some, depth)
            allowed_P = allowed_pairs(some, pool, limits, target_P=ranked.query_P, row_P=ranked.row_P)
            allowed = ranked.where(allowed_P)
            ends = np.searchsorted(allowed.query_P, np.arange(len(some) + 1)).tolist()
            for n, first, end in zip(numbers, ends, ends[1:], strict=False):
                picks[n] = choose(allowed.row_P[first:end], allowed.score_P[first:end], depth == len(pool.keys))
        todo = [n for n in todo if picks[n] is None]
        depth *= _DEEPER
    return [found for found in picks if found is not None]


def _queries(targets: Sequence[Target]) -> Float32:
    return np.stack([target.query_D for target in targets])
