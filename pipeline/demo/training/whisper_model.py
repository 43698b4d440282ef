"""The demo's Whisper while it learns: openai's own layers, the rows of the vocabulary in use, and what helps to learn.

Shapes: B batch, M mel frames, T frames of 20 ms, L tokens, H heads, D width, V rows in use, C morae.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from whisper.model import AudioEncoder, ModelDimensions, MultiHeadAttention, TextDecoder

from pipeline.demo.expand_whisper import (
    FINE_STEPS,
    FIRST_TIMESTAMP,
    N_VOCAB,
    NUM_KNOTS,
    NUM_TIMESTAMPS,
    timestamp_rows,
)
from pipeline.demo.training.windows import MORAE, NOTHING, Window, frame_labels, token_ids

DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=160, n_audio_head=4, n_audio_layer=3,
    n_vocab=N_VOCAB, n_text_ctx=448, n_text_state=160, n_text_head=2, n_text_layer=3,
)  # fmt: skip
FAR_FRAMES, NEARBY = ((-3, -1, 1, 3), (-6, -2, 2, 6), (-12, -4, 4, 12)), (2.0, 2.2, 2.4)
"""Where the heads of the encoder's layers look at first, frames ahead; and how sharply, by layer."""
SOUND_GAIN = 1.5
NOW_LAYER, NEXT_LAYERS = 0, (1, 2)
"""Decoder layers whose first head learns to look at what was just written, and at what comes next."""


@dataclass(slots=True)
class Batch:
    """Windows of one length, as tensors."""

    mel_BFM: Tensor
    offset: int
    rows_BL: Tensor
    targets_BL: Tensor
    spans_BL2: Tensor
    """Of tokens and, one further, of what follows each."""
    labels_BT: Tensor
    before_BT: Tensor
    begins_BT: Tensor


