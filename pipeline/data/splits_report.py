"""The page that tells a person how a corpus was split: how much is where, what was joined, what overlaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.data.records import ClipJson
from pipeline.data.splits import SPLITS, SplitResult

REPORT_FILE = "splits.md"
_MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Cell:
    """What one split holds of one corpus."""

    groups: int
    clips: int
    hours: float


def count_cells(clips: Sequence[ClipJson], result: SplitResult) -> dict[str, dict[str, Cell]]:
    """Count groups, clips and hours by corpus and split."""
    groups: dict[tuple[str, str], set[str]] = {}
    num_clips: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for clip in clips:
        place = clip["corpus"], result.split[clip["key"]]
        groups.setdefault(place, set()).add(result.group[clip["key"]])
        num_clips[place] += 1
        seconds[place] += clip["num_samples"] / clip["sample_rate_hz"]
    return {
        corpus: {
            split: Cell(len(groups.get((corpus, split), ())), num_clips[corpus, split], seconds[corpus, split] / 3600)
            for split in SPLITS
        }
        for corpus in sorted({clip["corpus"] for clip in clips})
    }


def find_overlaps(
    clips: Sequence[ClipJson], result: SplitResult, levels: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Find what lies in more than one split at levels that were not joined.

    Returns:
        By level, by id: the splits that hold it.
    """
    overlaps: dict[str, dict[str, list[str]]] = {}
    for level in levels:
        places: dict[str, set[str]] = {}
        for clip in clips:
            if level in clip["groups"]:
                places.setdefault(clip["groups"][level], set()).add(result.split[clip["key"]])
        overlaps[level] = {name: sorted(found) for name, found in sorted(places.items()) if len(found) > 1}
    return overlaps


def write_report(
    clips: Sequence[ClipJson], result: SplitResult, duplicates: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """Write the page, line by line, in Markdown."""
    yield "# Splits\n"
    yield "| corpus | split | groups | clips | hours |"
    yield "|---|---|---|---|---|"
    for corpus, cells in count_cells(clips, result).items():
        for split, cell in cells.items():
            yield f"| {corpus} | {split} | {cell.groups} | {cell.clips} | {cell.hours:.3f} |"
    yield from _joined(clips, result)
    yield "\n## The same recording\n"
    yield f"{len(duplicates)} pairs of clips sound alike; each pair counts as one group."
    yield from _list(f"- `{low}` = `{high}`" for low, high in duplicates)
    if result.moved:
        yield "\n## Moved to test\n"
        yield f"{len(result.moved)} clips of an official train split share a group with a test clip."
        yield from _list(f"- `{key}`" for key in result.moved)
    yield from _left_out(clips, result)


def _joined(clips: Sequence[ClipJson], result: SplitResult) -> Iterator[str]:
    members: dict[str, list[ClipJson]] = {}
    for clip in clips:
        members.setdefault(result.group[clip["key"]], []).append(clip)
    tracks = {group: {(clip["corpus"], clip["track"]) for clip in its} for group, its in members.items()}
    joined = sorted(group for group, its in tracks.items() if len(its) > 1)
    across = [group for group in joined if len({corpus for corpus, _ in tracks[group]}) > 1]
    yield "\n## Joined\n"
    yield f"{len(members)} groups; {len(joined)} join several recordings, {len(across)} of these across corpora."
    yield from _list(
        f"- `{group}`, by {', '.join(_shared_levels(members[group], result)) or 'sound'}: "
        + "; ".join(f"{corpus} {track}" for corpus, track in sorted(tracks[group]))
        for group in dict.fromkeys(across + joined)
    )


def _shared_levels(clips: Sequence[ClipJson], result: SplitResult) -> list[str]:
    """Levels at which recordings of one group share an id."""
    holders: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for clip in clips:
        for level in (clip["groups"] | {"fingerprint": clip["fingerprint"]}).items():
            holders.setdefault(level, set()).add((clip["corpus"], clip["track"]))
    shared = {level for (level, _), tracks in holders.items() if len(tracks) > 1}
    return sorted(shared - set(result.levels_left_out))


def _left_out(clips: Sequence[ClipJson], result: SplitResult) -> Iterator[str]:
    if not result.levels_left_out:
        return
    yield "\n## Levels left out\n"
    overlaps = find_overlaps(clips, result, list(result.levels_left_out))
    for level, largest in result.levels_left_out.items():
        yield (
            f"- groups by {level}: one of them would hold {largest} of {len(clips)} clips, so they were not joined; "
            f"{len(overlaps[level])} of them lie in more than one split"
        )
        yield from _list(f"  - `{name}`: {', '.join(splits)}" for name, splits in overlaps[level].items())


def _list(lines: Iterator[str]) -> Iterator[str]:
    """At most `_MOST_LINES` lines, and how many more there are."""
    every = list(lines)
    yield from every[:_MOST_LINES]
    if len(every) > _MOST_LINES:
        yield f"- and {len(every) - _MOST_LINES} more: see split.json"
