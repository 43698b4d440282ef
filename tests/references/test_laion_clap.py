"""laion-clap: our embedder port over transformers places sound and text where LAION's own package does.

The package runs in a process of its own: importing it appends to sys.path, and looks up tokenizers by name on the
hub. A cache made for the test answers instead.

Shape letters: B batch, N samples, D embedding.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaConfig, RobertaModel

from pipeline.demo.vocabulary import build_roberta_tokenizer
from pipeline.models.clap import load_embedder

RATE_HZ = 48_000
TEXTS = ["a slow sad piano piece in a minor key", "fast bright drums and bass", "a choir sings softly"]
# LAION's audio tower has a fixed size, and its text tower a fixed width; layers and vocabulary are free.
TEXT_SIZES = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 64}
TEXT_SIZES |= {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}

# What the package calls a weight -> what transformers calls it.
RENAMES = (
    (r"^text_branch", "text_model"),
    (r"^audio_branch", "audio_model.audio_encoder"),
    (r"_projection\.0", "_projection.linear1"),
    (r"_projection\.2", "_projection.linear2"),
    (r"(blocks\.\d+)\.attn\.proj", r"\1.attention.output.dense"),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
    (r"(blocks\.\d+)\.norm1", r"\1.layernorm_before"),
    (r"(blocks\.\d+)\.norm2", r"\1.layernorm_after"),
    (r"\.bn0", ".batch_norm"),
)
# The classifier, the filters of the spectrogram, the extra heads and masks that follow from sizes.
UNUSED = re.compile(
    r"^(audio|text)_transform|spectrogram_extractor|logmel_extractor|tscam_conv|audio_encoder\.head|attn_mask$"
)


def sounds() -> list[np.ndarray]:
    """A whole window, one that is repeated to fill it, and a short one."""
    times_N = np.arange(10 * RATE_HZ) / RATE_HZ
    sweep_N = 0.5 * np.sin(2 * np.pi * 200.0 * times_N**2)
    noise_N = np.random.default_rng(0).normal(size=int(7.3 * RATE_HZ)) * 0.1
    chord_N = sum(np.sin(2 * np.pi * tone_hz * times_N) for tone_hz in (220.0, 277.2, 329.6))[:RATE_HZ] * 0.2
    return [wave_N.astype(np.float32) for wave_N in (sweep_N, noise_N, chord_N)]


def renamed(name: str) -> str:
    for old, new in RENAMES:
        name = re.sub(old, new, name)
    return name


def converted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        new_name = renamed(name)
        if UNUSED.search(new_name):
            continue
        if ".qkv." in name:
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[new_name.replace("qkv", part)] = chunk.contiguous()
        else:
            out[new_name] = tensor
    return out


def fill_hub_cache(snapshot: Path) -> None:
    """Lay out what the package asks the hub for: RoBERTa's tokenizer and weights."""
    refs = snapshot.parents[1] / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(snapshot.name)
    tokenizer = build_roberta_tokenizer(TEXTS)
    tokenizer.save_pretrained(snapshot)
    RobertaModel(RobertaConfig(vocab_size=len(tokenizer), **TEXT_SIZES)).save_pretrained(snapshot)


def save_for_transformers(module: Any, folder: Path) -> None:
    """Write the package's weights as a checkpoint that our port loads."""
    text = TEXT_SIZES | {"vocab_size": len(module.tokenize), "projection_dim": 512}
    model = ClapModel(ClapConfig(text_config=text, audio_config={"projection_dim": 512}, projection_dim=512))
    missing, unexpected = model.load_state_dict(converted(module.model.state_dict()), strict=False)
    assert not unexpected
    assert {name.rsplit(".", 1)[1] for name in missing} == {"position_ids", "token_type_ids"}
    model.save_pretrained(folder)
    module.tokenize.save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc").save_pretrained(folder)


def embed_with_laion(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embed sounds and texts [B, D] with a CLAP_Module of random weights, and save those under `checkpoint`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fill_hub_cache(root / "hub" / "models--roberta-base" / "snapshots" / "0")
    from laion_clap import CLAP_Module

    module: Any = CLAP_Module(enable_fusion=False, device="cpu").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:  # fresh norms are all alike: a mix-up would not show
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        save_for_transformers(module, root / "checkpoint")
        # Tensors, since it would round arrays to 16 bits; one by one, since it stacks them before it pads.
        audio_BD = [module.get_audio_embedding_from_data([torch.from_numpy(wave_N)], True) for wave_N in sounds()]
        return torch.cat(audio_BD).numpy(), module.get_text_embedding(TEXTS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder for the hub's cache and the checkpoint; removed at the end, for they are 130 MB."""
    root = tmp_path_factory.mktemp("clap")
    yield root
    shutil.rmtree(root)


def test_embeddings_equal_those_of_the_laion_package(root, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        theirs = pool.submit(embed_with_laion, root).result()
    embedder = load_embedder(str(root / "checkpoint"))
    for theirs_BD, ours_BD in zip(theirs, (embedder.embed_audio(sounds()), embedder.embed_text(TEXTS)), strict=True):
        assert ours_BD.shape == (3, 512)
        assert np.abs(np.diff(ours_BD, axis=0)).max(axis=1).min() > 1e-3  # they do tell the items apart
        np.testing.assert_allclose(ours_BD, theirs_BD, atol=1e-5)