class SungWhisper(nn.Module):
    """Whisper with only the rows of its vocabulary that it writes."""

    def __init__(self, dims: ModelDimensions = DIMS) -> None:
        super().__init__()
        self.dims, width = dims, dims.n_text_state
        self.encoder = AudioEncoder(80, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer)
        settle(self.encoder)
        self.decoder = TextDecoder(1, dims.n_text_ctx, width, dims.n_text_head, dims.n_text_layer)
        self.decoder.token_embedding = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        nn.init.normal_(self.decoder.positional_embedding, std=0.02)
        num_known = len(token_ids())
        self.rows = nn.ParameterDict(
            {
                "tokens": torch.randn(num_known + 1, width) * 0.05,
                "coarse": torch.randn(NUM_KNOTS, width) * 0.05,
                "fine": torch.randn(FINE_STEPS, width) * 0.05,
            }
        )
        # Thrown away when the encoder has learnt.
        self.sounds = nn.Linear(dims.n_audio_state, len(MORAE) + 2)
        self.before = nn.Linear(dims.n_audio_state, len(MORAE) + 1)
        # One row stands for all that is never written, and counts as often.
        num_never = N_VOCAB - num_known - NUM_TIMESTAMPS
        self.register_buffer("never", torch.tensor(float(num_never)).log(), persistent=False)

    def table(self) -> Tensor:
        """Rows in use [V, D]: tokens, timestamps, the row of all others."""
        times = timestamp_rows(self.rows["coarse"], self.rows["fine"])
        return torch.cat([self.rows["tokens"][:-1], times, self.rows["tokens"][-1:]])

    def encode(self, mel_BFM: Tensor, offset: int) -> Tensor:
        """As `AudioEncoder`, from any frame of the 30 s on."""
        encoder = self.encoder
        hidden_BDT = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mel_BFM))))
        positions = encoder.get_buffer("positional_embedding")
        hidden_BTD = hidden_BDT.transpose(1, 2)
        hidden_BTD = hidden_BTD + positions[offset : offset + hidden_BTD.shape[1]]
        for block in encoder.blocks:
            normed_BTD = block.attn_ln(hidden_BTD)
            hidden_BTD = hidden_BTD + _look(block.attn, normed_BTD, normed_BTD)[0]
            hidden_BTD = hidden_BTD + block.mlp(block.mlp_ln(hidden_BTD))
        return encoder.ln_post(hidden_BTD)

    def decode(self, rows_BL: Tensor, audio_BTD: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, L, V] and, of each layer, where its first head looks [B, L, T]."""
        table_VD, decoder, looks = self.table(), self.decoder, list[Tensor]()
        hidden_BLD = functional.embedding(rows_BL, table_VD) + decoder.positional_embedding[: rows_BL.shape[1]]
        blocks: Any = decoder.blocks
        for block in blocks:
            hidden_BLD = hidden_BLD + block.attn(block.attn_ln(hidden_BLD), mask=decoder.mask)[0]
            seen_BLD, look_BLT = _look(block.cross_attn, block.cross_attn_ln(hidden_BLD), audio_BTD)
            hidden_BLD = hidden_BLD + seen_BLD
            hidden_BLD = hidden_BLD + block.mlp(block.mlp_ln(hidden_BLD))
            looks.append(look_BLT)
        logits_BLV = (decoder.ln(hidden_BLD) @ table_VD.T).float()
        return torch.cat([logits_BLV[..., :-1], logits_BLV[..., -1:] + self.never], dim=-1), looks

    def sound_losses(self, audio_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """How far the encoder is from telling each frame's mora, the one before, and where one begins.

        By the one before, the decoder finds its place again.
        """
        sounds_BTC, before_BTC = self.sounds(audio_BTD).float(), self.before(audio_BTD).float()
        return {
            "sound": functional.cross_entropy(sounds_BTC[..., :-1].flatten(0, 1), batch.labels_BT.flatten()),
            "before": functional.cross_entropy(before_BTC.flatten(0, 1), batch.before_BT.flatten()),
            "begin": functional.binary_cross_entropy_with_logits(sounds_BTC[..., -1], batch.begins_BT),
        }

    def text_losses(self, audio_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """How far the decoder is from writing the text, and from looking where its tokens sound."""
        logits_BLV, looks = self.decode(batch.rows_BL, audio_BTD)
        return {
            "text": functional.cross_entropy(
                logits_BLV.flatten(0, 1), batch.targets_BL.flatten(), ignore_index=NOTHING
            ),
            "now": _astray(looks[NOW_LAYER], batch.spans_BL2[:, :-1]),
            "next": torch.stack([_astray(looks[n], batch.spans_BL2[:, 1:]) for n in NEXT_LAYERS]).mean(),
        }


def settle(encoder: Any) -> None:
    """Begin with what a transformer takes long to find: sound as loud as positions, and heads that look nearby.

    The quickest positions are kept free of sound, so that heads can turn them: sines fill the first half of the
    width, cosines the second, from quick to slow.
    """
    width = encoder.conv2.out_channels
    size = width // encoder.blocks[0].attn.n_head // 2
    free = torch.cat([torch.arange(size), width // 2 + torch.arange(size)])
    with torch.no_grad():
        for conv, gain in ((encoder.conv1, 1.0), (encoder.conv2, SOUND_GAIN)):
            nn.init.normal_(conv.weight, std=gain * (2 / conv.weight[0].numel()) ** 0.5)
            nn.init.zeros_(conv.bias)
        encoder.conv2.weight[free] = 0
        for block, far, nearby in zip(encoder.blocks, FAR_FRAMES, NEARBY, strict=False):
            look_nearby(block.attn, far, nearby)
            for layer in (block.attn.out, block.mlp[2]):
                layer.weight[free] = 0
                layer.bias[free] = 0


def look_nearby(attention: MultiHeadAttention, far: Sequence[int], nearby: float) -> None:
    """Let each head look so many frames ahead, by turning the quickest sinusoidal positions.

    Args:
        attention: of the encoder.
        far: frames ahead, of each head.
        nearby: how sharply they look.
    """
    width, size = attention.query.in_features, attention.query.in_features // attention.n_head
    turn_F = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(size // 2))
    place = torch.arange(size // 2)
    query_DD, key_DD = (torch.randn(width, width) * 0.02 for _ in range(2))
    for head, ahead in enumerate(far):
        sine, cosine = head * size + place, head * size + size // 2 + place
        query_DD[sine, place] += nearby
        query_DD[cosine, width // 2 + place] += nearby
        key_DD[sine, place] += nearby * (turn_F * ahead).cos()
        key_DD[sine, width // 2 + place] -= nearby * (turn_F * ahead).sin()
        key_DD[cosine, width // 2 + place] += nearby * (turn_F * ahead).cos()
        key_DD[cosine, place] += nearby * (turn_F * ahead).sin()
    attention.query.weight.copy_(query_DD)
    attention.key.weight.copy_(key_DD)


def _look(attention: MultiHeadAttention, query_BLD: Tensor, audio_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Attend as openai's layer does, and tell where the first head looks; torch's fused one learns slowly on CPUs."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attention.n_head, -1)).transpose(1, 2)

    query, key, value = (
        heads(layer(x))
        for layer, x in ((attention.query, query_BLD), (attention.key, audio_BTD), (attention.value, audio_BTD))
    )
    scores_BHLT = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    # Else autocast makes it float32, of four times the work.
    with torch.autocast("cpu", enabled=False):
        weights_BHLT = torch.softmax(scores_BHLT, dim=-1)
    seen_BLD = (weights_BHLT @ value).transpose(1, 2).flatten(2)
    return attention.out(seen_BLD), weights_BHLT[:, 0].float()


def _astray(look_BLT: Tensor, spans_BL2: Tensor) -> Tensor:
    """Mean of -log of what falls into each token's span; tokens without one do not count."""
    frames_T = torch.arange(look_BLT.shape[-1])
    inside_BLT = (frames_T >= spans_BL2[..., :1]) & (frames_T < spans_BL2[..., 1:])
    share_BL = (look_BLT * inside_BLT).sum(-1)
    asked_BL = inside_BLT.any(-1)
    return -(share_BL.clamp(min=1e-5).log() * asked_BL).sum() / asked_BL.sum().clamp(min=1)


