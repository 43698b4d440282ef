"""Strategies against facts: figures worked out by hand, and a small world in which the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool
from pipeline.retrieval.sanity import check_rules, compare, sanity_table
from pipeline.retrieval.strategies import STRATEGIES, PickParams

KNOWN = {
    "t": {"mode": "minor", "bpm": "slow"},
    "u": {"mode": "major", "bpm": "fast"},
    "a": {"mode": "minor", "bpm": "slow"},
    "b": {"mode": "minor", "bpm": "fast"},
    "c": {"mode": "major", "bpm": "slow"},
}


def value(*keys: str, score: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"examples": [{"key": key, "score": score} for key in keys], **more}


def test_facts_are_counted_by_hand():
    found = compare(
        {
            # t: 2 and 1 in common; u: 1 and 1. Covered: minor slow fast; minor major fast slow.
            "semantic": {"t": value("a", "b"), "u": value("b", "c"), "unknown": value("a")},
            # t: 1 with what is known; u: 1.
            "random": {"t": value("b", "x", score=0.1), "u": value("c", score=0.1), "v": value("a")},
        },
        KNOWN,
    )
    assert found["semantic"]["targets"] == 2
    assert found["semantic"]["shared"] == 1.25
    assert found["random"]["shared"] == 1.0
    assert found["semantic"]["ratio"] == 1.25
    assert found["semantic"]["covered"] == 3.5
    assert (found["semantic"]["score"], found["random"]["score"]) == (0.5, 0.1)
    assert (found["random"]["ratio"], found["random"]["low"], found["random"]["high"]) == (1.0, 1.0, 1.0)


def test_without_random_there_is_no_ratio_and_without_targets_no_mean():
    assert "ratio" not in compare({"semantic": {"t": value("a")}}, KNOWN)["semantic"]
    found = compare({"semantic": {"x": value("a")}, "random": {"x": value("b")}}, KNOWN)
    assert found["semantic"] == {"targets": 0, "shared": None, "covered": None, "score": None}
    assert "| semantic | 0 | - | - | - | - |" in sanity_table({"facts": [], "strategies": found})


def test_sets_are_checked_against_what_they_read():
    facts = {
        key: {"mode": frozenset({"minor"}), "tempo": frozenset({"slow"}), "instrument": frozenset({name})}
        for key, name in (("a", "piano"), ("b", "harp"), ("c", "piano"))
    }
    rule = {"rule": "in words", "shared": {"mode": "minor", "tempo": "slow"}, "varied": "instrument"}
    examples = {"t": value("a", "b", **rule), "u": value("a", "c", **rule), "v": value("a", rule="", fallback={})}
    found = check_rules(examples, facts, min_values=2)
    assert found == {"sets": 2, "obeying": 1, "breaking": ["u"], "fallback_share": 0.3333}
    text = sanity_table({"facts": ["mode"], "strategies": {}, "rules": found})
    assert "obey their rule: 1 of 2; 33 % of the targets fell back." in text


def test_in_a_world_where_vectors_tell_the_facts_the_strategies_do_what_their_names_say():
    random = np.random.default_rng(0)
    values = {"mode": 2, "bpm": 3, "instrument": 8, "texture": 3, "form": 6}
    axes = {(name, n): random.normal(size=48) for name, count in values.items() for n in range(count)}
    told = [{name: int(random.integers(count)) for name, count in values.items()} for _ in range(360)]
    meaning = np.stack([sum(axes[item] for item in own.items()) for own in told])
    text, audio = (meaning + 1.5 * random.normal(size=meaning.shape) for _ in range(2))
    text, audio = ((m / np.linalg.norm(m, axis=1, keepdims=True)).astype(np.float32) for m in (text, audio))
    keys = [f"k{n:03d}" for n in range(360)]
    known = {key: {name: str(n) for name, n in own.items()} for key, own in zip(keys, told, strict=True)}
    pool = Pool(keys[:300], {}, audio[:300], text[:300])
    targets = [Target(keys[n], "none", text[n], audio[n]) for n in range(300, 360)]
    examples = {
        name: {
            target.key: {"examples": [{"key": keys[row], "score": score} for row, score in picks.ranked]}
            for target, picks in zip(targets, STRATEGIES[name](pool, PickParams()).many(targets), strict=True)
        }
        for name in ("random", "semantic", "diverse")
    }
    found = compare(examples, known)
    # The same by hand, for one strategy.
    expected = np.mean(
        [
            [len(known[t].items() & known[e["key"]].items()) for e in own["examples"]]
            for t, own in examples["semantic"].items()
        ]
    )
    assert found["semantic"]["shared"] == pytest.approx(expected, abs=1e-4)
    assert found["semantic"]["low"] > 1.5
    assert found["diverse"]["covered"] > 1.02 * found["semantic"]["covered"]
    assert found["diverse"]["score"] > 0.95 * found["semantic"]["score"]
    assert found["semantic"]["low"] < found["semantic"]["ratio"] < found["semantic"]["high"]
