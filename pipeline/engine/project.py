"""A project as a command sees it: folders, settings, corpora, and the usual shape of a column stage."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.layout import Layout
from pipeline.data.provenance import check_parents, folder_digest
from pipeline.data.shards import load_index
from pipeline.engine.cli import read_params
from pipeline.engine.local import EngineParams, Job, Step, Task, run_job
from pipeline.engine.params import section
from pipeline.errors import ParamsError

T = TypeVar("T")

SECTIONS = (
    *("sources", "models", "demo", "fetch", "ingest", "split", "lyrics", "transcribe", "describe", "encode", "embed"),
    *("retrieve", "pack", "train", "generate", "evaluate", "compare", "engine"),
)
"""Sections of params.yaml."""


@dataclass(frozen=True, slots=True)
class Project:
    """Where things lie and what the settings say."""

    layout: Layout
    params: dict[str, Any]
    engine: EngineParams
    limit: int | None
    dry_run: bool

    def section(self, name: str, cls: type[T]) -> T:
        """Read one section of the settings."""
        return section(self.params, name, cls)

    def corpora(self, only: str | None = None) -> list[str]:
        """Names of the corpora that run: the keys of `sources`, or just the one that `--corpus` names."""
        sources = self.params.get("sources") or {}
        names = list(sources) if isinstance(sources, dict) else []
        if not names:
            raise ParamsError("sources: names no corpus; give at least one, such as `library: {root: my/folder}`")
        if only is not None and only not in names:
            raise ParamsError(f"--corpus {only}: not in `sources`, which names {', '.join(names)}")
        return [only] if only else names

    def source_root(self, corpus: str) -> Path:
        """Folder of a corpus, as `sources.<corpus>.root` names it.

        Raises:
            ParamsError: it would hold what the stages make.
        """
        root = self.layout.root / Path(self.params["sources"][corpus]["root"]).expanduser()
        if self.layout.shards.resolve().is_relative_to(root.resolve()):
            raise ParamsError(f"sources.{corpus}.root: {root} holds shards/ itself; name the folder of the recordings")
        return root

    def run(self, job: Job) -> None:
        """Run a job with this project's engine settings."""
        run_job(job, self.engine, dry_run=self.dry_run)


def open_project(args: argparse.Namespace) -> Project:
    """Read the settings that the flags of a command name."""
    params = read_params(args)
    unknown = [name for name in params if name not in SECTIONS]
    if unknown:
        raise ParamsError(f"{unknown[0]}: no such section in the params file; there are: {', '.join(SECTIONS)}")
    engine = section(params, "engine", EngineParams) if "engine" in params else EngineParams()
    return Project(Layout(args.root), params, engine, args.limit, args.dry_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStage:
    """What a stage that adds a column to clips tells of itself."""

    name: str
    columns: Sequence[str] = ("ingest",)
    """Columns that the step reads, ingest first; the payload of a task is one path per column."""
    params: Mapping[str, Any]
    make_step: Callable[[], Step]
    models: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packages: Sequence[str] = ()
    side_files: Sequence[str] = ()
    max_drop_share: float = 1.0


def run_column(project: Project, corpus: str, stage: ColumnStage) -> None:
    """Run a column stage over one corpus, shard by shard of ingest."""
    folders = [project.layout.column(column, corpus) for column in stage.columns]
    out = project.layout.column(stage.name, corpus)
    digests = {column: folder_digest(folder) for column, folder in zip(stage.columns, folders, strict=True)}
    for column, folder in zip(stage.columns[1:], folders[1:], strict=True):
        check_parents(folder, {"ingest": digests["ingest"]}, stage=f"python -m stages.{column}")
    project.run(
        Job(
            stage=stage.name,
            modules=[f"stages.{stage.name}"],
            out=out,
            work=project.layout.work_of(out),
            tasks=column_tasks(folders, project.limit),
            make_step=stage.make_step,
            params=stage.params,
            parents=digests,
            models=stage.models,
            packages=stage.packages,
            side_files=stage.side_files,
            max_drop_share=stage.max_drop_share,
        )
    )


def column_tasks(folders: Sequence[Path], limit: int | None = None) -> list[Task]:
    """One task per shard of the first folder; its payload is `(paths, most clips to read)`.

    Args:
        folders: columns of one corpus; shard names are the same in all.
        limit: at most this many clips in all.
    """
    tasks: list[Task] = []
    left = limit
    for entry in load_index(folders[0]):
        num_items = entry.num_samples if left is None else min(left, entry.num_samples)
        left = None if left is None else left - num_items
        if num_items or left is None:
            paths = [folder / entry.name for folder in folders]
            tasks.append(Task(Path(entry.name).stem, num_items, (paths, num_items)))
    return tasks
