from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval.mmr import pick_diverse


def naive(relevance: np.ndarray, vectors: np.ndarray, num_picks: int, weight: float) -> list[int]:
    """Maximal marginal relevance as the paper writes it."""
    picks: list[int] = []
    while len(picks) < min(num_picks, len(relevance)):
        best, best_gain = -1, -np.inf
        for n in range(len(relevance)):
            if n in picks:
                continue
            closest = max((float(vectors[n] @ vectors[p]) for p in picks), default=0.0)
            gain = float(relevance[n]) if not picks else weight * float(relevance[n]) - (1 - weight) * closest
            if gain > best_gain:
                best, best_gain = n, gain
        picks.append(best)
    return picks


def candidates(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(random.uniform(-1, 1, count).astype(np.float32))[::-1].copy(), vectors


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 30),
    num_picks=st.integers(0, 12),
    weight=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
)
def test_picks_are_those_of_the_plain_loop(seed: int, count: int, num_picks: int, weight: float):
    relevance, vectors = candidates(seed, count)
    picks = pick_diverse(relevance, vectors, num_picks, relevance_weight=weight)
    assert picks.tolist() == naive(relevance, vectors, num_picks, weight)


def test_weight_nothing_goes_to_the_farthest():
    """On a circle: after the nearest candidate comes the opposite one, then those between."""
    angles = np.array([0.0, 0.1, 0.2, np.pi / 2, np.pi, 3 * np.pi / 2 + 0.01])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    relevance = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1], np.float32)
    picks = pick_diverse(relevance, vectors, 4, relevance_weight=0.0).tolist()
    assert picks[:2] == [0, 4]
    assert set(picks[2:]) == {3, 5}


def test_equal_candidates_are_picked_in_order():
    vectors = np.tile(np.float32([1.0, 0.0]), (5, 1))
    picks = pick_diverse(np.ones(5, np.float32), vectors, 3, relevance_weight=0.5)
    assert picks.tolist() == [0, 1, 2]


@pytest.mark.parametrize("most", [1, 2])
def test_no_author_is_picked_too_often(most: int):
    relevance, vectors = candidates(1, 20)
    authors = np.array([0] * 8 + [1] * 8 + [-1] * 4)
    options = {"relevance_weight": 0.7, "authors_C": authors}
    picks = authors[pick_diverse(relevance, vectors, 20, max_per_author=most, **options)]
    assert [int((picks == author).sum()) for author in (0, 1, -1)] == [most, most, 4]
    assert len(pick_diverse(relevance, vectors, 20, max_per_author=0, **options)) == 20
