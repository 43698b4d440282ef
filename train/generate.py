"""Generate audio with a trained run: python -m train.generate --run NAME --shards 'shards/pack/semantic/test-*.tar'.

In: a finished run and packed shards: the target's prompt and its retrieved examples; the target's codes give only the
length. Out: runs/generate/NAME/ with samples/<key>.wav (16 bit) and samples.jsonl. With --limit, the first N samples.
What was finished from the same run, models, shards and settings is only put in place again.

With --codes runs/NAME/samples in their place, the codes that a training sampled on its way (train.num_samples) are
rendered: runs/generate/NAME-samples/ with step-<number>/<key>.wav and index.html to listen to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import Layout
from pipeline.data.shards import encode_json
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.errors import ContractError, ParamsError
from pipeline.models.places import ModelsParams
from train import checkpoint
from train.inputs import SHARDS_HELP, Inputs, read_inputs
from train.params import GenerateParams
from train.rendering import render_codes
from train.variants import check_num_examples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.models.base import Codec
    from train.data import Episode, PackedShards
    from train.icl.model import IclModel
    from train.params import TrainParams

MADE_BY = "train.generate"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.generate")
    parser.add_argument("--run", help="name of a finished training")
    parser.add_argument("--shards", action="append", default=[], help=f"packed tars: {SHARDS_HELP}")
    parser.add_argument("--codes", type=Path, help="only render codes: runs/NAME/samples; here or below --root")
    parser.add_argument("--name", help="the result goes to runs/NAME (generate/RUN)")
    run_main(body, parser, argv)


def body(args: argparse.Namespace) -> None:
    """Generate and publish, or put a finished result in place again.

    Raises:
        ParamsError: neither a run with shards nor codes, or both.
    """
    if bool(args.codes) == bool(args.run and args.shards) or (args.codes and (args.run or args.shards)):
        raise ParamsError("name a run and shards to generate from (--run, --shards), or codes to render (--codes)")
    raw = read_params(args)
    if args.codes:
        render_codes(args, section(raw, "models", ModelsParams))
        return
    params = section(raw, "generate", GenerateParams)
    inputs = read_inputs(args, section(raw, "models", ModelsParams), ("generator", "codec"))
    name = args.name or f"generate/{args.run}"
    work, final = checkpoint.open_place(Layout(args.root), name, made_by=MADE_BY)
    if args.dry_run:
        print(f"would generate from {len(inputs.paths)} shards into {final}")
        return
    identity = {"generate": asdict(params), **inputs.identity()}
    with checkpoint.claim(work):
        folder = work / checkpoint.fingerprint(MADE_BY, identity)
        if not checkpoint.publish_again(folder, final):
            checkpoint.finish(folder, final, partial(generate, params=params, inputs=inputs, identity=identity))
            print(f"{final}: done", file=sys.stderr)


def generate(folder: Path, *, params: GenerateParams, inputs: Inputs, identity: Mapping[str, Any]) -> None:
    """Generate one wav per packed sample.

    Args:
        folder: gets samples/, samples.jsonl and config.yaml.
        params: how to sample.
        inputs: run, models and shards.
        identity: settings to note in config.yaml.
    """
    import torch

    from pipeline.models.codec import load_codec
    from train.data import PackedShards
    from train.icl.adapter import load_trained
    from train.stamps import check_clap_vectors, tell_of_golden

    check_num_examples("generate", params.num_examples, inputs.run.params)
    torch.set_num_threads(params.threads)
    model = load_trained(inputs.run, inputs.sources["generator"], device=inputs.device)
    codec = load_codec(inputs.sources["codec"], device=inputs.device)
    _check_shape(model, codec)
    shards = PackedShards(inputs.paths, model.codec, limit=inputs.limit)
    shards.check_codec(inputs.labels["codec"])
    check_clap_vectors(shards, inputs.run.params)
    for line in filter(None, [tell_of_golden(shards, codec.stamp), *untrained_branches(params, inputs.run.params)]):
        print(line, file=sys.stderr)
    write_samples(model, codec, shards, folder=folder, params=params)
    checkpoint.write_settings(folder, MADE_BY, identity)


def untrained_branches(params: GenerateParams, trained: TrainParams) -> list[str]:
    """A line for every branch that guidance subtracts and that the run never saw."""
    zero_shot = 0 in trained.example_counts
    asked = {
        "guidance_scale": (params.guidance_scale != 1, "null_share", trained.null_share > 0),
        "examples_guidance": (
            params.examples_guidance > 0,
            "no_examples_share",
            trained.no_examples_share > 0 or zero_shot,
        ),
        "text_guidance": (params.text_guidance > 0, "no_text_share", trained.no_text_share > 0),
    }
    return [
        f"generate.{name}: train.{share} was 0, so the run never saw what is subtracted here"
        for name, (used, share, seen) in asked.items()
        if used and not seen
    ]


def _check_shape(model: IclModel, codec: Codec) -> None:
    shape = (codec.num_codebooks, codec.codebook_size, codec.frame_rate_hz, codec.sample_rate_hz)
    if shape != tuple(model.codec):
        raise ContractError(
            f"models.codec decodes {shape}, the generator writes {tuple(model.codec)}; use its own codec"
        )


def write_samples(model: IclModel, codec: Codec, shards: PackedShards, *, folder: Path, params: GenerateParams) -> None:
    """Generate and write all samples.

    Args:
        model: in eval mode; it reads sequences as the training did.
        codec: turns codes into audio.
        shards: where prompts and examples come from.
        folder: gets samples/<key>.wav and samples.jsonl.
        params: how to sample; each target draws from (seed, key), whatever came before it.
    """
    import soundfile

    from pipeline.engine.progress import progress
    from pipeline.music.audio import quantise

    (folder / "samples").mkdir(parents=True)
    lines: list[bytes] = []
    for i in progress(range(len(shards)), total=len(shards), desc="generate", unit="sample"):
        codes_KT, line = generate_one(model, shards[i], params)
        path = folder / "samples" / f"{line['key']}.wav"
        soundfile.write(path, quantise(codec.decode(codes_KT)), codec.sample_rate_hz, subtype="PCM_16")
        lines.append(encode_json(line) + b"\n")
    (folder / "samples.jsonl").write_bytes(b"".join(lines))


def generate_one(
    model: IclModel, episode: Episode, params: GenerateParams
) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Generate the codes of one target, and the line that samples.jsonl tells of it."""
    from train.icl.decode import sample_target

    codes_KT, context, _ = sample_target(model, episode, params)
    line = {"key": episode.key, "prompt": episode.prompts[-1], "num_examples": len(context.examples_KT)}
    return codes_KT, {**line, "num_frames": codes_KT.shape[1]}


if __name__ == "__main__":
    from train.generate import main

    main()
