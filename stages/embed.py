"""Embed: clips and their captions become points in one space.

In:    shards/ingest, shards/describe (captions where the corpus has none); the text-audio embedder (`models.embedder`).
Out:   shards/embed/<corpus>: `clap.npz` with `audio` [D] and `text` [number of captions, D], float16, unit length.
Drops: none.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from pipeline.data.columns import join_columns
from pipeline.data.records import all_captions
from pipeline.data.shards import Sample, encode_npz
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.models.places import ModelsParams, checkpoint_stamp, place


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedParams:
    """Section `embed` of params.yaml."""

    batch_size: int = 8
    """10 s windows, or captions, embedded at once; may change last bits, so a change embeds anew."""

    def __post_init__(self) -> None:
        at_least("embed", self, 1, "batch_size")


class EmbedStep:
    """Embed the audio and the captions of the clips of one shard."""

    def __init__(self, params: EmbedParams, source: str, device: str) -> None:
        from pipeline.models.clap import load_embedder
        from pipeline.music import audio

        self.audio = audio
        self.batch_size = params.batch_size
        self.embedder = load_embedder(source, device=device, batch_size=params.batch_size)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the embeddings of every clip of a shard."""
        paths, limit = task.payload
        samples = join_columns(paths, limit)
        # A few at a time: a shard of waves at 48 kHz would not fit into memory.
        while chunk := list(itertools.islice(samples, self.batch_size)):
            yield from self._embed(chunk)

    def _embed(self, samples: Sequence[Sample]) -> Iterator[Result]:
        texts = [[caption["text"] for caption in all_captions(sample.members)] for sample in samples]
        text_BD = self.embedder.embed_text([text for own in texts for text in own]).astype(np.float16)
        rate_hz = self.embedder.sample_rate_hz
        waves_N = [self.audio.resample(*self.audio.decode_flac(s.members["flac"]), rate_hz) for s in samples]
        audio_BD = self.embedder.embed_audio(waves_N).astype(np.float16)
        ends = itertools.accumulate(len(own) for own in texts)
        for sample, own, end, audio_D in zip(samples, texts, ends, audio_BD, strict=True):
            yield Sample(sample.key, {"clap.npz": encode_npz(audio=audio_D, text=text_BD[end - len(own) : end])})


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    from pipeline.models.base import choose_device

    project = open_project(args)
    params = project.section("embed", EmbedParams)
    models = project.section("models", ModelsParams)
    source, device = place(models, project.layout.root, "embedder"), choose_device(models.device)
    stage = ColumnStage(
        name="embed",
        columns=("ingest", "describe"),
        params=asdict(params),
        make_step=partial(EmbedStep, params, source, device),
        models={"embedder": checkpoint_stamp(source, models.embedder), "device": device},
        packages=("numpy", "soundfile", "soxr", "tokenizers", "torch", "transformers"),
    )
    for corpus in project.corpora(args.corpus):
        run_column(project, corpus, stage)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.embed")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.embed import main

    main()
