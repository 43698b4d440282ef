"""How the weights that are not trained are kept: float32, bfloat16, or QLoRA's 4 bits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

BaseWeights = Literal["fp32", "bf16", "nf4"]
BLOCK = 64
"""Weights that share a scale in NF4; scales are quantised again, 256 at a time (Dettmers et al. 2023, section 3)."""


def shrink_frozen(network: Any, base_weights: BaseWeights) -> None:
    """Change how the decoder's frozen weights are kept, in place; before an adapter is attached.

    The text encoder stays as it is: its states are computed once per prompt, and float16 overflows in T5. Heads and
    embeddings are too few to be worth 4 bits, and too near the loss.

    Args:
        network: transformers' MusicGen in float32, on the CPU.
        base_weights: `nf4` quantises the linear layers of the decoder's blocks when they move to their device.
    """
    if base_weights == "fp32":
        return
    parts = [network.decoder, *([network.enc_to_dec_proj] if hasattr(network, "enc_to_dec_proj") else [])]
    for part in parts:
        part.to(torch.bfloat16)
    if base_weights == "nf4":
        for layer in network.decoder.model.decoder.layers:
            _quantise(layer)
        # What peft asks before it chooses its 4-bit layers.
        network.is_loaded_in_4bit = True


def _quantise(block: nn.Module) -> None:
    import bitsandbytes

    make_packed: Any = bitsandbytes.nn.Params4bit
    for name, linear in [(name, part) for name, part in block.named_modules() if isinstance(part, nn.Linear)]:
        packed = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias="bias" in dict(linear.named_parameters()),
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            device=linear.weight.device,
        )
        packed.weight = make_packed(linear.weight.data, requires_grad=False, quant_type="nf4")
        packed.bias = linear.bias
        owner, _, last = name.rpartition(".")
        setattr(block.get_submodule(owner), last, packed)


def frozen_bytes(network: Any, base_weights: BaseWeights) -> int:
    """Bytes that the decoder's weights take when kept so; the text encoder's are not counted.

    Args:
        network: the float32 network, on any device, `meta` included, without an adapter.
        base_weights: as for `shrink_frozen`.
    """
    parts = [network.decoder, *([network.enc_to_dec_proj] if hasattr(network, "enc_to_dec_proj") else [])]
    num_weights = sum(weight.numel() for part in parts for weight in part.parameters())
    if base_weights == "fp32":
        return 4 * num_weights
    linears = [part for part in network.decoder.model.decoder.layers.modules() if isinstance(part, nn.Linear)]
    num_packed = sum(linear.weight.numel() for linear in linears) if base_weights == "nf4" else 0
    # Half a byte, a byte of scale for 64 weights, and 4 bytes for 256 scales.
    return round(num_packed * (0.5 + 1 / BLOCK + 4 / (BLOCK * 256))) + 2 * (num_weights - num_packed)
