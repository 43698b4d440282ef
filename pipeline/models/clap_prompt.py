"""CLAP's text tower in numpy, for a few prompts: importing torch and transformers would take longer than the answer.

RoBERTa with a pooler (Liu et al. 2019), then the projection of LAION's CLAP, as transformers' ClapModel has them.

B texts, L tokens, D width, H heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy.special import erf
from tokenizers import Tokenizer

from pipeline.errors import ContractError

Float32 = NDArray[np.float32]
Weights = Mapping[str, Float32]
_MAX_TOKENS = 77
"""What laion_clap reads of a text."""
_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_DEFAULTS = {
    "hidden_act": "gelu",
    "projection_hidden_act": "relu",
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 1,
    "max_position_embeddings": 514,
}
"""Of ClapTextConfig: a checkpoint's config leaves out what equals them."""


class _Shape(NamedTuple):
    num_layers: int
    num_heads: int
    epsilon: float
    first_position: int


def embed_prompts(folder: Path, texts: Sequence[str]) -> Float32 | None:
    """Embed texts [B, D] at unit length, equal to what the embedder gives but for rounding.

    Args:
        folder: a local checkpoint; its weights are loaded once for all texts.
        texts: at least one; only the first 77 tokens of each count.

    Returns:
        None if this is no local folder of a CLAP as LAION built it; then the embedder itself must be asked.
    """
    if not all((folder / name).is_file() for name in _FILES):
        return None
    config = _DEFAULTS | json.loads((folder / "config.json").read_bytes()).get("text_config", {})
    if (config["hidden_act"], config["projection_hidden_act"]) != ("gelu", "relu"):
        return None
    shape = _Shape(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["layer_norm_eps"],
        config["pad_token_id"] + 1,
    )
    most_tokens = min(_MAX_TOKENS, config["max_position_embeddings"] - shape.first_position)
    tokens, weights = _tokenize(folder / "tokenizer.json", texts, most_tokens), _read_text_weights(folder)
    first_BD = np.stack([_encode(own, weights, shape)[0] for own in tokens])
    pooled_BD = np.tanh(_linear(first_BD, weights, "text_model.pooler.dense"))
    inner_BD = np.maximum(_linear(pooled_BD, weights, "text_projection.linear1"), 0)
    vectors_BD = _linear(inner_BD, weights, "text_projection.linear2")
    return (vectors_BD / np.linalg.norm(vectors_BD, axis=1, keepdims=True)).astype(np.float32)


def embed_prompt(folder: Path, text: str) -> Float32 | None:
    """Embed one text [D], as `embed_prompts` does."""
    vectors_BD = embed_prompts(folder, [text])
    return None if vectors_BD is None else vectors_BD[0]


def read_scale(folder: Path) -> float:
    """Factor between cosine and logit that a CLAP was trained with, `exp(logit_scale_a)`.

    Raises:
        ContractError: the checkpoint has no such weight.
    """
    try:
        with safe_open(folder / "model.safetensors", "numpy") as file:
            return float(np.exp(file.get_tensor("logit_scale_a").astype(np.float64)))
    except (OSError, SafetensorError) as error:
        raise ContractError(
            f"{folder}: no logit_scale_a in model.safetensors ({error}), which zero-shot needs; fetch the checkpoint "
            "as safetensors, or --set retrieve.zero_shot=false"
        ) from error


def _tokenize(path: Path, texts: Sequence[str], most_tokens: int) -> list[list[int]]:
    tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most_tokens)
    return [tokenizer.encode(text).ids for text in texts]


def _read_text_weights(folder: Path) -> Weights:
    with safe_open(folder / "model.safetensors", "numpy") as file:
        names = [name for name in file.keys() if name.startswith(("text_model.", "text_projection."))]  # noqa: SIM118
        # A buffer of token positions may lie there too; it is not used, and no harm as floats.
        return {name: file.get_tensor(name).astype(np.float32) for name in names}


def _encode(tokens: list[int], weights: Weights, shape: _Shape) -> Float32:
    prefix = "text_model.embeddings"
    positions = np.arange(len(tokens)) + shape.first_position
    hidden_LD = (
        weights[f"{prefix}.word_embeddings.weight"][tokens]
        + weights[f"{prefix}.position_embeddings.weight"][positions]
        + weights[f"{prefix}.token_type_embeddings.weight"][0]
    )
    hidden_LD = _normalise(hidden_LD, weights, f"{prefix}.LayerNorm", shape.epsilon)
    for n in range(shape.num_layers):
        layer = f"text_model.encoder.layer.{n}"
        attended_LD = _linear(
            _attend(hidden_LD, weights, layer, shape.num_heads), weights, f"{layer}.attention.output.dense"
        )
        hidden_LD = _normalise(attended_LD + hidden_LD, weights, f"{layer}.attention.output.LayerNorm", shape.epsilon)
        inner = _linear(hidden_LD, weights, f"{layer}.intermediate.dense")
        inner = inner * np.float32(0.5) * (1 + erf(inner / np.float32(np.sqrt(2))))
        output_LD = _linear(inner, weights, f"{layer}.output.dense")
        hidden_LD = _normalise(output_LD + hidden_LD, weights, f"{layer}.output.LayerNorm", shape.epsilon)
    return hidden_LD


def _attend(hidden_LD: Float32, weights: Weights, layer: str, num_heads: int) -> Float32:
    num_tokens, width = hidden_LD.shape
    query, key, value = (
        _linear(hidden_LD, weights, f"{layer}.attention.self.{name}").reshape(num_tokens, num_heads, -1).swapaxes(0, 1)
        for name in ("query", "key", "value")
    )
    scores_HLL = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(width / num_heads))
    scores_HLL = np.exp(scores_HLL - scores_HLL.max(axis=-1, keepdims=True))
    scores_HLL /= scores_HLL.sum(axis=-1, keepdims=True)
    return (scores_HLL @ value).swapaxes(0, 1).reshape(num_tokens, width)


def _linear(values: Float32, weights: Weights, name: str) -> Float32:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalise(values: Float32, weights: Weights, name: str, epsilon: float) -> Float32:
    centred = values - values.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
