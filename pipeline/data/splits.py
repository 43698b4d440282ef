"""Splits: groups that belong together through any level go to train, val or test as one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import ContractError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_FILE = "split.json"
LEVELS_TO_LEAVE_OUT = ("artist", "album", "song_3", "song_2", "song_in_english", "song")
"""Levels that only name something; the others mean the same recording, and are never left out."""
IDS_OF = {"song_3": "song", "song_2": "song", "song_in_english": "song"}
"""Levels whose ids are those of another: a clip that may be of either of two songs joins the clips of both."""


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
    levels_left_out: dict[str, int]
    """Levels that were not joined, with the clips that the largest group would have had: see `join_within_reason`."""


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
        for level, group in clip.groups.items():
            same = IDS_OF.get(level, level), group
            low, high = sorted((find(clip.key), find(first.setdefault(same, clip.key))))
            parent[high] = low
    return {clip.key: find(clip.key) for clip in clips}


def join_within_reason(clips: Sequence[SplitClip], *, max_group_share: float) -> tuple[dict[str, str], dict[str, int]]:
    """Join groups, but leave out levels that would swallow the corpus: the artist of a one-artist collection.

    Args:
        clips: all clips.
        max_group_share: share of the clips that one joined group may hold.

    Returns:
        What `join_groups` gives, and the levels left out with the size of the largest group that each would have made.
    """
    left_out: dict[str, int] = {}
    joined = join_groups(clips)
    for level in LEVELS_TO_LEAVE_OUT:
        largest = max(Counter(joined.values()).values(), default=0)
        if largest <= max(max_group_share * len(clips), 1):
            break
        kept = [clip._replace(groups=_without(clip.groups, {*left_out, level})) for clip in clips]
        fewer = join_groups(kept)
        if max(Counter(fewer.values()).values()) < largest:
            left_out[level] = largest
            joined = fewer
    return joined, left_out


def _without(groups: Mapping[str, str], levels: set[str]) -> dict[str, str]:
    return {level: group for level, group in groups.items() if level not in levels}


def assign_splits(
    clips: Iterable[SplitClip], *, held_out_share: float, seed: int, max_group_share: float = 1.0
) -> SplitResult:
    """Give every clip a split, whole groups at a time.

    A group with any official test clip is test as a whole. Of the groups that no corpus prescribes anything for,
    `held_out_share` by seed are test too; and of all that is left, `held_out_share` by seed is val.

    Args:
        clips: all clips of all corpora; the result does not depend on their order.
        held_out_share: share of groups, 0 to 1; where it is not 0, at least one of two or more.
        seed: of the choices.
        max_group_share: share of the clips that one joined group may hold.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    group, left_out = join_within_reason(ordered, max_group_share=max_group_share)
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
    return SplitResult(split, group, moved, left_out)


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

    def split_of(self, key: str) -> str:
        """Split of a clip.

        Raises:
            ContractError: the clip was ingested after the split was made.
        """
        return self._look_up(self.split, key)

    def group_of(self, key: str) -> str:
        """Joined group of a clip; raises as `split_of`."""
        return self._look_up(self.group, key)

    def _look_up(self, table: Mapping[str, str], key: str) -> str:
        if key not in table:
            raise ContractError(f"{key}: not in split.json; run `python -m stages.split` again")
        return table[key]


def read_splits(path: Path) -> SplitTable:
    """Read split.json.

    Raises:
        ContractError: it is not there.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return SplitTable(content["split"], content["group"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{path}: cannot be read ({error!r}); run `python -m stages.split` first") from None
