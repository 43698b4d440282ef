"""Generate a target after its examples: key-value cache, delay pattern, guidance, seeded sampling.

transformers' own `generate` cannot mask text by segment, so the loop is ours; without examples it gives the same
codes. One episode at a time: prefixes differ in length.

Shape letters: B batch (1), K codebooks, P prefix columns, S columns, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from pipeline.music.sequence import build_prefix, delay_mask, pad_id, undelay
from train.icl.model import IclModel
from train.icl.text import block_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a code is chosen from its logits."""

    temperature: float = 1.0
    """0 takes the likeliest code."""
    top_k: int = 0
    """Codes to choose from, 0 for all."""
    guidance_scale: float = 1.0
    """1 is no guidance."""
    seed: int = 0
    """Of the sampler; the same on every device, because codes are drawn on the CPU."""


class _Stream:
    """One sequence under way; what it has read is in the cache.

    Args:
        model: in eval mode.
        examples_KT: codes of the examples in prompt order.
        prompts: one per example, then the target's.
    """

    def __init__(
        self, model: IclModel, examples_KT: Sequence[NDArray[np.integer]], prompts: Sequence[str | None]
    ) -> None:
        K, size = model.codec.num_codebooks, model.codec.codebook_size
        prefix_KP, segments_P = build_prefix(examples_KT, num_codebooks=K, codebook_size=size)
        self._model = model
        self.columns_BKS = torch.from_numpy(prefix_KP)[None].to(model.device)
        self._segments_BS = torch.from_numpy(segments_P)[None].to(model.device)
        self._text = model.text.join([prompts])
        self._states = model.project(self._text)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._num_read = 0

    def next_logits(self) -> Tensor:
        """Scores of the column after the last one, [K, V], float32 on the CPU."""
        new_BKS = self.columns_BKS[:, :, self._num_read :]
        mask = block_mask(self._segments_BS[:, self._num_read :], self._text.segments_BL, self._states.dtype)
        logits = self._model.decode(new_BKS, self._states, mask, self._cache)
        self._num_read = self.columns_BKS.shape[2]
        return logits[0, :, -1].float().cpu()

    def append(self, column_K: Tensor) -> None:
        """Add a column to the target's segment."""
        column_BKS = column_K[None, :, None].to(self.columns_BKS.device)
        self.columns_BKS = torch.cat([self.columns_BKS, column_BKS], dim=2)
        self._segments_BS = torch.cat([self._segments_BS, self._segments_BS[:, -1:]], dim=1)


@torch.no_grad()
def generate_codes(
    model: IclModel,
    examples_KT: Sequence[NDArray[np.integer]],
    *,
    prompts: Sequence[str | None],
    num_frames: int,
    sampling: Sampling,
) -> NDArray[np.uint16]:
    """Generate the codes of one target.

    With guidance, a second stream without examples and text runs beside the first, as in training's null episodes:
    logits = null + scale * (conditional - null).

    Args:
        model: in eval mode.
        examples_KT: codes of the examples in prompt order.
        prompts: one per example, then the target's.
        num_frames: frames to generate.
        sampling: how codes are chosen.

    Returns:
        Codes [K, num_frames].
    """
    K, size = model.codec.num_codebooks, model.codec.codebook_size
    streams = [_Stream(model, examples_KT, prompts)]
    if sampling.guidance_scale != 1.0:
        streams.append(_Stream(model, [], [None]))
    generator = torch.Generator().manual_seed(sampling.seed)
    valid_KS = torch.from_numpy(delay_mask(K, num_frames))
    num_prefix = streams[0].columns_BKS.shape[2]
    for s in range(valid_KS.shape[1]):
        logits_KV = _guide([stream.next_logits() for stream in streams], sampling.guidance_scale)
        column_K = choose_codes(logits_KV, sampling, generator)
        column_K = torch.where(valid_KS[:, s], column_K, pad_id(size))
        for stream in streams:
            stream.append(column_K)
    return undelay(streams[0].columns_BKS[0, :, num_prefix:].cpu().numpy())


def _guide(logits: Sequence[Tensor], scale: float) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    conditional, null = logits
    return null + scale * (conditional - null)


def choose_codes(logits_KV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Choose one code per codebook, [K]."""
    if sampling.temperature == 0:
        return logits_KV.argmax(dim=-1)
    logits_KV = logits_KV / sampling.temperature
    if 0 < sampling.top_k < logits_KV.shape[1]:
        lowest_K1 = logits_KV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_KV = logits_KV.masked_fill(logits_KV < lowest_K1, -torch.inf)
    return torch.multinomial(logits_KV.softmax(dim=-1), 1, generator=generator)[:, 0]
