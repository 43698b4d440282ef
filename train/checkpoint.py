"""Checkpoints that a kill cannot break, and results put in place whole; of generate and evaluate too.

runs/.work/<name>/<fingerprint>/checkpoints/step-000100/   weights, moments, position
runs/.work/<name>/<fingerprint>/checkpoints/best-000200/   weights of the lowest validation loss (train.best)
runs/.work/<name>/<fingerprint>/train_log.jsonl
runs/.work/<name>/<fingerprint>/result/                    a finished run, from which runs/<name> is linked
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.data.layout import Layout
from pipeline.data.provenance import code_digest, digest_of, file_digest
from pipeline.data.shards import ShardFile
from pipeline.data.storage import link_or_copy, publish_folder, sync
from pipeline.errors import ContractError, ParamsError

if TYPE_CHECKING:
    from torch import Tensor

    from train.loop import Trainer

WEIGHTS_FILE = "weights.safetensors"
MOMENTS_FILE = "moments.safetensors"
POSITION_FILE = "position.json"
SETTINGS_FILE = "config.yaml"
RESULT_FOLDER = "result"
LOG_FILE = "train_log.jsonl"
ADAPTER_FOLDER = "adapter"
"""Where a run with `method: lora` keeps its weights."""
MODEL_FOLDER = "model"
"""Where a run with `method: full` keeps its weights."""
FOLDERS_OF_RESULTS = ("compare", "evaluate", "generate", "report")
"""Folders below runs/ where other commands than `train.run` put what they make."""
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def open_place(layout: Layout, name: str, *, made_by: str) -> tuple[Path, Path]:
    """Find where a result of a name goes, before hours are spent on it.

    Args:
        layout: the project's folders.
        name: a folder name below runs/, or two with a slash between.
        made_by: the command that asks, as `write_settings` notes it.

    Returns:
        `runs/.work/<name>` and `runs/<name>`.

    Raises:
        ParamsError: no such name, or one under, or in which, something else lies.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise ParamsError(f"--name {name!r}: must be letters, digits, dots and dashes, in at most two folders")
    final = layout.run(name)
    if _maker(final.parent) is not None:
        # What a run publishes next takes the place of its whole folder.
        raise ParamsError(f"--name {name}: {final.parent} is a result itself; choose another name")
    if made_by == "train.run" and name in FOLDERS_OF_RESULTS:
        raise ParamsError(f"--name {name}: {final} is where other commands put their results; choose another name")
    if final.exists() and any(final.iterdir()) and _maker(final) != made_by:
        raise ParamsError(f"--name {name}: {final} holds something that {made_by} did not make; choose another name")
    return layout.run_work(name), final


def write_settings(folder: Path, made_by: str, settings: Mapping[str, Any]) -> None:
    """Write config.yaml: which command made a result, from what, with which settings."""
    # Through JSON, because YAML has no tuples.
    plain = json.loads(json.dumps({"made_by": made_by, **settings}))
    (folder / SETTINGS_FILE).write_text(yaml.safe_dump(plain, sort_keys=True), "utf-8")


def fingerprint(made_by: str, identity: Mapping[str, Any]) -> str:
    """Name of the folder in `runs/.work/<name>` for a result that a command makes of all that `identity` tells."""
    return digest_of({**identity, "code": code_digest(made_by)})[:16]


def _maker(folder: Path) -> str | None:
    return read_settings(folder).get("made_by")


def read_settings(folder: Path) -> dict[str, Any]:
    """What `write_settings` wrote; nothing where it did not.

    Raises:
        ContractError: config.yaml is damaged.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, dict):
        raise ContractError(f"{path}: damaged; delete {folder}, and run the command that made it again")
    return settings


def shard_digests(paths: Sequence[Path | str]) -> list[dict[str, str]]:
    """Name and SHA-256 of shards in their order, from the index beside them where there is one.

    What streams is named by its address, which may hold a password: the name of the tar, and a digest of the rest.
    """
    return [_stream_digest(path) if isinstance(path, str) else _shard_digest(path) for path in paths]


def _shard_digest(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": ShardFile(path).entry.sha256 or file_digest(path)}


def _stream_digest(url: str) -> dict[str, str]:
    return {"name": stream_name(url), "sha256": f"of its address {digest_of(url)}"}


def stream_name(url: str) -> str:
    """Name of the tar in an address, whose rest may hold a password."""
    tar = re.search(r"[\w.-]+\.tar\b", url)
    return tar[0] if tar else "stream"


@contextmanager
def claim(folder: Path) -> Generator[None]:
    """Keep two processes from working on the same name at once.

    Raises:
        ContractError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ContractError(
                f"{folder.name}: another process is at work on it; wait, or choose another --name"
            ) from None
        yield


@contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """Give a temporary folder that takes its real name when the block ends well."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    # A checkpoint is the only trace of hours of work: it must be on the disk before its name is, and its name before
    # an older one goes.
    for path in [*part.rglob("*"), part]:
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sync(folder.parent)


def save_checkpoint(folder: Path, trainer: Trainer, *, keep: int) -> Path:
    """Write weights, moments and position; then delete all but the newest `keep` checkpoints.

    Args:
        folder: the folder of checkpoints.
        trainer: what to save.
        keep: checkpoints that stay.
    """
    from safetensors.torch import save_file

    path = folder / f"step-{trainer.position.step:06d}"
    with whole_folder(path) as part:
        save_weights(trainer, part)
        save_file(_moments(trainer), part / MOMENTS_FILE)
        (part / POSITION_FILE).write_text(json.dumps(asdict(trainer.position)), "utf-8")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def save_weights(trainer: Trainer, folder: Path) -> None:
    """Write what is trained, and nothing else."""
    from safetensors.torch import save_file

    save_file({name: _plain(value) for name, value in trainer.trainable.items()}, folder / WEIGHTS_FILE)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)), default=0)


def load_checkpoint(path: Path, trainer: Trainer) -> None:
    """Put a trainer where a checkpoint was saved.

    Raises:
        ContractError: the checkpoint is damaged, or does not fit the model.
    """
    import torch
    from safetensors.torch import load_file

    from train.loop import Position

    load_weights(path, trainer)
    with _reading(path):
        moments = load_file(path / MOMENTS_FILE)
        position = Position(**json.loads((path / POSITION_FILE).read_text("utf-8")))
    state = torch.optim.Optimizer.state_dict(trainer.optimiser)
    state["state"] = _nested(moments, counts_in_numbers=trainer.params.optimiser == "adamw8bit")
    trainer.optimiser.load_state_dict(state)
    trainer.position = position


@contextmanager
def _reading(path: Path) -> Generator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ContractError(
            f"{path}: damaged ({error}); delete it, and the same command goes on from the one before"
        ) from error


def load_weights(path: Path, trainer: Trainer) -> None:
    """Put a checkpoint's weights on a model.

    Raises:
        ContractError: they are damaged, or do not fit it.
    """
    import torch
    from safetensors.torch import load_file

    with _reading(path):
        weights = load_file(path / WEIGHTS_FILE)
    if set(weights) != set(trainer.trainable):
        raise ContractError(f"{path}: holds other weights than this run trains; delete {path.parent.parent}")
    with torch.no_grad():
        for name, value in trainer.trainable.items():
            value.copy_(weights[name])


def _plain(value: Tensor) -> Tensor:
    import torch

    # A copy: 8-bit moments share one table, and safetensors keeps no two names for one tensor.
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    import torch

    # The base class's own: bitsandbytes wraps its moments for FSDP. It counts steps in plain numbers, and safetensors
    # holds tensors alone.
    state = torch.optim.Optimizer.state_dict(trainer.optimiser)["state"]
    return {
        f"{i}.{name}": _plain(torch.as_tensor(value)) for i, values in state.items() for name, value in values.items()
    }


def _nested(flat: Mapping[str, Tensor], *, counts_in_numbers: bool) -> dict[int, dict[str, Any]]:
    nested: dict[int, dict[str, Any]] = {}
    for name, value in flat.items():
        number, _, field = name.partition(".")
        is_number = counts_in_numbers and field == "step"
        nested.setdefault(int(number), {})[field] = int(value) if is_number else value
    return nested


def publish_result(result: Path, final: Path, work: Path) -> None:
    """Put a finished result under the name that users see, and keep it in `work` for the next time.

    DVC deletes its outs before it runs a stage again; the run that is then asked for is linked anew in a moment.

    Args:
        result: finished folder in `work`.
        final: `runs/<name>`.
        work: `runs/.work/<name>`.
    """
    staged = work / ".publish"
    shutil.rmtree(staged, ignore_errors=True)
    for path in sorted(path for path in result.rglob("*") if path.is_file()):
        target = staged / path.relative_to(result)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path, target)
    there, here = final / SETTINGS_FILE, staged / SETTINGS_FILE
    if there.is_file() and here.is_file() and there.read_bytes() != here.read_bytes():
        print(f"{final}: takes the place of a finished one of other settings or inputs", file=sys.stderr)
    publish_folder(staged, final, work / ".retired")


def publish_again(fingerprint_folder: Path, final: Path) -> bool:
    """Put a result in place that was finished before from the same things; False where there is none."""
    result = fingerprint_folder / RESULT_FOLDER
    if not result.is_dir():
        return False
    publish_result(result, final, fingerprint_folder.parent)
    print(f"{final}: finished before, put in place again", file=sys.stderr)
    return True


def finish(fingerprint_folder: Path, final: Path, build: Callable[[Path], None]) -> None:
    """Build a run's result, publish it, and drop what only served resuming.

    Args:
        fingerprint_folder: `runs/.work/<name>/<fingerprint>`.
        final: `runs/<name>`.
        build: writes the result into the folder it is given.
    """
    result = fingerprint_folder / RESULT_FOLDER
    with whole_folder(result) as part:
        build(part)
    publish_result(result, final, fingerprint_folder.parent)
    shutil.rmtree(fingerprint_folder / "checkpoints", ignore_errors=True)
    for other in fingerprint_folder.parent.iterdir():
        if other.is_dir() and other != fingerprint_folder and FINGERPRINT.fullmatch(other.name):
            shutil.rmtree(other)
