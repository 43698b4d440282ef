"""MusicGen between audiocraft and transformers, both ways.

A text that stands in a batch with a longer one is padded. audiocraft sets the padding's states to zero, but its
cross-attention still sees them; transformers hides them. The same weights therefore give the same logits for prompts
of one length and for single ones, and others for the shorter prompt of a padded batch. Setlist masks, as transformers
does: a prompt's result never depends on its neighbours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import (
    AutoTokenizer,
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5EncoderModel,
)

from pipeline.errors import ContractError
from pipeline.models.base import find_checkpoint, load_pretrained
from pipeline.models.codec import load_encodec
from pipeline.models.codec_audiocraft import read_settings, setting
from pipeline.models.convert_encodec import VERSION, codec_for_audiocraft
from pipeline.models.weights import Conversion, as_state, fill_model, new_folder, new_name, read_pickle

LM_FILE = "state_dict.bin"
_PROJECTION = "condition_provider.conditioners.description.output_proj."
# audiocraft's name -> transformers' inside the decoder; attention's projections are split besides.
_PAIRS = (
    ("transformer.layers.", "model.decoder.layers."),
    ("emb.", "model.decoder.embed_tokens."),
    ("linears.", "lm_heads."),
    ("out_norm.", "model.decoder.layer_norm."),
    ("cross_attention.", "encoder_attn."),
    ("norm_cross.", "encoder_attn_layer_norm."),
    ("norm1.", "self_attn_layer_norm."),
    ("norm2.", "final_layer_norm."),
    ("linear1.", "fc1."),
    ("linear2.", "fc2."),
)
_FORTH = tuple((rf"(^|\.){re.escape(theirs)}", rf"\g<1>{ours}") for theirs, ours in _PAIRS)
_BACK = tuple((rf"(^|\.){re.escape(ours)}", rf"\g<1>{theirs}") for theirs, ours in _PAIRS)
# What changes the result and no weight's name; these are the values that transformers' decoder has built in.
_BUILT_IN = {
    "lm_model": "transformer_lm",
    "transformer_lm.norm": "layer_norm",
    "transformer_lm.norm_first": True,
    "transformer_lm.activation": "gelu",
    "transformer_lm.positional_embedding": "sin",
    "transformer_lm.causal": True,
    "codebooks_pattern.modeling": "delay",
    "fuser.cross": ["description"],
    "fuser.prepend": [],
    "fuser.sum": [],
    "fuser.input_interpolate": [],
    "fuser.cross_attention_pos_emb": False,
    "conditioners.description.model": "t5",
}
_T5_OWNER = "google-t5/"
"""Owner of the hub's T5 that audiocraft names without one."""
_MAX_S = 30.0
"""Length of the clips that MusicGen was trained on."""


def musicgen_to_transformers(
    source: Path, out: Path, *, text_encoder: str | None = None, codec: str | None = None
) -> Conversion:
    """Write a transformers folder from audiocraft's `state_dict.bin` and `compression_state_dict.bin`.

    Args:
        source: the folder with both.
        out: where to write; must not exist.
        text_encoder: folder or hub id of the T5, which audiocraft's files only name; the named one by default.
        codec: the EnCodec, if not that beside the language model.

    Raises:
        ContractError: a weight is left over or missing, a setting that transformers' MusicGen does not know (melody,
            stereo, other patterns), or the folder exists.
    """
    new_folder(out)
    file = source / LM_FILE if source.is_dir() else source
    package = read_pickle(file, role="generator")
    if not isinstance(package, Mapping) or not isinstance(package.get("xp.cfg"), str):
        raise ContractError(f"convert: {file} is no export of audiocraft's: it lacks xp.cfg; export it again")
    settings = read_settings(package["xp.cfg"], source=file)
    state = as_state(package.get("best_state"), source=file, role="generator")
    decoder = _build_decoder(state, settings, source=file)
    named = str(setting(settings, "conditioners.description.t5.name"))
    text = find_checkpoint(text_encoder or (named if "/" in named else _T5_OWNER + named), role="text encoder")
    audio_encoder, _ = load_encodec(codec or str(file.parent))
    parts: dict[str, Any] = {
        "text_encoder": load_pretrained(T5EncoderModel, text, role="text encoder"),
        "audio_encoder": audio_encoder,
        "decoder": decoder,
    }
    model: Any = MusicgenForConditionalGeneration(**parts)
    if not hasattr(model, "enc_to_dec_proj"):
        raise ContractError(f"convert: {file} is as wide as its T5, where transformers has no projection between them")
    projection = {name.removeprefix(_PROJECTION): state[name].float() for name in state if name.startswith(_PROJECTION)}
    fill_model(model.enc_to_dec_proj, projection, source=file)
    _save(model, AutoTokenizer.from_pretrained(text.path, local_files_only=True), out)
    return Conversion(mapped={name: _forth(name) for name in state}, notes=_NOTES)


