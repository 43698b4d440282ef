"""Strategies on a world whose facts are known: clips with five facts each, and vectors that tell them, with noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from pipeline.retrieval.facts import Facts, facts_of_text
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool
from pipeline.retrieval.strategies import STRATEGIES, PickParams, Picks
from pipeline.retrieval.structured import obeys

VALUES = {
    "genre": ("jazz", "folk", "techno", "chorale", "rock", "blues", "ambient", "march"),
    "mode": ("minor", "major"),
    "tempo": ("slow", "moderate", "fast"),
    "metre": ("3/4", "4/4", "6/8"),
    "instrument": ("piano", "harp", "koto", "violin", "trumpet", "banjo", "flute", "organ", "cello", "sitar"),
}
NUM_POOL, NUM_TARGETS, DIM = 500, 150, 64
PARAMS = PickParams(seed=1)


def caption(facts: Facts) -> str:
    told = {name: min(values) for name, values in facts.items()}
    tempo_bpm = {"slow": 60, "moderate": 100, "fast": 140}[told["tempo"]]
    return f"{told['genre']} on {told['instrument']} in a {told['mode']} key, {told['metre']}, {tempo_bpm} bpm"


@cache
def world() -> tuple[Pool, list[Target]]:
    random = np.random.default_rng(0)
    axes = {(name, value): random.normal(size=DIM) for name in VALUES for value in VALUES[name]}
    count = NUM_POOL + NUM_TARGETS
    facts = [
        {name: frozenset({VALUES[name][random.integers(len(VALUES[name]))]}) for name in VALUES} for _ in range(count)
    ]
    meaning = np.stack([sum(axes[name, min(values)] for name, values in own.items()) for own in facts])
    # Text and audio lie apart, as CLAP's do, and each has noise of its own.
    noisy = [meaning + random.normal(size=DIM) + 1.5 * random.normal(size=meaning.shape) for _ in range(2)]
    text, audio = ((part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in noisy)
    keys = [f"k{n:04d}" for n in range(count)]
    groups = {keys[n]: [n] for n in range(NUM_POOL)}
    pool = Pool(keys[:NUM_POOL], groups, audio[:NUM_POOL], text[:NUM_POOL], facts=facts[:NUM_POOL])
    targets = [
        Target(keys[n], keys[n], text[n], audio[n], facts_of_text(caption(facts[n]))) for n in range(NUM_POOL, count)
    ]
    assert all(target.facts == own for target, own in zip(targets, facts[NUM_POOL:], strict=True))
    return pool, targets


@cache
def picks_of(strategy: str) -> list[Picks]:
    pool, targets = world()
    pick = STRATEGIES[strategy](pool, PARAMS)
    return [pick(target) for target in targets]


def shared_facts(strategy: str) -> np.ndarray:
    """Facts that an example shares with its target, mean over the examples of each target."""
    pool, targets = world()
    return np.array(
        [
            np.mean([sum(pool.facts[row][a] == target.facts[a] for a in VALUES) for row, _ in picks.ranked])
            for picks, target in zip(picks_of(strategy), targets, strict=True)
        ]
    )


def covered_facts(strategy: str) -> float:
    """Different facts among the examples of a target, mean over the targets."""
    pool, _ = world()
    return float(
        np.mean([len({(a, pool.facts[r][a]) for r, _ in p.ranked for a in VALUES}) for p in picks_of(strategy)])
    )


def likeness(strategy: str) -> float:
    return float(np.mean([score for picks in picks_of(strategy) for _, score in picks.ranked]))


def test_semantic_examples_share_more_facts_than_random_ones():
    semantic, chance = shared_facts("semantic"), shared_facts("random")
    random = np.random.default_rng(2)
    draws = random.integers(len(chance), size=(2000, len(chance)))
    ratios = semantic[draws].mean(axis=1) / chance[draws].mean(axis=1)
    assert semantic.mean() >= 1.5 * chance.mean()
    assert np.quantile(ratios, 0.025) > 1.5


def test_diverse_examples_cover_more_facts_at_little_loss():
    assert covered_facts("diverse") >= 1.05 * covered_facts("semantic")
    assert likeness("diverse") >= 0.95 * likeness("semantic")
    assert shared_facts("diverse").mean() > 1.3 * shared_facts("random").mean()


def test_structured_sets_obey_their_rule_without_exception():
    pool, targets = world()
    obeying = 0
    for picks, target in zip(picks_of("structured"), targets, strict=True):
        if picks.rule:
            assert all(value in target.facts[name] for name, value in picks.rule.shared.items())
            assert len(picks.rule.shared) >= 2
            assert obeys(picks.rule, [pool.facts[row] for row, _ in picks.ranked], min_values=PARAMS.min_values)
            obeying += 1
        else:
            assert picks.fallback == "semantic"
    assert obeying >= 0.7 * len(targets)


def test_the_oracle_sounds_most_alike():
    pool, targets = world()
    heard = {
        name: np.mean(
            [
                pool.audio_MD[row] @ t.audio_D
                for p, t in zip(picks_of(name), targets, strict=True)
                for row, _ in p.ranked
            ]
        )
        for name in STRATEGIES
    }
    assert max(heard, key=heard.get) == "oracle"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_targets_changes_nothing(strategy: str):
    pool, targets = world()
    pick = STRATEGIES[strategy](pool, PARAMS)
    assert [pick(target) for target in reversed(targets)] == picks_of(strategy)[::-1]
