"""Train on packed shards: python -m train.run --shards 'shards/pack/semantic/train-*.tar' --name semantic.

In: packed shards, and the base model of section `models`. Out: runs/<name>/ with adapter/ (or model/), metrics.json,
train_log.jsonl, config.yaml and README.md. A run that was killed goes on from its last checkpoint by the same command
and ends with the same bytes; a finished one is only put in place again. With --limit, only the first N samples.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import package_versions, pretty_json
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.errors import ParamsError
from pipeline.models.base import choose_device, find_checkpoint
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.advice import advised
from train.best import choose_published, keep_best
from train.card import Card, base_of, count_sources, manifest_digests
from train.inputs import SHARDS_HELP, Source, find_shards, model_label
from train.params import NO_EFFECT, TrainParams
from train.processes import ALONE, PLAIN, Launch, Processes, hush, joined, read_launch, refuse_pairs
from train.samples import publish_samples, sample_codes
from train.variants import tell_of_length

if TYPE_CHECKING:
    from torch import Tensor

    from train.data import Episode, PackedShards
    from train.icl.batches import Batch
    from train.icl.model import IclModel
    from train.loop import Hooks, Trainer

MADE_BY = "train.run"
BYTE_PACKAGES = ("numpy", "peft", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides what a training gives."""

    name: str
    params: TrainParams
    base: Path
    base_label: str
    """Name and digest of the base model."""
    device: str
    train_paths: list[Source]
    val_paths: list[Source]
    limit: int | None
    base_revision: str | None = None
    """Its commit, if it came from a hub."""
    launch: Launch = PLAIN
    """How many processes train, and how they share the model."""

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
            **self.launch.identity(),
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
        if job.launch.rank == 0:
            print(f"would train {job.params.steps} steps on {len(job.train_paths)} shards into {final} ({folder.name})")
        return
    with joined(job.launch, job.device) as processes:
        claim = checkpoint.claim(work) if processes.rank == 0 else nullcontext()
        with claim:
            if not processes.from_main(lambda: checkpoint.publish_again(folder, final)):
                device = processes.device(job.device)
                checkpoints = folder / "checkpoints"
                with advised(job.base, job.params, device=device, checkpoints=checkpoints, launch=job.launch):
                    train(job, folder, final, processes)


def plan(args: argparse.Namespace) -> Job:
    """Read settings and flags into a job.

    Raises:
        ParamsError: a setting out of range, or patterns that match nothing.
    """
    raw, launch = read_params(args), read_launch(os.environ)
    hush(launch)
    params, models = section(raw, "train", TrainParams), section(raw, "models", ModelsParams)
    device = choose_device(models.device)
    refuse_pairs(launch, params, device, os.environ)
    base = find_checkpoint(place(models, args.root, "generator"), role="generator")
    return Job(
        name=args.name,
        params=params,
        base=base.path,
        base_label=model_label(base),
        device=device,
        train_paths=find_shards(args.shards, args.root),
        val_paths=find_shards(args.val, args.root),
        limit=args.limit,
        base_revision=base.revision,
        launch=launch,
    )


def train(job: Job, folder: Path, final: Path, processes: Processes = ALONE) -> None:
    """Train from the newest checkpoint, or from the start, to a published result."""
    import torch

    from train.icl.adapter import make_trainable
    from train.icl.compiled import compile_layers
    from train.icl.loss import mean_loss
    from train.icl.model import load_model
    from train.icl.recompute import recompute_layers
    from train.loop import Trainer, run_loop
    from train.preflight import preflight

    params = job.params
    torch.set_num_threads(params.threads)
    model = load_model(str(job.base), params=params, device=processes.device(job.device))

    def loss_of(batch: Batch) -> Tensor:
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    trainable = processes.share_model(model, make_trainable(model, params))
    trainer = Trainer(model, trainable, loss_of=loss_of, params=params, processes=processes)
    recompute_layers(model.network, params.gradient_checkpointing)
    compile_layers(model.network, params.compile)
    with ExitStack() as opened:
        hooks = _hooks(job, model, trainer, checkpoints=folder / "checkpoints", opened=opened)
        newest = processes.from_main(lambda: checkpoint.list_checkpoints(folder / "checkpoints")[-1:])
        if params.preflight and processes is ALONE and not newest:
            preflight(model, trainable, loss_of=loss_of, params=params)
        for path in newest:
            whole = processes.whole(trainer)
            checkpoint.load_checkpoint(path, whole)
            processes.take(whole, trainer)
            print(f"going on from step {trainer.position.step}", file=sys.stderr)
        figures = run_loop(trainer, hooks, folder / checkpoint.LOG_FILE if processes.rank == 0 else None)
    done = processes.undivide(model, trainer)
    processes.from_main(lambda: _publish(job, done, model=model, figures=figures, places=(folder, final)))


