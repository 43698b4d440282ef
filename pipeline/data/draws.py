"""Choices by seed and key: the same on every machine, in every order, with any number of workers."""

from __future__ import annotations

import hashlib


def draw(seed: int, *words: str) -> int:
    """Draw a number from 0 to 2**64 - 1.

    Args:
        seed: from the settings.
        words: what the number is for, then the key; other words give an unrelated number.
    """
    text = ":".join([str(seed), *words])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def draw_caption(seed: int, key: str, num_captions: int) -> int:
    """Choose the caption of a clip that retrieval searches with and a prompt is made from."""
    return draw(seed, "caption", key) % num_captions
