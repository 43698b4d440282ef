"""Encoders of the published shapes with random weights, and clips to put through them: what the figures are taken on.

Random weights cost what trained ones do. What rounding does to codes does not carry over to trained ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, EncodecConfig, EncodecModel, RobertaTokenizerFast

from pipeline.data.shards import Sample, encode_json, write_shard
from pipeline.engine.local import Task
from pipeline.music.audio import encode_flac

CODECS: dict[str, dict[str, Any]] = {
    "encodec 32 kHz": {
        "sampling_rate": 32_000, "target_bandwidths": [2.2], "upsampling_ratios": [8, 5, 4, 4], "num_filters": 64,
        "codebook_size": 2048, "use_causal_conv": False, "use_conv_shortcut": False,
    },
    "encodec 24 kHz": {
        "sampling_rate": 24_000, "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0], "upsampling_ratios": [8, 5, 4, 2],
        "num_filters": 32, "codebook_size": 1024, "use_causal_conv": True, "use_conv_shortcut": True,
    },
}  # fmt: skip
"""Shapes of facebook/encodec_32khz, which MusicGen uses, and of facebook/encodec_24khz."""
CLAPS: dict[str, dict[str, Any]] = {
    "clap HTSAT-tiny": {"patch_embeds_hidden_size": 96, "hidden_size": 768, "depths": [2, 2, 6, 2]},
    "clap HTSAT-base": {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]},
}
"""Shapes of laion/clap-htsat-unfused, and of laion/larger_clap_music with its text tower."""
CAPTIONS = ("a slow sad piano piece in a minor key", "fast drums and a loud bass", "a choir at night")
_HEADS = [4, 8, 16, 32]
_NUM_WORDS = 320
_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def build_codec(folder: Path, name: str) -> Path:
    """Write a codec in transformers' format; its codebooks lie where its latents do, so that codes vary."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model: Any = EncodecModel(EncodecConfig(hidden_size=128, codebook_dim=128, num_lstm_layers=2, **CODECS[name]))
        spread = float(model.encoder(0.2 * torch.randn(1, 1, model.config.sampling_rate)).std())
        for layer in model.quantizer.layers:
            torch.nn.init.normal_(layer.codebook.embed, std=spread)
            spread *= 0.7
    model.save_pretrained(folder)
    return folder


def build_clap(folder: Path, name: str) -> Path:
    """Write a CLAP in transformers' format, with a tokenizer of few words."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(CAPTIONS, vocab_size=_NUM_WORDS, special_tokens=_SPECIALS)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save(str(folder / "trained.json"))
    RobertaTokenizerFast(tokenizer_file=str(folder / "trained.json")).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # A table of few words costs what the real one does, and is not 150 MB to write.
        audio = {**CLAPS[name], "num_attention_heads": _HEADS}
        model = ClapModel(ClapConfig(text_config={"vocab_size": _NUM_WORDS}, audio_config=audio))
    model.save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(folder)
    return folder


def music(seed: int, duration_s: float, rate_hz: int) -> NDArray[np.float32]:
    """Plucked chords over noise: no two seeds alike."""
    random = np.random.default_rng(seed)
    t_N = np.arange(round(duration_s * rate_hz)) / rate_hz
    age_N = t_N % 0.5
    wave_N = 0.003 * random.standard_normal(t_N.size)
    for _ in range(4):
        pitch_hz_N = 110 * 2 ** (random.integers(0, 36, int(2 * duration_s) + 1)[(2 * t_N).astype(int)] / 12)
        wave_N += 0.1 * np.sin(2 * np.pi * pitch_hz_N * age_N) * np.exp(-4 * age_N)
    return wave_N.astype(np.float32)


def write_clips(path: Path, waves_N: Sequence[NDArray[np.float32]], rate_hz: int) -> Task:
    """Write a shard as ingest does, one caption a clip, and the task to work on it."""
    samples = [
        Sample(
            f"library-{path.stem}-{n:04d}",
            {
                "json": encode_json({"captions": [{"text": CAPTIONS[n % len(CAPTIONS)], "source": "human"}]}),
                "flac": encode_flac(wave_N, rate_hz),
            },
        )
        for n, wave_N in enumerate(waves_N)
    ]
    write_shard(path, samples)
    return Task(path.stem, len(samples), ([path], len(samples)))
