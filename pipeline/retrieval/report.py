"""What a strategy picked, in figures: likeness, reuse, authors, corpora, fall-backs, overlap with other strategies.

X clips, P pairs of a target and one of its examples, D embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
_BLOCK_PAIRS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTable:
    """All clips that are targets or examples; of equals the first one is named."""

    keys: Sequence[str]
    text_XD: Floats
    """Unit-length embeddings of the caption in use."""
    audio_XD: Floats
    authors: Sequence[str]
    """Author of the caption in use, "" where it is not known."""
    corpora: Sequence[str]
    is_pool: Sequence[bool]
    """Whether the clip is train, and so may be an example."""


def report_picks(
    examples: Mapping[str, Mapping[str, Any]], table: ClipTable, *, strategy: str, num_too_few: int
) -> dict[str, Any]:
    """Describe what one strategy picked for all targets.

    Args:
        examples: content of `examples.json` by target's key.
        table: the clips.
        strategy: its name.
        num_too_few: targets that were dropped, for too few clips were allowed.
    """
    row_of = {key: row for row, key in enumerate(table.keys)}
    ranked = [(row_of[key], row_of[e["key"]], n) for key in sorted(examples) for n, e in _numbered(examples[key])]
    target_P, example_P, rank_P = np.array(ranked, np.int64).reshape(-1, 3).T
    pool = np.flatnonzero(np.asarray(table.is_pool, np.bool_))
    fallbacks = [value["fallback"] for value in examples.values() if "fallback" in value]
    return {
        "schema": 1,
        "strategy": strategy,
        "uses_target_audio": strategy == "oracle",
        "targets": len(examples),
        "targets_without_enough": num_too_few,
        "pool": len(pool),
        "similarity": _similarity(table, target_P, example_P),
        "reuse": _reuse(table, example_P, pool),
        "same_author": _same(table.authors, target_P, example_P, rank_P=rank_P, pool=pool),
        "same_corpus": _same(table.corpora, target_P, example_P, rank_P=rank_P, pool=pool),
        "fallbacks": {
            "share": round(len(fallbacks) / max(len(examples), 1), 4),
            "to": dict(sorted(Counter(f"{f['to']}: {f['why']}" for f in fallbacks).items())),
        },
        "varied": dict(sorted(Counter(value["varied"] for value in examples.values() if "varied" in value).items())),
    }


def _numbered(value: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from enumerate(value["examples"])


def _similarity(table: ClipTable, target_P: Ints, example_P: Ints) -> dict[str, dict[str, float]]:
    """Cosines in measures that all strategies share, whatever their own score is."""
    text_XD, audio_XD = table.text_XD, table.audio_XD
    pairs = {"text_text": (text_XD, text_XD), "text_audio": (text_XD, audio_XD), "audio_audio": (audio_XD, audio_XD)}
    return {name: distribution(_cosines(a[0], a[1], target_P, example_P)) for name, a in pairs.items()}


def _cosines(target_XD: Floats, example_XD: Floats, target_P: Ints, example_P: Ints) -> Floats:
    blocks = [
        np.einsum(
            "pd,pd->p",
            target_XD[target_P[start : start + _BLOCK_PAIRS]].astype(np.float64),
            example_XD[example_P[start : start + _BLOCK_PAIRS]].astype(np.float64),
        )
        for start in range(0, len(target_P), _BLOCK_PAIRS)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0)


def distribution(values_P: Floats) -> dict[str, float]:
    """Mean and the 5th, 50th and 95th percentile; empty for no values."""
    if not len(values_P):
        return {}
    p5, p50, p95 = np.percentile(values_P, [5, 50, 95])
    named = {"mean": values_P.mean(), "p5": p5, "p50": p50, "p95": p95}
    return {name: round(float(value), 4) for name, value in named.items()}


def _reuse(table: ClipTable, example_P: Ints, pool: Ints) -> dict[str, Any]:
    times_X = np.bincount(example_P, minlength=len(table.keys))
    most = int(pool[times_X[pool].argmax()])
    return {
        "used": int((times_X[pool] > 0).sum()),
        "most_used": table.keys[most],
        "most_used_times": int(times_X[most]),
        "gini": round(gini(times_X[pool]), 4),
    }


def gini(times: NDArray[np.integer]) -> float:
    """Gini coefficient of how often each clip of the pool was used: 0 all alike, near 1 a few serve everybody."""
    total = int(times.sum())
    if not total:
        return 0.0
    ranks = np.arange(1, len(times) + 1)
    return float((2 * (ranks * np.sort(times)).sum() / total - (len(times) + 1)) / len(times))


def _same(labels: Sequence[str], target_P: Ints, example_P: Ints, *, rank_P: Ints, pool: Ints) -> dict[str, Any]:
    """How often target and example bear the same label; chance is that of an example drawn from the whole pool."""
    _, numbers_X = np.unique(np.asarray(labels), return_inverse=True)
    known_X = np.asarray([bool(label) for label in labels], np.bool_)
    known_P = known_X[target_P] & known_X[example_P]
    same_P = numbers_X[target_P] == numbers_X[example_P]
    if not known_P.any():
        return {"pairs": 0}
    share_of = np.bincount(numbers_X[pool[known_X[pool]]], minlength=int(numbers_X.max()) + 1)
    chance_P = (share_of / share_of.sum())[numbers_X[target_P[known_P]]]
    nearest_P = known_P & (rank_P == 0)
    return {
        "pairs": int(known_P.sum()),
        "rate": round(float(same_P[known_P].mean()), 4),
        "nearest_rate": round(float(same_P[nearest_P].mean()), 4) if nearest_P.any() else None,
        "chance": round(float(chance_P.mean()), 4),
    }


def overlap(one: Mapping[str, Sequence[str]], other: Mapping[str, Sequence[str]]) -> float | None:
    """Share of examples that two strategies have in common, mean over the targets of both; None if they share none.

    Args:
        one: keys of the examples by target's key.
        other: the same of the other strategy.
    """
    shares = [
        len(set(one[key]) & set(other[key])) / min(len(one[key]), len(other[key]))
        for key in sorted(one.keys() & other.keys())
        if one[key] and other[key]
    ]
    return round(float(np.mean(shares)), 4) if shares else None
