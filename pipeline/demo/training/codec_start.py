"""A start from which the codec learns: every layer passes on as much variation as it gets.

As transformers starts it, biases drown the sound: after the encoder what varies is a twentieth of what does not.
The method is that of Mishkin and Matas 2016 (layer-sequential unit variance), in one pass.

Shape letters: B batch, C channels, N samples or frames.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

BRANCH_STD = 0.5
"""Of what a residual block adds."""


@torch.no_grad()
def even_out(part: Any, inputs: Tensor, *, last: nn.Module, std: float) -> None:
    """Scale the convolutions of an encoder or decoder so that each puts out unit variance for these inputs.

    Args:
        part: `EncodecEncoder` or `EncodecDecoder`.
        inputs: a batch of what it reads.
        last: its last convolution.
        std: what that one puts out instead.
    """
    branches = {block.block[-1].conv for block in part.modules() if hasattr(block, "block")}
    targets: dict[nn.Module, float] = {}
    for module in part.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            targets[module] = BRANCH_STD if module in branches else 1.0
    targets[last] = std
    hooks = [module.register_forward_hook(partial(_scale, target=target)) for module, target in targets.items()]
    part(inputs)
    for hook in hooks:
        hook.remove()


def _scale(module: Any, inputs: tuple[Tensor, ...], output_BCN: Tensor, *, target: float) -> Tensor:
    """Take out the bias and bring the output to the target's standard deviation."""
    del inputs
    unbiased_BCN = output_BCN - module.bias[:, None]
    factor = target / float(unbiased_BCN.std())
    module.bias.zero_()
    module.parametrizations.weight.original0.mul_(factor)
    return unbiased_BCN * factor