_NOTES = ("texts of unequal length in one batch: audiocraft lets attention see zeroed padding, transformers masks it",)


def _forth(name: str) -> str:
    if name.startswith(_PROJECTION):
        return f"enc_to_dec_proj.{name.removeprefix(_PROJECTION)}"
    return "decoder." + new_name(name, _FORTH).replace("in_proj_weight", "{q,k,v}_proj.weight")


def _build_decoder(state: Mapping[str, Tensor], settings: Mapping[str, Any], *, source: Path) -> MusicgenForCausalLM:
    """Build transformers' decoder, with every weight of the language model in it."""
    for name, value in _BUILT_IN.items():
        if setting(settings, name, value) != value:
            raise ContractError(
                f"convert: {source} has {name} {setting(settings, name)}; transformers' MusicGen knows {value} only"
            )
    num_codebooks = sum(re.fullmatch(r"emb\.\d+\.weight", name) is not None for name in state)
    delays = setting(settings, "codebooks_pattern.delay.delays", list(range(num_codebooks)))
    if not num_codebooks or delays != list(range(num_codebooks)):
        raise ContractError(
            f"convert: {source} delays {num_codebooks} codebooks by {delays}; only mono MusicGen is known"
        )
    rows, width = state["emb.0.weight"].shape
    layers = {match[1] for name in state if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    config = MusicgenDecoderConfig(
        vocab_size=rows - 1,
        num_codebooks=num_codebooks,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=setting(settings, "transformer_lm.num_heads"),
        ffn_dim=round(width * setting(settings, "transformer_lm.hidden_scale", 4)),
        pad_token_id=rows - 1,
        bos_token_id=rows - 1,
    )
    decoder = MusicgenForCausalLM(config)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_PROJECTION):
            continue
        renamed |= _split(new_name(name, _FORTH), tensor.float())
    # Positions are computed, not learnt.
    fill_model(decoder, renamed, source=source, may_lack=lambda name: name.endswith("embed_positions.weights"))
    return decoder.eval()


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if not name.endswith("in_proj_weight"):
        return {name: tensor}
    parts = zip("qkv", tensor.chunk(3), strict=True)
    return {name.replace("in_proj_weight", f"{part}_proj.weight"): chunk.clone() for part, chunk in parts}


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    config = model.config
    codec, pad_id = config.audio_encoder, config.decoder.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=pad_id,
        pad_token_id=pad_id,
        decoder_start_token_id=pad_id,
        do_sample=True,
        guidance_scale=3.0,
        max_length=math.floor(_MAX_S * codec.frame_rate),
    )
    model.save_pretrained(out)
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=codec.sampling_rate, padding_side="left")
    MusicgenProcessor(extractor, tokenizer).save_pretrained(out)


