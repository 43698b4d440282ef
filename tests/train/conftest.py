"""A toy checkpoint, made once; what its runs publish; stops in the middle of one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.train import toys
from train import run
from train.icl import batches
from train.icl.model import IclModel, load_model
from train.params import TrainParams

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def musicgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random MusicGen: 4 codebooks of 16."""
    return toys.save_musicgen(tmp_path_factory.mktemp("checkpoints") / "musicgen")


@pytest.fixture
def model(musicgen: Path) -> IclModel:
    """A fresh copy of it."""
    return load_model(str(musicgen), params=TrainParams())


@pytest.fixture
def project(tmp_path: Path, musicgen: Path) -> Path:
    """A project folder with the toy as its generator and 20 packed samples in 3 shards."""
    return make_toy_project(tmp_path, musicgen)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, musicgen: Path) -> Path:
    """Such a project with a finished run and a codec; not to be changed."""
    root = make_toy_project(tmp_path_factory.mktemp("trained"), musicgen)
    toys.save_encodec(root / "checkpoints" / "encodec")
    run.main(["--root", str(root), "--shards", str(root / "shards" / "train"), "--name", "toy"])
    return root


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained_once, tmp_path, symlinks=True, dirs_exist_ok=True)


def make_toy_project(root: Path, musicgen: Path) -> Path:
    """Fill a project folder."""
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "musicgen").symlink_to(musicgen)
    toys.write_pack(root / "shards" / "train", "train", toys.random_samples(20))
    toys.write_pack(root / "shards" / "test", "test", toys.random_samples(5, seed=1))
    return toys.make_project(root, train=toys.TRAIN)


def result_bytes(root: Path) -> dict[str, bytes]:
    """What the run `toy` published, by path within its folder: sample folders repeat file names."""
    folder = root / "runs/toy"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def stopped_at(number: int, stop: Callable[[], None]) -> Iterator[pytest.ExceptionInfo[SystemExit]]:
    """Call `stop` before batch `number` is drawn; the command within must leave, and its exit is given."""
    draw = batches.train_batch

    def stopping(shards, i, *rest, **options):
        if i == number:
            stop()
        return draw(shards, i, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "train_batch", stopping)
        with pytest.raises(SystemExit) as left:
            yield left


def sigterm() -> None:
    """A stop that lets the step end."""
    os.kill(os.getpid(), signal.SIGTERM)


def killed() -> None:
    """A stop in the middle of a step."""
    raise KeyboardInterrupt
