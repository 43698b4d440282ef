"""Shapes of MusicGen checkpoints: the published ones (their config.json on the hub), and a folder's own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ContractError

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


def read_config(folder: Path) -> Any:
    """Read the configuration of a MusicGen; nothing else of its folder is looked at.

    Raises:
        ContractError: there is none, or it is of another architecture.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(
            f"{folder}: its config.json does not load ({reason}); fetch the checkpoint again"
        ) from error
    if config.model_type != "musicgen":
        raise ContractError(f"{folder}: its config.json says {config.model_type}; models.generator needs a MusicGen")
    return config


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Hush transformers: MusicGen's pad id lies outside its vocabulary, as published, and it warns of that."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
