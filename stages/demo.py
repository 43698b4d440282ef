"""Demo: the embedded corpora and checkpoints, made from nothing but this project and music21's scores.

In:    nothing.
Out:   shards/demo/corpus: MusicCaps' own layout; shards/demo/jacappella: ten Japanese songs sung by our synthesiser, in
       jaCappella's layout; shards/demo/singing: covers of them in a tar, without lyrics; shards/demo/checkpoints: real
       formats, small, trained beforehand on such music and singing (pipeline/demo/weights).
Drops: none.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.storage import publish_folder
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import only_run
from pipeline.engine.params import at_least, at_most
from pipeline.engine.project import open_project

Part = Literal["corpus", "jacappella", "singing", "checkpoints"]
PARTS: tuple[Part, ...] = ("corpus", "jacappella", "singing", "checkpoints")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoParams:
    """Section `demo` of params.yaml."""

    build: tuple[Part, ...] = ()
    """What `dvc repro` builds: all parts in the demo, nothing where the user has corpora and models."""
    num_clips: int = 120
    """Clips of the corpus."""
    clip_s: float = 10.0
    """Length of a clip."""
    num_songs: int = 10
    """Songs of the jaCappella-shaped set, at most 10."""
    num_covers: int = 6
    """Recordings of the singing set."""
    seed: int = 0
    """Of the choice of excerpts, timbres, tempi and phrasings; the checkpoints are always the same."""

    def __post_init__(self) -> None:
        at_least("demo", self, 1, "num_clips", "clip_s", "num_songs", "num_covers")
        at_most("demo", self, 10, "num_songs")
        at_least("demo", self, 0, "seed")


def run(args: argparse.Namespace) -> None:
    """Build one part, or all that the settings name."""
    project = open_project(args)
    params = project.section("demo", DemoParams)
    for part in [args.part] if args.part else params.build:
        out = project.layout.shards / "demo" / part
        if project.dry_run:
            print(f"demo: would build {out}")
            continue
        with only_run(project.layout.work_of(out), out):
            _build(part, out, project.layout.work_of(out), params)
        print(f"demo: {out}: made" + ("" if part == "checkpoints" else f" from seed {params.seed}"))


def _build(part: Part, out: Path, work: Path, params: DemoParams) -> None:
    staged = work / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    if part == "corpus":
        from pipeline.demo.corpus import build_corpus

        build_corpus(staged, num_clips=params.num_clips, clip_s=params.clip_s, seed=params.seed)
    elif part == "jacappella":
        from pipeline.demo.jacappella import write_jacappella

        write_jacappella(staged, num_songs=params.num_songs, seed=params.seed)
    elif part == "singing":
        from pipeline.demo.covers import write_singing

        write_singing(staged, num_tracks=params.num_covers, seed=params.seed)
    else:
        from pipeline.demo.checkpoints import build_checkpoints

        build_checkpoints(staged)
    publish_folder(staged, out, work / "retired")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.demo")
    parser.add_argument("part", nargs="?", choices=PARTS, help="only this part")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.demo import main

    main()
