from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.draws import draw
from pipeline.retrieval.audit import find_leak, find_near_duplicate
from pipeline.retrieval.filters import Limits, Target, allowed_masks, cap_authors
from pipeline.retrieval.index import Pool, mix, stack_unit
from pipeline.retrieval.strategies import STRATEGIES, Picker, PickParams, drawn_rows

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
    assert not next(allowed_masks([twin], pool, Limits(0.98)))[7]


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


def test_mixed_vectors_make_one_product_of_two_cosines():
    rng = np.random.default_rng(1)
    text, audio, query = unit(rng, 4), unit(rng, 4), unit(rng, 2)
    mixed = query @ mix(text, audio, text_weight=0.3).T
    assert np.allclose(mixed, 0.3 * query @ text.T + 0.7 * query @ audio.T, atol=1e-6)


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


# --- all targets of a shard at once -----------------------------------------------------------------------------------


def crowded_pool(seed: int) -> tuple[Pool, list[Target]]:
    """Groups of up to 20, audio in four kinds, captions by few authors: most of what lies near is not allowed."""
    rng = np.random.default_rng(seed)
    rows, targets = int(rng.integers(30, 90)), 12
    audio = unit(rng, 4)[rng.integers(4, size=rows + targets)]
    audio = np.where(rng.random((rows + targets, 1)) < 0.5, audio, unit(rng, rows + targets)).astype(np.float32)
    text = unit(rng, 25)[rng.integers(25, size=rows + targets)]
    numbers = np.minimum(rng.integers(0, 9, rows + targets), rng.integers(0, 9, rows + targets))
    authors = [("", "a", "b", "c")[n] for n in rng.integers(4, size=rows + targets)]
    groups: dict[str, list[int]] = {}
    for row in range(rows):
        groups.setdefault(f"g{numbers[row]}", []).append(row)
    facts = [
        {"mode": frozenset({"minor"}), "tempo": frozenset({"slow"}), "instrument": frozenset({f"i{rng.integers(4)}"})}
        for _ in range(rows)
    ]
    pool = Pool(
        [f"k{row:03d}" for row in range(rows)], groups, audio[:rows], text[:rows], authors=authors[:rows], facts=facts
    )
    return pool, [
        Target(f"t{n}", f"g{numbers[n]}", text[n], audio[n], facts[0], authors[n]) for n in range(rows, rows + targets)
    ]


def by_hand(strategy: str, pool: Pool, target: Target, params: PickParams) -> list[int]:
    """What a strategy picks, one clip after another, every clip of the pool looked at."""

    def cosine(one: Float32, other: Float32) -> float:
        return float((one.astype(np.float64) * other.astype(np.float64)).sum())

    rows = range(len(pool.keys))
    if strategy == "random":
        draws = np.random.PCG64(draw(params.seed, "random", target.key)).random_raw(4000) % np.uint64(len(rows))
        order = list(dict.fromkeys(draws.tolist()))
        assert len(order) == len(rows)
    else:
        mixed, query = (pool.audio_MD, target.audio_D) if strategy == "oracle" else (pool.mixed(0.5), target.query_D)
        order = sorted(rows, key=lambda row: (-round(cosine(mixed[row], query), 12), row))
    picked: list[int] = []
    for row in order:
        same_author = [p for p in picked if pool.authors[p] and pool.authors[p] == pool.authors[row]]
        if (
            row not in pool.groups.get(target.group, [])
            and cosine(pool.audio_MD[row], target.audio_D) < params.near_duplicate_cosine
            and not (params.other_authors_only and target.author and pool.authors[row] == target.author)
            and (not params.max_per_author or len(same_author) < params.max_per_author)
        ):
            picked.append(row)
    return picked[: params.num_examples]


LIMITS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "num_examples": st.integers(1, 12),
        "near_duplicate_cosine": st.sampled_from([0.4, 0.98]),
        "max_per_author": st.sampled_from([0, 1, 3]),
        "other_authors_only": st.booleans(),
        "num_candidates": st.sampled_from([3, 16]),
    }
)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), limits=LIMITS)
def test_nothing_is_lost_by_looking_only_as_deep_as_needed(seed: int, limits: dict[str, int]):
    pool, targets = crowded_pool(seed)
    params = PickParams(**limits)
    for strategy in ("random", "semantic", "oracle"):
        many = STRATEGIES[strategy](pool, params).many(targets)
        expected = [by_hand(strategy, pool, target, params) for target in targets]
        assert [[row for row, _ in picks.ranked] for picks in many] == expected


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), limits=LIMITS)
def test_all_targets_at_once_get_what_each_gets_alone(seed: int, limits: dict[str, int]):
    pool, targets = crowded_pool(seed)
    for strategy in STRATEGIES:
        pick = STRATEGIES[strategy](pool, PickParams(**limits))
        many = pick.many(targets)
        assert many == [pick(target) for target in targets]
        assert pick.many(targets[::-1]) == many[::-1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_targets_get_no_picks(strategy: str):
    assert picker(with_facts(toy_pool()), strategy).many([]) == []


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000))
def test_the_order_of_equal_pools_changes_no_example(seed: int):
    """Rows are in key order whatever the shards were; here the same clips under the same keys in another order."""
    pool, targets = crowded_pool(seed)
    order = np.random.default_rng(seed).permutation(len(pool.keys))
    place = {int(row): n for n, row in enumerate(order)}
    other = Pool(
        [pool.keys[row] for row in order],
        {group: [place[row] for row in rows] for group, rows in pool.groups.items()},
        pool.audio_MD[order],
        pool.text_MD[order],
    )
    for strategy in ("semantic", "oracle"):
        one, two = (STRATEGIES[strategy](p, PickParams()).many(targets) for p in (pool, other))
        # The scores to the last bit; the clips, but for ties, which go by row.
        assert [[s for _, s in picks.ranked] for picks in one] == [[s for _, s in picks.ranked] for picks in two]


def test_diverse_looks_further_where_one_author_wrote_all_that_is_near():
    pool = toy_pool()
    target = Target("t", "none", pool.text_MD[0], pool.audio_MD[0] * 0)
    nearest = rows_of(picker(pool, "semantic", num_examples=20), target)
    pool = replace(pool, authors=["a" if row in nearest else "b" for row in range(60)])
    found = rows_of(picker(pool, "diverse", num_candidates=5, max_per_author=1, num_examples=2), target)
    assert [pool.authors[row] for row in found] == ["a", "b"]


def test_other_authors_only_is_for_targets_whose_author_is_known():
    pool = replace(toy_pool(), authors=["a", "b", ""] * 20)
    target = Target("t", "none", pool.text_MD[0], pool.audio_MD[0] * 0, author="a")
    for strategy in ("random", "semantic", "diverse", "oracle", "structured"):
        pick = picker(with_facts(pool), strategy, other_authors_only=True, num_examples=30)
        assert {pool.authors[row] for row in rows_of(pick, target)} == {"b", ""}
        assert {pool.authors[row] for row in rows_of(pick, replace(target, author=""))} == {"a", "b", ""}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 300), depth=st.integers(1, 400))
def test_drawn_rows_are_the_beginning_of_one_order_of_all(seed: int, rows: int, depth: int):
    whole = drawn_rows(seed, rows, rows).tolist()
    assert sorted(whole) == list(range(rows))
    assert drawn_rows(seed, rows, depth).tolist() == whole[:depth]
