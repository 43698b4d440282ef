"""The pool of possible examples.

B queries, M pool clips, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import Facts

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pool:
    """Train clips, in key order."""

    keys: Sequence[str]
    groups: dict[str, list[int]]
    """Rows of each joined group."""
    audio_MD: Float32
    """Unit-length audio embeddings."""
    text_MD: Float32
    """Unit-length embeddings of the caption in use."""
    captions: Sequence[str] = ()
    """The caption in use of each clip; empty unless somebody asks for texts, as are the next two."""
    authors: Sequence[str] = ()
    """Author of the caption in use, "" where it is not known."""
    facts: Sequence[Facts] = ()
    """What caption, tags and audio of each clip tell."""
    mixed_by_weight: dict[float, Float32] = field(default_factory=dict[float, Float32])
    """What `mixed` gives, as far as it is known, by the weight of the text."""
    device: str = "cpu"
    """Where queries are multiplied with the pool, cpu or cuda; the answers are the same."""

    def mixed(self, text_weight: float) -> Float32:
        """Weighted means of text and audio [M, D]: a product with them is the weighted sum of two cosines."""
        if text_weight not in self.mixed_by_weight:
            self.mixed_by_weight[text_weight] = mix(self.text_MD, self.audio_MD, text_weight=text_weight)
        return self.mixed_by_weight[text_weight]

    def author_numbers(self) -> NDArray[np.int64]:
        """Number of each clip's author [M], -1 where it is not known."""
        numbers: dict[str, int] = {"": -1}
        authors = self.authors or [""] * len(self.keys)
        return np.array([numbers.setdefault(author, len(numbers)) for author in authors], np.int64)


def mix(text_BD: Float32, audio_BD: Float32, *, text_weight: float) -> Float32:
    """Weighted means of text and audio vectors [B, D], not of unit length."""
    return (np.float32(text_weight) * text_BD + np.float32(1.0 - text_weight) * audio_BD).astype(np.float32, copy=False)


def stack_unit(rows: Sequence[NDArray[np.float16]], dim: int) -> Float32:
    """Stack float16 vectors and bring them back to unit length.

    Args:
        rows: vectors [D].
        dim: D, for an empty list.
    """
    stacked_BD = np.stack(rows).astype(np.float32) if len(rows) else np.zeros((0, dim), np.float32)
    return stacked_BD / np.maximum(np.linalg.norm(stacked_BD, axis=1, keepdims=True), 1e-12)
