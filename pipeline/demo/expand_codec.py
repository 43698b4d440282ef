"""Turn the committed weights of codec and generator into checkpoints as they are published: float32, complete.

Committed are halves of what training made, without what follows from the rest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
)

from pipeline.demo.expand import CARD, WEIGHTS

CODEC_PART = "audio_encoder."


def write_encodec(folder: Path, *, weights: Path = WEIGHTS / "encodec") -> None:
    """Write the demo's codec.

    Args:
        folder: made if absent.
        weights: the committed folder.
    """
    model = load_encodec_weights(weights)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=model.config.sampling_rate).save_pretrained(folder)
    shutil.copyfile(weights / CARD, folder / CARD)


def load_encodec_weights(weights: Path) -> Any:
    """Build the codec; its codebooks' averages, which only training reads, stand at the codes themselves."""
    config = EncodecConfig.from_pretrained(weights)
    model: Any = EncodecModel(config)
    state = {name: value.float() for name, value in load_file(weights / "model.safetensors").items()}
    for name in [name for name in state if name.endswith(".codebook.embed")]:
        state |= {f"{name}_avg": state[name].clone()}
        state[name.removesuffix("embed") + "cluster_size"] = torch.ones(config.codebook_size)
        state[name.removesuffix("embed") + "inited"] = torch.ones(1)
    model.load_state_dict(state)
    return model.eval()


def write_musicgen(folder: Path, *, weights: Path = WEIGHTS / "musicgen", codec: Path = WEIGHTS / "encodec") -> None:
    """Write the demo's generator, with its codec inside, its tokenizer and its generation settings.

    Args:
        folder: made if absent.
        weights: the committed folder.
        codec: the committed folder of the codec that it was trained for.
    """
    model: Any = MusicgenForConditionalGeneration(MusicgenConfig.from_pretrained(weights))
    state = {name: value.float() for name, value in load_file(weights / "model.safetensors").items()}
    state |= {f"{CODEC_PART}{name}": value for name, value in load_encodec_weights(codec).state_dict().items()}
    # Under this name T5 reads the embedding that the file holds once.
    state["text_encoder.encoder.embed_tokens.weight"] = state["text_encoder.shared.weight"]
    model.load_state_dict(state)
    model.generation_config = GenerationConfig.from_pretrained(weights)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    MusicgenProcessor.from_pretrained(weights).save_pretrained(folder)
    shutil.copyfile(weights / CARD, folder / CARD)
