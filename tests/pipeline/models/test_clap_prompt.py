from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import ClapModel

from pipeline.demo.checkpoints import build_checkpoints
from pipeline.errors import ContractError
from pipeline.models.clap import load_embedder
from pipeline.models.clap_prompt import embed_prompt, embed_prompts, read_scale

TEXTS = ["slow shakuhachi, sparse", "", "さくら さくら", "A fast tune with many words. " * 40, " Tabs\tand\nlines "]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    build_checkpoints(folder)
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


def test_many_prompts_are_embedded_as_each_alone(clap: Path):
    together_BD = embed_prompts(clap, TEXTS)
    assert together_BD is not None
    alone = [embed_prompt(clap, text) for text in TEXTS]
    np.testing.assert_allclose(
        together_BD, np.stack([vector_D for vector_D in alone if vector_D is not None]), atol=1e-6
    )


def test_the_scale_is_that_of_the_model(clap: Path, tmp_path: Path):
    model = ClapModel.from_pretrained(clap, local_files_only=True)
    assert read_scale(clap) == pytest.approx(model.logit_scale_a.exp().item(), rel=1e-5)
    with pytest.raises(ContractError, match="no logit_scale_a"):
        read_scale(tmp_path)
    save_file({"other": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ContractError, match="no logit_scale_a"):
        read_scale(tmp_path)
