"""Forced alignment without its search: from phrases to tokens before it, and from its path to times after it.

Shape letters: T frames, V vocabulary, L tokens of a text. Token 0 is the blank of CTC.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLANK = 0
STAR = -1
"""Stands for some sound of which nothing is known: a word without a reading."""
STAR_DISCOUNT = 0.5
"""What the star gets of the probability that anything sounds: above this share, a known sound beats it."""


class PhraseTimes(NamedTuple):
    """When a phrase is sung."""

    start_s: float
    end_s: float
    confidence: float
    """Geometric mean of the probabilities of its sounds, times the share of them that is known; 0 to 1."""


def spell(sounds: Iterable[str], ids: Mapping[str, int]) -> list[int]:
    """Turn sounds (moras or phonemes, as the aligner knows them) into tokens.

    Args:
        sounds: of one phrase, in order; none at all where it has no reading.
        ids: token of each sound that the aligner knows.

    Returns:
        At least one token; sounds that it does not know become a STAR, neighbours among them a single one.
    """
    tokens = [ids.get(sound, STAR) for sound in sounds] or [STAR]
    return [token for before, token in itertools.pairwise([BLANK, *tokens]) if not before == token == STAR]


def min_frames(tokens: Sequence[int]) -> int:
    """Fewest frames that hold a text: one per token, and a blank between two that are the same."""
    return len(tokens) + sum(left == right for left, right in itertools.pairwise(tokens))


def with_star(log_prob_TV: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add the star as the last column: a share of the probability that anything sounds.

    With all of that probability it would take frames from every neighbour, however sure of them the model is.

    Args:
        log_prob_TV: log-probabilities that sum to 1 over the vocabulary.
    """
    sounding_T = np.log(np.maximum(-np.expm1(np.minimum(log_prob_TV[:, BLANK], 0)), 1e-9) * STAR_DISCOUNT)
    return np.concatenate([log_prob_TV, sounding_T[:, None].astype(np.float32)], axis=1)


def path_spans(
    path_T: NDArray[np.int64], log_prob_T: NDArray[np.float32], tokens: Sequence[int], *, frame_s: float
) -> NDArray[np.float64]:
    """Read a path of CTC.

    Args:
        path_T: token of every frame, blank between and around; the star has an id of its own there.
        log_prob_T: log-probability of the path at every frame.
        tokens: the text that was aligned.
        frame_s: length of a frame.

    Returns:
        Start and end in seconds and confidence of every token [L, 3]; a STAR's confidence is 0.

    Raises:
        ValueError: the path is another text's.
    """
    edges = np.flatnonzero(np.diff(path_T, prepend=BLANK, append=BLANK))
    runs = [(start, end) for start, end in itertools.pairwise(edges) if path_T[start] != BLANK]
    if len(runs) != len(tokens):
        raise ValueError(f"a path of {len(runs)} tokens for a text of {len(tokens)}")
    spans_L3 = np.zeros((len(tokens), 3))
    for index, (token, (start, end)) in enumerate(zip(tokens, runs, strict=True)):
        confidence = 0.0 if token == STAR else math.exp(min(0.0, float(log_prob_T[start:end].mean())))
        spans_L3[index] = start * frame_s, end * frame_s, confidence
    return spans_L3


def time_phrases(
    phrases: Sequence[Sequence[str]], vocabulary: Sequence[str], align: Callable[[Sequence[int]], NDArray[np.float64]]
) -> list[PhraseTimes]:
    """Find when each phrase of a known text is sung.

    Args:
        phrases: the sounds of each, in the order in which they are sung; empty where there is no reading.
        vocabulary: the sounds that the aligner knows, by id.
        align: gives start, end and confidence [L, 3] of the tokens of the whole text.
    """
    ids = {sound: token for token, sound in enumerate(vocabulary) if token != BLANK}
    tokens = [spell(sounds, ids) for sounds in phrases]
    return phrase_times(align([token for phrase in tokens for token in phrase]), [len(phrase) for phrase in tokens])


def phrase_times(spans_L3: NDArray[np.float64], num_tokens: Sequence[int]) -> list[PhraseTimes]:
    """Join the spans of tokens to those of phrases.

    Args:
        spans_L3: start, end and confidence of all tokens of a text.
        num_tokens: how many of them each phrase has, in order; none of them is 0.
    """
    ends = np.cumsum(num_tokens)
    return [_join(spans_L3[end - count : end]) for end, count in zip(ends, num_tokens, strict=True)]


def _join(spans_L3: NDArray[np.float64]) -> PhraseTimes:
    known_L = spans_L3[spans_L3[:, 2] > 0, 2]
    confidence = math.exp(float(np.log(known_L).mean())) * len(known_L) / len(spans_L3) if known_L.size else 0.0
    return PhraseTimes(round(float(spans_L3[0, 0]), 3), round(float(spans_L3[-1, 1]), 3), round(confidence, 4))
