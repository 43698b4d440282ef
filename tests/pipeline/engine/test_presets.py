"""Presets for a size of the model."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from pipeline.engine import presets
from pipeline.engine.params import section
from pipeline.errors import ParamsError
from tests.conftest import REPOSITORY
from train.params import TrainParams

CARDS = {"gpu10": (1, 16), "gpu16": (1, 16), "gpu24": (2, 8)}


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_a_sized_preset_changes_what_its_file_says_and_nothing_else(card, size):
    plain, text = presets.preset_path(card).read_text(), presets.sized_text(card, size)
    before, after = yaml.safe_load(plain), yaml.safe_load(text)
    for dotted, value in presets.size_changes(card, size).items():
        name, key = dotted.split(".")
        assert after[name][key] == value
        before[name][key] = value
    assert after == before
    assert after["models"]["generator"] == f"facebook/musicgen-{size}"
    params = section(after, "train", TrainParams)
    assert (params.batch_size, params.accumulate) == CARDS[card]
    assert text.count("#") == plain.count("#")


def test_other_presets_and_sizes_are_refused_with_those_that_there_are(capsys):
    with pytest.raises(ParamsError, match=r"no preset gpu11; there are demo, demo-full, gpu10, gpu16, gpu24"):
        presets.sized_text("gpu11", "small")
    with pytest.raises(ParamsError, match=r"preset demo has no sizes; gpu10, gpu16, gpu24 have"):
        presets.size_changes("demo", "small")
    with pytest.raises(SystemExit) as left:
        presets.main(["gpu10", "huge"])
    assert left.value.code == 2
    assert "there are small, medium, large" in capsys.readouterr().err


def test_make_params_writes_a_sized_preset_and_says_what_it_changed(tmp_path):
    for name in ("pipeline", ".venv", "requirements.lock"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    make = ["make", "-o", ".venv/.synced", "params", "PRESET=gpu10"]
    done = subprocess.run([*make, "SIZE=large"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "gpu10 for large: models.generator: facebook/musicgen-large, train.base_weights: nf4" in done.stderr
    assert "params.yaml is now gpu10 for large" in done.stdout
    assert (tmp_path / "params.yaml").read_text() == presets.sized_text("gpu10", "large")
    assert (tmp_path / "params.yaml.old").read_text() == "mine: 1\n"
    failed = subprocess.run([*make, "SIZE=huge"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert (tmp_path / "params.yaml").read_text() == presets.sized_text("gpu10", "large")
    assert not (tmp_path / "params.yaml.new").exists()
