"""Train on packed shards: python -m train.run --shards 'shards/pack/semantic/train-*.tar' --name semantic.

In: packed shards, and the base model of section `models`. Out: runs/<name>/ with adapter/ (or model/), metrics.json,
train_log.jsonl, config.yaml and README.md. A run that was killed goes on from its last checkpoint by the same command
and ends with the same bytes; a finished one is only put in place again. With --limit, only the first N samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import package_versions, pretty_json
from pipeline.data.shards import ShardFile
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.models.base import choose_device, find_checkpoint
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.inputs import SHARDS_HELP, find_shards, model_label
from train.params import TrainParams
from train.variants import tell_of_length

if TYPE_CHECKING:
    from torch import Tensor

    from train.data import PackedShards
    from train.icl.batches import Batch
    from train.icl.model import IclModel
    from train.loop import Hooks, Trainer

MADE_BY = "train.run"
BYTE_PACKAGES = ("numpy", "peft", "torch", "transformers")
NO_EFFECT = ("checkpoint_every_steps", "keep_checkpoints")
"""Settings that cannot change a result, left out of the fingerprint."""
NUM_PROBED = 64
"""Samples looked at to learn how many examples were packed; pack gives all samples the same number if it can."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides what a training gives."""

    name: str
    params: TrainParams
    base: Path
    base_label: str
    """Name and digest of the base model."""
    device: str
    train_paths: list[Path]
    val_paths: list[Path]
    limit: int | None

    def identity(self) -> dict[str, Any]:
        """What the fingerprint covers, as JSON; also the run's config.yaml."""
        params = {name: value for name, value in asdict(self.params).items() if name not in NO_EFFECT}
        return {
            "train": params,
            "base": self.base_label,
            "device": self.device,
            "limit": self.limit,
            "shards": {
                "train": checkpoint.shard_digests(self.train_paths),
                "val": checkpoint.shard_digests(self.val_paths),
            },
            "packages": package_versions(BYTE_PACKAGES),
        }

    def fingerprint(self) -> str:
        """Name of the folder that holds this job's checkpoints."""
        return checkpoint.fingerprint(MADE_BY, self.identity())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.run")
    parser.add_argument("--shards", action="append", required=True, help=f"training tars: {SHARDS_HELP}")
    parser.add_argument(
        "--val", action="append", default=[], help="validation tars, in the same forms; empty ones are none"
    )
    parser.add_argument("--name", required=True, help="the result goes to runs/NAME")
    run_main(body, parser, argv)


def body(args: argparse.Namespace) -> None:
    """Train, or put a finished training in place again."""
    job, layout = plan(args), Layout(args.root)
    fingerprint = job.fingerprint()
    work, final = checkpoint.open_place(layout, job.name, made_by=MADE_BY)
    folder = work / fingerprint
    if args.dry_run:
        print(f"would train {job.params.steps} steps on {len(job.train_paths)} shards into {final} ({folder.name})")
        return
    with checkpoint.claim(work):
        if not checkpoint.publish_again(folder, final):
            train(job, folder, final)


def plan(args: argparse.Namespace) -> Job:
    """Read settings and flags into a job.

    Raises:
        ParamsError: a setting out of range, or patterns that match nothing.
    """
    raw = read_params(args)
    params, models = section(raw, "train", TrainParams), section(raw, "models", ModelsParams)
    base = find_checkpoint(place(models, args.root, "generator"), role="generator")
    return Job(
        name=args.name,
        params=params,
        base=base.path,
        base_label=model_label(base),
        device=choose_device(models.device),
        train_paths=find_shards(args.shards, args.root),
        val_paths=find_shards(args.val, args.root),
        limit=args.limit,
    )


def train(job: Job, folder: Path, final: Path) -> None:
    """Train from the newest checkpoint, or from the start, to a published result."""
    import torch

    from train.icl.adapter import make_trainable
    from train.icl.loss import mean_loss
    from train.icl.model import load_model
    from train.icl.recompute import recompute_layers
    from train.loop import Trainer, run_loop

    params = job.params
    torch.set_num_threads(params.threads)
    model = load_model(str(job.base), params=params, device=job.device)

    def loss_of(batch: Batch) -> Tensor:
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    trainer = Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)
    recompute_layers(model.network, params.gradient_checkpointing)
    hooks = _hooks(job, model, trainer, folder / "checkpoints")
    for path in checkpoint.list_checkpoints(folder / "checkpoints")[-1:]:
        checkpoint.load_checkpoint(path, trainer)
        print(f"going on from step {trainer.position.step}", file=sys.stderr)
    figures = run_loop(trainer, hooks, folder / checkpoint.LOG_FILE)
    checkpoint.finish(
        folder, final, lambda part: _write_result(job, trainer, model=model, figures=figures, folder=part)
    )
    print(f"{final}: {trainer.position.step} steps, loss {figures['train']['loss']}", file=sys.stderr)


