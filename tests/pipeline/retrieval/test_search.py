"""Exact search: the same answers from every engine, in every order, to the last tie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ParamsError
from pipeline.retrieval.search import ExactIndex, choose_product_device, pair_products, torch_product
from tests.conftest import REPOSITORY


def vectors(seed: int, rows: int, dim: int = 16, *, kinds: int | None = None) -> np.ndarray:
    """Unit vectors; with `kinds` only so many different ones, so that most of them tie."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(kinds or rows, dim))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made[random.integers(len(made), size=rows) if kinds else slice(None)].astype(np.float32)


def by_hand(rows: np.ndarray, query: np.ndarray, wanted: int) -> list[tuple[int, float]]:
    scores = [float((row.astype(np.float64) * query.astype(np.float64)).sum()) for row in rows]
    order = sorted(range(len(rows)), key=lambda n: (-round(scores[n], 12), n))
    return [(n, scores[n]) for n in order[:wanted]]


def found(index: ExactIndex, queries: np.ndarray, wanted: int) -> list[list[tuple[int, float]]]:
    ranked = index.search(queries, wanted)
    answers: list[list[tuple[int, float]]] = [[] for _ in queries]
    for query, row, score in zip(*ranked, strict=True):
        answers[int(query)].append((int(row), float(score)))
    return answers


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    kinds=st.sampled_from([None, 1, 2, 7]),
    wanted=st.integers(1, 20),
)
def test_the_nearest_rows_are_those_of_a_plain_loop(seed: int, rows: int, kinds: int | None, wanted: int):
    data, queries = vectors(seed, rows, kinds=kinds), vectors(seed + 1, 3)
    for query, answer in zip(queries, found(ExactIndex(data), queries, wanted), strict=True):
        expected = by_hand(data, query, wanted)
        assert [row for row, _ in answer] == [row for row, _ in expected]
        assert np.allclose([score for _, score in answer], [score for _, score in expected], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), kinds=st.sampled_from([None, 3]), wanted=st.integers(1, 12))
def test_the_product_of_a_gpu_gives_the_very_same(seed: int, kinds: int | None, wanted: int):
    """On the CPU device: what differs on a GPU are the last bits, which decide nothing."""
    data, queries = vectors(seed, 50, kinds=kinds), vectors(seed + 1, 4)
    index, other = ExactIndex(data), ExactIndex(data)
    other._product = torch_product(data, "cpu")
    assert found(other, queries, wanted) == found(index, queries, wanted)


def test_a_product_with_other_last_bits_changes_nothing():
    data, queries = vectors(0, 500, kinds=150), vectors(1, 40)
    index, noisy = ExactIndex(data), ExactIndex(data)
    random = np.random.default_rng(2)

    def product(query: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        scores = query @ data.T + random.uniform(-4e-7, 4e-7, (len(query), len(data))).astype(np.float32)
        order = np.argsort(-scores, axis=1)[:, :num_rows]
        return np.take_along_axis(scores, order, 1), order

    noisy._product = product
    assert found(noisy, queries, 7) == found(index, queries, 7)


def test_queries_are_answered_alone_as_in_a_crowd():
    data, queries = vectors(3, 300, kinds=90), vectors(4, 1500)
    index = ExactIndex(data)
    together = found(index, queries, 5)
    for n in (0, 1, 1023, 1024, 1499):
        assert found(index, queries[n : n + 1], 5) == [together[n]]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_moves_only_ties(seed: int):
    data, queries = vectors(seed, 40, kinds=9), vectors(seed + 1, 2)
    order = np.random.default_rng(seed).permutation(40)
    for plain, mixed in zip(
        found(ExactIndex(data), queries, 6), found(ExactIndex(data[order]), queries, 6), strict=True
    ):
        assert [score for _, score in plain] == [score for _, score in mixed]
        assert [data[row].tobytes() for row, _ in plain] == [data[order][row].tobytes() for row, _ in mixed]


def test_differences_below_single_floats_decide():
    data = np.zeros((40, 2), np.float32)
    data[:, 0] = 0.5
    data[23, 0] = np.nextafter(np.float32(0.5), np.float32(1))
    query = np.float32([[1.0, 0.0]])
    assert [row for row, _ in found(ExactIndex(data), query, 3)[0]] == [23, 0, 1]


def test_a_tie_that_reaches_far_goes_to_the_smaller_rows():
    data = np.concatenate([np.tile(np.eye(4, dtype=np.float32)[1], (300, 1)), np.eye(4, dtype=np.float32)[:1]])
    query = np.float32([[1.0, 0.5, 0, 0]])
    for wanted in (1, 2, 30, 300, 301):
        assert [row for row, _ in found(ExactIndex(data), query, wanted)[0]] == [300, *range(wanted - 1)]


def test_more_than_there_is_gives_all_and_nothing_gives_nothing():
    index = ExactIndex(np.eye(3, dtype=np.float32))
    assert len(index) == 3
    assert len(index.search(np.eye(3, dtype=np.float32), 9).row_P) == 9
    assert len(index.search(np.eye(3, dtype=np.float32), 0).row_P) == 0
    assert len(index.search(np.zeros((0, 3), np.float32), 2).row_P) == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), pairs=st.integers(1, 700))
def test_a_product_of_a_pair_does_not_depend_on_the_others(seed: int, pairs: int):
    one, other = vectors(seed, 30, 37), vectors(seed + 1, 30, 37)
    random = np.random.default_rng(seed)
    a, b = random.integers(30, size=(2, pairs))
    together = pair_products(one, other, a, b)
    n = int(random.integers(pairs))
    assert together[n] == pair_products(one, other, a[n : n + 1], b[n : n + 1])[0]


def test_without_a_gpu_the_cpu_works_unless_a_gpu_is_demanded(monkeypatch: pytest.MonkeyPatch):
    assert choose_product_device("cpu") == "cpu"
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert choose_product_device("auto") == "cpu"
    with pytest.raises(ParamsError, match=r"models\.device"):
        choose_product_device("gpu")


SAY_KERNELS = """
import json, os, sys
import numpy
from threadpoolctl import threadpool_info
from pipeline.retrieval.search import import_faiss
import_faiss()
kernels = [info["architecture"] for info in threadpool_info() if info["internal_api"] == "openblas"]
print(json.dumps([kernels, os.environ.get("OPENBLAS_CORETYPE")]))
"""


@pytest.mark.parametrize("own", [None, "Haswell"])
def test_faiss_runs_on_the_kernels_that_numpy_found(own: str | None, tmp_path: Path):
    """Its own OpenBLAS takes a newer CPU for one of 2004; a choice of the user's stands."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": own} if own else {}
    ran = subprocess.run(
        [sys.executable, "-c", SAY_KERNELS], cwd=REPOSITORY, env=environment, capture_output=True, check=True
    )
    kernels, left = json.loads(ran.stdout)
    assert left == own
    assert len(kernels) == 2
    known = kernels[0] in {"SkylakeX", "Haswell", "Zen"}
    assert not known or kernels[0] == kernels[1]
