from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.retrieval.audit import find_leak, find_near_duplicate
from pipeline.retrieval.filters import Target, allowed_rows
from pipeline.retrieval.index import ExactIndex, Pool, joint_queries, joint_vectors, stack_unit
from pipeline.retrieval.strategies import Picks, random_picker, semantic_picker

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


def pickers(pool: Pool, near_duplicate_cosine: float = 0.98) -> dict[str, Callable[[Target], Picks]]:
    return {
        "random": random_picker(pool, num_examples=5, near_duplicate_cosine=near_duplicate_cosine, seed=3),
        "semantic": semantic_picker(pool, num_examples=5, near_duplicate_cosine=near_duplicate_cosine, text_weight=0.5),
    }


def target_of(pool: Pool, row: int) -> Target:
    return Target(pool.keys[row], group_of(row), pool.text_MD[row], pool.audio_MD[row])


@pytest.mark.parametrize("strategy", ["random", "semantic"])
def test_no_pick_shares_a_group_or_comes_twice(strategy: str):
    pool = toy_pool()
    pick = pickers(pool)[strategy]
    for row in range(len(pool.keys)):
        target = target_of(pool, row)
        rows = [picked for picked, _ in pick(target)]
        assert len(set(rows)) == 5
        assert all(group_of(picked) != target.group for picked in rows)


def test_semantic_picks_equal_a_plain_search():
    pool = toy_pool()
    pick = pickers(pool)["semantic"]
    for row in range(0, 60, 7):
        target = target_of(pool, row)
        scores = 0.5 * pool.text_MD @ target.query_D + 0.5 * pool.audio_MD @ target.query_D
        allowed = [n for n in np.argsort(-scores) if group_of(int(n)) != target.group][:5]
        picks = pick(target)
        assert [n for n, _ in picks] == allowed
        assert np.allclose([score for _, score in picks], scores[allowed], atol=1e-6)


def test_near_duplicates_are_never_picked():
    pool = toy_pool()
    twin = Target("new", "new", pool.text_MD[7], pool.audio_MD[7])
    assert 7 in [row for row, _ in pickers(pool, 1.1)["semantic"](twin)]
    assert 7 not in [row for row, _ in pickers(pool)["semantic"](twin)]
    assert not allowed_rows(twin, pool, near_duplicate_cosine=0.98)[7]


def test_random_picks_depend_on_seed_and_key_alone():
    pool = toy_pool()
    one = random_picker(pool, num_examples=5, near_duplicate_cosine=0.98, seed=3)
    other = random_picker(pool, num_examples=5, near_duplicate_cosine=0.98, seed=4)
    a, b = target_of(pool, 0), target_of(pool, 1)
    assert one(a) == (one(b), one(a))[1]
    assert [row for row, _ in one(a)] != [row for row, _ in one(b)]
    assert [row for row, _ in one(a)] != [row for row, _ in other(a)]


def test_random_picks_are_spread_evenly():
    pool = toy_pool()
    pick = pickers(pool)["random"]
    counts = np.zeros(60)
    for n in range(600):
        for row, _ in pick(Target(f"t{n}", "none", pool.text_MD[0], pool.audio_MD[0] * 0)):
            counts[row] += 1
    # 3,000 draws over 60 clips: 50 each, with a standard deviation of 7.
    assert 25 < counts.min() <= counts.max() < 80


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
