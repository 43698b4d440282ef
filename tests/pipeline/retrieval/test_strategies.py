from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.retrieval.audit import find_leak, find_near_duplicate
from pipeline.retrieval.filters import Target, allowed_rows, cap_authors
from pipeline.retrieval.index import ExactIndex, Pool, joint_queries, joint_vectors, stack_unit
from pipeline.retrieval.strategies import STRATEGIES, Picker, PickParams

Float32 = NDArray[np.float32]


def unit(rng: np.random.Generator, rows: int, dim: int = 8) -> Float32:
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def toy_pool(rows: int = 60) -> Pool:
    rng = np.random.default_rng(0)
    keys = [f"k{n:03d}" for n in range(rows)]
    groups = {f"g{n}": list(range(3 * n, min(3 * n + 3, rows))) for n in range(-(-rows // 3))}
    return Pool(keys, groups, unit(rng, rows), unit(rng, rows))


def group_of(row: int) -> str:
    return f"g{row // 3}"


def picker(pool: Pool, strategy: str, **changes: object) -> Picker:
    return STRATEGIES[strategy](pool, PickParams(**({"seed": 3} | changes)))


def rows_of(pick: Picker, target: Target) -> list[int]:
    return [row for row, _ in pick(target).ranked]


def target_of(pool: Pool, row: int) -> Target:
    facts = pool.facts[row] if pool.facts else {}
    return Target(pool.keys[row], group_of(row), pool.text_MD[row], pool.audio_MD[row], facts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_pick_shares_a_group_or_comes_twice(strategy: str):
    pool = with_facts(toy_pool())
    pick = picker(pool, strategy)
    for row in range(len(pool.keys)):
        target = target_of(pool, row)
        rows = rows_of(pick, target)
        assert len(set(rows)) == 5
        assert all(group_of(picked) != target.group for picked in rows)


def with_facts(pool: Pool) -> Pool:
    facts = [
        {"mode": frozenset({"minor"}), "tempo": frozenset({"slow"}), "instrument": frozenset({f"i{row % 4}"})}
        for row in range(len(pool.keys))
    ]
    return replace(pool, facts=facts)


def test_semantic_picks_equal_a_plain_search():
    pool = toy_pool()
    pick = picker(pool, "semantic")
    for row in range(0, 60, 7):
        target = target_of(pool, row)
        scores = 0.5 * pool.text_MD @ target.query_D + 0.5 * pool.audio_MD @ target.query_D
        allowed = [n for n in np.argsort(-scores) if group_of(int(n)) != target.group][:5]
        picks = pick(target).ranked
        assert [n for n, _ in picks] == allowed
        assert np.allclose([score for _, score in picks], scores[allowed], atol=1e-6)


def test_oracle_picks_what_sounds_most_alike():
    pool = toy_pool()
    target = target_of(pool, 30)
    cosines = pool.audio_MD @ target.audio_D
    allowed = [n for n in np.argsort(-cosines) if group_of(int(n)) != target.group][:5]
    assert rows_of(picker(pool, "oracle"), target) == allowed


def test_diverse_with_all_weight_on_likeness_is_semantic():
    pool = toy_pool()
    target = target_of(pool, 9)
    nearest = rows_of(picker(pool, "semantic"), target)
    assert rows_of(picker(pool, "diverse", mmr_lambda=1.0), target) == nearest
    spread = rows_of(picker(pool, "diverse", diverse_rule="farthest_first"), target)
    assert spread[0] == nearest[0]
    assert spread != nearest
    assert rows_of(picker(pool, "diverse", diverse_rule="farthest_first", num_candidates=5), target) != spread


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_near_duplicates_are_never_picked(strategy: str):
    pool = with_facts(toy_pool())
    facts = pool.facts[7]
    twin = Target("new", "new", pool.text_MD[7], pool.audio_MD[7], facts)
    # Half of the pool or more is asked for, so that even `random` would take it some time.
    wanted = {"num_examples": 59}
    assert strategy == "random" or 7 in rows_of(picker(pool, strategy, near_duplicate_cosine=1.1), twin)
    assert 7 not in rows_of(picker(pool, strategy, **wanted), twin)
    assert not allowed_rows(twin, pool, near_duplicate_cosine=0.98)[7]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_author_has_more_examples_than_allowed(strategy: str):
    pool = replace(with_facts(toy_pool()), authors=["abcdef"[row // 3 % 6] if row < 50 else "" for row in range(60)])
    pick = picker(pool, strategy, max_per_author=1, num_examples=4)
    free = picker(pool, strategy, num_examples=4)
    changed = 0
    for row in range(60):
        target = target_of(pool, row)
        rows = rows_of(pick, target)
        authors = [pool.authors[row] for row in rows if pool.authors[row]]
        assert len(rows) == 4
        assert len(set(authors)) == len(authors)
        changed += rows != rows_of(free, target)
    assert changed > 10


def test_without_enough_clips_by_other_authors_fewer_are_given():
    pool = replace(with_facts(toy_pool()), authors=["a"] * 60)
    for strategy in STRATEGIES:
        assert len(rows_of(picker(pool, strategy, max_per_author=2), target_of(pool, 0))) == 2


def test_the_cap_passes_over_authors_that_have_their_share():
    assert cap_authors([0, 0, 1, -1, -1, 0, 1], 9, max_per_author=1) == [0, 2, 3, 4]
    assert cap_authors([0, 0, 1, -1], 3, max_per_author=0) == [0, 1, 2]


def test_random_picks_depend_on_seed_and_key_alone():
    pool = toy_pool()
    one, other = picker(pool, "random"), picker(pool, "random", seed=4)
    a, b = target_of(pool, 0), target_of(pool, 1)
    assert one(a) == (one(b), one(a))[1]
    assert rows_of(one, a) != rows_of(one, b)
    assert rows_of(one, a) != rows_of(other, a)


def test_random_picks_are_spread_evenly():
    pool = toy_pool()
    pick = picker(pool, "random")
    counts = np.zeros(60)
    for n in range(600):
        for row in rows_of(pick, Target(f"t{n}", "none", pool.text_MD[0], pool.audio_MD[0] * 0)):
            counts[row] += 1
    # 3,000 draws over 60 clips: 50 each, with a standard deviation of 7.
    assert 25 < counts.min() <= counts.max() < 80


@pytest.mark.parametrize("strategy", ["semantic", "diverse", "structured", "oracle"])
def test_equal_clips_are_taken_in_key_order(strategy: str):
    """All 40 clips are alike, so that the tie reaches far beyond what is wanted."""
    one = unit(np.random.default_rng(5), 2)
    same = np.tile(one[:1], (40, 1))
    pool = with_facts(Pool([f"k{n:03d}" for n in range(40)], {}, same, same))
    target = Target("t", "none", one[1], one[1], pool.facts[0])
    assert rows_of(picker(pool, strategy, num_examples=3), target) == [0, 1, 2]


def test_a_tie_at_the_last_place_goes_to_the_smaller_row():
    rows_MD = np.concatenate([np.eye(4, dtype=np.float32)[1:2]] * 30 + [np.eye(4, dtype=np.float32)[:1]])
    index = ExactIndex(rows_MD)
    query = np.array([[1.0, 0.5, 0, 0]], np.float32)
    for num_rows in range(1, 31):
        assert index.search(query, num_rows)[1].tolist() == [[30, *range(num_rows - 1)]]
    assert index.search(query, 0)[1].shape == (1, 0)


def test_ties_go_to_the_smaller_row():
    rows_MD = np.tile(np.eye(4, dtype=np.float32)[:1], (6, 1))
    _, rows_BN = ExactIndex(rows_MD).search(rows_MD[:1], 6)
    assert rows_BN.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_search_for_more_than_there_is_gives_all():
    index = ExactIndex(np.eye(3, dtype=np.float32))
    assert len(index) == 3
    assert index.search(np.eye(3, dtype=np.float32), 9)[1].shape == (3, 3)


def test_joint_vectors_make_one_product_of_two_cosines():
    rng = np.random.default_rng(1)
    text, audio, query = unit(rng, 4), unit(rng, 4), unit(rng, 2)
    joint = joint_queries(query) @ joint_vectors(text, audio, text_weight=0.3).T
    assert np.allclose(joint, 0.3 * query @ text.T + 0.7 * query @ audio.T, atol=1e-6)


def test_stack_unit_restores_length_lost_to_half_floats():
    rows = list(unit(np.random.default_rng(2), 3).astype(np.float16))
    assert np.allclose(np.linalg.norm(stack_unit(rows, 8), axis=1), 1.0, atol=1e-6)
    assert stack_unit([], 8).shape == (0, 8)


SPLIT = {"t": "test", "a": "train", "b": "train", "v": "val", "s": "train"}
GROUP = {"t": "t", "a": "a", "b": "b", "v": "v", "s": "t"}


@pytest.mark.parametrize(
    ("target", "examples", "leak"),
    [
        ("t", ["a", "b"], None),
        ("a", ["a"], "its own example"),
        ("t", ["v"], "split val"),
        ("t", ["gone"], "split None"),
        ("t", ["s"], "same group"),
        ("t", ["a", "a"], "twice"),
    ],
)
def test_the_audit_finds_every_planted_leak(target: str, examples: list[str], leak: str | None):
    found = find_leak([("b", ["a"]), (target, examples)], split=SPLIT, group=GROUP)
    assert (found is None) if leak is None else (found is not None and leak in found and target in found)


def test_the_audit_finds_an_example_that_sounds_like_its_target():
    rng = np.random.default_rng(3)
    audio = unit(rng, 4).astype(np.float16)
    assert find_near_duplicate(audio, near_duplicate_cosine=0.98) is None
    audio[2] = 0.5 * audio[0]
    assert find_near_duplicate(audio, near_duplicate_cosine=0.98) == 1
    assert find_near_duplicate(audio[:1], near_duplicate_cosine=0.98) is None
