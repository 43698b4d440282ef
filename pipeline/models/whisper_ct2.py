"""Whisper from openai-whisper's `.pt` to the folder that faster-whisper reads (CTranslate2), without a network.

Shape letters: N samples, T frames, D width.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ctranslate2
import numpy as np
import torch
import whisper
import whisper.tokenizer
from ctranslate2.specs import whisper_spec
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from pipeline.errors import ContractError
from pipeline.models.asr_openai import load_vocabulary, load_whisper
from pipeline.models.base import weights_digest

Quantisation = Literal["float32", "float16", "int8", "int8_float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well a converted Whisper agrees with the one it was made from, on one wave."""

    encoder_error: float
    """Root mean square difference of the encoders' outputs, over the root mean square of the original's."""
    tokens: list[int]
    """What the original writes, greedily."""
    converted_tokens: list[int]
    """What the converted one writes."""


def convert_whisper(source: Path, folder: Path, *, quantisation: Quantisation = "float16") -> None:
    """Write `model.bin`, `config.json`, `vocabulary.json`, `tokenizer.json` and `preprocessor_config.json`.

    float16 is how such folders are published: CTranslate2 turns it into int8 or float32 when it loads them.

    Args:
        source: a `.pt` file in openai-whisper's format.
        folder: where to write; must not exist.
        quantisation: how the weights are stored.

    Raises:
        ContractError: the file is no Whisper checkpoint, or the folder exists.
    """
    if folder.exists():
        raise ContractError(f"{folder} exists already; name a new folder for the converted Whisper")
    model = load_whisper(source)
    vocabulary = load_vocabulary(model)
    tokenizer = build_tokenizer(vocabulary.encoding)
    names = [str(tokenizer.id_to_token(token)) for token in range(model.dims.n_vocab)]
    spec = whisper_spec.WhisperSpec(
        model.dims.n_audio_layer, model.dims.n_audio_head, model.dims.n_text_layer, model.dims.n_text_head
    )
    _set_weights(spec, {name: tensor.float().cpu() for name, tensor in model.state_dict().items()})
    _set_config(spec.config, model, vocabulary)
    spec.register_vocabulary(names)
    spec.validate()
    spec.optimize(quantization=quantisation)
    folder.mkdir(parents=True)
    spec.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    features = {"feature_size": model.dims.n_mels, "sampling_rate": whisper.audio.SAMPLE_RATE}
    features |= {"hop_length": whisper.audio.HOP_LENGTH, "n_fft": whisper.audio.N_FFT}
    features |= {"chunk_length": whisper.audio.CHUNK_LENGTH}
    (folder / "preprocessor_config.json").write_text(json.dumps(features, indent=2) + "\n", "utf-8")
    origin = {"made_from_sha256": weights_digest(source), "quantisation": quantisation}
    (folder / "setlist.json").write_text(json.dumps(origin, indent=2) + "\n", "utf-8")


