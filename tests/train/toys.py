"""Tiny things in the real formats: a MusicGen checkpoint, packed shards, a project folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from pipeline.data.shards import Sample, decode_json, encode_json, encode_npy, write_folder_index, write_shard

WORDS = ["amber", "basalt", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "juniper", "kelp", "loam"]

CLAP_DIM = 4

TRAIN: dict[str, object] = {
    "steps": 6,
    "batch_size": 4,
    "learning_rate": 0.01,
    "num_examples": [0, 1, 2, 3],
    "lora_rank": 4,
    "log_every_steps": 1,
    "checkpoint_every_steps": 2,
    "keep_checkpoints": 1,
}
"""Section `train` of a run of a second."""


def codec_config(num_codebooks: int, codebook_size: int) -> EncodecConfig:
    """A tiny EnCodec at 50 frames a second."""
    bits = codebook_size.bit_length() - 1
    return EncodecConfig(
        sampling_rate=16_000,
        upsampling_ratios=[8, 8, 5],
        num_filters=2,
        hidden_size=8,
        codebook_size=codebook_size,
        codebook_dim=8,
        num_lstm_layers=1,
        target_bandwidths=[50 * bits * num_codebooks / 1000],
    )


def save_encodec(folder: Path, *, num_codebooks: int = 4, codebook_size: int = 16, seed: int = 0) -> Path:
    """Save a random EnCodec; its codebooks start at zero in transformers, so they are filled."""
    torch.manual_seed(seed)
    network = EncodecModel(codec_config(num_codebooks, codebook_size))
    for layer in network.quantizer.layers:
        layer.codebook.embed.normal_()
    network.save_pretrained(folder)
    return folder


def save_musicgen(
    folder: Path,
    *,
    num_codebooks: int = 4,
    codebook_size: int = 16,
    width: int = 16,
    layers: int = 2,
    text_width: int = 16,
    seed: int = 0,
) -> Path:
    """Save a random MusicGen whose token embeddings have standard deviation 1."""
    torch.manual_seed(seed)
    codec = codec_config(num_codebooks, codebook_size)
    text = T5Config(
        vocab_size=len(WORDS) + 3, d_model=text_width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=codebook_size,
        num_codebooks=num_codebooks,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        ffn_dim=4 * width,
        dropout=0.0,
        pad_token_id=codebook_size,
        bos_token_id=codebook_size,
        decoder_start_token_id=codebook_size,
    )
    network = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder))
    for table in network.decoder.model.decoder.embed_tokens:
        torch.nn.init.normal_(table.weight, std=1.0)
    for module in network.decoder.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    if hasattr(network, "enc_to_dec_proj"):
        torch.nn.init.normal_(network.enc_to_dec_proj.weight, std=text_width**-0.5)
    network.generation_config.pad_token_id = codebook_size
    network.generation_config.bos_token_id = codebook_size
    network.generation_config.decoder_start_token_id = codebook_size
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer in the format that AutoTokenizer reads."""
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def stamp(num_codebooks: int = 4, codebook_size: int = 16) -> dict[str, object]:
    """Codec stamp of the codes that `save_musicgen`'s model reads; the weights are unknown."""
    return {
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "frame_rate_hz": 50.0,
        "sample_rate_hz": 16_000,
    }


def packed_sample(
    key: str,
    *,
    target_KT: np.ndarray,
    examples_KT: list[np.ndarray],
    prompts: list[str],
    codec: dict[str, object],
    clap: np.ndarray | None = None,
) -> Sample:
    """A sample as `stages.pack` writes it; prompts are the examples' and then the target's."""
    num_codebooks = target_KT.shape[0]
    examples = [
        {"key": f"{key}-{i}", "caption": text, "prompt": text, "score": 0.5, "start_frame": 0, "num_frames": e.shape[1]}
        for i, (e, text) in enumerate(zip(examples_KT, prompts, strict=False))
    ]
    meta = {
        "key": key,
        "corpus": "toy",
        "split": "train",
        "groups": {},
        "captions": [{"text": prompts[-1], "source": "human"}],
        "caption_index": 0,
        "prompt": prompts[-1],
        "lyrics": [],
        "attributes": {},
        "codec": codec,
        "strategy": {"name": "random"},
        "examples": examples,
    }
    flat = np.concatenate([*examples_KT, np.empty((num_codebooks, 0))], axis=1)
    members = {
        "json": encode_json(meta),
        "target.npy": encode_npy(target_KT.astype(np.uint16)),
        "examples.npy": encode_npy(flat.astype(np.uint16)),
        "clap.npy": encode_npy((clap_vectors(1 + len(examples_KT), key) if clap is None else clap).astype(np.float16)),
    }
    return Sample(key, members)


def clap_vectors(number: int, key: str) -> np.ndarray:
    """Unit vectors of text and audio, four wide, drawn from a key."""
    vectors = np.random.default_rng(list(key.encode())).normal(size=(number, 2, CLAP_DIM))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16)


def altered(sample: Sample, **changes: object) -> Sample:
    """The same sample with other values in its json."""
    meta = decode_json(sample.members["json"]) | changes
    return Sample(sample.key, sample.members | {"json": encode_json(meta)})


def random_samples(number: int, *, seed: int = 0, num_codebooks: int = 4, codebook_size: int = 16) -> list[Sample]:
    """Samples of random codes with 3 examples each and lengths that differ."""
    random = np.random.default_rng(seed)
    codec = stamp(num_codebooks, codebook_size)
    samples = []
    for n in range(number):
        lengths = random.integers(4, 9, size=4)
        clips = [random.integers(0, codebook_size, (num_codebooks, length)) for length in lengths]
        prompts = [" ".join(random.choice(WORDS, 2)) for _ in clips]
        samples.append(
            packed_sample(
                f"toy-{seed}-{n:04d}", target_KT=clips[-1], examples_KT=clips[:-1], prompts=prompts, codec=codec
            )
        )
    return samples


def write_pack(folder: Path, split: str, samples: list[Sample], *, per_shard: int = 8) -> list[Path]:
    """Write packed shards with their index; returns the tars."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(samples), per_shard)
    paths = [folder / f"{split}-{i:06d}.tar" for i in range(len(starts))]
    entries = [write_shard(path, samples[start : start + per_shard]) for path, start in zip(paths, starts, strict=True)]
    write_folder_index(folder, entries)
    return paths


def write_empty_pack(folder: Path, split: str) -> Path:
    """Write the tar of a split that got no sample, as `stages.pack` does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-000000.tar"
    write_folder_index(folder, [write_shard(path, [])])
    return path


def make_project(root: Path, *, train: dict[str, object], evaluate: dict[str, object] | None = None) -> Path:
    """Write params.yaml for a project whose generator is `checkpoints/musicgen`."""
    root.mkdir(parents=True, exist_ok=True)
    params = {
        "models": {"root": "checkpoints", "generator": "musicgen", "codec": "encodec", "device": "cpu"},
        "train": train,
        "generate": {},
        "evaluate": evaluate or {},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    return root
