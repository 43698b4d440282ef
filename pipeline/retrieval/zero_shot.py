"""Genre and instrument of clips that nobody tagged: which label's prompt lies nearest to the audio in CLAP's space.

N clips, L labels, R phrasings of a label, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.facts import values_of

Float32 = NDArray[np.float32]
PHRASINGS: Mapping[str, tuple[str, ...]] = {
    "genre": ("{} music", "this is {} music", "a recording of {} music"),
    "instrument": ("{} music", "music played on {}", "a recording of {}"),
}
"""How a label is put into words, by attribute. A label's vector is the mean of all, so that no single wording decides
(Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 3.1.4)."""
MIN_PROBABILITY, MIN_MARGIN = 0.6, 0.3
"""A guess is believed if it has at least this probability, and leads the next one by this much. On the 120 clips of the
demo, by its small CLAP, that is 13 % of the clips, all named rightly; from 0.5 and 0.2 on 22 %, of which 78 %."""


class Guess(NamedTuple):
    """The best label of a clip."""

    label: str
    probability: float
    """Softmax over all labels."""
    margin: float
    """Probability less that of the second best label."""

    @property
    def is_sure(self) -> bool:
        """Whether to believe it."""
        return self.probability >= MIN_PROBABILITY and self.margin >= MIN_MARGIN


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """The values that an attribute may have, as vectors of the embedder that embedded the clips."""

    attribute: str
    labels: tuple[str, ...]
    vectors_LD: Float32
    """Of unit length."""


def label_prompts(attribute: str) -> dict[str, tuple[str, ...]]:
    """All phrasings of each value that an attribute may have: what the text tower must embed.

    Raises:
        KeyError: zero-shot knows no such attribute.
    """
    phrasings = PHRASINGS[attribute]
    return {label: tuple(phrasing.format(label) for phrasing in phrasings) for label in values_of(attribute)}


def make_label_set(attribute: str, embedded_LRD: Float32) -> LabelSet:
    """Make label vectors of embedded prompts.

    Args:
        attribute: genre or instrument.
        embedded_LRD: embeddings of `label_prompts(attribute)`, labels and phrasings in their order.

    Raises:
        ValueError: there are not as many embeddings as prompts.
    """
    prompts = label_prompts(attribute)
    if embedded_LRD.shape[:2] != (len(prompts), len(PHRASINGS[attribute])):
        raise ValueError(f"{attribute}: {embedded_LRD.shape[:2]} embeddings for {len(prompts)} labels")
    return LabelSet(attribute, tuple(prompts), _unit(_unit(embedded_LRD).mean(axis=1)))


def _unit(vectors: Float32) -> Float32:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))


def guess_labels(audio_ND: Float32, labels: LabelSet, *, scale: float) -> list[Guess]:
    """Name the label that each clip sounds most like.

    Args:
        audio_ND: audio embeddings; their length does not count.
        labels: at least two, embedded by the same model.
        scale: factor between cosine and logit that the model was trained with, `exp(logit_scale_a)`.

    Raises:
        ValueError: fewer than two labels, or vectors of another model.
    """
    if len(labels.labels) < 2 or audio_ND.shape[1] != labels.vectors_LD.shape[1]:
        raise ValueError(f"{labels.attribute}: labels {labels.vectors_LD.shape} do not suit audio {audio_ND.shape}")
    logits_NL = scale * (_unit(audio_ND) @ labels.vectors_LD.T).astype(np.float64)
    share_NL = np.exp(logits_NL - logits_NL.max(axis=1, keepdims=True))
    share_NL /= share_NL.sum(axis=1, keepdims=True)
    # Equal ones keep the order of the labels.
    order_NL = np.argsort(-share_NL, axis=1, kind="stable")
    ranked_NL = np.take_along_axis(share_NL, order_NL, axis=1)
    return [
        Guess(labels.labels[best], float(ranked[0]), float(ranked[0] - ranked[1]))
        for best, ranked in zip(order_NL[:, 0].tolist(), ranked_NL, strict=True)
    ]