def build_tokenizer(encoding: Any) -> Tokenizer:
    """Rebuild a tiktoken vocabulary (byte-level, GPT-2's word pattern) as a `tokenizers` one with the same ids.

    tiktoken keeps ranks only. A token's merge is the pair that is left when its own rank is forbidden.

    Args:
        encoding: `tiktoken.Encoding` of a Whisper.
    """
    # Private, but the only place where tiktoken keeps them.
    ranks: dict[bytes, int] = encoding._mergeable_ranks  # pyright: ignore[reportPrivateUsage]
    special: dict[str, int] = encoding._special_tokens  # pyright: ignore[reportPrivateUsage]
    spell = _byte_letters()

    def letters(token: bytes) -> str:
        return "".join(spell[byte] for byte in token)

    pairs = (_last_pair(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    merges = [(letters(left), letters(right)) for left, right in pairs]
    vocabulary = {letters(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in sorted(special, key=special.__getitem__)]
    )
    return tokenizer


def _last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        best = joined.index(min(joined))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in GPT-2's vocabularies (gpt-2, encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _set_config(config: Any, model: Any, vocabulary: whisper.tokenizer.Tokenizer) -> None:
    special = (vocabulary.transcribe, vocabulary.translate, vocabulary.sot, vocabulary.sot_prev, vocabulary.sot_lm)
    config.suppress_ids = sorted({*vocabulary.non_speech_tokens, *special, vocabulary.no_speech})
    config.suppress_ids_begin = [*vocabulary.encode(" "), vocabulary.eot]
    config.lang_ids = sorted(vocabulary.all_language_tokens)
    config.alignment_heads = model.alignment_heads.indices().T.tolist()


def _set_weights(spec: Any, state: Mapping[str, Tensor]) -> None:
    for name in ("conv1", "conv2"):
        conv = getattr(spec.encoder, name)
        conv.weight, conv.bias = state[f"encoder.{name}.weight"], state[f"encoder.{name}.bias"]
    _set_norm(spec.encoder.layer_norm, state, "encoder.ln_post")
    _set_norm(spec.decoder.layer_norm, state, "decoder.ln")
    spec.decoder.embeddings.weight = state["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = state["decoder.token_embedding.weight"]
    for side in ("encoder", "decoder"):
        getattr(spec, side).position_encodings.encodings = state[f"{side}.positional_embedding"]
        for index, layer in enumerate(getattr(spec, side).layer):
            _set_layer(layer, state, f"{side}.blocks.{index}")


def _set_layer(layer: Any, state: Mapping[str, Tensor], block: str) -> None:
    inner = layer.self_attention
    _set_linear(inner.linear[0], state, f"{block}.attn.query", f"{block}.attn.key", f"{block}.attn.value")
    _set_linear(inner.linear[1], state, f"{block}.attn.out")
    _set_norm(inner.layer_norm, state, f"{block}.attn_ln")
    if f"{block}.cross_attn.out.weight" in state:
        outer = layer.attention
        _set_linear(outer.linear[0], state, f"{block}.cross_attn.query")
        _set_linear(outer.linear[1], state, f"{block}.cross_attn.key", f"{block}.cross_attn.value")
        _set_linear(outer.linear[2], state, f"{block}.cross_attn.out")
        _set_norm(outer.layer_norm, state, f"{block}.cross_attn_ln")
    _set_linear(layer.ffn.linear_0, state, f"{block}.mlp.0")
    _set_linear(layer.ffn.linear_1, state, f"{block}.mlp.2")
    _set_norm(layer.ffn.layer_norm, state, f"{block}.mlp_ln")


def _set_linear(linear: Any, state: Mapping[str, Tensor], *names: str) -> None:
    """Stack layers into one; Whisper's keys have no bias, which is a bias of zero."""
    weights = [state[f"{name}.weight"] for name in names]
    biases = [state.get(f"{name}.bias", torch.zeros(len(w))) for name, w in zip(names, weights, strict=True)]
    linear.weight, linear.bias = torch.cat(weights), torch.cat(biases)


def _set_norm(norm: Any, state: Mapping[str, Tensor], name: str) -> None:
    norm.gamma, norm.beta = state[f"{name}.weight"], state[f"{name}.bias"]


def compare_whispers(source: Path, folder: Path, wave_N: NDArray[np.float32], *, language: str = "ja") -> Agreement:
    """Run the original and the converted Whisper, as it is stored, over the first 30 s of a wave at 16 kHz."""
    model = load_whisper(source)
    prompt = load_vocabulary(model, language=language, task="transcribe").sot_sequence
    options = whisper.DecodingOptions(language=language, without_timestamps=False, fp16=False)
    padded = whisper.pad_or_trim(torch.from_numpy(np.ascontiguousarray(wave_N, np.float32)))
    mel = whisper.log_mel_spectrogram(padded, model.dims.n_mels)[None]
    converted = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=1)
    with torch.inference_mode():
        encoded_TD = model.encoder(mel)[0].numpy()
        (written,) = model.decode(mel, options)
    features = converted.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.numpy())), to_cpu=True)
    found = converted.generate(features, [list(prompt)], beam_size=1, max_length=model.dims.n_text_ctx)[0]
    difference_TD = np.asarray(features.to_device(ctranslate2.Device.cpu)).astype(np.float32)[0] - encoded_TD
    return Agreement(
        encoder_error=float(np.sqrt(np.mean(difference_TD**2) / np.mean(encoded_TD**2))),
        tokens=list(written.tokens),
        converted_tokens=list(found.sequences_ids[0]),
    )
