"""What the commands start from: packed shards, models named by their weights, a finished run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import file_digest, package_versions
from pipeline.data.shards import STREAM, expand_braces, expand_shards
from pipeline.engine.params import read_value
from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import Checkpoint, choose_device, find_checkpoint, weights_digest
from pipeline.models.places import ModelsParams, Port, place
from train import checkpoint
from train.params import TrainParams

Source = Path | str
"""A local tar, or the address of one that streams: a `pipe:` command, `s3://` and the like."""
SHARDS_HELP = (
    "braces, glob or folder, looked for from here, and else below --root; or pipe:COMMAND, s3://BUCKET/TAR and other "
    "addresses, with braces; may be repeated"
)
BYTE_PACKAGES = ("numpy", "peft", "soundfile", "soxr", "tokenizers", "torch", "transformers")
"""Packages whose version can change what generate and evaluate write."""


def find_shards(patterns: Sequence[str], root: Path) -> list[Source]:
    """Name the tars that patterns stand for, each from the current folder, or else below the root.

    Returns:
        Paths, or the addresses of streams.

    Raises:
        ParamsError: a pattern matches nothing in either place, a tar comes twice, or some stream and others do not.
    """
    streams = [pattern for pattern in patterns if STREAM.match(pattern)]
    if streams and len(streams) < len(patterns):
        raise ParamsError(f"{streams[0]}: a stream beside local tars; let all stream ('pipe:cat PATH'), or none")
    if streams:
        return _once([url for pattern in streams for url in expand_braces(pattern)])
    return _once([path for pattern in patterns for path in _find_one(pattern, root)])


def _once(sources: Sequence[Source]) -> list[Source]:
    """The same list; a folder beside a glob in it is a slip, by which some episodes would count double."""
    seen: set[Source] = set()
    for source in sources:
        same = source.resolve() if isinstance(source, Path) else source
        if same in seen:
            raise ParamsError(f"{source}: named twice; name every tar once")
        if isinstance(source, str) and source.removeprefix("pipe:").strip() == "":
            raise ParamsError(f"{source}: no command after the colon; such as 'pipe:cat PATH'")
        seen.add(same)
    return list(sources)


def _find_one(pattern: str, root: Path) -> list[Path]:
    try:
        return expand_shards(pattern)
    except ParamsError:
        return expand_shards(str(root / pattern))


def model_label(model: Checkpoint) -> str:
    """Name of a model and digest of its weights, which alone decides whether two are the same."""
    return f"{model.name}@sha256:{weights_digest(model.path)}"


def label_digest(label: str) -> str:
    """The digest in a label."""
    return label.rpartition("@sha256:")[2]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training."""

    folder: Path
    params: TrainParams
    base_label: str
    """The base model that it was trained on."""
    weights: Path
    """Folder of the adapter, or of the whole model."""

    def identity(self) -> dict[str, str]:
        """What tells it from every other training."""
        return {
            "name": self.folder.name,
            "settings": file_digest(self.folder / checkpoint.SETTINGS_FILE),
            "weights": weights_digest(self.weights),
        }


def read_run(folder: Path) -> Run:
    """Read a finished training, `runs/<name>`.

    Raises:
        ContractError: there is none.
    """
    path = folder / checkpoint.SETTINGS_FILE
    settings = checkpoint.read_settings(folder)
    kept = (folder / name for name in (checkpoint.MODEL_FOLDER, checkpoint.ADAPTER_FOLDER))
    weights = next((path for path in kept if path.is_dir()), None)
    if weights is None or not {"train", "base"} <= set(settings):
        raise ContractError(f"{folder}: no finished run; `python -m train.run --name {folder.name}` makes it")
    params = read_value(settings["train"], TrainParams, f"{path}: train")
    return Run(folder, params, settings["base"], weights)


def check_base(run: Run, generator: str) -> None:
    """Refuse another base than the one that a run was trained on.

    Args:
        run: the run.
        generator: label of the model that `models.generator` names.

    Raises:
        ContractError: names both.
    """
    if label_digest(generator) != label_digest(run.base_label):
        raise ContractError(
            f"{run.folder}: was trained on {run.base_label}, models.generator is {generator}; "
            "set models.generator to the model it was trained on, or train again"
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What generate and evaluate read."""

    run: Run
    sources: Mapping[Port, str]
    """Where to load each model from."""
    labels: Mapping[Port, str]
    """Which model that is."""
    device: str
    paths: list[Source]
    """Packed shards."""
    limit: int | None

    def identity(self) -> dict[str, Any]:
        """All that decides what comes out, beside the command's own settings; JSON."""
        return {
            "run": self.run.identity(),
            "base": self.run.base_label,
            "models": dict(self.labels),
            "device": self.device,
            "shards": checkpoint.shard_digests(self.paths),
            "limit": self.limit,
            "packages": package_versions(BYTE_PACKAGES),
        }


def read_inputs(args: argparse.Namespace, models: ModelsParams, ports: Sequence[Port]) -> Inputs:
    """Find what the flags and section `models` name.

    Args:
        args: flags `root`, `run`, `shards` and `limit`.
        models: the settings.
        ports: the models needed, the generator among them.

    Raises:
        ContractError: no such run or model, or the run was trained on another base than `models.generator`.
        ParamsError: no such shards.
    """
    run = read_run(Layout(args.root).run(args.run))
    sources: dict[Port, str] = {port: place(models, args.root, port) for port in ports}
    labels: dict[Port, str] = {port: model_label(find_checkpoint(sources[port], role=port)) for port in ports}
    check_base(run, labels["generator"])
    device = choose_device(models.device)
    return Inputs(run, sources, labels, device, find_shards(args.shards, args.root), args.limit)
