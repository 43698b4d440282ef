from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Caption
from pipeline.retrieval.clips import ClipText
from pipeline.retrieval.facts import Facts, facts_of_text
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


# --- what a person would check ---------------------------------------------------------------------------------------

CAPTIONS = [
    f"{genre} on {instrument} in a {mode} key, {bpm} bpm, {voice}"
    for genre in ("jazz", "folk")
    for instrument in ("piano", "harp", "koto", "flute")
    for mode in ("minor", "major")
    for bpm in (60, 95, 140)
    for voice in ("instrumental", "with a singer")
]
BANDS = {"slow, under 80 bpm": (0, 80), "around 95 bpm": (80, 112), "fast, over 112 bpm": (112, 999)}


def holds(said: str, text: str) -> bool:
    """Whether a caption of this file's making says what a part of a rule says; not by the code that reads facts."""
    if said in BANDS:
        low, high = BANDS[said]
        (bpm,) = re.findall(r"(\d+) bpm", text)
        return low <= int(bpm) < high
    plain = {"with a voice": "with a singer", "instrumental": ", instrumental"}
    return plain.get(said, said.removeprefix("with ")) in text


@pytest.mark.parametrize("num_examples", [3, 5])
def test_every_set_does_what_its_rule_says_in_words(num_examples: int):
    pool = [facts_of_text(caption) for caption in CAPTIONS]
    varied = {"instrument": r"on (\w+)", "genre": r"^(\w+)", "tempo": r"(\d+) bpm", "mode": r"(\w+) key"}
    for prompt in CAPTIONS:
        picks = pick(pool, facts_of_text(prompt), num_examples=num_examples)
        assert picks.rule is not None
        shared, change = picks.rule.words().removeprefix("all ").split("; ")
        # "slow, under 80 bpm" holds a comma of its own.
        parts = re.split(r", (?!under|over)", shared)
        assert len(parts) >= 2
        chosen = [CAPTIONS[row] for row, _ in picks.ranked]
        assert all(holds(part, text) for part in parts for text in [prompt, *chosen])
        attribute = change.removeprefix("the ").removesuffix(" changes")
        values = [re.findall(varied[attribute], text)[0] for text in chosen]
        assert values[0] != values[1]


def test_the_targets_audio_is_not_looked_at():
    """The same prompt gives the same set, whatever was measured of the target and however it sounds."""
    told = facts_of_text("slow piano in a minor key")
    heard = {"tempo_bpm": 150.0, "mode": "major", "voice": "vocal", "sure": ["tempo_bpm", "mode", "voice"]}
    clip = ClipText([Caption(text="slow piano in a minor key", source="human")], ["fast", "major scale"], heard)
    assert clip.prompt_facts(0, with_aspects=False) == told
    assert clip.pool_facts(0)["voice"] == {"vocal"}
    pool = Pool([f"k{n}" for n in range(len(CAPTIONS))], {}, *VECTORS, facts=[facts_of_text(c) for c in CAPTIONS])
    params = PickParams(num_examples=3, near_duplicate_cosine=1.1)
    sets = [
        STRATEGIES["structured"](pool, params)(Target("t", "none", VECTORS[0][0], audio_D, told))
        for audio_D in (VECTORS[0][1], -VECTORS[0][2])
    ]
    assert sets[0] == sets[1]
    assert sets[0].rule is not None


_random = np.random.default_rng(3).normal(size=(2, len(CAPTIONS), 16)).astype(np.float32)
VECTORS = tuple(_random / np.linalg.norm(_random, axis=2, keepdims=True))