def _hooks(job: Job, model: IclModel, trainer: Trainer, checkpoints: Path) -> Hooks:
    from train.data import PackedShards
    from train.icl import batches
    from train.loop import Hooks
    from train.stamps import check_clap_vectors, check_one_codec

    params, size = job.params, model.codec.codebook_size
    shards = PackedShards(job.train_paths, model.codec, limit=job.limit)
    shards.check_train()
    check_one_codec(shards)
    check_clap_vectors(shards, params)
    _tell_of_few_examples(shards, params)
    told = tell_of_length(params, model.codec.num_codebooks)
    if told:
        print(told, file=sys.stderr)
    has_val = _has_validation(job.val_paths)
    val = PackedShards(job.val_paths, model.codec, limit=job.limit) if has_val else None
    return Hooks(
        batch=lambda i: batches.train_batch(shards, i, params, codebook_size=size),
        validate=lambda: validate(model, val, params) if val else {},
        save=lambda: checkpoint.save_checkpoint(checkpoints, trainer, keep=params.keep_checkpoints),
    )


def _tell_of_few_examples(shards: PackedShards, params: TrainParams) -> None:
    num_packed = max(len(shards[i].examples_KT) for i in range(min(NUM_PROBED, len(shards))))
    if params.most_examples > num_packed:
        print(
            f"train.num_examples asks for {params.most_examples}, these shards hold at most {num_packed}: episodes "
            "show what there is; for more, raise pack.num_examples and pack again",
            file=sys.stderr,
        )


def _has_validation(paths: Sequence[Path]) -> bool:
    has_sample = any(len(ShardFile(path)) for path in paths)
    if paths and not has_sample:
        print("--val: no sample to validate on in these tars; training without", file=sys.stderr)
    return has_sample


def validate(model: IclModel, shards: PackedShards, params: TrainParams) -> dict[str, Any]:
    """Mean loss of the first validation episodes, with all the examples that training may show."""
    from train.augment import plain_context
    from train.icl.loss import mean_nll

    num_episodes = min(len(shards), params.validation_batches * params.batch_size)
    episodes = [plain_context(shards[i], params.most_examples, params) for i in range(num_episodes)]
    nll_B = mean_nll(model, episodes, batch_size=params.batch_size)
    return {"validation_loss": sum(nll_B) / num_episodes, "num_validation_episodes": num_episodes}


def _write_result(job: Job, trainer: Trainer, *, model: IclModel, figures: Mapping[str, Any], folder: Path) -> None:
    from train.icl.adapter import save_adapter, save_full

    if job.params.method == "lora":
        save_adapter(model, folder / checkpoint.ADAPTER_FOLDER, base_label=job.base_label)
    else:
        save_full(model, folder / checkpoint.MODEL_FOLDER, source=str(job.base))
    num_trained = sum(value.numel() for value in trainer.trainable.values())
    metrics = {**figures, **asdict(trainer.position), "num_trained_parameters": num_trained}
    (folder / "metrics.json").write_bytes(pretty_json(metrics))
    checkpoint.write_settings(folder, MADE_BY, job.identity())
    log = folder.parent / checkpoint.LOG_FILE
    (folder / checkpoint.LOG_FILE).write_bytes(log.read_bytes())
    (folder / "README.md").write_text(_card(job, metrics), "utf-8")


def _card(job: Job, metrics: Mapping[str, Any]) -> str:
    params = job.params
    splits = job.identity()["shards"].items()
    digests = [f"- {split} {shard['name']}: {shard['sha256']}" for split, shards in splits for shard in shards]
    validation = (metrics["validation"] or {}).get("validation_loss", "none measured")
    return "\n".join(
        [
            f"# {job.name}",
            "",
            f"MusicGen that reads examples in its context: `{params.method}` training on packed shards.",
            "",
            f"- base model: {job.base_label}",
            f"- steps: {metrics['step']} of {params.batch_size * params.accumulate} episodes, "
            f"{metrics['num_bad_steps']} skipped",
            f"- examples per episode: {params.num_examples}, {params.order}; loss on: {params.loss_on}",
            f"- sequence: examples as {params.representation}, captions {params.text_placement} "
            f"({params.cross_attention}), separator {params.separator}",
            f"- trained parameters: {metrics['num_trained_parameters']:,}",
            f"- last training loss: {metrics['train']['loss']} nats per code; validation: {validation}",
            "",
            "Made from these shards (sha256), whose manifests name corpora and licences:",
            "",
            *digests,
            "",
            "The weights of the base model keep their own licence; settings are in config.yaml.",
            "",
        ]
    )


if __name__ == "__main__":
    from train.run import main

    main()
