"""All columns of a clip by its key; how targets are dealt out to shards; how many frames of examples a sample holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.data.shards import ABSENT, ShardFile, load_index
from pipeline.data.splits import IDS_OF

SAMPLES_PER_SHARD = 1000
"""Samples beyond which another round of shards is made: 27 MB at the default budgets, a second over a slow network."""


class Clips:
    """All columns of all clips, reached by key through memory maps.

    Args:
        folders: column folders of all corpora.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._spots: dict[str, list[tuple[Path, int]]] = {}
        self._having: dict[str, set[str]] = {}
        self._files: dict[Path, ShardFile] = {}
        for folder in folders:
            for entry in load_index(folder):
                for number, key in enumerate(entry.keys):
                    self._spots.setdefault(key, []).append((folder / entry.name, number))
                for name, spans in entry.members.items():
                    keys = (key for key, start in zip(entry.keys, spans[::2], strict=True) if start != ABSENT)
                    self._having.setdefault(name, set()).update(keys)

    def complete(self, needed: Collection[str]) -> set[str]:
        """Keys of the clips that have all the members needed."""
        return set[str].intersection(*(self._having.get(name, set()) for name in needed))

    def lacking(self, key: str, needed: Sequence[str]) -> list[str]:
        """Name the members that a clip does not have."""
        return [name for name in needed if key not in self._having.get(name, ())]

    def members(self, key: str) -> dict[str, bytes | memoryview]:
        """All members of a clip, from all columns that have it."""
        found: dict[str, bytes | memoryview] = {}
        for path, number in self._spots[key]:
            if path not in self._files:
                self._files[path] = ShardFile(path).check()
            found |= self._files[path][number].members
        return found


def choose_num_shards(num_samples: int, num_readers: int) -> int:
    """Choose how many shards hold the train split: a multiple of the readers, so that each has as many as the others.

    Args:
        num_samples: train samples.
        num_readers: loader workers of all ranks.
    """
    rounds = -(-num_samples // (SAMPLES_PER_SHARD * num_readers))
    return num_readers * max(rounds, 1)


def deal(keys: Sequence[str], num_shards: int, *, complete: Collection[str]) -> list[list[str]]:
    """Deal keys out to shards, so that those which will become samples are spread evenly.

    Args:
        keys: in the order to keep.
        num_shards: shards, at most as many as complete keys.
        complete: keys with all that a sample needs; the others end as drops, and must not leave a shard empty.

    Returns:
        Keys by shard.
    """
    known = frozenset(complete)
    shard_of = {key: number % num_shards for number, key in enumerate(key for key in keys if key in known)}
    shard_of |= {key: number % num_shards for number, key in enumerate(key for key in keys if key not in known)}
    parts: list[list[str]] = [[] for _ in range(num_shards)]
    for key in keys:
        parts[shard_of[key]].append(key)
    return parts


def fit_frames(example_frames: Sequence[int], budget_frames: int, *, least_frames: int) -> list[int]:
    """Cut examples to what is left beside the target, the farthest first.

    Args:
        example_frames: frames of each example, in prompt order, nearest last; none longer than its own budget.
        budget_frames: frames for all of them.
        least_frames: an example of which fewer would be left is left out, with all that stand farther.

    Returns:
        Frames kept of each, 0 for one that is left out; those left out come first.
    """
    kept: list[int] = []
    left = budget_frames
    for frames in reversed(example_frames):
        cut = min(frames, left)
        if cut < min(frames, least_frames):
            break
        kept.append(cut)
        left -= cut
    return [0] * (len(example_frames) - len(kept)) + kept[::-1]


def shared_group(one: Mapping[str, str], other: Mapping[str, str], *, left_out: Collection[str]) -> str | None:
    """Tell which group two clips share by what ingest knows of them, whatever split.json says.

    Args:
        one: group id by level.
        other: that of the other clip.
        left_out: levels that the split left out on purpose.

    Returns:
        `level id`; None if they share none.
    """
    ids_one, ids_other = (
        {(IDS_OF.get(level, level), group) for level, group in groups.items() if level not in left_out}
        for groups in (one, other)
    )
    return next((f"{level} {group}" for level, group in sorted(ids_one & ids_other)), None)
