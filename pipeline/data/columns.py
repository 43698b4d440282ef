"""Joining columns: the same shard of several column folders, walked in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.shards import Sample, ShardFile
from pipeline.errors import ContractError


def join_columns(paths: Sequence[Path], limit: int | None = None) -> Iterator[Sample]:
    """Put the members of several columns together, clip by clip.

    Args:
        paths: one tar per column; the first names the clips, each other one holds an ordered subset of them.
        limit: at most this many clips.

    Yields:
        Samples with the members of all columns that have the clip.

    Raises:
        ContractError: a column holds a key that the first one lacks, or in another order, or its content is damaged.
    """
    first, *others = (ShardFile(path).check() for path in paths)
    cursors = [0] * len(others)
    whole = limit is None or limit >= len(first)
    for i in range(len(first) if limit is None else min(limit, len(first))):
        sample = first[i]
        members = dict(sample.members)
        for n, column in enumerate(others):
            if cursors[n] < len(column) and column.keys[cursors[n]] == sample.key:
                members |= column[cursors[n]].members
                cursors[n] += 1
        yield Sample(sample.key, members)
    for n, column in enumerate(others):
        if whole and cursors[n] < len(column):
            raise ContractError(
                f"{column.path}: key {column.keys[cursors[n]]!r} is not in {first.path}, or out of order; "
                "run the stage of that column again"
            )
