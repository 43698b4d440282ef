"""Toy checkpoints in the real formats: the code that loads published weights loads these.

Weights are random from a seed. What random weights would leave degenerate is set from measurements on a seeded signal:
the codec's codebooks and loudness, CLAP's input scale and the centre of its embeddings. Nothing is trained.

Shapes: B batch, N samples, T frames, D latent or embedding.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Config,
)
from transformers.utils import logging
from whisper.model import ModelDimensions, Whisper

from pipeline.demo.calibration import (
    calibration_waves,
    hear_nothing,
    scale_last_layer,
    set_codebooks,
    set_input_norm,
    spread,
)
from pipeline.demo.captions import grid_texts
from pipeline.demo.synth import TIMBRES
from pipeline.demo.vocabulary import ROBERTA_SPECIALS, build_roberta_tokenizer, build_t5_tokenizer

CODEC_RATE_HZ, CLAP_RATE_HZ = 16_000, 48_000
NUM_CODEBOOKS, CODEBOOK_SIZE = 4, 64
PROJECTION_DIM = 64
CLAP_WINDOW_S = 10.0
CODEC_RMS = 0.1
"""Level of decoded codes, -20 dBFS."""
README = """# {what}: a toy checkpoint of the demo

{what} of toy size, with seeded random weights, made by the demo (seed {seed}). It exists to show that the chain runs,
not that it sounds good: nothing here has learnt anything. {more}

