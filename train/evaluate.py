"""Find out whether examples help: python -m train.evaluate --run NAME --shards 'shards/pack/semantic/test-*.tar'.

In: a finished run, packed test shards; with --generated, a folder of train.generate. Out: runs/evaluate/NAME/ with
metrics.json and per_key.jsonl. For every target the negative log-likelihood (nats per code) of its real codes is taken
under four conditions, with the trained model and with the base model, and compared key by key:

    with_examples      the context as trained
    without_examples   the target's caption alone
    captions_swapped   every example bears another one's caption: worse only if captions are read
    examples_blanked   the examples' captions stay, their codes and CLAP vectors are gone

With --generated, the CLAP score of that audio, between the score of the real target and that of shuffled captions;
`circular` says whether the same CLAP chose the examples (null: pack does not tell).
What was finished from the same run, models, shards and settings is only put in place again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.layout import Layout
from pipeline.data.provenance import digest_of, file_digest, pretty_json
from pipeline.data.shards import encode_json
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.errors import ContractError
from pipeline.models.places import ModelsParams, Port
from train import checkpoint
from train.inputs import SHARDS_HELP, Inputs, read_inputs
from train.params import EvaluateParams, TrainParams
from train.variants import check_num_examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.models.base import Codec, Embedder
    from train.data import Episode, PackedShards
    from train.icl.model import IclModel

Nll = dict[str, float | None]
"""Nats per code by condition; None where the condition changes nothing for this target."""

MADE_BY = "train.evaluate"
CONDITIONS = ("with_examples", "without_examples", "captions_swapped", "examples_blanked")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.evaluate")
    parser.add_argument("--run", required=True, help="name of a finished training")
    parser.add_argument("--shards", action="append", required=True, help=f"packed tars: {SHARDS_HELP}")
    parser.add_argument(
        "--generated", type=Path, help="folder of train.generate, to score its audio; here or below --root"
    )
    parser.add_argument("--name", help="the result goes to runs/NAME (evaluate/RUN)")
    run_main(body, parser, argv)


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides what an evaluation gives."""

    params: EvaluateParams
    inputs: Inputs
    generated: Path | None
    """Folder of train.generate."""

    def identity(self) -> dict[str, Any]:
        """What the fingerprint covers, as JSON; also the result's config.yaml."""
        generated = wavs_digest(self.generated) if self.generated else None
        return {"evaluate": asdict(self.params), **self.inputs.identity(), "generated": generated}


def body(args: argparse.Namespace) -> None:
    """Evaluate and publish, or put a finished result in place again."""
    job = plan(args)
    name = args.name or f"evaluate/{args.run}"
    work, final = checkpoint.open_place(Layout(args.root), name, made_by=MADE_BY)
    if args.dry_run:
        print(f"would evaluate {args.run} on {len(job.inputs.paths)} shards into {final}")
        return
    identity = job.identity()
    with checkpoint.claim(work):
        folder = work / checkpoint.fingerprint(MADE_BY, identity)
        if not checkpoint.publish_again(folder, final):
            checkpoint.finish(folder, final, partial(evaluate, job=job, identity=identity))
            print(f"{final}: done", file=sys.stderr)


def plan(args: argparse.Namespace) -> Job:
    """Read settings and flags into a job."""
    raw = read_params(args)
    params, models = section(raw, "evaluate", EvaluateParams), section(raw, "models", ModelsParams)
    ports: tuple[Port, ...] = ("generator", "codec", "embedder") if args.generated else ("generator",)
    generated = args.generated
    if generated and not generated.is_dir():
        generated = args.root / generated
    return Job(params, read_inputs(args, models, ports), generated)


def wavs_digest(generated: Path) -> str:
    """Digest of the audio in a folder of train.generate.

    Raises:
        ContractError: there is none.
    """
    wavs = sorted((generated / "samples").glob("*.wav"))
    if not wavs:
        raise ContractError(f"{generated}: no wav there; run train.generate first")
    return digest_of([[path.name, file_digest(path)] for path in wavs])


