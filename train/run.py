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
from pipeline.data.provenance import code_digest, digest_of, package_versions, pretty_json
from pipeline.data.shards import expand_shards
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.models.base import choose_device, find_checkpoint, weights_digest
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.params import TrainParams, most_examples

if TYPE_CHECKING:
    from torch import Tensor

    from train.data import Batch, PackedShards
    from train.icl.model import IclModel
    from train.loop import Hooks, Trainer

MADE_BY = "train.run"
BYTE_PACKAGES = ("numpy", "peft", "torch", "transformers")
NO_EFFECT = ("checkpoint_every_steps", "keep_checkpoints")
"""Settings that cannot change a result, left out of the fingerprint."""


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
        return digest_of({**self.identity(), "code": code_digest("train.run")})[:16]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.run")
    parser.add_argument("--shards", action="append", required=True, help="training tars: braces, glob or folder")
    parser.add_argument("--val", action="append", default=[], help="validation tars, in the same forms")
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
        if (folder / checkpoint.RESULT_FOLDER).is_dir():
            checkpoint.publish_result(folder / checkpoint.RESULT_FOLDER, final, work)
            print(f"{final}: finished before, put in place again", file=sys.stderr)
        else:
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
        base_label=f"{base.name}@sha256:{weights_digest(base.path)}",
        device=choose_device(models.device),
        train_paths=expand_shards(args.shards),
        val_paths=expand_shards(args.val),
        limit=args.limit,
    )


def train(job: Job, folder: Path, final: Path) -> None:
    """Train from the newest checkpoint, or from the start, to a published result."""
    import torch

    from train.icl.adapter import make_trainable
    from train.icl.loss import mean_loss
    from train.icl.model import load_model
    from train.loop import Trainer, run_loop

    params = job.params
    torch.set_num_threads(params.threads)
    model = load_model(str(job.base), params=params, device=job.device)

    def loss_of(batch: Batch) -> Tensor:
        logits_BKSV = model.logits(batch.inputs_BKS, batch.segments_BS, batch.prompts)
        return mean_loss(logits_BKSV, batch.labels_BKS)

    trainer = Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)
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
    from train.data import PackedShards, train_batch
    from train.loop import Hooks

    params, size = job.params, model.codec.codebook_size
    shards = PackedShards(job.train_paths, model.codec, limit=job.limit)
    val = PackedShards(job.val_paths, model.codec, limit=job.limit) if job.val_paths else None
    return Hooks(
        batch=lambda i: train_batch(shards, i, params, codebook_size=size),
        validate=lambda: validate(model, val, params) if val else {},
        save=lambda: checkpoint.save_checkpoint(checkpoints, trainer, keep=params.keep_checkpoints),
    )


def validate(model: IclModel, shards: PackedShards, params: TrainParams) -> dict[str, Any]:
    """Mean loss of the first validation episodes, with all the examples that training may show."""
    from train.data import fit_episode, nearest_examples
    from train.icl.loss import mean_nll

    number = min(len(shards), params.validation_batches * params.batch_size)
    episodes = [fit_episode(nearest_examples(shards[i], most_examples(params)), params.budget) for i in range(number)]
    nll_B = mean_nll(model, episodes, batch_size=params.batch_size)
    return {"validation_loss": sum(nll_B) / number, "validation_episodes": number}


def _write_result(job: Job, trainer: Trainer, *, model: IclModel, figures: Mapping[str, Any], folder: Path) -> None:
    from train.icl.adapter import ADAPTER_FOLDER, MODEL_FOLDER, save_adapter, save_full

    if job.params.method == "lora":
        save_adapter(model, folder / ADAPTER_FOLDER, base_label=job.base_label)
    else:
        save_full(model, folder / MODEL_FOLDER, source=str(job.base))
    num_trained = sum(value.numel() for value in trainer.trainable.values())
    metrics = {**figures, **asdict(trainer.position), "trained_parameters": num_trained}
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
            f"{metrics['bad_steps']} skipped",
            f"- examples per episode: {params.num_examples}; loss on: {params.loss_on}",
            f"- trained parameters: {metrics['trained_parameters']:,}",
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
