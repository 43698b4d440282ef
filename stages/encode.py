"""Encode: clips become codec tokens.

In:    shards/ingest/<corpus>; the codec (`models.codec`).
Out:   shards/encode/<corpus>: `codes.npy`, uint16 [K, T], undelayed.
       Its stamp in the manifest says which codec made them, and what that makes of a golden clip; pack refuses to
       mix corpora whose stamps differ.
Drops: too_short (less than one frame).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.data.columns import join_columns
from pipeline.data.records import Drop, Reason
from pipeline.data.shards import Sample, encode_npy
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.errors import ParamsError
from pipeline.models.places import ModelsParams, place

if TYPE_CHECKING:
    from pipeline.models.base import Codec

CHUNK_BATCHES = 16
"""Batches' worth of clips decoded at once, among which those of equal length are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeParams:
    """Section `encode` of params.yaml."""

    batch_size: int = 8
    """Clips of equal length encoded at once; may change last bits, so a change encodes anew."""
    bandwidth_kbps: float | None = None
    """Bit rate, for a codec that has several (24 kHz: 1.5, 3, 6, 12 or 24); null for its smallest."""
    num_codebooks: int | None = None
    """Codebooks kept, from the first, instead of a bit rate; null for what the bit rate says."""
    semantic_only: bool = False
    """Keep the first codebook alone: the coarse outline of the sound."""

    def __post_init__(self) -> None:
        at_least("encode", self, 1, "batch_size")
        if self.num_codebooks is not None:
            at_least("encode", self, 1, "num_codebooks")
        asked = {"bandwidth_kbps": self.bandwidth_kbps, "num_codebooks": self.num_codebooks}
        named = [name for name, value in asked.items() if value is not None]
        if self.semantic_only:
            named.append("semantic_only")
        if len(named) > 1:
            raise ParamsError(
                f"encode: {' and '.join(named)} each say how many codebooks; keep one, set the others to null or false"
            )

    def load(self, source: str, device: str) -> Codec:
        """Load the codec as these settings want it."""
        from pipeline.models.codec import load_codec

        return load_codec(
            source,
            device=device,
            batch_size=self.batch_size,
            bandwidth_kbps=self.bandwidth_kbps,
            num_codebooks=1 if self.semantic_only else self.num_codebooks,
        )


class EncodeStep:
    """Encode the clips of one shard, those of equal length together."""

    def __init__(self, params: EncodeParams, source: str, device: str) -> None:
        from pipeline.music import audio

        self.audio = audio
        self.batch_size = params.batch_size
        self.codec = params.load(source, device)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the codes of every clip of a shard."""
        paths, limit = task.payload
        samples = join_columns(paths, limit)
        # A few batches at a time: a shard of long recordings would not fit into memory.
        while chunk := list(itertools.islice(samples, CHUNK_BATCHES * self.batch_size)):
            yield from self._encode(chunk)

    def _encode(self, samples: Sequence[Sample]) -> Iterator[Result]:
        waves_N = [
            self.audio.resample(*self.audio.decode_flac(sample.members["flac"]), self.codec.sample_rate_hz)
            for sample in samples
        ]
        for sample, codes_KT in zip(samples, self.codec.encode(waves_N), strict=True):
            if codes_KT.shape[1] == 0:
                yield Drop(sample.key, Reason.TOO_SHORT, "less than one codec frame")
            else:
                yield Sample(sample.key, {"codes.npy": encode_npy(codes_KT)})


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    from pipeline.models.base import choose_device

    project = open_project(args)
    params = project.section("encode", EncodeParams)
    models = project.section("models", ModelsParams)
    source, device = place(models, project.layout.root, "codec"), choose_device(models.device)
    stage = ColumnStage(
        name="encode",
        params=asdict(params),
        make_step=partial(EncodeStep, params, source, device),
        # Loaded on the device that encodes: the stamp's golden clip tells what it makes of a sound.
        models={"codec": params.load(source, device).stamp, "device": device},
        packages=("numpy", "soundfile", "soxr", "torch", "transformers"),
    )
    for corpus in project.corpora(args.corpus):
        run_column(project, corpus, stage)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.encode")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.encode import main

    main()
