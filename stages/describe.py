"""Describe: tempo, key, mode, voice and loudness range of every clip; captions where its corpus has none.

In:    shards/ingest/<corpus>.
Out:   shards/describe/<corpus>: `describe.json`, `{"attributes": {...}, "captions": [...]}`.
Drops: none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.data.columns import join_columns
from pipeline.data.records import Caption, ClipJson
from pipeline.data.shards import Sample, decode_json, encode_json
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, open_project, run_column

if TYPE_CHECKING:
    from pipeline.music.describe import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeParams:
    """Section `describe` of params.yaml."""

    seed: int = 0
    """Of the choice among phrasings of a template caption."""
    num_captions: int = 1
    """Template captions for a clip without any; fewer where there is too little to say."""

    def __post_init__(self) -> None:
        at_least("describe", self, 1, "num_captions")


class DescribeStep:
    """Measure what a caption may say."""

    def __init__(self, params: DescribeParams) -> None:
        from pipeline.music import audio, describe, template

        self.params, self.audio, self.describe, self.template = params, audio, describe, template

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the description of every clip of a shard."""
        paths, limit = task.payload
        for sample in join_columns(paths, limit):
            clip: ClipJson = decode_json(sample.members["json"])
            attributes = self.describe.describe_audio(*self.audio.decode_flac(sample.members["flac"]))
            captions = [] if clip["captions"] else self._captions(sample.key, attributes)
            value = {"attributes": attributes, "captions": captions}
            yield Sample(sample.key, {"describe.json": encode_json(value)})

    def _captions(self, key: str, attributes: Attributes) -> list[Caption]:
        texts = self.template.template_captions(
            attributes, key=key, seed=self.params.seed, num_captions=self.params.num_captions
        )
        return [Caption(text=text, source="template") for text in texts]


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    project = open_project(args)
    params = project.section("describe", DescribeParams)
    stage = ColumnStage(
        name="describe",
        params=asdict(params),
        make_step=partial(DescribeStep, params),
        packages=("numpy", "pyloudnorm", "scipy", "soundfile", "soxr"),
    )
    for corpus in project.corpora(args.corpus):
        run_column(project, corpus, stage)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.describe")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.describe import main

    main()