def evaluate(folder: Path, *, job: Job, identity: Mapping[str, Any]) -> None:
    """Take all figures.

    Args:
        folder: gets metrics.json, per_key.jsonl and config.yaml.
        job: what to evaluate.
        identity: settings to note in config.yaml.
    """
    import torch

    from train.data import PackedShards
    from train.icl.adapter import load_trained
    from train.icl.model import load_model
    from train.stamps import check_clap_vectors

    params, inputs = job.params, job.inputs
    check_num_examples("evaluate", params.num_examples, inputs.run.params)
    source, device = inputs.sources["generator"], inputs.device
    torch.set_num_threads(params.threads)
    base = load_model(source, params=inputs.run.params, device=device)
    shards = PackedShards(inputs.paths, base.codec, limit=inputs.limit)
    check_clap_vectors(shards, inputs.run.params)
    if job.generated:
        shards.check_codec(inputs.labels["codec"])
    contexts = conditions(shards, params, inputs.run.params)
    nll = {"base": score(base, contexts, params)}
    del base
    nll["trained"] = score(load_trained(inputs.run, source, device=device), contexts, params)
    metrics = summarise(nll, params)
    if job.generated:
        metrics["clap_score"] = _clap_section(job.generated, inputs, shards, seed=params.seed)
    _write(folder, metrics, nll)
    checkpoint.write_settings(folder, MADE_BY, identity)
    print(_headline(metrics), file=sys.stderr)


def _clap_section(generated: Path, inputs: Inputs, shards: PackedShards, *, seed: int) -> dict[str, Any]:
    from pipeline.models.clap import load_embedder
    from pipeline.models.codec import load_codec
    from train.stamps import tell_of_golden

    codec = load_codec(inputs.sources["codec"], device=inputs.device)
    told = tell_of_golden(shards, codec.stamp)
    if told:
        print(told, file=sys.stderr)
    embedder = load_embedder(inputs.sources["embedder"], device=inputs.device)
    episodes = [shards[i] for i in range(len(shards))]
    return clap_scores(generated, episodes, codec=codec, embedder=embedder, seed=seed)


def conditions(
    shards: PackedShards, params: EvaluateParams, trained: TrainParams
) -> dict[str, dict[str, Episode | None]]:
    """Every target under every condition, by key; None where a condition changes nothing."""
    from train.augment import blank_examples, nearest_examples, plain_context, swap_captions

    by_key: dict[str, dict[str, Episode | None]] = {}
    for i in range(len(shards)):
        context = plain_context(shards[i], params.num_examples, trained)
        has_examples = bool(context.examples_KT)
        can_blank = has_examples and trained.representation != "text"
        by_key[context.key] = {
            "with_examples": context if has_examples else None,
            "without_examples": nearest_examples(context, 0),
            "captions_swapped": swap_captions(context),
            "examples_blanked": blank_examples(context, shards.codec.codebook_size) if can_blank else None,
        }
    return by_key


def score(
    model: IclModel, contexts: Mapping[str, Mapping[str, Episode | None]], params: EvaluateParams
) -> dict[str, Nll]:
    """Nats per code of every target under every condition, by key."""
    from train.icl.loss import mean_nll

    scores: dict[str, Nll] = {key: dict.fromkeys(CONDITIONS) for key in contexts}
    for condition in CONDITIONS:
        there = {key: of[condition] for key, of in contexts.items()}
        episodes = {key: episode for key, episode in there.items() if episode is not None}
        values = mean_nll(model, list(episodes.values()), batch_size=params.batch_size)
        for key, value in zip(episodes, values, strict=True):
            scores[key][condition] = value
    return scores


def summarise(nll: Mapping[str, Mapping[str, Nll]], params: EvaluateParams) -> dict[str, Any]:
    """Means by model and condition, and paired differences with their intervals."""
    metrics: dict[str, Any] = {"num_targets": len(nll["trained"])}
    for model, scores in nll.items():
        columns = {name: [of[name] for of in scores.values()] for name in CONDITIONS}
        metrics[model] = {name: _mean(values) for name, values in columns.items()}
        metrics[model]["minus_with_examples"] = {
            name: paired_difference(columns[name], columns["with_examples"], params=params) for name in CONDITIONS[1:]
        }
    metrics["base_minus_trained"] = {
        name: paired_difference(
            [of[name] for of in nll["base"].values()], [of[name] for of in nll["trained"].values()], params=params
        )
        for name in CONDITIONS
    }
    return metrics


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def paired_difference(
    left: Sequence[float | None], right: Sequence[float | None], *, params: EvaluateParams
) -> dict[str, float | int] | None:
    """Mean of left minus right over the targets that have both, with a 95 % percentile bootstrap interval.

    Args:
        left: a figure of every target.
        right: another figure of the same targets, in the same order.
        params: seed and draws of the bootstrap.

    Returns:
        `mean`, `low`, `high`, `num_pairs`; None where no target has both.
    """
    pairs = zip(left, right, strict=True)
    differences = np.array([a - b for a, b in pairs if a is not None and b is not None])
    num_pairs = len(differences)
    if num_pairs == 0:
        return None
    random = np.random.default_rng(params.seed)
    means = [differences[random.integers(num_pairs, size=num_pairs)].mean() for _ in range(params.bootstrap_draws)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"mean": float(differences.mean()), "low": low, "high": high, "num_pairs": num_pairs}


