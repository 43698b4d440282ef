"""Exact search: a fast product proposes, and a slow one decides.

faiss, or the GPU, works in single floats, whose last bits depend on block sizes, threads and the kind of machine. So
what they propose is worked out again for each pair by itself, in double floats: order, ties and scores depend on the
two vectors alone.

B queries, M rows, D embedding, C proposed rows per query, P pairs of a query and a row.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from pipeline.retrieval.index import Float32

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Product = Callable[[Float32, int], tuple[Float32, Ints]]
"""Gives the scores and rows [B, C] that are largest by single floats, in falling order."""

_SPARE_ROWS = 3
"""Proposed beyond those wanted, so that a few equal scores need no second search."""
_QUERIES_AT_ONCE = 1024
_GPU_SCORES_AT_ONCE = 1 << 26
_PAIRS_AT_ONCE = 256
"""Small enough to stay in the cache."""
# Newer kinds of CPU that faiss's OpenBLAS (0.3.15 in faiss-cpu 1.15) does not know run as these.
_CORE_TYPES = dict.fromkeys(("SkylakeX", "Cooperlake", "SapphireRapids"), "SkylakeX") | {
    "Haswell": "Haswell",
    "Zen": "Zen",
}


class Ranked(NamedTuple):
    """Pairs by query, the best row first."""

    query_P: Ints
    row_P: Ints
    score_P: Floats

    def where(self, kept_P: NDArray[np.bool_]) -> Ranked:
        """Keep some of the pairs."""
        return Ranked(self.query_P[kept_P], self.row_P[kept_P], self.score_P[kept_P])


NOTHING = Ranked(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def pair_products(one_XD: Float32, other_YD: Float32, one_P: Ints, other_P: Ints) -> Floats:
    """Inner products of pairs of rows [P], each as if it stood alone."""
    products_P = np.empty(len(one_P))
    for start in range(0, len(one_P), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        ones, others = one_XD[one_P[chunk]].astype(np.float64), other_YD[other_P[chunk]].astype(np.float64)
        products_P[chunk] = np.einsum("pd,pd->p", ones, others)
    return products_P


class ExactIndex:
    """Inner-product search over all rows; ties go to the smaller row.

    Args:
        rows_MD: vectors to search, at most of length 1; may be mapped from a file, and is not copied on the CPU.
        device: cpu or cuda; the answers are the same.
    """

    def __init__(self, rows_MD: Float32, *, device: str = "cpu") -> None:
        self.rows_MD = rows_MD
        # Single floats cannot be further off than this, in any order of the sum (Higham, Accuracy and Stability of
        # Numerical Algorithms, 2002, section 3.1); twice, for the two rows that are compared.
        self._margin = 2.0 * (rows_MD.shape[1] + 2) * 2.0**-24
        self._product = flat_product(rows_MD) if device == "cpu" else torch_product(rows_MD, device)

    def __len__(self) -> int:
        return len(self.rows_MD)

    def search(self, query_BD: Float32, num_rows: int) -> Ranked:
        """Find the rows with the largest inner products.

        Args:
            query_BD: queries of length 1, or 0.
            num_rows: rows per query; at most the size of the index is given.
        """
        query_BD = np.ascontiguousarray(query_BD, np.float32)
        wanted = min(num_rows, len(self))
        starts = range(0, len(query_BD) if wanted else 0, _QUERIES_AT_ONCE)
        parts = [self._search_block(query_BD[start : start + _QUERIES_AT_ONCE], wanted) for start in starts]
        return Ranked(
            np.concatenate(
                [NOTHING.query_P, *(part.query_P + start for part, start in zip(parts, starts, strict=True))]
            ),
            np.concatenate([NOTHING.row_P, *(part.row_P for part in parts)]),
            np.concatenate([NOTHING.score_P, *(part.score_P for part in parts)]),
        )

    def _search_block(self, query_BD: Float32, wanted: int) -> Ranked:
        num_proposed = min(wanted + _SPARE_ROWS, len(self))
        pairs: list[tuple[Ints, Ints]] = []
        todo_B = np.arange(len(query_BD))
        while len(todo_B):
            score_BC, row_BC = self._product(query_BD[todo_B], num_proposed)
            may_win_BC = score_BC >= score_BC[:, wanted - 1 : wanted] - self._margin
            # If the last one may win, so may one that was not proposed: those queries are asked again, for more.
            is_done_B = ~may_win_BC[:, -1] | (num_proposed == len(self))
            place_P, column_P = np.nonzero(may_win_BC & is_done_B[:, None])
            pairs.append((todo_B[place_P], row_BC[place_P, column_P]))
            todo_B = todo_B[~is_done_B]
            num_proposed = min(4 * num_proposed, len(self))
        query_P, row_P = (np.concatenate(column) for column in zip(*pairs, strict=True))
        score_P = pair_products(query_BD, self.rows_MD, query_P, row_P)
        return first_of_each(Ranked(query_P, row_P, score_P), wanted)


def first_of_each(ranked: Ranked, num_rows: int) -> Ranked:
    """Sort pairs by query, score and row, and keep the first few of each query."""
    order_P = np.lexsort((ranked.row_P, -ranked.score_P, ranked.query_P))
    ordered = Ranked(ranked.query_P[order_P], ranked.row_P[order_P], ranked.score_P[order_P])
    place_P = np.arange(len(order_P))
    is_first_P = np.diff(ordered.query_P, prepend=-1) != 0
    return ordered.where(place_P - np.maximum.accumulate(np.where(is_first_P, place_P, 0)) < num_rows)


# --- products --------------------------------------------------------------------------------------------------------


def flat_product(rows_MD: Float32) -> Product:
    """Search by faiss's flat index, over the rows where they lie."""
    faiss = import_faiss()
    rows_MD = np.ascontiguousarray(rows_MD, np.float32)
    return lambda query_BD, num_rows: faiss.knn(query_BD, rows_MD, num_rows, faiss.METRIC_INNER_PRODUCT)


