"""Encode: clips become codec tokens.

In:    shards/ingest/<corpus>; the codec (`models.codec`).
Out:   shards/encode/<corpus>: `codes.npy`, uint16 [K, T], undelayed.
       Its stamp in the manifest says which codec made them, in which precision, and what that makes of a golden clip;
       pack refuses to mix corpora whose stamps differ.
       batches.jsonl, only where memory did not suffice for `batch_size`: the batch of each such shard.
Drops: too_short (less than one frame).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.data.columns import join_columns
from pipeline.data.records import Drop, Line, Reason
from pipeline.data.shards import Sample, encode_npy
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least, at_most
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.errors import ParamsError
from pipeline.models.ahead import group_equal, in_order, map_ahead, threads_ahead
from pipeline.models.places import ModelsParams, place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.models.base import Codec

WAITING_BATCHES = 16
"""Batches' worth of clips that wait, decoded, for others of their length."""
BATCHES_FILE = "batches.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeParams:
    """Section `encode` of params.yaml."""

    batch_size: int = 8
    """Clips of equal length encoded at once, halved where memory runs out; may change last bits, so a change encodes
    anew."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder. bf16 is faster, and refused where it changes too many codes."""
    min_agreement: float = 0.98
    """Share of the golden clips' codes that bf16 must leave as they are, in every codebook; the manifest tells it."""
    bandwidth_kbps: float | None = None
    """Bit rate, for a codec that has several (24 kHz: 1.5, 3, 6, 12 or 24); null for its smallest."""
    num_codebooks: int | None = None
    """Codebooks kept, from the first, instead of a bit rate; null for what the bit rate says."""
    semantic_only: bool = False
    """Keep the first codebook alone: the coarse outline of the sound."""

    def __post_init__(self) -> None:
        at_least("encode", self, 1, "batch_size")
        at_least("encode", self, 0, "min_agreement")
        at_most("encode", self, 1, "min_agreement")
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

        codec = load_codec(
            source,
            device=device,
            batch_size=self.batch_size,
            bandwidth_kbps=self.bandwidth_kbps,
            num_codebooks=1 if self.semantic_only else self.num_codebooks,
        )
        if self.precision == "bf16":
            from pipeline.models.codec_precision import use_bf16

            use_bf16(codec, min_agreement=self.min_agreement)
        return codec


class Clip(NamedTuple):
    """A clip on its way through the codec."""

    number: int
    """Its place in the shard."""
    key: str
    wave_N: NDArray[np.float32]


class EncodeStep:
    """Encode the clips of one shard, those of equal length together.

    Args:
        params: the settings.
        source: where the codec lies.
        device: cpu or cuda.
        threads: how many decode ahead of the codec; None for what suits the device. Changes no byte.
    """

    def __init__(self, params: EncodeParams, source: str, device: str, *, threads: int | None = None) -> None:
        from pipeline.music import audio

        self.audio = audio
        self.batch_size = params.batch_size
        self.threads = threads_ahead(device) if threads is None else threads
        self.codec = params.load(source, device)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the codes of every clip of a shard."""
        paths, limit = task.payload
        numbered = enumerate(join_columns(paths, limit))
        clips = map_ahead(self._decode, numbered, threads=self.threads, ahead=2 * self.batch_size)
        batches = group_equal(
            clips, self._num_frames, batch_size=self.batch_size, most_waiting=WAITING_BATCHES * self.batch_size
        )
        # The codec in a thread of its own: it goes on while the last results are written.
        encoded = map_ahead(self._encode, batches, threads=min(1, self.threads), ahead=1)
        yield from in_order(result for batch in encoded for result in batch)
        if self.codec.batch_size < self.batch_size:
            yield Line(BATCHES_FILE, {"shard": task.name, "batch_size": self.codec.batch_size})

    def _decode(self, numbered: tuple[int, Sample]) -> Clip:
        number, sample = numbered
        wave_N, rate_hz = self.audio.decode_flac(sample.members["flac"])
        return Clip(number, sample.key, self.audio.resample(wave_N, rate_hz, self.codec.sample_rate_hz))

    def _num_frames(self, clip: Clip) -> int:
        return clip.wave_N.size // self.codec.hop_samples

    def _encode(self, clips: Sequence[Clip]) -> list[tuple[int, Result]]:
        codes = self.codec.encode([clip.wave_N for clip in clips])
        return [(clip.number, self._result(clip, codes_KT)) for clip, codes_KT in zip(clips, codes, strict=True)]

    def _result(self, clip: Clip, codes_KT: NDArray[np.uint16]) -> Result:
        if codes_KT.shape[1] == 0:
            return Drop(clip.key, Reason.TOO_SHORT, "less than one codec frame")
        return Sample(clip.key, {"codes.npy": encode_npy(codes_KT)})


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
