"""How long things are: frames, seconds and examples of a folder's samples, as quantiles and a small histogram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npy
from pipeline.inspection.folders import entries_of, find_folders, reading

QUANTILES = {"least": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "most": 100}
MAX_BINS = 12
BAR_LETTERS = 40


def tell_lengths(path: Path) -> Iterator[str]:
    """Tell the distribution of every length that the samples of folders have."""
    for folder, tars in find_folders(path).items():
        yield f"{folder}:"
        values: dict[str, list[float]] = {}
        for entry, tar in zip(entries_of(folder, tars), tars, strict=True):
            for sample in ShardFile(tar, entry) if entry.num_samples else ():
                with reading(tar, sample.key):
                    found = sample_lengths(sample)
                for name, value in found.items():
                    values.setdefault(name, []).append(value)
        for name in sorted(values):
            yield from distribution_in_words(name, values[name])
        if not values:
            yield "  no samples"


def sample_lengths(sample: Sample) -> dict[str, float]:
    """Measure a sample by what its members tell.

    Returns:
        Values by a name that ends in the unit.
    """
    members = sample.members
    found: dict[str, float] = {"sample, bytes": sum(map(len, members.values()))}
    meta = decode_json(members["json"]) if "json" in members else {}
    if isinstance(meta, dict):
        found |= _clip_lengths(meta) if "num_samples" in meta else {}
        found |= _episode_lengths(meta, members) if "codec" in meta and "target.npy" in members else {}
        found |= {"captions": len(meta["captions"])} if "captions" in meta else {}
    if "codes.npy" in members:
        found["codes, frames"] = decode_npy(members["codes.npy"]).shape[-1]
    if "examples.json" in members:
        found["examples ranked"] = len(decode_json(members["examples.json"])["examples"])
    for name in ("lyrics.json", "asr.json"):
        if name in members:
            found[f"{name}, phrases"] = len(decode_json(members[name])["phrases"])
    return found


def _clip_lengths(meta: Mapping[str, Any]) -> dict[str, float]:
    return {"clip, seconds": meta["num_samples"] / meta["sample_rate_hz"]}


def _episode_lengths(meta: Mapping[str, Any], members: Mapping[str, bytes | memoryview]) -> dict[str, float]:
    target_frames = decode_npy(members["target.npy"]).shape[-1]
    frames = [example["num_frames"] for example in meta["examples"]]
    total = target_frames + sum(frames)
    found = {
        "target, frames": target_frames,
        "target, seconds": target_frames / meta["codec"]["frame_rate_hz"],
        "examples": len(frames),
        "target and examples, frames": total,
        "target and examples, seconds": total / meta["codec"]["frame_rate_hz"],
        "prompt, letters": len(meta["prompt"]),
    }
    return found | ({"longest example, frames": max(frames), "shortest example, frames": min(frames)} if frames else {})


def distribution_in_words(name: str, values: list[float]) -> Iterator[str]:
    """Draw one distribution: quantiles in a line, and bars unless all values are equal."""
    array_N = np.asarray(values, dtype=np.float64)
    quantiles = np.percentile(array_N, list(QUANTILES.values()), method="inverted_cdf")
    yield f"  {name}: {len(values)} values, sum {array_N.sum():,.10g}"
    yield "    " + "  ".join(f"{word} {_number(q)}" for word, q in zip(QUANTILES, quantiles, strict=True))
    if array_N.min() == array_N.max():
        return
    counts_M, edges_M = np.histogram(array_N, bins=_edges(array_N))
    width = max(len(_number(edge)) for edge in edges_M)
    for count, low, high in zip(counts_M, edges_M, edges_M[1:], strict=False):
        bar = "#" * -(-int(count) * BAR_LETTERS // int(counts_M.max()))
        yield f"    {_number(low):>{width}} up to {_number(high):>{width}}  {count:6d}  {bar}".rstrip()


def _edges(array_N: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    low, high = float(array_N.min()), float(array_N.max())
    if (array_N == np.round(array_N)).all():
        step = -(-int(high - low + 1) // MAX_BINS)
        return np.arange(low, high + step + 1, step)
    return np.linspace(low, high, MAX_BINS + 1)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