Format: that of the published checkpoints, so the same code loads both. Any use is allowed.
"""


def build_checkpoints(folder: Path, *, seed: int) -> None:
    """Write `encodec/`, `clap/`, `whisper.pt` and `musicgen/`; the same seed gives the same bytes.

    Args:
        folder: where to write; made if absent.
        seed: decides all weights. The vocabularies are the same for every seed.
    """
    threads, level, has_bars = torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    # MusicGen's pad id lies outside its vocabulary, in the published checkpoints too; transformers warns of it.
    logging.set_verbosity_error()
    try:
        for write in (_write_encodec, _write_clap, _write_whisper, _write_musicgen):
            # Each from the start of torch's stream, which is put back afterwards.
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                write(folder, seed)
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


@cache
def _texts() -> list[str]:
    return sorted(set(grid_texts(tuple(TIMBRES))))


def _write_encodec(root: Path, seed: int) -> None:
    config = _codec_config()
    model: Any = EncodecModel(config).eval()
    waves_BN = torch.from_numpy(calibration_waves(len(TIMBRES), clip_s=4.0, rate_hz=CODEC_RATE_HZ, seed=seed))
    latent_BDT = model.encoder(waves_BN[:, None])
    set_codebooks(model, latent_BDT.transpose(1, 2).reshape(-1, config.hidden_size))
    codes = model.encode(waves_BN[:, None]).audio_codes
    decoded_BN = model.decode(codes, [None]).audio_values[:, 0]
    scale_last_layer(model, CODEC_RMS / float(decoded_BN.square().mean().sqrt()))
    folder = root / "encodec"
    model.save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=CODEC_RATE_HZ).save_pretrained(folder)
    _write_readme(folder, "EnCodec", seed, "Its codebooks are cluster centres of its own random latents.")


def _codec_config() -> EncodecConfig:
    return EncodecConfig(
        sampling_rate=CODEC_RATE_HZ,
        audio_channels=1,
        normalize=False,
        # n_q = bandwidth / (50 Hz x 6 bits) = 4
        target_bandwidths=[1.2],
        upsampling_ratios=[8, 5, 4, 2],
        num_filters=4,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=CODEBOOK_SIZE,
        num_lstm_layers=1,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )


def _write_clap(root: Path, seed: int) -> None:
    tokenizer = build_roberta_tokenizer(_texts())
    # The values of LAION's music checkpoints; the class's own default of frequency_min would be 0.
    extractor = ClapFeatureExtractor(
        sampling_rate=CLAP_RATE_HZ,
        frequency_min=50,
        frequency_max=14_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    model: Any = ClapModel(_clap_config(len(tokenizer))).eval()
    waves_BN = calibration_waves(2 * len(TIMBRES), clip_s=CLAP_WINDOW_S, rate_hz=CLAP_RATE_HZ, seed=seed)
    features = extractor(list(waves_BN), sampling_rate=CLAP_RATE_HZ, return_tensors="pt")["input_features"]
    set_input_norm(model.audio_model.audio_encoder.batch_norm, features)
    tokens = tokenizer(_texts()[::20], padding=True, return_tensors="pt")
    spread(model.audio_projection, model.audio_model(features).pooler_output)
    spread(model.text_projection, model.text_model(**tokens).pooler_output)
    folder = root / "clap"
    model.save_pretrained(folder)
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    _write_readme(
        folder, "CLAP", seed, "Its embeddings are spread out, so that clips differ; text and audio do not match."
    )


def _clap_config(vocab_size: int) -> ClapConfig:
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 514,
        "pad_token_id": ROBERTA_SPECIALS.index("<pad>"),
        "projection_dim": PROJECTION_DIM,
        "projection_hidden_act": "relu",
    }
    audio = {
        "patch_embeds_hidden_size": 16,
        # Doubled at each of three merges.
        "hidden_size": 128,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 8],
        "num_hidden_layers": 4,
        "projection_dim": PROJECTION_DIM,
        "projection_hidden_act": "relu",
    }
    return ClapConfig(text_config=text, audio_config=audio, projection_dim=PROJECTION_DIM)


def _write_whisper(root: Path, seed: int) -> None:
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=4, n_audio_layer=1,
        n_vocab=51_865, n_text_ctx=448, n_text_state=32, n_text_head=4, n_text_layer=1,
    )  # fmt: skip
    model = Whisper(dims)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.1)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
    hear_nothing(model)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    root.mkdir(parents=True, exist_ok=True)
    with (root / "whisper.pt").open("wb") as file:
        # To a file object: given a path, torch writes the file's name into the archive.
        torch.save({"dims": vars(dims), "model_state_dict": state}, file)
    more = "It prefers to hear no speech: the demo's music has no words. The folders beside it have their own pages."
    _write_readme(root, "Whisper", seed, more)


def _write_musicgen(root: Path, seed: int) -> None:
    tokenizer = build_t5_tokenizer(_texts())
    config = MusicgenConfig(
        text_encoder=_text_encoder_config(len(tokenizer)), audio_encoder=_codec_config(), decoder=_decoder_config()
    )
    model: Any = MusicgenForConditionalGeneration(config).eval()
    model.audio_encoder.load_state_dict(EncodecModel.from_pretrained(root / "encodec").state_dict())
    for embedding in model.decoder.model.decoder.embed_tokens:
        # The library's 0.02 drowns in the positions: such a model learns to copy, not to read captions.
        torch.nn.init.normal_(embedding.weight, std=1.0)
    for layer in (m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)):
        # And with 0.02 here gradients are a hundred times smaller than at the size of the real ones.
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    model.generation_config = GenerationConfig(
        bos_token_id=CODEBOOK_SIZE,
        pad_token_id=CODEBOOK_SIZE,
        decoder_start_token_id=CODEBOOK_SIZE,
        do_sample=True,
        guidance_scale=3.0,
        max_length=500,
    )
    folder = root / "musicgen"
    model.save_pretrained(folder)
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=CODEC_RATE_HZ, padding_side="left")
    MusicgenProcessor(extractor, tokenizer).save_pretrained(folder)
    _write_readme(folder, "MusicGen", seed, "Its audio encoder is the EnCodec beside it.")


def _text_encoder_config(vocab_size: int) -> T5Config:
    # 64 wide, as the decoder: 4-bit weights need at least that.
    return T5Config(vocab_size=vocab_size, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)


def _decoder_config() -> MusicgenDecoderConfig:
    return MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE,
        num_codebooks=NUM_CODEBOOKS,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=256,
        pad_token_id=CODEBOOK_SIZE,
        bos_token_id=CODEBOOK_SIZE,
    )


def _write_readme(folder: Path, what: str, seed: int, more: str) -> None:
    text = README.format(what=what, seed=seed, more=more)
    (folder / "README.md").write_text(text, encoding="utf-8")
