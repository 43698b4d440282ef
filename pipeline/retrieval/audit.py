"""A second, separately written look for leaks: no code of the strategies, their filters or the split is used here.

P pairs of a target and an example, T and U frames of a fingerprint, B vectors, D embedding.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_COPY_ERROR = 0.15
"""Measured on 46 clips: copies through mp3 at 64 kbit/s and half the level have 0.05 in the median and are below this
in 42; 990 pairs of unrelated clips have 0.58 and more."""
_MIN_CHANCE_BITS = 60.0
"""Errors that chance must make for few errors to prove anything: silence makes none."""
_TARGETS_AT_ONCE = 512
_COSINE_MARGIN = 1e-4
"""Half floats and another order of sums move a cosine by less than this."""


class AuditClip(NamedTuple):
    """What is known of a clip, straight from ingest, embed and split.json."""

    split: str
    joined: str
    """Joined group."""
    ids: frozenset[tuple[str, str]]
    """Group ids by level, before joining; without levels that the split left out."""
    fingerprint: str
    acoustic_fingerprint: str


class Leak(NamedTuple):
    """An example that gives its target away."""

    target: str
    example: str
    kind: str

    def words(self) -> str:
        """Say it in a sentence."""
        return f"{self.target}: example {self.example} {self.kind}"


def first_leak(
    examples: Iterable[tuple[str, Sequence[str]]],
    clips: Mapping[str, AuditClip],
    *,
    audio_of: Callable[[Sequence[str]], NDArray[np.floating]],
    near_duplicate_cosine: float,
) -> Leak | None:
    """Look for the first leak in a finished index, in all ways that are known.

    Args:
        examples: target key and the keys of its examples.
        clips: all clips by key.
        audio_of: gives the audio embeddings [B, D] of some keys, of any length above 0.
        near_duplicate_cosine: audio at least this close counts as the same recording.
    """
    targets = iter(examples)
    while block := list(itertools.islice(targets, _TARGETS_AT_ONCE)):
        pairs = [(target, key) for target, keys in block for key in keys]
        found = [
            *_twice(block),
            *(Leak(*pair, kind) for pair in pairs for kind in _told(*pair, clips)),
        ]
        if found:
            return found[0]
        if not pairs:
            continue
        one_PD, other_PD = (audio_of(keys).astype(np.float64) for keys in zip(*pairs, strict=True))
        lengths_P = np.sqrt((one_PD**2).sum(axis=1) * (other_PD**2).sum(axis=1))
        close_P = (one_PD * other_PD).sum(axis=1) / lengths_P >= near_duplicate_cosine + _COSINE_MARGIN
        copied_P = _copies(
            [clips[t].acoustic_fingerprint for t, _ in pairs], [clips[e].acoustic_fingerprint for _, e in pairs]
        )
        for pair, is_close, is_copy in zip(pairs, close_P, copied_P, strict=True):
            if is_close or is_copy:
                return Leak(*pair, "sounds like it" if is_close else "is a copy of its recording, by its fingerprint")
    return None


def _twice(block: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Leak]:
    for target, keys in block:
        yield from (Leak(target, key, "comes twice") for n, key in enumerate(keys) if key in keys[:n])


def _told(target: str, key: str, clips: Mapping[str, AuditClip]) -> Iterator[str]:
    """What names and digests tell against an example."""
    if key == target:
        yield "is the target itself"
    elif target not in clips or key not in clips:
        yield "or its target is not in shards/ingest"
    else:
        one, other = clips[target], clips[key]
        if other.split != "train":
            yield f"is in split {other.split}, not train"
        if shared := sorted(one.ids & other.ids):
            yield f"is of the same {shared[0][0]} {shared[0][1]}"
        if one.joined == other.joined:
            yield f"is of the same group {one.joined}"
        if one.fingerprint == other.fingerprint:
            yield "holds the very same samples"


def group_ids(groups: Mapping[str, str], levels_left_out: Collection[str]) -> frozenset[tuple[str, str]]:
    """Group ids of a clip by level: a clip that may be of either of two songs is of both."""
    kept = ((level, group) for level, group in groups.items() if level not in levels_left_out)
    return frozenset(("song" if level.startswith("song_") else level, group) for level, group in kept)


def _copies(one: Sequence[str], other: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which pairs of acoustic fingerprints are of one recording [P]; pairs of equal lengths together."""
    words = [
        tuple(np.frombuffer(base64.b64decode(text), "<u4") for text in pair) for pair in zip(one, other, strict=True)
    ]
    by_length: dict[tuple[int, int], list[int]] = {}
    for number, (one_T, other_U) in enumerate(words):
        by_length.setdefault((len(one_T), len(other_U)), []).append(number)
    copied_P = np.zeros(len(words), np.bool_)
    for numbers in by_length.values():
        one_PT, other_PU = (np.stack([words[number][side] for number in numbers]) for side in (0, 1))
        copied_P[numbers] = copy_errors(one_PT, other_PU) < _MAX_COPY_ERROR
    return copied_P


