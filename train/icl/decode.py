"""Generate a target after its examples: key-value cache, delay pattern, guidance, seeded sampling.

transformers' own `generate` cannot mask text by segment, so the loop is ours; without examples it gives the same
codes. One episode at a time: prefixes differ in length.

Shape letters: B batch (1), K codebooks, P prefix columns, S columns, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from pipeline.music.sequence import build_prefix, delay_mask, pad_id, undelay
from train.augment import nearest_examples, null_episode, plain_context, without_text
from train.data import Episode, key_random
from train.icl.batches import clap_vectors
from train.icl.model import IclModel
from train.icl.states import lay_columns, read_states, states_mask
from train.params import GenerateParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a code is chosen from its logits."""

    temperature: float = 1.0
    """0 takes the likeliest code."""
    top_k: int = 0
    """Codes to choose from, 0 for all."""
    guidance_scale: float = 1.0
    """1 is no guidance."""
    examples_guidance: float = 0.0
    """0 is no guidance away from the branch without examples."""
    text_guidance: float = 0.0
    """0 is no guidance away from the branch without the target's text."""
    seed: int = 0
    """Of the sampler; the same on every device, because codes are drawn on the CPU."""


class _Stream:
    """One sequence under way; what it has read is in the cache.

    Args:
        model: in eval mode.
        context: an episode as training would show it; its target is not read.
    """

    def __init__(self, model: IclModel, context: Episode) -> None:
        K, size, form = model.codec.num_codebooks, model.codec.codebook_size, model.params.form
        prefix = build_prefix(context.examples_KT, num_codebooks=K, codebook_size=size, form=form)
        self._model = model
        self.columns_BKS = torch.from_numpy(prefix.columns_KP)[None].to(model.device)
        self._segments_BS = torch.from_numpy(prefix.segments_P)[None].to(model.device)
        self._read = read_states(model, [context.prompts], [clap_vectors(context, form).to(model.device)])
        self._new, _ = lay_columns(model, self.columns_BKS, [prefix.starts_N.tolist()], self._read)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._num_read = 0

    def next_logits(self) -> Tensor:
        """Scores of the column after the last one, [K, V], float32 on the CPU."""
        mask = states_mask(self._model, self._segments_BS[:, self._num_read :], self._read)
        logits = self._model.decode(self._new, self._read.states_BLD, mask, self._cache)
        self._num_read = self.columns_BKS.shape[2]
        return logits[0, :, -1].float().cpu()

    def append(self, column_K: Tensor) -> None:
        """Add a column to the target's segment."""
        self._new = column_K[None, :, None].to(self.columns_BKS.device)
        self.columns_BKS = torch.cat([self.columns_BKS, self._new], dim=2)
        self._segments_BS = torch.cat([self._segments_BS, self._segments_BS[:, -1:]], dim=1)


@torch.no_grad()
def generate_codes(model: IclModel, context: Episode, *, num_frames: int, sampling: Sampling) -> NDArray[np.uint16]:
    """Generate the codes of one target.

    With guidance, streams run beside it in which something is left out, as in training's episodes without it:
    logits = null + guidance_scale * (whole - null) + examples_guidance * (whole - without examples)
    + text_guidance * (whole - without text).

    Args:
        model: in eval mode.
        context: an episode as training would show it, cut to the budgets; its target is not read.
        num_frames: frames to generate.
        sampling: how codes are chosen.

    Returns:
        Codes [K, num_frames].
    """
    K, size = model.codec.num_codebooks, model.codec.codebook_size
    weighted = [(weight, _Stream(model, shown)) for weight, shown in branches(context, sampling)]
    whole = weighted[0][1]
    generator = torch.Generator().manual_seed(sampling.seed)
    valid_KS = torch.from_numpy(delay_mask(K, num_frames))
    num_prefix = whole.columns_BKS.shape[2]
    for s in range(valid_KS.shape[1]):
        logits_KV = torch.stack([weight * stream.next_logits() for weight, stream in weighted]).sum(dim=0)
        column_K = choose_codes(logits_KV, sampling, generator)
        column_K = torch.where(valid_KS[:, s], column_K, pad_id(size))
        for _, stream in weighted:
            stream.append(column_K)
    return undelay(whole.columns_BKS[0, :, num_prefix:].cpu().numpy())


def sample_target(
    model: IclModel, episode: Episode, params: GenerateParams
) -> tuple[NDArray[np.uint16], Episode, Sampling]:
    """Sample the codes of an episode's target, from (seed, key), as many frames as it has or `max_frames` allows.

    Returns:
        Codes, the episode as it was shown, and how codes were chosen.
    """
    context = plain_context(episode, params.num_examples, model.params)
    sampling = Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        guidance_scale=params.guidance_scale,
        examples_guidance=params.examples_guidance,
        text_guidance=params.text_guidance,
        seed=int(key_random(params.seed, 0, episode.key).integers(2**63)),
    )
    num_frames = min(params.max_frames, context.target_KT.shape[1])
    return generate_codes(model, context, num_frames=num_frames, sampling=sampling), context, sampling


def branches(context: Episode, sampling: Sampling) -> list[tuple[float, Episode]]:
    """What is read to choose a code, the whole context first, each with its weight; weights sum to 1."""
    scale, examples, text = sampling.guidance_scale, sampling.examples_guidance, sampling.text_guidance
    left_out = [
        (1 - scale, null_episode(context)),
        (-examples, nearest_examples(context, 0)),
        (-text, without_text(context)),
    ]
    used = [(weight, shown) for weight, shown in left_out if weight != 0]
    return [(scale + examples + text, context), *used]


def choose_codes(logits_KV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Choose one code per codebook, [K]."""
    if sampling.temperature == 0:
        return logits_KV.argmax(dim=-1)
    logits_KV = logits_KV / sampling.temperature
    if 0 < sampling.top_k < logits_KV.shape[1]:
        lowest_K1 = logits_KV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_KV = logits_KV.masked_fill(logits_KV < lowest_K1, -torch.inf)
    return torch.multinomial(logits_KV.softmax(dim=-1), 1, generator=generator)[:, 0]
