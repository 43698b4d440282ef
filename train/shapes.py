"""Shapes of the published MusicGen checkpoints, for planning without them (their config.json on the hub)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import MusicgenConfig

Size = Literal["small", "medium", "large"]
SHAPES: dict[Size, tuple[int, int]] = {"small": (24, 1024), "medium": (48, 1536), "large": (48, 2048)}
"""Layers and width of the decoder; heads are 64 wide, the feed-forward layers four times as wide as the rest."""
NUM_CODEBOOKS, CODEBOOK_SIZE, RATE_HZ = 4, 2048, 32_000


def published_config(size: Size) -> MusicgenConfig:
    """Make the configuration of facebook/musicgen-SIZE: its decoder, T5-base, and EnCodec at 32 kHz."""
    from transformers import EncodecConfig, MusicgenConfig, MusicgenDecoderConfig, T5Config

    num_layers, width = SHAPES[size]
    text = T5Config(vocab_size=32_128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(
        sampling_rate=RATE_HZ, target_bandwidths=[2.2], upsampling_ratios=[8, 5, 4, 4], num_filters=64,
        hidden_size=128, codebook_size=CODEBOOK_SIZE, codebook_dim=128, use_causal_conv=False,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE, num_codebooks=NUM_CODEBOOKS, hidden_size=width, num_hidden_layers=num_layers,
        num_attention_heads=width // 64, ffn_dim=4 * width, pad_token_id=CODEBOOK_SIZE, bos_token_id=CODEBOOK_SIZE,
    )  # fmt: skip
    return MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