def copy_errors(one_PT: NDArray[np.uint32], other_PU: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Bit errors of two fingerprints over those that chance would make, at the shift where they agree best [P].

    At least half of the shorter one must overlap; infinite where silence or a steady tone proves nothing.
    """
    num_T, num_U = one_PT.shape[1], other_PU.shape[1]
    best_P = np.full(len(one_PT), np.inf)
    for shift in range(-num_T, num_U):
        begin, end = max(0, -shift), min(num_T, num_U - shift)
        if end - begin < max(min(num_T, num_U) / 2, 1):
            continue
        one, other = one_PT[:, begin:end], other_PU[:, begin + shift : end + shift]
        num_bits = 32 * (end - begin)
        wrong_P, ones_P, others_P = (np.bitwise_count(part).sum(axis=1) for part in (one ^ other, one, other))
        chance_P = (
            ones_P * (num_bits - others_P.astype(np.float64)) + others_P * (num_bits - ones_P.astype(np.float64))
        ) / num_bits
        best_P = np.minimum(best_P, np.where(chance_P < _MIN_CHANCE_BITS, np.inf, wrong_P / np.maximum(chance_P, 1.0)))
    return best_P


# --- what pack checks ------------------------------------------------------------------------------------------------


def find_leak(
    examples: Iterable[tuple[str, Sequence[str]]], *, split: Mapping[str, str], group: Mapping[str, str]
) -> str | None:
    """Look for the first example that gives something away.

    Args:
        examples: target key and the keys of its examples.
        split: split by key.
        group: joined group by key.

    Returns:
        What leaks, in words; None if nothing does.
    """
    for target, keys in examples:
        for key in keys:
            if key == target:
                return f"{target}: is its own example"
            if split.get(key) != "train":
                return f"{target}: example {key} is in split {split.get(key)}, not train"
            if group[key] == group[target]:
                return f"{target}: example {key} is of the same group {group[target]}"
        if len(set(keys)) != len(keys):
            return f"{target}: an example comes twice"
    return None


def find_near_duplicate(audio_BD: NDArray[np.floating], *, near_duplicate_cosine: float) -> int | None:
    """Look for an example that sounds like its target.

    Args:
        audio_BD: audio embeddings, the target's first, of any length above 0.
        near_duplicate_cosine: audio at least this close counts as the same recording.

    Returns:
        Number of the first such example, from 0; None if there is none.
    """
    wide_BD = audio_BD.astype(np.float64)
    lengths_B = np.sqrt((wide_BD**2).sum(axis=1))
    cosines_B = (wide_BD[1:] * wide_BD[0]).sum(axis=1) / (lengths_B[1:] * lengths_B[0])
    # Half floats and another order of sums move the cosine by less than this.
    close = np.flatnonzero(cosines_B >= near_duplicate_cosine + 1e-4)
    return int(close[0]) if len(close) else None
