"""What the commands start from: packed shards, models named by their weights, a finished run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.layout import Layout
from pipeline.data.provenance import file_digest, package_versions
from pipeline.data.shards import expand_shards
from pipeline.engine.params import read_value
from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import Checkpoint, choose_device, find_checkpoint, weights_digest
from pipeline.models.places import ModelsParams, Port, place
from train import checkpoint
from train.params import TrainParams

SHARDS_HELP = "braces, glob or folder; looked for from here, and else below --root"
BYTE_PACKAGES = ("numpy", "peft", "soundfile", "soxr", "tokenizers", "torch", "transformers")
"""Packages whose version can change what generate and evaluate write."""


def find_shards(patterns: Sequence[str], root: Path) -> list[Path]:
    """Name the tars that patterns stand for, each from the current folder, or else below the root.

    Raises:
        ParamsError: a pattern matches nothing in either place.
    """
    return [path for pattern in patterns for path in _find_one(pattern, root)]


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
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    kept = (folder / name for name in (checkpoint.MODEL_FOLDER, checkpoint.ADAPTER_FOLDER))
    weights = next((path for path in kept if path.is_dir()), None)
    if weights is None or not {"train", "base"} <= set(settings):
        raise ContractError(f"{folder}: no finished run; `python -m train.run --name {folder.name}` makes it")
    params = read_value(settings["train"], TrainParams, f"{path}: train")
    return Run(folder, params, settings["base"], weights)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What generate and evaluate read."""

    run: Run
    sources: Mapping[Port, str]
    """Where to load each model from."""
    labels: Mapping[Port, str]
    """Which model that is."""
    device: str
    paths: list[Path]
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
    if label_digest(labels["generator"]) != label_digest(run.base_label):
        raise ContractError(
            f"{run.folder}: was trained on {run.base_label}, models.generator is {labels['generator']}; "
            "set models.generator to the model it was trained on, or train again"
        )
    device = choose_device(models.device)
    return Inputs(run, sources, labels, device, find_shards(args.shards, args.root), args.limit)
