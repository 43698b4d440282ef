"""Models of MusicGen's shapes with random weights, and packed shards with the audio that their codes stand for.

`divisor` makes a model small without changing what its parts cost beside each other: every width is divided by it, of
the decoder, T5, the codec and its codebooks; depths, rates and kernels stay. With lengths divided alike, matrix
products, attention and convolutions all fall by the divisor's square for a second of audio (`codec_flops`,
`decoder_flops`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel, MusicgenConfig, MusicgenForConditionalGeneration

from pipeline.data.shards import Sample
from tests.bench.encoders import CODECS, music
from tests.train import toys
from train.data import CodecShape, PackedShards
from train.shapes import RATE_HZ, Size, published_config

FRAME_SAMPLES = 640
"""Of audio in a codec frame: 50 frames a second at 32 kHz."""
CLAP_DIM = 512
WORDS_IN_PROMPT = 20
NUM_SOUNDS = 16
"""Different recordings among all clips: making audio takes longer than reading it."""
INIT_STD = 0.02
TILE = 1 << 20
CODEBOOK_STD = 0.1


def shape_config(size: Size, *, divisor: int = 1) -> Any:
    """Make the configuration of a published size, every width divided."""
    config: Any = published_config(size)
    codebook_size = config.decoder.vocab_size // divisor
    decoder, text = config.decoder, config.text_encoder
    for name in ("hidden_size", "num_attention_heads", "ffn_dim", "vocab_size"):
        setattr(decoder, name, getattr(decoder, name) // divisor)
    decoder.pad_token_id = decoder.bos_token_id = decoder.decoder_start_token_id = codebook_size
    for name in ("d_model", "num_heads", "d_ff"):
        setattr(text, name, max(1, getattr(text, name) // divisor))
    codec: dict[str, Any] = dict(CODECS["encodec 32 kHz"])
    codec |= {"num_filters": codec["num_filters"] // divisor, "codebook_size": codebook_size}
    latent = 128 // divisor
    audio = EncodecConfig(hidden_size=latent, codebook_dim=latent, num_lstm_layers=2, **codec)
    return MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder)


def codec_flops(codec: Any) -> float:
    """Operations of EnCodec's encoder for a second of audio."""
    width, rate_hz = codec.num_filters, float(codec.sampling_rate)
    flops = 2 * 7 * width * rate_hz
    for ratio in reversed(codec.upsampling_ratios):
        # A residual unit: three samples to half the width, and back.
        flops += 2 * 4 * width * (width // 2) * rate_hz
        rate_hz /= ratio
        flops += 2 * (2 * ratio) * width * 2 * width * rate_hz
        width *= 2
    flops += codec.num_lstm_layers * 2 * 8 * width**2 * rate_hz
    return flops + 2 * (7 * width + codec.num_quantizers * codec.codebook_size) * codec.hidden_size * rate_hz


def decoder_flops(decoder: Any, num_columns: int) -> float:
    """Operations of a step for a second of audio: forward, and backward to the inputs alone, as an adapter needs it."""
    width = decoder.hidden_size
    layer = 6 * width**2 + 2 * width * decoder.ffn_dim
    products = 2 * (decoder.num_hidden_layers * layer + decoder.num_codebooks * decoder.vocab_size * width)
    attention = decoder.num_hidden_layers * 4 * num_columns * width
    return 50 * (2 * products + 3 * attention)


def codec_shape(config: Any) -> CodecShape:
    """What shards for such a model are stamped with."""
    return CodecShape(config.decoder.num_codebooks, config.decoder.vocab_size, 50.0, RATE_HZ)


def random_network(config: Any) -> Any:
    """Make a MusicGen with random weights on the CPU, codec included, in the time that memory takes to be written.

    The usual constructors draw every weight twice, which takes minutes at 3.3 billion of them.
    """
    with torch.device("meta"):
        network: Any = MusicgenForConditionalGeneration(config)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    tile = torch.randn(TILE, generator=generator) * INIT_STD
    with torch.no_grad():
        for name, weight in network.named_parameters():
            _fill(weight, tile, is_norm="norm" in name and weight.ndim == 1)
    decoder = network.decoder.model.decoder
    # What is no weight was lost with the meta tensors.
    positions = decoder.embed_positions
    decoder.embed_positions = type(positions)(config.decoder.max_position_embeddings, config.decoder.hidden_size)
    network.audio_encoder = random_codec(config.audio_encoder)
    return network


def _fill(weight: torch.Tensor, tile: torch.Tensor, *, is_norm: bool) -> None:
    if is_norm:
        weight.fill_(1.0)
        return
    for part in weight.view(-1).split(TILE):
        part.copy_(tile[: len(part)])


def random_codec(config: Any) -> Any:
    """Make an EnCodec whose codes vary: codebooks are zeros in transformers until they are trained."""
    torch.manual_seed(0)
    codec: Any = EncodecModel(config).eval()
    for layer in codec.quantizer.layers:
        nn.init.normal_(layer.codebook.embed, std=CODEBOOK_STD)
    return codec


@dataclass(frozen=True, slots=True)
class Row:
    """An episode as the baseline reads it: its clips in prompt order, the target last, and all that is said of them."""

    files: list[str]
    text: str


def write_episodes(
    folder: Path, config: Any, frames: Sequence[Sequence[int]], *, audio: bool = True
) -> tuple[PackedShards, list[Row]]:
    """Write packed shards, and the same episodes as FLAC files with their texts.

    Codes are random: a step costs the same whatever they say.

    Args:
        folder: an empty folder.
        config: of the model.
        frames: per episode the frames of its clips, the target's last.
        audio: whether to write the recordings too.

    Returns:
        Shards and rows, in the same order.
    """
    codec = codec_shape(config)
    paths = toys.write_pack(folder / "shards", "train", list(_samples(frames, codec)), per_shard=100)
    rows = [_row(folder / "audio", n, clips) for n, clips in enumerate(frames)] if audio else []
    (folder / "rows.json").write_text(json.dumps([[row.files, row.text] for row in rows]), "utf-8")
    return PackedShards(paths, codec), rows


def _samples(frames: Sequence[Sequence[int]], codec: CodecShape) -> Iterator[Sample]:
    random = np.random.default_rng(0)
    for n, lengths in enumerate(frames):
        clips = [random.integers(0, codec.codebook_size, (codec.num_codebooks, length)) for length in lengths]
        yield toys.packed_sample(
            f"toy-{n:06d}",
            target_KT=clips[-1],
            examples_KT=clips[:-1],
            prompts=_prompts(n, len(clips)),
            codec=codec._asdict(),
            clap=random.normal(size=(len(clips), 2, CLAP_DIM)),
        )


def _prompts(n: int, number: int) -> list[str]:
    random = np.random.default_rng([n, 1])
    return [" ".join(random.choice(toys.WORDS, WORDS_IN_PROMPT)) for _ in range(number)]


def _row(folder: Path, n: int, frames: Sequence[int]) -> Row:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{(n + place) % NUM_SOUNDS:02d}-{length}.flac" for place, length in enumerate(frames)]
    for place, (path, length) in enumerate(zip(files, frames, strict=True)):
        if not path.is_file():
            wave_N = music((n + place) % NUM_SOUNDS, length * FRAME_SAMPLES / RATE_HZ, RATE_HZ)
            soundfile.write(path, wave_N, RATE_HZ, subtype="PCM_16")
    return Row([str(path) for path in files], " ".join(_prompts(n, len(frames))))
