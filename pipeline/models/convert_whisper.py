"""Whisper from openai-whisper's `.pt` to transformers, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import whisper.tokenizer
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from pipeline.models.asr_openai import load_vocabulary, load_whisper
from pipeline.models.weights import Conversion, Rules, fill_model, new_folder, new_name, rename_keys
from pipeline.models.whisper_ct2 import build_tokenizer

_RULES: Rules = (
    (r"^(encoder|decoder)\.", r"model.\1."),
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.(ln_post|ln)\.", ".layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
)


def whisper_to_transformers(source: Path, out: Path) -> Conversion:
    """Write weights, settings, features and vocabulary as transformers reads them.

    Args:
        source: a `.pt` file in openai-whisper's format.
        out: where to write; must not exist.

    Raises:
        ContractError: the file is no Whisper checkpoint, a weight is left over or missing, or the folder exists.
    """
    new_folder(out)
    model = load_whisper(source)
    vocabulary = load_vocabulary(model)
    state = {name: tensor.float().cpu().clone() for name, tensor in model.state_dict().items()}
    converted: Any = WhisperForConditionalGeneration(_config(model.dims, vocabulary))
    # The output layer is the embedding of tokens, and positions of the encoder are computed but stored by both.
    fill_model(converted, rename_keys(state, _RULES), source=source, may_lack=lambda name: name == "proj_out.weight")
    converted.tie_weights()
    converted.generation_config = GenerationConfig(**_generation(model, vocabulary))
    converted.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=model.dims.n_mels).save_pretrained(out)
    build_tokenizer(vocabulary.encoding).save(str(out / "tokenizer.json"))
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    tokenizer = {"tokenizer_class": "WhisperTokenizer", "model_max_length": model.dims.n_text_ctx, **ends}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n", "utf-8")
    return Conversion(mapped={name: new_name(name, _RULES) for name in state})


def _generation(model: Any, vocabulary: whisper.tokenizer.Tokenizer) -> dict[str, Any]:
    """What transformers asks for when it writes text down; openai-whisper knows it by heart."""
    special = (vocabulary.transcribe, vocabulary.translate, vocabulary.sot, vocabulary.sot_prev, vocabulary.sot_lm)
    codes = zip(vocabulary.all_language_codes, vocabulary.all_language_tokens, strict=True)
    return {
        **_tokens(vocabulary),
        "is_multilingual": model.is_multilingual,
        "lang_to_id": {f"<|{code}|>": token for code, token in codes},
        "task_to_id": {"transcribe": vocabulary.transcribe, "translate": vocabulary.translate},
        "no_timestamps_token_id": vocabulary.no_timestamps,
        "prev_sot_token_id": vocabulary.sot_prev,
        "max_initial_timestamp_index": 50,  # openai-whisper's 1 s
        "max_length": model.dims.n_text_ctx,
        "suppress_tokens": sorted({*vocabulary.non_speech_tokens, *special, vocabulary.no_speech}),
        "begin_suppress_tokens": [*vocabulary.encode(" "), vocabulary.eot],
        "alignment_heads": model.alignment_heads.indices().T.tolist(),
    }


def _config(dims: Any, vocabulary: whisper.tokenizer.Tokenizer) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        **_tokens(vocabulary),
    )


def _tokens(vocabulary: whisper.tokenizer.Tokenizer) -> dict[str, Any]:
    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), vocabulary.eot)
    return {**ends, "decoder_start_token_id": vocabulary.sot}
