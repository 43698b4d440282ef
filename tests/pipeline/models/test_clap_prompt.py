from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.checkpoints import build_checkpoints
from pipeline.models.clap import load_embedder
from pipeline.models.clap_prompt import embed_prompt

TEXTS = ["slow shakuhachi, sparse", "", "さくら さくら", "A fast tune with many words. " * 40, " Tabs\tand\nlines "]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    build_checkpoints(folder, seed=0)
    return folder / "clap"


def test_a_prompt_lies_where_the_embedder_puts_it(clap: Path):
    expected_BD = load_embedder(str(clap)).embed_text(TEXTS)
    for text, expected_D in zip(TEXTS, expected_BD, strict=True):
        vector_D = embed_prompt(clap, text)
        assert vector_D is not None
        assert vector_D.dtype == np.float32
        assert np.abs(vector_D - expected_D).max() < 1e-5


def test_other_checkpoints_are_left_to_the_embedder(clap: Path, tmp_path: Path):
    assert embed_prompt(tmp_path, "x") is None
    other = tmp_path / "other"
    shutil.copytree(clap, other)
    config = json.loads((other / "config.json").read_bytes())
    config["text_config"]["hidden_act"] = "silu"
    (other / "config.json").write_text(json.dumps(config))
    assert embed_prompt(other, "x") is None