def _publish(
    job: Job, trainer: Trainer, *, model: IclModel, figures: dict[str, Any], places: tuple[Path, Path]
) -> None:
    folder, final = places
    figures |= choose_published(folder / "checkpoints", trainer)
    checkpoint.finish(
        folder, final, lambda part: _write_result(job, trainer, model=model, figures=figures, folder=part)
    )
    print(f"{final}: {trainer.position.step} steps, loss {figures['train']['loss']}", file=sys.stderr)


def _by_main(trainer: Trainer, act: Callable[[Trainer], object]) -> None:
    """Let the first process do something with the whole trainer; the others help to put it together, and wait."""
    whole = trainer.processes.whole(trainer)

    def done() -> None:
        act(whole)

    trainer.processes.from_main(done)


def _hooks(job: Job, model: IclModel, trainer: Trainer, *, checkpoints: Path, opened: ExitStack) -> Hooks:
    """What the loop calls; threads of loader and trackers end when `opened` does."""
    from train.loading import open_loader, open_validation, save_state
    from train.loop import Hooks
    from train.stamps import check_validation
    from train.tracking import Tracker

    params, rank = job.params, trainer.processes.rank
    loader = open_loader(job.train_paths, model.codec, params, limit=job.limit, checkpoints=checkpoints)
    opened.callback(loader.close)
    _tell_of_few_examples(loader.shards.probe(), params)
    val = open_validation(job.val_paths, model.codec, params, limit=job.limit)
    of_val = check_validation(loader.shards, val, params) if val else None
    for told in filter(None, (tell_of_length(params, model.codec.num_codebooks), of_val)):
        print(told, file=sys.stderr)
    if params.publish == "best" and not val:
        raise ParamsError("train.publish best: nothing to validate on; name tars by --val, or publish the last")

    def measure() -> dict[str, Any]:
        figures = validate(model, val, params) if val else {}
        _by_main(trainer, lambda whole: keep_best(checkpoints, whole, figures))
        if val:
            sample_codes(model, val, checkpoints.parent if rank == 0 else None, step=trainer.position.step)
        return figures

    tracker = Tracker(params, checkpoints.parent, step=checkpoint.newest_step(checkpoints)) if rank == 0 else None
    if tracker:
        opened.callback(tracker.close)

    def save() -> None:
        save_state(checkpoints, trainer.position.step, loader)
        _by_main(trainer, lambda whole: checkpoint.save_checkpoint(checkpoints, whole, keep=params.keep_checkpoints))

    return Hooks(batch=loader.batch, validate=measure, save=save, draw=tracker.log if tracker else None)


def _tell_of_few_examples(probed: Sequence[Episode], params: TrainParams) -> None:
    num_packed = max(len(episode.examples_KT) for episode in probed)
    if params.most_examples > num_packed:
        print(
            f"train.num_examples asks for {params.most_examples}, these shards hold at most {num_packed}: episodes "
            "show what there is; for more, raise pack.num_examples and pack again",
            file=sys.stderr,
        )


def validate(model: IclModel, shards: PackedShards, params: TrainParams) -> dict[str, Any]:
    """Mean loss of the validation episodes, with all the examples that training may show."""
    from train.augment import plain_context
    from train.icl.loss import mean_nll

    size, num_episodes, total = params.batch_size, params.validated(len(shards)), 0.0
    for start in range(0, num_episodes, size):
        some = range(start, min(start + size, num_episodes))
        episodes = [plain_context(shards[i], params.most_examples, params) for i in some]
        total += sum(mean_nll(model, episodes, batch_size=size))
    return {"validation_loss": total / num_episodes, "num_validation_episodes": num_episodes}


def _write_result(job: Job, trainer: Trainer, *, model: IclModel, figures: Mapping[str, Any], folder: Path) -> None:
    from train.icl.adapter import save_adapter, save_full

    if job.params.method == "lora":
        save_adapter(model, folder / checkpoint.ADAPTER_FOLDER, base_label=job.base_label, revision=job.base_revision)
    else:
        save_full(model, folder / checkpoint.MODEL_FOLDER, source=str(job.base))
    num_trained = sum(value.numel() for value in trainer.trainable.values())
    metrics = {**figures, **asdict(trainer.position), "num_trained_parameters": num_trained}
    (folder / "metrics.json").write_bytes(pretty_json(metrics))
    checkpoint.write_settings(folder, MADE_BY, job.identity())
    publish_samples(folder.parent, folder)
    log = folder.parent / checkpoint.LOG_FILE
    (folder / checkpoint.LOG_FILE).write_bytes(log.read_bytes())
    (folder / "README.md").write_text(_card(job, metrics), "utf-8")


def _card(job: Job, metrics: Mapping[str, Any]) -> str:
    splits = {"train": job.train_paths, "val": job.val_paths}
    return Card(
        name=job.name,
        params=job.params,
        num_processes=job.launch.num_processes,
        base=base_of(job.base_label, job.base_revision, job.base),
        metrics=metrics,
        shards=job.identity()["shards"],
        sources=count_sources(splits, limit=job.limit),
        manifests=manifest_digests([*job.train_paths, *job.val_paths]),
    ).text()


if __name__ == "__main__":
    from train.run import main

    main()
