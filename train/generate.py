"""Generate audio with a trained run: python -m train.generate --run NAME --shards 'shards/pack/semantic/test-*.tar'.

In: a finished run and packed shards: the target's prompt and its retrieved examples; the target's codes give only the
length. Out: runs/generate/NAME/ with samples/<key>.wav (16 bit) and samples.jsonl. With --limit, the first N samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import file_digest
from pipeline.data.shards import encode_json, expand_shards
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.errors import ContractError
from pipeline.models.base import choose_device
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.params import GenerateParams, read_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.models.base import Codec
    from pipeline.music.sequence import Budget
    from train.data import Episode, PackedShards
    from train.icl.model import IclModel

MADE_BY = "train.generate"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.generate")
    parser.add_argument("--run", required=True, help="name of a finished training")
    parser.add_argument("--shards", action="append", required=True, help="packed tars: braces, glob or folder")
    parser.add_argument("--name", help="the result goes to runs/NAME (generate/RUN)")
    run_main(body, parser, argv)


def body(args: argparse.Namespace) -> None:
    """Generate one wav per packed sample and publish them together."""
    import torch

    from pipeline.models.codec import load_codec
    from train.data import PackedShards
    from train.icl.adapter import load_trained

    raw, layout = read_params(args), Layout(args.root)
    params, models = section(raw, "generate", GenerateParams), section(raw, "models", ModelsParams)
    trained = read_run(layout.run(args.run))
    paths = expand_shards(args.shards)
    work, final = checkpoint.open_place(layout, args.name or f"generate/{args.run}", made_by=MADE_BY)
    if args.dry_run:
        print(f"would generate from {len(paths)} shards into {final}")
        return
    torch.set_num_threads(params.threads)
    device = choose_device(models.device)
    model = load_trained(layout.run(args.run), place(models, args.root, "generator"), params=trained, device=device)
    codec = load_codec(place(models, args.root, "codec"), device=device)
    _check_codec(model, codec)
    shards = PackedShards(paths, model.codec, limit=args.limit)
    settings = {
        "generate": asdict(params),
        "run": {args.run: file_digest(layout.run(args.run) / checkpoint.SETTINGS_FILE)},
        "shards": checkpoint.shard_digests(paths),
        "limit": args.limit,
    }
    with checkpoint.claim(work):
        with checkpoint.whole_folder(work / checkpoint.RESULT_FOLDER) as part:
            write_samples(model, codec, shards, folder=part, params=params, budget=trained.budget)
            checkpoint.write_settings(part, MADE_BY, settings)
        checkpoint.publish_result(work / checkpoint.RESULT_FOLDER, final, work)
    print(f"{final}: {len(shards)} samples", file=sys.stderr)


def _check_codec(model: IclModel, codec: Codec) -> None:
    shape = (codec.num_codebooks, codec.codebook_size, codec.frame_rate_hz, codec.sample_rate_hz)
    if shape != tuple(model.codec):
        raise ContractError(
            f"models.codec decodes {shape}, the generator writes {tuple(model.codec)}; use its own codec"
        )


def write_samples(
    model: IclModel,
    codec: Codec,
    shards: PackedShards,
    *,
    folder: Path,
    params: GenerateParams,
    budget: Budget,
) -> None:
    """Generate and write all samples.

    Args:
        model: in eval mode.
        codec: turns codes into audio.
        shards: where prompts and examples come from.
        folder: gets samples/<key>.wav and samples.jsonl.
        params: how to sample; each target draws from (seed, key), whatever came before it.
        budget: limits of the context, those of the training.
    """
    import soundfile

    from pipeline.engine.progress import progress
    from pipeline.music.audio import quantise

    (folder / "samples").mkdir(parents=True)
    lines: list[bytes] = []
    for i in progress(range(len(shards)), total=len(shards), desc="generate", unit="sample"):
        codes_KT, line = generate_one(model, shards[i], params=params, budget=budget)
        path = folder / "samples" / f"{line['key']}.wav"
        soundfile.write(path, quantise(codec.decode(codes_KT)), codec.sample_rate_hz, subtype="PCM_16")
        lines.append(encode_json(line) + b"\n")
    (folder / "samples.jsonl").write_bytes(b"".join(lines))


def generate_one(
    model: IclModel, episode: Episode, *, params: GenerateParams, budget: Budget
) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Generate the codes of one target, and the line that samples.jsonl tells of it."""
    from train.data import fit_episode, key_random, nearest_examples
    from train.icl.decode import Sampling, generate_codes

    context = fit_episode(nearest_examples(episode, params.num_examples), budget)
    sampling = Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        guidance_scale=params.guidance_scale,
        seed=int(key_random(params.seed, 0, episode.key).integers(2**63)),
    )
    num_frames = min(params.max_frames, context.target_KT.shape[1])
    codes_KT = generate_codes(
        model, context.examples_KT, prompts=context.prompts, num_frames=num_frames, sampling=sampling
    )
    line = {"key": episode.key, "prompt": episode.prompts[-1], "num_examples": len(context.examples_KT)}
    return codes_KT, {**line, "num_frames": num_frames}


if __name__ == "__main__":
    from train.generate import main

    main()
