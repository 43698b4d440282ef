"""Retrieval: MMR beside a loop as one would write it, and the strategies over a pool of 5,000; CPU seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool
from pipeline.retrieval.mmr import pick_diverse
from pipeline.retrieval.strategies import STRATEGIES, PickParams

pytestmark = pytest.mark.bench
NUM_CANDIDATES, NUM_PICKS, DIM = 64, 8, 512
NUM_QUERIES, NUM_POOL = 200, 5000


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = random.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def naive(relevance: np.ndarray, vectors: np.ndarray) -> list[int]:
    picks = [int(relevance.argmax())]
    while len(picks) < NUM_PICKS:
        gains = {
            n: 0.5 * relevance[n] - 0.5 * max(float(np.dot(vectors[n], vectors[p])) for p in picks)
            for n in range(len(relevance))
            if n not in picks
        }
        picks.append(max(gains, key=gains.__getitem__))
    return picks


def ours(relevance: np.ndarray, vectors: np.ndarray) -> list[int]:
    return pick_diverse(relevance, vectors, NUM_PICKS, relevance_weight=0.5).tolist()


def median_s(
    pick: Callable[[np.ndarray, np.ndarray], list[int]], queries: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    seconds: list[float] = []
    for _ in range(5):
        start = time.process_time()
        for relevance, vectors in queries:
            pick(relevance, vectors)
        seconds.append((time.process_time() - start) / len(queries))
    return statistics.median(seconds)


def test_mmr_against_a_plain_loop():
    random = np.random.default_rng(0)
    sorted_likeness = np.sort(random.uniform(0, 1, (NUM_QUERIES, NUM_CANDIDATES)).astype(np.float32))[:, ::-1]
    queries = list(zip(sorted_likeness, unit(random, NUM_QUERIES, NUM_CANDIDATES, DIM), strict=True))
    assert all(ours(*query) == naive(*query) for query in queries)
    naive_s, ours_s = median_s(naive, queries[:40]), median_s(ours, queries)
    print(f"\nmmr, plain loop: {1 / naive_s:,.0f} queries per CPU second")
    print(f"mmr, ours: {1 / ours_s:,.0f} queries per CPU second, {naive_s / ours_s:.0f} x the loop")
    assert naive_s / ours_s > 15  # half of the goal of 30: machines are noisy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_targets_a_second(strategy: str):
    random = np.random.default_rng(1)
    values = {"mode": 2, "tempo": 3, "genre": 12, "instrument": 15}
    facts = [
        {name: frozenset({f"v{random.integers(count)}"}) for name, count in values.items()} for _ in range(NUM_POOL)
    ]
    pool = Pool([f"k{n:05d}" for n in range(NUM_POOL)], {}, unit(random, NUM_POOL, DIM), unit(random, NUM_POOL, DIM))
    pool.facts.extend(facts if strategy == "structured" else [])
    said = {"mode": "minor", "tempo": "slow", "genre": "jazz", "instrument": "piano"}
    if strategy == "structured":
        pool.facts[:] = [
            {name: (frozenset({said[name]}) if v == {"v0"} else v) for name, v in f.items()} for f in facts
        ]
    pick = STRATEGIES[strategy](pool, PickParams(near_duplicate_cosine=1.1))
    prompt = {name: frozenset({value}) for name, value in said.items()}
    targets = [
        Target(f"t{n}", "none", *unit(random, 2, DIM), prompt if strategy == "structured" else {})
        for n in range(NUM_QUERIES)
    ]
    start = time.process_time()
    picked = [pick(target) for target in targets]
    seconds = (time.process_time() - start) / NUM_QUERIES
    assert all(len(picks.ranked) == 5 for picks in picked)
    print(f"\n{strategy}: {1 / seconds:,.0f} targets per CPU second over a pool of {NUM_POOL}")
