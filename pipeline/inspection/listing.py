"""What a folder of shards holds, and one sample of it in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.provenance import MANIFEST_NAME, read_manifest
from pipeline.data.shards import ABSENT, Sample, ShardEntry, ShardFile, decode_json, decode_npy, decode_npz
from pipeline.errors import ParamsError
from pipeline.inspection.folders import entries_of, find_folders, reading


def list_shards(path: Path) -> Iterator[str]:
    """List the tars of folders, the columns they hold, and what the manifest counts."""
    for folder, tars in find_folders(path).items():
        entries = entries_of(folder, tars)
        yield f"{folder}:"
        for entry in entries:
            yield f"  {entry.name}  {entry.num_samples:6d} samples  {entry.num_bytes / 1e6:9.2f} MB"
        num_samples = sum(entry.num_samples for entry in entries)
        num_bytes = sum(entry.num_bytes for entry in entries)
        yield f"  {len(entries)} shards, {num_samples} samples, {num_bytes / 1e6:.2f} MB"
        for name in sorted({name for entry in entries for name in entry.members}):
            sizes = [size for entry in entries for size in _sizes(entry, name)]
            yield f"  {name:<14} in {len(sizes):6d} samples  {sum(sizes) / 1e6:9.2f} MB"
        if (folder / MANIFEST_NAME).is_file():
            yield from _counts(read_manifest(folder))


def _sizes(entry: ShardEntry, name: str) -> list[int]:
    return [size for size in entry.members.get(name, [])[1::2] if size != ABSENT]


def _counts(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts = manifest["counts"]
    yield f"  made by {manifest.get('stage', 'a stage that it does not name')}"
    yield f"  items in {counts['in']}, used {counts['used']}, dropped {counts['dropped']}"
    yield f"  clips out {counts['out']}, dropped {counts['clips_dropped']}"


def show_sample(path: Path, key: str | None) -> Iterator[str]:
    """Tell one sample in words: the one with the key, or the first.

    Raises:
        ParamsError: no such sample.
    """
    for folder, tars in find_folders(path).items():
        for entry, tar in zip(entries_of(folder, tars), tars, strict=True):
            if entry.num_samples and (key is None or key in entry.keys):
                sample = ShardFile(tar, entry)[0 if key is None else entry.keys.index(key)]
                yield f"{tar}: {sample.key}"
                with reading(tar, sample.key):
                    yield from _story(sample)
                    for name, data in sample.members.items():
                        yield f"  {name}: {member_in_words(name, data)}"
                return
    raise ParamsError(
        f"{path}: no sample{f' {key}' if key else ''}; `python -m pipeline ls {path}` tells what there is"
    )


def _story(sample: Sample) -> Iterator[str]:
    """Read a packed sample as a person would: the prompt, and what stands before it."""
    meta = decode_json(sample.members["json"]) if "json" in sample.members else {}
    if not isinstance(meta, dict) or not {"prompt", "examples", "codec"} <= set(meta):
        return
    rate_hz: float = meta["codec"]["frame_rate_hz"]
    yield f"  {len(meta['examples'])} examples, nearest last, by {meta['strategy'].get('strategy', 'unknown')}:"
    for number, example in enumerate(meta["examples"], 1):
        length = f"{example['num_frames'] / rate_hz:5.2f} s from {example['start_frame'] / rate_hz:.2f} s"
        yield f"  {number}  {length}  score {example['score']:.3f}  {example['key']}: {example['prompt']}"
    num_frames = decode_npy(sample.members["target.npy"]).shape[-1]
    yield f"  then {num_frames / rate_hz:5.2f} s  ({meta['split']})  {meta['key']}: {meta['prompt']}"


def member_in_words(name: str, data: bytes | memoryview) -> str:
    """Tell what a member holds: JSON as it is, arrays by type, shape and range, anything else by its size."""
    if name.endswith("json"):
        return "\n    ".join(json.dumps(decode_json(data), ensure_ascii=False, indent=1).splitlines())
    if name.endswith("npz"):
        return ", ".join(f"{key} {_array_in_words(array)}" for key, array in decode_npz(data).items())
    if name.endswith("npy"):
        return _array_in_words(decode_npy(data))
    return f"{len(data)} bytes"


def _array_in_words(array: Any) -> str:
    ends = f", from {array.min()} to {array.max()}" if array.size else ""
    return f"{array.dtype} {list(array.shape)}{ends}"
