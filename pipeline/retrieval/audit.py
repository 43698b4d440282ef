"""A second, separately written look for leaks: from the examples and the splits alone, without the picking code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


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
