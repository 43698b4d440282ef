"""Embed: clips and their captions become points in one space.

In:    shards/ingest, shards/describe (captions where the corpus has none); the text-audio embedder (`models.embedder`).
Out:   shards/embed/<corpus>: `clap.npz` with `audio` [D] and `text` [number of captions, D], float16, unit length.
       batches.jsonl, only where memory did not suffice for `batch_size`: the batch of each such shard.
Drops: none.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import join_columns
from pipeline.data.records import Line, all_captions
from pipeline.data.shards import Sample, encode_npz
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.models.ahead import map_ahead, threads_ahead
from pipeline.models.places import ModelsParams, checkpoint_stamp, place

if TYPE_CHECKING:
    from pipeline.models.base import Embedder

BATCHES_FILE = "batches.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedParams:
    """Section `embed` of params.yaml."""

    batch_size: int = 8
    """10 s windows, or captions, embedded at once, halved where memory runs out; may change last bits, so a change
    embeds anew."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the model. bf16 is faster, and refused where it moves a vector (cosine under 0.999)."""

    def __post_init__(self) -> None:
        at_least("embed", self, 1, "batch_size")

    def load(self, source: str, device: str) -> Embedder:
        """Load the embedder as these settings want it."""
        from pipeline.models.clap import load_embedder

        return load_embedder(source, device=device, batch_size=self.batch_size, precision=self.precision)


class Clip(NamedTuple):
    """A clip on its way through the embedder."""

    key: str
    texts: list[str]
    wave_N: NDArray[np.float32]


class EmbedStep:
    """Embed the audio and the captions of the clips of one shard.

    Args:
        params: the settings.
        source: where the embedder lies.
        device: cpu or cuda.
        threads: how many decode ahead of the embedder; None for what suits the device. Changes no byte.
    """

    def __init__(self, params: EmbedParams, source: str, device: str, *, threads: int | None = None) -> None:
        from pipeline.music import audio

        self.audio = audio
        self.batch_size = params.batch_size
        self.threads = threads_ahead(device) if threads is None else threads
        self.embedder = params.load(source, device)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the embeddings of every clip of a shard."""
        paths, limit = task.payload
        samples = join_columns(paths, limit)
        clips = map_ahead(self._decode, samples, threads=self.threads, ahead=2 * self.batch_size)
        # The embedder in a thread of its own: it goes on while the last results are written.
        batches = iter(lambda: list(itertools.islice(clips, self.batch_size)), [])
        for embedded in map_ahead(self._embed, batches, threads=min(1, self.threads), ahead=1):
            yield from embedded
        if self.embedder.batch_size < self.batch_size:
            yield Line(BATCHES_FILE, {"shard": task.name, "batch_size": self.embedder.batch_size})

    def _decode(self, sample: Sample) -> Clip:
        texts = [caption["text"] for caption in all_captions(sample.members)]
        wave_N, rate_hz = self.audio.decode_flac(sample.members["flac"])
        return Clip(sample.key, texts, self.audio.resample(wave_N, rate_hz, self.embedder.sample_rate_hz))

    def _embed(self, clips: Sequence[Clip]) -> list[Result]:
        text_BD = self.embedder.embed_text([text for clip in clips for text in clip.texts]).astype(np.float16)
        audio_BD = self.embedder.embed_audio([clip.wave_N for clip in clips]).astype(np.float16)
        ends = itertools.accumulate(len(clip.texts) for clip in clips)
        return [
            Sample(clip.key, {"clap.npz": encode_npz(audio=audio_D, text=text_BD[end - len(clip.texts) : end])})
            for clip, end, audio_D in zip(clips, ends, audio_BD, strict=True)
        ]


def _stamps(params: EmbedParams, source: str, name: str, device: str) -> dict[str, Any]:
    """What the manifest says of the model; its weights apart from its precision, which a prompt need not share."""
    stamps = {"embedder": checkpoint_stamp(source, name), "device": device}
    if params.precision == "fp32":
        return stamps
    stamp = params.load(source, device).stamp
    return stamps | {"precision": {name: stamp[name] for name in ("precision", "least_cosine")}}


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
        models=_stamps(params, source, models.embedder, device),
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
