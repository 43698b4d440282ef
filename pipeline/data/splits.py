"""Splits: groups that belong together through any level go to train, val or test as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import ContractError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class SplitClip(NamedTuple):
    """What the split needs to know of a clip."""

    key: str
    groups: Mapping[str, str]
    """Group id by level; equal (level, id) pairs join clips across all corpora."""
    official: str | None
    """Split that the corpus prescribes, None if it leaves it to us."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Splits and joined groups of all clips, by key."""

    split: dict[str, Split]
    group: dict[str, str]
    """Id of the joined group: the smallest key in it."""
    moved: list[str]
    """Keys whose group held clips of train and of test; all of them went to test."""


def join_groups(clips: Sequence[SplitClip]) -> dict[str, str]:
    """Join clips that share a group at any level, also through other clips (union-find).

    Returns:
        For each key the smallest key of its joined group.
    """
    parent: dict[str, str] = {clip.key: clip.key for clip in clips}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first: dict[tuple[str, str], str] = {}
    for clip in clips:
        for level in clip.groups.items():
            low, high = sorted((find(clip.key), find(first.setdefault(level, clip.key))))
            parent[high] = low
    return {clip.key: find(clip.key) for clip in clips}


def assign_splits(clips: Iterable[SplitClip], *, held_out_share: float, seed: int) -> SplitResult:
    """Give every clip a split, whole groups at a time.

    A group with any official test clip is test as a whole. Of the groups that no corpus prescribes anything for,
    `held_out_share` by seed are test too; and of all that is left, `held_out_share` by seed is val.

    Args:
        clips: all clips of all corpora; the result does not depend on their order.
        held_out_share: share of groups, 0 to 1; where it is not 0, at least one of two or more.
        seed: of the choices.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    group = join_groups(ordered)
    official: dict[str, set[str | None]] = {}
    for clip in ordered:
        official.setdefault(group[clip.key], set()).add(clip.official)
    test = {root for root, marks in official.items() if "test" in marks}
    test |= _choose([root for root, marks in official.items() if marks == {None}], held_out_share, f"{seed}:test")
    val = _choose([root for root in official if root not in test], held_out_share, f"{seed}:val")
    split: dict[str, Split] = {
        key: "test" if root in test else "val" if root in val else "train" for key, root in group.items()
    }
    moved = [clip.key for clip in ordered if clip.official == "train" and split[clip.key] == "test"]
    return SplitResult(split, group, moved)


def _choose(roots: Sequence[str], share: float, seed: str) -> set[str]:
    by_seed = sorted(roots, key=lambda root: hashlib.sha256(f"{seed}:{root}".encode()).digest())
    least = 1 if share > 0 and len(roots) > 1 else 0
    return set(by_seed[: max(round(share * len(roots)), least)])


@dataclass(frozen=True, slots=True)
class SplitTable:
    """What split.json says."""

    split: Mapping[str, str]
    """Split by key."""
    group: Mapping[str, str]
    """Joined group by key."""


def read_splits(path: Path) -> SplitTable:
    """Read split.json.

    Raises:
        ContractError: it is not there.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except OSError:
        raise ContractError(f"{path}: no such file; run `python -m stages.split` first") from None
    return SplitTable(content["split"], content["group"])
