"""The optimisers, and the scale that keeps float16 gradients from vanishing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from train.params import TrainParams

MIN_SCALE, MAX_SCALE = 1.0, 65536.0
GROWTH_STEPS = 1000
"""Good steps after which float16's loss is scaled up again."""


def make_optimiser(trainable: Mapping[str, nn.Parameter], params: TrainParams) -> Any:
    """Make the optimiser that the settings name; its weight decay acts on matrices only."""
    groups, rate = _groups(trainable, params.weight_decay), params.learning_rate
    if params.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if params.optimiser == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(groups, lr=rate)


def _groups(trainable: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    decayed = {name for name, value in trainable.items() if value.ndim >= 2 and "embed_tokens" not in name}
    return [
        {"params": [trainable[name] for name in trainable if name in decayed], "weight_decay": weight_decay},
        {"params": [trainable[name] for name in trainable if name not in decayed], "weight_decay": 0.0},
    ]


def next_scale(scale: float, *, is_finite: bool, num_good_steps: int) -> float:
    """Scale of the next step's loss: halved after an overflow, doubled after a long row of good steps.

    Args:
        scale: of the step just done.
        is_finite: whether its gradients were.
        num_good_steps: steps in a row that were good, this one included.
    """
    if not is_finite:
        return max(MIN_SCALE, scale / 2)
    return min(MAX_SCALE, 2 * scale) if num_good_steps % GROWTH_STEPS == 0 else scale
