"""The pool of possible examples, and exact search in it.

B queries, M pool clips, D embedding, k examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import Facts

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pool:
    """Train clips, in key order."""

    keys: list[str]
    groups: dict[str, list[int]]
    """Rows of each joined group."""
    audio_MD: Float32
    """Unit-length audio embeddings."""
    text_MD: Float32
    """Unit-length embeddings of the caption in use."""
    captions: list[str] = field(default_factory=list[str])
    """The caption in use of each clip; empty unless somebody asks for texts, as are the next two."""
    authors: list[str] = field(default_factory=list[str])
    """Author of the caption in use, "" where it is not known."""
    facts: list[Facts] = field(default_factory=list[Facts])
    """What caption, tags and audio of each clip tell."""

    def author_numbers(self) -> NDArray[np.int64]:
        """Number of each clip's author [M], -1 where it is not known."""
        numbers: dict[str, int] = {"": -1}
        authors = self.authors or [""] * len(self.keys)
        return np.array([numbers.setdefault(author, len(numbers)) for author in authors], np.int64)


class ExactIndex:
    """Inner-product search over all rows; ties go to the smaller row.

    Args:
        rows_MD: vectors to search.
    """

    def __init__(self, rows_MD: Float32) -> None:
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(rows_MD.shape[1])
        self._index.add(np.ascontiguousarray(rows_MD, np.float32))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, query_BD: Float32, num_rows: int) -> tuple[Float32, NDArray[np.int64]]:
        """Find the rows with the largest inner products.

        Args:
            query_BD: queries.
            num_rows: rows per query; at most the size of the index is given.

        Returns:
            Scores [B, n] in falling order and row numbers [B, n].
        """
        wanted = min(num_rows, len(self))
        scores_BN, rows_BN = self._search_past_ties(np.ascontiguousarray(query_BD, np.float32), wanted)
        order_BN = np.lexsort((rows_BN, -scores_BN), axis=1)[:, :wanted]
        return np.take_along_axis(scores_BN, order_BN, 1), np.take_along_axis(rows_BN, order_BN, 1)

    def _search_past_ties(self, query_BD: Float32, wanted: int) -> tuple[Float32, NDArray[np.int64]]:
        """Search so deep that no row which ties with the last wanted one is left behind: faiss takes any of them."""
        num_rows = min(wanted + 1, len(self))
        while True:
            scores_BN, rows_BN = self._index.search(query_BD, num_rows)
            if num_rows == len(self) or not wanted or (scores_BN[:, -1] < scores_BN[:, wanted - 1]).all():
                return scores_BN, rows_BN
            num_rows = min(2 * num_rows, len(self))


def joint_vectors(text_BD: Float32, audio_BD: Float32, *, text_weight: float) -> Float32:
    """Put text and audio vectors side by side so that one inner product is the weighted sum of two cosines.

    Only the pool's side carries the weights; its queries come from `joint_queries`.

    Returns:
        Vectors [B, 2 D].
    """
    return np.concatenate([text_weight * text_BD, (1.0 - text_weight) * audio_BD], axis=1).astype(np.float32)


def joint_queries(query_BD: Float32) -> Float32:
    """Repeat a text query so that it meets the text and the audio half of `joint_vectors`."""
    return np.concatenate([query_BD, query_BD], axis=1).astype(np.float32)


def stack_unit(rows: Sequence[NDArray[np.float16]], dim: int) -> Float32:
    """Stack float16 vectors and bring them back to unit length.

    Args:
        rows: vectors [D].
        dim: D, for an empty list.
    """
    stacked_BD = np.stack(rows).astype(np.float32) if rows else np.zeros((0, dim), np.float32)
    return stacked_BD / np.maximum(np.linalg.norm(stacked_BD, axis=1, keepdims=True), 1e-12)
