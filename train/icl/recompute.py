"""Layers that are computed again in the backward pass instead of kept: memory no longer grows with their number."""

from __future__ import annotations

from typing import Any


def recompute_layers(network: Any, is_on: bool) -> None:
    """Turn gradient checkpointing of the decoder's layers on.

    Non-reentrant: the older kind gives a frozen network's adapters no gradient at all.

    Args:
        network: transformers' MusicGen.
        is_on: False leaves it as it is.
    """
    if is_on:
        network.decoder.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
