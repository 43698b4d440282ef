"""LAION's CLAP checkpoints (`laion_clap`, `.pt`) for transformers: weights alone are read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

from pipeline.errors import ContractError
from pipeline.models.base import find_checkpoint
from pipeline.models.weights import Conversion, Rules, as_state, fill_model, new_folder, new_name, read_pickle

TOKENIZER = "FacebookAI/roberta-base"
"""RoBERTa's, which all of LAION's checkpoints share and none holds."""
_RULES: Rules = (
    (r"^module\.", ""),
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"\.bn0\.", ".batch_norm."),
)
# Filters of the spectrogram and masks that follow from sizes; the classifier and extra heads, which embed nothing.
_UNUSED = re.compile(
    r"(audio|text)_transform\.|audio_model\.audio_encoder\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\."
    r"|.*\.attn_mask$|text_model\.embeddings\.(position|token_type)_ids$"
)
# transformers makes these from the sizes.
_COMPUTED = re.compile(r".*(position_ids|token_type_ids|relative_position_index)$")
_FREQUENCY_MIN_HZ, _FREQUENCY_MAX_HZ = 50, 14_000


def clap_to_transformers(source: Path, out: Path, *, tokenizer: str = TOKENIZER) -> Conversion:
    """Write a transformers folder from a checkpoint of `laion_clap` without feature fusion.

    Args:
        source: such as `music_audioset_epoch_15_esc_90.14.pt`; its sizes are read off the weights.
        out: where to write; must not exist.
        tokenizer: folder or hub id of RoBERTa's tokenizer.

    Raises:
        ContractError: a weight is left over or missing, the checkpoint fuses features, or the folder exists.
    """
    new_folder(out)
    package = read_pickle(source, role="embedder")
    if isinstance(package, Mapping) and "state_dict" in package:
        package = package["state_dict"]
    state = as_state(package, source=source, role="embedder")
    names = {name: new_name(name, _RULES) for name in state}
    left_out = sorted(name for name, ours in names.items() if _UNUSED.match(ours))
    renamed: dict[str, Tensor] = {}
    for name, ours in names.items():
        if not _UNUSED.match(ours):
            renamed |= _split(ours, state[name])
    try:
        config = _config(renamed)
    except (KeyError, ValueError, IndexError) as error:
        raise ContractError(f"convert: {source} is no CLAP of laion_clap's ({error}); fetch it again") from error
    if any("fusion" in name or "mel_conv2d" in name for name in renamed):
        raise ContractError(
            f"convert: {source} fuses features of long clips at random; name a checkpoint without fusion"
        )
    model = ClapModel(config)
    fill_model(model, renamed, source=source, may_lack=lambda name: _COMPUTED.match(name) is not None)
    words = _load_words(tokenizer, num_words=renamed["text_model.embeddings.word_embeddings.weight"].shape[0])
    model.save_pretrained(out)
    extractor = ClapFeatureExtractor(
        frequency_min=_FREQUENCY_MIN_HZ, frequency_max=_FREQUENCY_MAX_HZ, truncation="rand_trunc", padding="repeatpad"
    )
    ClapProcessor(extractor, words).save_pretrained(out)
    stars = {name: ours.replace(".qkv.", ".{query,key,value}.") for name, ours in names.items()}
    return Conversion(mapped={name: stars[name] for name in names if name not in left_out}, left_out=left_out)


def _load_words(tokenizer: str, *, num_words: int) -> Any:
    words: Any = AutoTokenizer.from_pretrained(find_checkpoint(tokenizer, role="tokenizer").path, local_files_only=True)
    if len(words) != num_words:
        raise ContractError(
            f"convert: {tokenizer} has {len(words)} words, the text encoder {num_words}; "
            "--tokenizer names the one that it was trained with"
        )
    return words


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if ".qkv." not in name:
        return {name: tensor.clone()}
    parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
    return {name.replace(".qkv.", f".{part}."): chunk.clone() for part, chunk in parts}


def _config(state: Mapping[str, Tensor]) -> ClapConfig:
    """Read the sizes off the weights."""
    audio, layers = "audio_model.audio_encoder", "text_model.encoder.layer"
    width = state[f"{audio}.patch_embed.proj.weight"].shape[0]
    depths = _count(state, rf"{re.escape(audio)}\.layers\.(\d+)\.blocks\.(\d+)\.")
    tables = [f"{audio}.layers.{n}.blocks.0.attention.self.relative_position_bias_table" for n in range(len(depths))]
    words, text_width = state["text_model.embeddings.word_embeddings.weight"].shape
    dim = state["text_projection.linear1.weight"].shape[0]
    text: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": text_width,
        "num_hidden_layers": sum(_count(state, rf"{re.escape(layers)}\.()(\d+)\.")),
        # RoBERTa's heads are 64 wide.
        "num_attention_heads": text_width // 64,
        "intermediate_size": state[f"{layers}.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state["text_model.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": state["text_model.embeddings.token_type_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-5,
        "projection_dim": dim,
    }
    sizes: dict[str, Any] = {
        "patch_embeds_hidden_size": width,
        "hidden_size": width << (len(depths) - 1),
        "depths": depths,
        "num_attention_heads": [state[table].shape[1] for table in tables],
        "num_hidden_layers": len(depths),
        "projection_dim": dim,
    }
    return ClapConfig(text_config=text, audio_config=sizes, projection_dim=dim)


def _count(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """How many different second numbers there are for each first one, in its order."""
    found = {match.groups() for name in state if (match := re.match(pattern, name))}
    firsts = sorted({first for first, _ in found}, key=lambda first: int(first or 0))
    return [sum(first == other for other, _ in found) for first in firsts]
