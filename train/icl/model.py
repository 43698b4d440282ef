"""MusicGen as a network that reads episodes: examples and target in one stream, text by segment.

Shape letters: B batch, K codebooks, S columns, L text tokens, D widths, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, MusicgenForConditionalGeneration
from transformers.utils import logging

from pipeline.errors import ContractError
from pipeline.models.base import find_checkpoint, load_pretrained
from pipeline.music.sequence import pad_id, separator_id
from train.data import CodecShape
from train.icl.text import TextEncoder, TextStates, block_mask
from train.params import TrainParams

SEPARATOR_FILE = "separator.safetensors"
"""Trained separator rows beside a whole checkpoint, [K, D] under SEPARATOR_NAME."""
SEPARATOR_NAME = "separator"
MIN_PIECES = 10
"""A tokenizer that was not found can come back with special tokens alone instead of failing (T5: 104 of them)."""


class IclModel:
    """A loaded MusicGen without its codec, with one more embedding row per codebook for the separator.

    Args:
        network: transformers' model, already extended by `add_separator_rows`.
        text: its text encoder.
        codec: the codec that it was made for.
        precision: dtype of autocast; float32 turns it off.
    """

    def __init__(
        self, network: Any, text: TextEncoder, codec: CodecShape, *, precision: torch.dtype = torch.float32
    ) -> None:
        self.network = network
        self.text = text
        self.codec = codec
        self.precision = precision
        self.adapter: Any = None
        """peft's wrapper around `network`, where one is attached."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def train(self, on: bool = True) -> None:
        """Turn dropout on or off; the frozen text encoder never has it on."""
        self.network.train(on)
        self.network.text_encoder.eval()

    def logits(self, inputs_BKS: Tensor, segments_BS: Tensor, prompts: Sequence[Sequence[str | None]]) -> Tensor:
        """Scores of the next column's codes, [B, K, S, V].

        Args:
            inputs_BKS: int64 ids, padded at the end.
            segments_BS: segment of each column; padding may bear any id.
            prompts: per episode its prompts, the target's last; None is the null prompt.
        """
        text = self.text.join(prompts)
        states = self.project(text)
        mask = block_mask(segments_BS, text.segments_BL, states.dtype)
        return self.decode(inputs_BKS, states, mask)

    def decode(self, inputs_BKS: Tensor, states: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Run the decoder on columns; with a cache, on those that follow the cached ones.

        Returns:
            Logits [B, K, S, V].
        """
        B, K, S = inputs_BKS.shape
        # The top-level forward multiplies its mask into the text states, so it cannot take a mask per column.
        with self.autocast():
            out = self.network.decoder(
                inputs_BKS.reshape(B * K, S),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return out.logits.view(B, K, S, -1)

    def project(self, text: TextStates) -> Tensor:
        """Bring text states to the decoder's width, [B, L, D], and zero what must say nothing.

        A zero state adds nothing through cross-attention (its layers have no bias): that is MusicGen's own null.
        """
        projection = getattr(self.network, "enc_to_dec_proj", None)
        with self.autocast():
            states = text.states_BLD if projection is None else projection(text.states_BLD)
        return (states * text.keep_BL[..., None]).to(self.precision)

    def autocast(self) -> torch.autocast:
        """Context in which matrix products run in `precision`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)


def load_model(source: str, *, params: TrainParams, device: str = "cpu") -> IclModel:
    """Load a MusicGen checkpoint from a folder or a hub id and make it read episodes.

    Args:
        source: a folder in transformers' format, or a hub id.
        params: settings of the training that the model is for or from.
        device: torch device.

    Raises:
        ContractError: no such checkpoint, or one that is not a mono MusicGen with a tokenizer.
    """
    logging.disable_progress_bar()
    folder = find_checkpoint(source, role="generator").path
    network = load_network(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{folder}: no tokenizer ({reason}); copy the model's own there") from error
    num_pieces = sum(not piece.startswith("<") for piece in tokenizer.get_vocab())
    if num_pieces < MIN_PIECES:
        raise ContractError(f"{folder}: its tokenizer knows {num_pieces} pieces of text; copy the model's own there")
    codec = _codec_shape(network, source)
    # Shards hold codes already: the codec would only take memory.
    network.audio_encoder = nn.Identity()
    network.requires_grad_(False).eval().to(device)
    add_separator_rows(network)
    read_separator_rows(network, folder)
    text = TextEncoder(network.text_encoder, tokenizer, max_tokens=params.max_text_tokens)
    return IclModel(network, text, codec, precision=_choose_precision(params.precision, device))


def load_network(source: str) -> Any:
    """Load transformers' MusicGen as it is, codec included, in float32.

    Raises:
        ContractError: there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(source, role="generator")
    return load_pretrained(MusicgenForConditionalGeneration, checkpoint, role="generator")


def _codec_shape(network: Any, source: str) -> CodecShape:
    decoder, codec = network.config.decoder, network.config.audio_encoder
    if decoder.audio_channels != 1 or decoder.pad_token_id != pad_id(decoder.vocab_size):
        raise ContractError(
            f"{source}: needs a mono MusicGen whose pad id is {decoder.vocab_size}, the number of codes; "
            f"this one has {decoder.audio_channels} channels and pad id {decoder.pad_token_id}"
        )
    return CodecShape(decoder.num_codebooks, decoder.vocab_size, float(codec.frame_rate), codec.sampling_rate)


def _choose_precision(precision: str, device: str) -> torch.dtype:
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def add_separator_rows(network: Any) -> None:
    """Give each codebook's input embedding a row for the separator, which starts as a copy of the pad row.

    The pad row opens every sequence that MusicGen was trained on, so an untrained separator says "begin".
    The heads stay as they are: a separator is never predicted.
    """
    for codebook, old in enumerate(network.decoder.model.decoder.embed_tokens):
        pad = pad_id(network.config.decoder.vocab_size)
        rows = torch.cat([old.weight.data[: pad + 1], old.weight.data[pad : pad + 1]])
        new = nn.Embedding.from_pretrained(rows, freeze=not old.weight.requires_grad)
        network.decoder.model.decoder.embed_tokens[codebook] = new


def separator_rows(network: Any) -> Tensor:
    """The separator's embedding in every codebook, [K, D], on the CPU."""
    row = separator_id(network.config.decoder.vocab_size)
    return torch.stack([table.weight.detach()[row].cpu() for table in network.decoder.model.decoder.embed_tokens])


def read_separator_rows(network: Any, folder: Path) -> None:
    """Take trained separator rows from beside a checkpoint, if it has any."""
    path = folder / SEPARATOR_FILE
    if not path.is_file():
        return
    row = separator_id(network.config.decoder.vocab_size)
    rows_KD = load_file(path)[SEPARATOR_NAME]
    with torch.no_grad():
        for table, values in zip(network.decoder.model.decoder.embed_tokens, rows_KD, strict=True):
            table.weight[row] = values.to(table.weight.device)