def torch_product(rows_MD: Float32, device: str) -> Product:
    """Search by torch, the rows in the memory of the device."""
    import torch

    rows = torch.from_numpy(np.array(rows_MD, np.float32)).to(device)

    def nearest(query_BD: Float32, num_rows: int) -> tuple[Float32, Ints]:
        at_once = max(_GPU_SCORES_AT_ONCE // len(rows_MD), 1)
        found = [
            torch.topk(part.to(device) @ rows.T, num_rows, dim=1) for part in torch.from_numpy(query_BD).split(at_once)
        ]
        return (
            np.concatenate([top.values.cpu().numpy() for top in found]),
            np.concatenate([top.indices.cpu().numpy() for top in found]),
        )

    return nearest


@cache
def import_faiss() -> Any:
    """Import faiss so that it runs at the speed of this machine, on one thread.

    The OpenBLAS in its wheel takes newer CPUs for a Prescott of 2004, and is four times too slow on them. numpy's own
    knows better; what it says is handed over by the variable that OpenBLAS reads when it is loaded.
    """
    names = [info.get("architecture", "") for info in threadpool_info() if info["internal_api"] == "openblas"]
    core_type = next((_CORE_TYPES[name] for name in names if name in _CORE_TYPES), None)
    before = os.environ.get("OPENBLAS_CORETYPE")
    if core_type and before is None:
        os.environ["OPENBLAS_CORETYPE"] = core_type
    try:
        faiss = importlib.import_module("faiss")
    finally:
        if core_type and before is None:
            del os.environ["OPENBLAS_CORETYPE"]
    faiss.omp_set_num_threads(1)
    return faiss


def choose_product_device(wanted: str) -> str:
    """Say where the product runs: `cuda` if that is wanted, or if `auto` is and this machine has such a GPU.

    Loading torch takes seconds and memory: without a driver nobody asks it.
    """
    if wanted == "cpu" or (wanted == "auto" and not os.path.exists("/proc/driver/nvidia/version")):  # noqa: PTH110
        return "cpu"
    base = importlib.import_module("pipeline.models.base")
    return base.choose_device(wanted)
