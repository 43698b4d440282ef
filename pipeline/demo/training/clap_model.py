"""The demo's CLAP: transformers' ClapModel at a size that a CPU trains in half an hour.

Patches of 8 x 8 instead of 4 x 4 give a quarter of the tokens, and three stages instead of four keep the last one's
grid as wide as a window of attention.

Shape letters: B clips, T mel frames, M mel bands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import ClapConfig, ClapModel

from pipeline.demo.training.clap_losses import FactHeads
from pipeline.demo.vocabulary import ROBERTA_SPECIALS

PROJECTION_DIM = 64
MIN_SPREAD_DB = 8.0
"""Bands in which clips hardly differ are not blown up: those above 8 kHz are empty in clips of 16 kHz."""


def make_model(vocab_size: int) -> Any:
    """Build the model with random weights."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        # 77 tokens, and RoBERTa's positions start behind the padding id.
        "max_position_embeddings": 96,
        "pad_token_id": ROBERTA_SPECIALS.index("<pad>"),
        "projection_dim": PROJECTION_DIM,
        "projection_hidden_act": "relu",
    }
    audio = {
        "patch_size": 8,
        "patch_stride": [8, 8],
        "patch_embeds_hidden_size": 48,
        # Doubled at each of two merges.
        "hidden_size": 192,
        "depths": [1, 2, 3],
        "num_attention_heads": [2, 4, 8],
        "num_hidden_layers": 3,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.0,
        "projection_dim": PROJECTION_DIM,
        "projection_hidden_act": "relu",
    }
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=PROJECTION_DIM))


def set_input_norm(model: Any, mel_BTM: NDArray[np.float16]) -> None:
    """Measure the mean and spread of each mel band once; training leaves them."""
    norm: Any = model.audio_model.audio_encoder.batch_norm
    sample_BTM = mel_BTM.astype(np.float32)
    mean_M, spread_M = sample_BTM.mean(axis=(0, 1)), sample_BTM.std(axis=(0, 1))
    norm.running_mean.copy_(torch.from_numpy(mean_M))
    norm.running_var.copy_(torch.from_numpy(np.maximum(spread_M, MIN_SPREAD_DB) ** 2))


class Learner(nn.Module):
    """The model, and the heads that only training needs."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.model: Any = make_model(vocab_size)
        self.heads = FactHeads(PROJECTION_DIM, self.model.config.audio_config.hidden_size)
