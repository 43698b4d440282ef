"""laion_clap's checkpoint, as it saves one, becomes a transformers folder that embeds as the package does.

The package runs in a process of its own, as in `test_laion_clap`.

Shape letters: B batch, D embedding.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ContractError
from pipeline.models.clap import load_embedder
from pipeline.models.convert import main
from pipeline.models.convert_clap import clap_to_transformers
from tests.references.test_laion_clap import TEXTS, fill_hub_cache, sounds


def embed_with_laion(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Save a CLAP of random weights as laion_clap's training does, load it with its own loader, and embed [B, D]."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fill_hub_cache(root / "hub" / "models--roberta-base" / "snapshots" / "0")
    from laion_clap import CLAP_Module

    module: Any = CLAP_Module(enable_fusion=False, device="cpu").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:  # fresh norms are all alike: a mix-up would not show
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        state = {f"module.{name}": tensor for name, tensor in module.model.state_dict().items()}
        # Its loader deletes this key unasked; numpy's numbers stand in its released files, too.
        state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
        torch.save({"epoch": 15, "name": "toy", "best": np.float64(0.9), "state_dict": state}, root / "laion.pt")
        audio_BD = [module.get_audio_embedding_from_data([torch.from_numpy(wave_N)], True) for wave_N in sounds()]
        return torch.cat(audio_BD).numpy(), module.get_text_embedding(TEXTS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[Path]:
    """A folder for the hub's cache and the checkpoints; removed at the end, for they are 400 MB."""
    root = tmp_path_factory.mktemp("clap")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def theirs(root) -> tuple[np.ndarray, np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(embed_with_laion, root).result()


def tokenizer_of(root: Path) -> str:
    return str(root / "hub" / "models--roberta-base" / "snapshots" / "0")


def test_a_converted_checkpoint_embeds_as_laion_clap_does(root, theirs, capsys):
    main(["clap", str(root / "laion.pt"), str(root / "converted"), "--tokenizer", tokenizer_of(root)])
    printed = capsys.readouterr().out
    name = "audio_branch.layers.0.blocks.1.attn.qkv.weight"
    ours = "audio_model.audio_encoder.layers.0.blocks.1.attention.self.{query,key,value}.weight"
    assert f"module.{name} -> {ours}\n" in printed
    assert "module.audio_branch.tscam_conv.weight: not needed there" in printed
    assert "none left over" in printed
    assert list((root / "converted").glob("*.safetensors"))
    embedder = load_embedder(str(root / "converted"))
    for theirs_BD, ours_BD in zip(theirs, (embedder.embed_audio(sounds()), embedder.embed_text(TEXTS)), strict=True):
        assert np.abs(np.diff(ours_BD, axis=0)).max(axis=1).min() > 1e-3  # they do tell the items apart
        np.testing.assert_allclose(ours_BD, theirs_BD, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra.weight": torch.zeros(1)}, "does not know 1 weights .extra.weight"),
        ({"logit_scale_a": None}, "lacks 1 weights .logit_scale_a"),
        ({"audio_branch.patch_embed.mel_conv2d.weight": torch.zeros(1)}, "fuses features"),
        ({"text_projection.0.weight": None}, "no CLAP of laion_clap's"),
    ],
)
def test_converting_clap_leaves_no_weight_over(root, theirs, tmp_path, changes, said):
    state = torch.load(root / "laion.pt", weights_only=False)["state_dict"]
    state |= {f"module.{name}": tensor for name, tensor in changes.items()}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "changed.pt")
    with pytest.raises(ContractError, match=said):
        clap_to_transformers(tmp_path / "changed.pt", tmp_path / "out", tokenizer=tokenizer_of(root))
    assert not (tmp_path / "out").exists()
    (tmp_path / "changed.pt").unlink()


def test_converting_clap_refuses_a_tokenizer_of_another_model(root, theirs, tmp_path):
    from pipeline.demo.vocabulary import build_roberta_tokenizer

    build_roberta_tokenizer(["other words"]).save_pretrained(tmp_path / "words")
    with pytest.raises(ContractError, match="--tokenizer names the one"):
        clap_to_transformers(root / "laion.pt", tmp_path / "out", tokenizer=str(tmp_path / "words"))