def clap_scores(
    generated: Path, episodes: Sequence[Episode], *, codec: Codec, embedder: Embedder, seed: int
) -> dict[str, Any]:
    """Mean cosine of audio and caption: of the generated audio, and of the two anchors it lies between.

    Args:
        generated: folder of train.generate.
        episodes: the targets; those without a generated wav are left out.
        codec: decodes the real targets, cut to the length of the generated, so that both went through the same.
        embedder: CLAP. Where it also chose the examples, the score is circular.
        seed: of the shuffled captions.

    Raises:
        ContractError: no wav in the folder belongs to a target.
    """
    there = [episode for episode in episodes if (generated / "samples" / f"{episode.key}.wav").is_file()]
    if not there:
        raise ContractError(f"{generated}: no wav of these targets; run train.generate on the same shards")
    text_BD = embedder.embed_text([episode.caption for episode in there])
    made = [_read_wave(generated / "samples" / f"{e.key}.wav") for e in there]
    made_BD = _embed(made, embedder)
    num_frames = [round(len(wave_N) / hz * codec.frame_rate_hz) for wave_N, hz in made]
    cut_KT = [e.target_KT[:, :length] for e, length in zip(there, num_frames, strict=True)]
    real_BD = _embed([(codec.decode(codes_KT), codec.sample_rate_hz) for codes_KT in cut_KT], embedder)
    # A shift by one in a random order: nobody keeps an own caption, unless there is but one.
    order = np.random.default_rng(seed).permutation(len(there))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return {
        "num_samples": len(there),
        "generated": _mean_cosine(made_BD, text_BD),
        "anchor_real_audio": _mean_cosine(real_BD, text_BD),
        "anchor_shuffled_captions": _mean_cosine(made_BD, text_BD[other]),
        "embedder": embedder.stamp,
        "circular": is_circular(there, embedder),
    }


def is_circular(episodes: Sequence[Episode], embedder: Embedder) -> bool | None:
    """Whether the embedder that scores also chose the examples; None where pack does not say which one did."""
    choosers = {episode.embedder_sha256 for episode in episodes}
    if embedder.stamp["weights_sha256"] in choosers:
        return True
    return None if None in choosers else False


def _read_wave(path: Path) -> tuple[NDArray[np.float32], int]:
    import soundfile

    wave_N, sample_rate_hz = soundfile.read(path, dtype="float32")
    return np.asarray(wave_N, np.float32), sample_rate_hz


def _embed(waves: Sequence[tuple[NDArray[np.float32], int]], embedder: Embedder) -> NDArray[np.float32]:
    from pipeline.music.audio import resample

    return embedder.embed_audio([resample(wave_N, hz, embedder.sample_rate_hz) for wave_N, hz in waves])


def _mean_cosine(left_BD: NDArray[np.float32], right_BD: NDArray[np.float32]) -> float:
    return float((left_BD * right_BD).sum(axis=1).mean())


def _write(folder: Path, metrics: Mapping[str, Any], nll: Mapping[str, Mapping[str, Nll]]) -> None:
    keys = list(nll["trained"])
    lines = [encode_json({"key": key, **{model: scores[key] for model, scores in nll.items()}}) for key in keys]
    (folder / "metrics.json").write_bytes(pretty_json(metrics))
    (folder / "per_key.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _headline(metrics: Mapping[str, Any]) -> str:
    trained = metrics["trained"]
    return ", ".join(f"{name} {trained[name]:.3f}" for name in CONDITIONS if trained[name] is not None)


if __name__ == "__main__":
    from train.evaluate import main

    main()
