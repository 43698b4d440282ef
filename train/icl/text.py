"""Prompts as states that the decoder can attend to: each prompt encoded by itself, once.

Shape letters: B batch, S decoder columns, L text tokens of one episode, D width of the text encoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

NO_SEGMENT = -1
"""Segment id of padding among the text tokens; no column has it."""


class TextStates(NamedTuple):
    """Prompts of a batch of episodes, one after another along L.

    Attributes:
        states_BLD: float32 outputs of the text encoder, not yet projected to the decoder's width.
        segments_BL: segment that each token belongs to, NO_SEGMENT for padding.
        keep_BL: 0 for padding and for the null prompt: their states are zeroed after the projection.
    """

    states_BLD: Tensor
    segments_BL: Tensor
    keep_BL: Tensor


class TextEncoder:
    """The frozen T5, with a cache of what it said of each prompt.

    A prompt is run alone, never in a padded batch, so that its states do not depend on its company. What is kept lies
    in the machine's memory: 4,096 prompts of 128 tokens would take 1.6 GB of a card.

    Args:
        network: the text encoder, in eval mode.
        tokenizer: its tokenizer.
        max_tokens: prompts are cut after this many tokens.
        max_prompts: prompts in the cache; the one not used for longest goes first.
    """

    def __init__(self, network: Any, tokenizer: Any, *, max_tokens: int, max_prompts: int = 4096) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_prompts = max_prompts
        self._states_LD: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return next(self._network.parameters()).device

    def __len__(self) -> int:
        return len(self._states_LD)

    def encode(self, prompt: str | None) -> Tensor:
        """States of one prompt, [L, D]; a single zero state for None, the null prompt."""
        if prompt is None:
            return torch.zeros(1, self._network.config.hidden_size, device=self.device)
        if prompt not in self._states_LD:
            self._states_LD[prompt] = self._run(prompt)
            if len(self._states_LD) > self._max_prompts:
                self._states_LD.popitem(last=False)
        self._states_LD.move_to_end(prompt)
        return self._states_LD[prompt].to(self.device)

    @torch.no_grad()
    def _run(self, prompt: str) -> Tensor:
        tokens = self._tokenizer(prompt, return_tensors="pt", truncation=True, max_length=self._max_tokens)
        # Autocast is off: T5 was trained without it, and the states are kept for the whole run.
        with torch.autocast(self.device.type, enabled=False):
            output = self._network(tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device))
        return output.last_hidden_state[0].float().cpu()

    def join(self, episodes: Sequence[Sequence[str | None]]) -> TextStates:
        """Put the prompts of each episode one after another, padded at the end.

        Args:
            episodes: per episode its prompts in the order of the segments, the target's last.
        """
        rows = [[self.encode(prompt) for prompt in prompts] for prompts in episodes]
        longest = max(sum(len(states) for states in row) for row in rows)
        states_BLD = torch.zeros(len(rows), longest, rows[0][0].shape[1], device=self.device)
        segments_BL = torch.full((len(rows), longest), NO_SEGMENT, device=self.device)
        keep_BL = torch.zeros(len(rows), longest, device=self.device)
        for b, (row, prompts) in enumerate(zip(rows, episodes, strict=True)):
            start = 0
            for segment, (states, prompt) in enumerate(zip(row, prompts, strict=True)):
                end = start + len(states)
                states_BLD[b, start:end] = states
                segments_BL[b, start:end] = segment
                keep_BL[b, start:end] = float(prompt is not None)
                start = end
        return TextStates(states_BLD, segments_BL, keep_BL)


def block_mask(segments_BS: Tensor, text_segments_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Let each column see the text of its own segment alone: additive mask [B, 1, S, L].

    The lowest value of `dtype` stands for "not seen": a boolean mask is silently wrong under eager attention, and
    the lowest float32 becomes -inf when autocast turns it into bfloat16.
    """
    seen_BSL = segments_BS[:, :, None] == text_segments_BL[:, None, :]
    mask = torch.zeros(seen_BSL.shape, dtype=dtype, device=seen_BSL.device)
    return mask.masked_fill(~seen_BSL, torch.finfo(dtype).min)[:, None]


def full_mask(num_columns: int, text_segments_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Let every column see all texts of its episode: additive mask [B, 1, S, L]; see `block_mask`."""
    mask_BL = torch.zeros(text_segments_BL.shape, dtype=dtype, device=text_segments_BL.device)
    mask_BL = mask_BL.masked_fill(text_segments_BL == NO_SEGMENT, torch.finfo(dtype).min)
    return mask_BL[:, None, None].expand(-1, 1, num_columns, -1)