def collate(windows: Sequence[Window]) -> Batch:
    """Windows of one length and offset as tensors; short texts are filled up with what is not asked for."""
    row_of = {token: row for row, token in enumerate(token_ids())}
    num_known, longest = len(row_of), max(len(window.tokens_L) for window in windows)

    def row(token: int) -> int:
        return num_known + token - FIRST_TIMESTAMP if token >= FIRST_TIMESTAMP else row_of.get(token, token)

    def filled(values: Sequence[int], fill: int) -> list[int]:
        return [*(row(value) for value in values), *([fill] * (longest - len(values)))]

    labels, before, begins = zip(*(frame_labels(window) for window in windows), strict=True)
    spans = [[*window.spans_L, *([(0, 0)] * (longest + 1 - len(window.spans_L)))] for window in windows]
    return Batch(
        mel_BFM=torch.stack([torch.from_numpy(window.mel_MF.T) for window in windows]).contiguous(),
        offset=windows[0].offset,
        rows_BL=torch.tensor([filled(window.tokens_L, 0) for window in windows]),
        targets_BL=torch.tensor([filled(window.targets_L, NOTHING) for window in windows]),
        spans_BL2=torch.tensor(spans),
        labels_BT=torch.stack(labels),
        before_BT=torch.stack(before),
        begins_BT=torch.stack(begins),
    )


def in_halves(batch: Batch) -> Batch:
    """Windows of half the length, for the encoder alone: attention costs half."""
    size = batch.labels_BT.shape[1] // 2
    return replace(
        batch,
        mel_BFM=torch.cat(batch.mel_BFM.split(2 * size, dim=2)),
        labels_BT=torch.cat(batch.labels_BT.split(size, dim=1)),
        before_BT=torch.cat(batch.before_BT.split(size, dim=1)),
        begins_BT=torch.cat(batch.begins_BT.split(size, dim=1)),
    )


def dims_json(dims: ModelDimensions) -> dict[str, int]:
    """Dimensions as `config.json` holds them."""
    return asdict(dims)