def musicgen_to_audiocraft(source: str, out: Path, *, text_encoder: str = "t5-base") -> Conversion:
    """Write audiocraft's `state_dict.bin` and `compression_state_dict.bin` from a transformers MusicGen.

    Args:
        source: a folder, or a hub id.
        out: where to write; must not exist.
        text_encoder: name of the T5 as audiocraft knows it: its files hold no text encoder.

    Raises:
        ContractError: the checkpoint is damaged, or the folder exists.
    """
    new_folder(out)
    checkpoint = find_checkpoint(source, role="generator")
    model = load_pretrained(MusicgenForConditionalGeneration, checkpoint, role="generator")
    if not hasattr(model, "enc_to_dec_proj") or model.config.decoder.audio_channels != 1:
        raise ContractError(f"convert: {source} is stereo, or as wide as its T5; only mono MusicGen is known")
    state, mapped = _weights_for_audiocraft(model)
    out.mkdir(parents=True)
    settings = yaml.safe_dump(_settings(model.config, text_encoder))
    torch.save({"best_state": state, "xp.cfg": settings, "version": VERSION, "exported": True}, out / LM_FILE)
    codec = codec_for_audiocraft(model.audio_encoder, out)
    mapped |= {f"audio_encoder.{name}": f"compression: {theirs}" for name, theirs in codec.items()}
    left_out = sorted(f"text_encoder.{name}" for name in model.text_encoder.state_dict())
    return Conversion(mapped=mapped, left_out=left_out, notes=(*_NOTES, f"audiocraft loads {text_encoder} by itself"))


def _weights_for_audiocraft(model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of the language model by audiocraft's names, and which became which."""
    state: dict[str, Tensor] = {}
    mapped: dict[str, str] = {}
    decoder = model.decoder.state_dict()
    for name, tensor in decoder.items():
        if name.endswith("embed_positions.weights"):
            continue
        theirs = new_name(re.sub(r"\.[qkv]_proj\.weight$", ".in_proj_weight", name), _BACK)
        mapped[f"decoder.{name}"] = theirs
        if not theirs.endswith("in_proj_weight"):
            state[theirs] = tensor.clone()
        elif name.endswith("q_proj.weight"):
            stem = name.removesuffix("q_proj.weight")
            state[theirs] = torch.cat([decoder[f"{stem}{part}_proj.weight"] for part in "qkv"])
    for name, tensor in model.enc_to_dec_proj.state_dict().items():
        mapped[f"enc_to_dec_proj.{name}"] = _PROJECTION + name
        state[_PROJECTION + name] = tensor.clone()
    return state, mapped


def _settings(config: Any, text_encoder: str) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "device": "cpu",
        "dtype": "float32",
        "solver": "musicgen",
        "lm_model": "transformer_lm",
        "transformer_lm": {
            "dim": decoder.hidden_size, "num_heads": decoder.num_attention_heads,
            "num_layers": decoder.num_hidden_layers, "hidden_scale": decoder.ffn_dim / decoder.hidden_size,
            "n_q": decoder.num_codebooks, "card": decoder.vocab_size, "dropout": 0.0, "activation": "gelu",
            "norm": "layer_norm", "norm_first": True, "bias_ff": False, "bias_attn": False, "bias_proj": False,
            "causal": True, "custom": True, "memory_efficient": True, "attention_as_float32": False,
            "positional_embedding": "sin", "cross_attention": True, "weight_init": "gaussian",
            "depthwise_init": "current", "zero_bias_init": True, "two_step_cfg": False,
        },
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": list(range(decoder.num_codebooks)), "flatten_first": 0, "empty_initial": 0},
        },
        "attribute_dropout": {},
        "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
        "conditioners": {
            "description": {
                "model": "t5",
                "t5": {"name": text_encoder, "finetune": False, "word_dropout": 0.0, "normalize_text": False},
            }
        },
        "fuser": {
            "cross": ["description"], "prepend": [], "sum": [], "input_interpolate": [],
            "cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1,
        },
        "dataset": {"segment_duration": _MAX_S},
        "sample_rate": config.audio_encoder.sampling_rate,
        "channels": 1,
    }  # fmt: skip
