"""Sets of examples by an explicit rule: what they share with the prompt, and what changes from one to the next.

M pool clips, C candidates.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import ATTRIBUTES, Facts, say_fact

Rows = NDArray[np.int64]
MIN_SHARED, MAX_SHARED = 2, 3
VARY_FIRST = ("instrument", "genre", "tempo", "metre", "mood", "mode", "voice")
"""Which attribute changes, if several can: the one that is heard first."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for all examples of a set."""

    shared: dict[str, str]
    """Value by attribute, at least two; each is among the facts of the prompt."""
    varied: str
    """Attribute that changes."""

    def words(self) -> str:
        """Write the rule out, for the prompt."""
        said = ", ".join(say_fact(name, self.shared[name]) for name in ATTRIBUTES if name in self.shared)
        return f"all {said}; the {self.varied} changes"


def obeys(rule: Rule, examples: Sequence[Facts], *, min_values: int) -> bool:
    """Check a set, without the code that made it.

    Every example shares all that the rule says; of the varied attribute each has a value, and the first
    `min_values` examples (or all, if there are fewer) have none in common.
    """
    shares = all(value in facts.get(name, ()) for facts in examples for name, value in rule.shared.items())
    values = [facts.get(rule.varied, frozenset[str]()) for facts in examples]
    first = values[: min(min_values, len(examples))]
    return shares and all(values) and all(not (a & b) for a, b in itertools.combinations(first, 2))


@dataclass(frozen=True, slots=True)
class FactTable:
    """Which pool clips have which fact."""

    facts: Sequence[Facts]
    """Of each pool clip."""
    has_M: Mapping[tuple[str, str], NDArray[np.bool_]] = field(init=False)

    def __post_init__(self) -> None:
        has_M: dict[tuple[str, str], NDArray[np.bool_]] = {}
        for row, facts in enumerate(self.facts):
            for name, values in facts.items():
                for value in values:
                    has_M.setdefault((name, value), np.zeros(len(self.facts), np.bool_))[row] = True
        object.__setattr__(self, "has_M", has_M)

    def rows_of(self, shared: Mapping[str, str], allowed_M: NDArray[np.bool_]) -> Rows:
        """Rows of the allowed clips that have all of the values."""
        mask_M = allowed_M.copy()
        for name, value in shared.items():
            mask_M &= self.has_M[name, value]
        return np.flatnonzero(mask_M)


def possible_rules(prompt: Facts, table: FactTable) -> Iterator[Rule]:
    """All rules that a prompt's facts allow: those that share more come first, then those that vary the instrument."""
    known = [(name, value) for name in ATTRIBUTES for value in sorted(prompt.get(name, ()))]
    items = [item for item in known if item in table.has_M]
    for num_shared in range(MAX_SHARED, MIN_SHARED - 1, -1):
        for varied in VARY_FIRST:
            for combination in itertools.combinations(items, num_shared):
                shared = dict(combination)
                if len(shared) == num_shared and varied not in shared:
                    yield Rule(shared, varied)


def pick_varied(
    values: Sequence[frozenset[str]], authors: Sequence[int], num_picks: int, *, min_values: int, max_per_author: int
) -> list[int] | None:
    """Pick candidates whose values come as rarely as can be, the better candidate first among equals.

    Args:
        values: of the attribute that changes, for each candidate, best candidate first; empty ones are passed over.
        authors: numbers of the captions' authors, -1 where not known.
        num_picks: how many are wanted.
        min_values: the first so many picks must have no value in common.
        max_per_author: most picks by one known author; 0 for no limit.

    Returns:
        Places among the candidates, in the order of the picks; None if there is no such set.
    """
    queues: dict[frozenset[str], list[int]] = {}
    for place in reversed(range(len(values))):
        if values[place]:
            queues.setdefault(values[place], []).append(place)
    used: Counter[str] = Counter()
    by_author: Counter[int] = Counter()
    picks: list[int] = []
    while len(picks) < num_picks:
        for queue in queues.values():
            while queue and _is_full(by_author, authors[queue[-1]], max_per_author):
                queue.pop()
        open_queues = [(max(used[v] for v in value), queue[-1], value) for value, queue in queues.items() if queue]
        if not open_queues:
            return None
        times, place, value = min(open_queues, key=lambda entry: entry[:2])
        if times and len(picks) < min_values:
            return None
        queues[value].pop()
        picks.append(place)
        used.update(value)
        by_author[authors[place]] += 1
    return picks


def _is_full(by_author: Counter[int], author: int, max_per_author: int) -> bool:
    return bool(max_per_author) and author >= 0 and by_author[author] >= max_per_author
