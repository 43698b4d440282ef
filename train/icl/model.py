"""MusicGen as a network that reads episodes: examples and target in one stream, text by segment.

Shape letters: B batch, K codebooks, S columns, R columns with states among them, L states of an episode, D width, V
codebook entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, MusicgenForConditionalGeneration
from transformers.utils import logging

from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import find_checkpoint, load_pretrained
from pipeline.music.sequence import pad_id, separator_id
from train.data import CodecShape
from train.icl.batches import Batch
from train.icl.columns import ColumnPositions
from train.icl.frozen import shrink_frozen
from train.icl.parts import INIT_PHRASE, make_parts
from train.icl.states import lay_columns, read_states, states_mask
from train.icl.text import TextEncoder, TextStates
from train.params import TrainParams

PARTS_FILE = "parts.safetensors"
"""Beside a whole checkpoint: the trained separator rows, [K, D] under SEPARATOR_NAME, and the network's parts."""
SEPARATOR_NAME = "separator"
MIN_PIECES = 10
"""A tokenizer that was not found can come back with special tokens alone instead of failing (T5: 104 of them)."""


class IclModel:
    """A loaded MusicGen without its codec, with one more embedding row per codebook for the separator.

    Args:
        network: transformers' model, already extended by `add_separator_rows`, with its `parts` where it has any.
        text: its text encoder.
        codec: the codec that it was made for.
        precision: dtype of autocast; float32 turns it off.
        params: how a sequence is read.
    """

    def __init__(
        self,
        network: Any,
        text: TextEncoder,
        codec: CodecShape,
        *,
        precision: torch.dtype = torch.float32,
        params: TrainParams | None = None,
    ) -> None:
        self.network = network
        self.text = text
        self.codec = codec
        self.precision = precision
        self.params = params or TrainParams()
        self.adapter: Any = None
        """peft's wrapper around `network`, where one is attached."""

    @property
    def parts(self) -> Any:
        """Modules beside the decoder, by name."""
        return getattr(self.network, "parts", {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def train(self, on: bool = True) -> None:
        """Turn dropout on or off; the frozen text encoder never has it on."""
        if on and self.network.training and not self.network.text_encoder.training:
            # The loop asks before every step, and a walk through thousands of modules takes milliseconds.
            return
        self.network.train(on)
        self.network.text_encoder.eval()

    def logits(self, batch: Batch) -> Tensor:
        """Scores of the next column's codes, [B, K, S, V], for every column of the batch.

        Where the states of a segment come between two columns, the last of them predicts the second.
        """
        read = read_states(self, batch.prompts, batch.clap_ND)
        columns, places_BS = lay_columns(self, batch.inputs_BKS, batch.starts, read)
        logits_BKRV = self.decode(columns, read.states_BLD, states_mask(self, batch.segments_BS, read))
        if places_BS is None:
            return logits_BKRV
        return logits_BKRV.take_along_dim(places_BS[:, None, :, None], dim=2)

    def decode(self, columns: Tensor, states: Tensor | None, mask: Tensor | None, cache: Any = None) -> Tensor:
        """Run the decoder on columns; with a cache, on those that follow the cached ones.

        Args:
            columns: ids [B, K, S], or embeddings [B, S, D].
            states: for cross-attention, [B, L, D].
            mask: additive, [B, 1, S, L].
            cache: transformers' own.

        Returns:
            Logits [B, K, S, V].
        """
        B, S = columns.shape[0], columns.shape[1 if columns.is_floating_point() else 2]
        # The top-level forward multiplies its mask into the text states, so it cannot take a mask per column.
        with self.autocast():
            out = self.network.decoder(
                None if columns.is_floating_point() else columns.flatten(0, 1),
                inputs_embeds=columns if columns.is_floating_point() else None,
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return out.logits.view(B, self.codec.num_codebooks, S, -1)

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
        is_on = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if is_on else torch.bfloat16, enabled=is_on)


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
    model = make_model(network, tokenizer, _codec_shape(network, source), params=params, device=device)
    read_parts(network, folder)
    return model


def make_model(network: Any, tokenizer: Any, codec: CodecShape, *, params: TrainParams, device: str) -> IclModel:
    """Make transformers' MusicGen read episodes; it is changed in place, and its codec let go.

    Args:
        network: in float32, on the CPU.
        tokenizer: of its text encoder.
        codec: what its codes are.
        params: settings of the training that the model is for or from.
        device: torch device.
    """
    # Shards hold codes already: the codec would only take memory.
    network.audio_encoder = nn.Identity()
    network.requires_grad_(False).eval()
    shrink_frozen(network, params.base_weights)
    network.to(device)
    add_separator_rows(network)
    positions = network.decoder.model.decoder.embed_positions
    network.decoder.model.decoder.embed_positions = ColumnPositions(positions)
    text = TextEncoder(network.text_encoder, tokenizer, max_tokens=params.max_text_tokens)
    model = IclModel(network, text, codec, precision=_choose_precision(params, device), params=params)
    add_parts(model)
    return model


def add_parts(model: IclModel) -> None:
    """Give a network the modules that its format needs, frozen; they begin as `params.seed` says.

    Raises:
        ParamsError: the format shows more codebooks than there are.
    """
    shown, network = model.params.example_codebooks, model.network
    if shown is not None and shown > model.codec.num_codebooks:
        raise ParamsError(f"train.example_codebooks: {shown}, the model has {model.codec.num_codebooks}")
    rms = float(model.project(model.text.join([[INIT_PHRASE]])).float().square().mean() ** 0.5)
    parts = make_parts(network, model.params, state_rms=rms).to(model.device).requires_grad_(False)
    if len(parts):
        network.parts = parts.eval()


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


def _choose_precision(params: TrainParams, device: str) -> torch.dtype:
    precision = params.precision
    if precision == "auto" and device.startswith("cuda"):
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == "auto":
        precision = "fp32" if params.base_weights == "fp32" else "bf16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


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


def read_parts(network: Any, folder: Path) -> None:
    """Take trained separator rows and parts from beside a checkpoint, if it has any.

    Parts that it lacks stay as they begin: a merged run may be the base of a run in another format.

    Raises:
        ContractError: a part has another size than this format's.
    """
    path = folder / PARTS_FILE
    if not path.is_file():
        return
    state = load_file(path)
    rows_KD, row = state.pop(SEPARATOR_NAME), separator_id(network.config.decoder.vocab_size)
    with torch.no_grad():
        for table, values in zip(network.decoder.model.decoder.embed_tokens, rows_KD, strict=True):
            table.weight[row] = values.to(table.weight.device)
    own = network.parts.state_dict() if hasattr(network, "parts") else {}
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            raise ContractError(
                f"{path}: {name} is {tuple(state[name].shape)}, this format needs {tuple(own[name].shape)}; "
                "set train.num_examples and train.clap_states as the run had them that made it"
            )
        own[name].copy_(state[name])
