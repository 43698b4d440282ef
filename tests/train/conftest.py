"""A toy checkpoint, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train import toys
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
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "musicgen").symlink_to(musicgen)
    toys.write_pack(tmp_path / "shards" / "train", "train", toys.random_samples(20))
    toys.write_pack(tmp_path / "shards" / "test", "test", toys.random_samples(5, seed=1))
    return toys.make_project(tmp_path, train=toys.TRAIN)
