from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval.facts import Facts
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool
from pipeline.retrieval.strategies import FEW_FACTS, NO_SET, STRATEGIES, PickParams, Picks
from pipeline.retrieval.structured import FactTable, Rule, obeys, pick_varied, possible_rules


def facts(**values: str) -> Facts:
    return {name: frozenset(value.split("+")) for name, value in values.items()}


def pick(pool_facts: list[Facts], prompt: Facts, **changes: int) -> Picks:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(pool_facts) + 1, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = Pool([f"k{n:03d}" for n in range(len(pool_facts))], {}, vectors[:-1], vectors[:-1], facts=pool_facts)
    params = PickParams(**({"num_examples": 3, "near_duplicate_cosine": 1.1} | changes))
    return STRATEGIES["structured"](pool, params)(Target("t", "none", vectors[-1], vectors[-1] * 0, prompt))


SLOW_MINOR = [facts(mode="minor", tempo="moderate", instrument=name) for name in ("piano", "piano", "harp", "koto")]
OTHERS = [facts(mode="major", tempo="fast", instrument=name) for name in ("piano", "harp", "banjo")] * 3


def test_a_set_shares_what_the_prompt_says_and_changes_the_instrument():
    picks = pick(OTHERS + SLOW_MINOR, facts(mode="minor", tempo="moderate"))
    assert picks.rule is not None
    assert picks.rule.words() == "all in a minor key, around 95 bpm; the instrument changes"
    chosen = [(OTHERS + SLOW_MINOR)[row] for row, _ in picks.ranked]
    assert {value for found in chosen for value in found["instrument"]} == {"piano", "harp", "koto"}
    assert obeys(picks.rule, chosen, min_values=3)
    assert not picks.fallback


def test_more_examples_than_values_come_back_to_the_first_ones():
    picks = pick(SLOW_MINOR, facts(mode="minor", tempo="moderate"), num_examples=4)
    assert picks.rule is not None
    values = [min(SLOW_MINOR[row]["instrument"]) for row, _ in picks.ranked]
    assert sorted(values[:3]) == ["harp", "koto", "piano"]
    assert values[3] == "piano"


def test_a_prompt_that_tells_little_falls_back_by_name():
    picks = pick(OTHERS + SLOW_MINOR, facts(mode="minor"))
    assert (picks.rule, picks.fallback, picks.why) == (None, "semantic", FEW_FACTS)
    assert len(picks.ranked) == 3


def test_without_a_set_it_falls_back_by_name():
    alike = [facts(mode="minor", tempo="moderate", instrument="piano")] * 6
    assert pick(alike, facts(mode="minor", tempo="moderate")).why == NO_SET
    assert pick(SLOW_MINOR[:2], facts(mode="minor", tempo="moderate")).why == NO_SET
    nothing_more = [facts(mode="minor", tempo="moderate")] * 6
    assert pick(nothing_more, facts(mode="minor", tempo="moderate")).why == NO_SET


def test_three_shared_facts_come_before_two():
    prompt = facts(mode="minor", tempo="slow", genre="jazz")
    rules = list(possible_rules(prompt, FactTable([prompt, facts(mode="major")])))
    assert [len(rule.shared) for rule in rules] == sorted([len(rule.shared) for rule in rules], reverse=True)
    assert rules[0] == Rule({"genre": "jazz", "mode": "minor", "tempo": "slow"}, "instrument")
    assert all(rule.varied not in rule.shared for rule in rules)


def test_two_instruments_of_a_prompt_are_one_attribute():
    prompt = facts(instrument="piano+harp", mode="minor")
    rules = list(possible_rules(prompt, FactTable([prompt])))
    assert {tuple(sorted(rule.shared.values())) for rule in rules} == {("minor", "piano"), ("harp", "minor")}


def test_the_check_knows_a_set_that_does_not_obey():
    rule = Rule({"mode": "minor", "tempo": "slow"}, "instrument")
    good = [facts(mode="minor", tempo="slow", instrument=name) for name in ("piano", "harp", "piano")]
    assert obeys(rule, good, min_values=2)
    assert not obeys(rule, good, min_values=3)
    assert not obeys(rule, [*good[:2], facts(mode="major", tempo="slow", instrument="koto")], min_values=2)
    assert not obeys(rule, [*good[:2], facts(mode="minor", tempo="slow")], min_values=2)
    assert not obeys(rule, [good[0], facts(mode="minor", tempo="slow", instrument="piano+koto")], min_values=2)


VALUES = st.lists(st.frozensets(st.sampled_from("abcde"), max_size=2), max_size=12)


@given(values=VALUES, num_picks=st.integers(1, 5), min_values=st.integers(1, 3), most=st.integers(0, 2))
def test_picked_values_differ_where_they_must(values: list[frozenset[str]], num_picks: int, min_values: int, most: int):
    authors = [n % 3 - 1 for n in range(len(values))]
    picks = pick_varied(values, authors, num_picks, min_values=min_values, max_per_author=most)
    if picks is None:
        assert most or sum(map(bool, values)) < num_picks or min_values > 1
        return
    assert len(set(picks)) == num_picks
    rule = Rule({}, "instrument")
    assert obeys(rule, [{"instrument": values[place]} for place in picks], min_values=min_values)
    known = [authors[place] for place in picks if authors[place] >= 0]
    assert not most or all(known.count(author) <= most for author in known)
