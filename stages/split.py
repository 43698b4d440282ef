"""Split: every clip of every corpus goes to train, val or test, with all that must not be parted from it.

In:    the json of all clips (shards/ingest/*).
Out:   shards/split/split.json: split and joined group by key; a summary by corpus; near-duplicates; what was left out.
       splits.md: the same for people.
Drops: none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.data.columns import join_columns
from pipeline.data.provenance import folder_digest, pretty_json
from pipeline.data.records import ClipJson
from pipeline.data.shards import decode_json
from pipeline.data.splits import SPLIT_FILE, SplitClip, SplitResult, assign_splits
from pipeline.data.splits_report import REPORT_FILE, Cell, count_cells, find_overlaps, write_report
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import publish_files
from pipeline.engine.project import Project, column_tasks, open_project
from pipeline.errors import ParamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitParams:
    """Section `split` of params.yaml."""

    val_share: float = 0.05
    """Share of the train groups that becomes val; and, in corpora without a split of their own, test."""
    max_group_share: float = 0.5
    """A level (artist, album, song) that would join more than this share of all clips into one group is left out,
    and reported: else the only artist of a collection would put all of it into one split."""
    seed: int = 0
    """Of the choice of val and test."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 0.5:
            raise ParamsError(f"split.val_share: {self.val_share}, must be at least 0 and below 0.5")
        if not 0 < self.max_group_share <= 1:
            raise ParamsError(f"split.max_group_share: {self.max_group_share}, must be above 0 and at most 1")


def read_clips(project: Project) -> Iterator[ClipJson]:
    """Read the json of all clips of all corpora."""
    for corpus in project.corpora():
        for task in column_tasks([project.layout.column("ingest", corpus)]):
            for sample in join_columns(task.payload[0]):
                yield decode_json(sample.members["json"])


def split_clips(clips: Sequence[ClipJson], duplicates: Sequence[tuple[str, str]]) -> list[SplitClip]:
    """Take what the split needs; copies of one recording count as one group."""
    groups = {clip["key"]: clip["groups"] | {"fingerprint": clip["fingerprint"]} for clip in clips}
    for low, high in duplicates:
        # A level of its own for every pair: both have it, nobody else.
        groups[low][f"duplicate of {low}"] = groups[high][f"duplicate of {low}"] = low
    return [SplitClip(clip["key"], groups[clip["key"]], clip["official_split"]) for clip in clips]


def run(args: argparse.Namespace) -> None:
    """Split all corpora at once."""
    from pipeline.music.duplicates import find_duplicates

    project = open_project(args)
    params = project.section("split", SplitParams)
    clips = list(read_clips(project))
    duplicates = find_duplicates({clip["key"]: clip["acoustic_fingerprint"] for clip in clips})
    result = assign_splits(
        split_clips(clips, duplicates),
        held_out_share=params.val_share,
        seed=params.seed,
        max_group_share=params.max_group_share,
    )
    cells = count_cells(clips, result)
    content = {
        "schema": 1,
        "params": asdict(params),
        "parents": {name: folder_digest(project.layout.column("ingest", name)) for name in project.corpora()},
        "summary": {
            corpus: {split: asdict(cell) | {"hours": round(cell.hours, 6)} for split, cell in splits.items()}
            for corpus, splits in cells.items()
        },
        "overlaps": find_overlaps(clips, result, list(result.levels_left_out)),
        "moved_to_test": result.moved,
        "levels_left_out": result.levels_left_out,
        "near_duplicates": duplicates,
        "split": result.split,
        "group": result.group,
    }
    out = project.layout.split()
    report = "\n".join(write_report(clips, result, duplicates)) + "\n"
    files = {SPLIT_FILE: pretty_json(content), REPORT_FILE: report.encode()}
    publish_files("split", out, work=project.layout.work_of(out), files=files, dry_run=project.dry_run)
    _tell(cells, result, duplicates)
    if not project.dry_run:
        print(f"split: the whole table is in {out / REPORT_FILE}")


def _tell(cells: Mapping[str, Mapping[str, Cell]], result: SplitResult, duplicates: Sequence[tuple[str, str]]) -> None:
    for corpus, splits in cells.items():
        words = (f"{name} {cell.clips} clips in {cell.groups} groups" for name, cell in splits.items())
        print(f"split: {corpus}: {', '.join(words)}")
    if duplicates:
        print(f"split: {len(duplicates)} near-duplicates joined, the first: {' = '.join(duplicates[0])}")
    for level, largest in result.levels_left_out.items():
        print(f"split: groups by {level} are left out: one of them would hold {largest} of {len(result.split)} clips")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_main(run, build_parser(__doc__, prog="python -m stages.split"), argv)


if __name__ == "__main__":
    from stages.split import main

    main()
