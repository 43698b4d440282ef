"""CLAP behind the embedder port, by transformers.

Shape letters: B batch, W windows, N samples, D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from pipeline.errors import ContractError
from pipeline.models.base import (
    Checkpoint,
    Embedder,
    Precision,
    choose_device,
    exact_inference,
    find_checkpoint,
    load_pretrained,
    make_stamp,
    same_length_groups,
)
from pipeline.models.batching import Batcher
from pipeline.models.clap_mel import MelFeatures
from pipeline.models.precision import GOLDEN_TEXTS, check_vectors, golden_clips, lower_products

_BATCH_SIZE = 8
# LAION trained with mel bands from 50 Hz; transformers' default of 0 moves the features by 18 dB, without a word.
_FREQUENCY_MIN_HZ = 50
# laion_clap reads 77 tokens of a text.
_MAX_TOKENS = 77
# A tokenizer whose files are absent may load with its special tokens only.
_MIN_WORDS = 16
_MIN_TAIL_S = 1.0


def load_embedder(
    source: str, *, device: str = "cpu", batch_size: int = _BATCH_SIZE, precision: Precision = "fp32"
) -> Embedder:
    """Load a CLAP without feature fusion from a folder or the hub (e.g. "laion/clap-htsat-unfused").

    Args:
        source: a local folder, or a hub id.
        device: auto, cpu or cuda.
        batch_size: windows, or texts of one length, embedded together, as long as memory lasts.
        precision: bf16 computes products and convolutions in bfloat16; the stamp then holds the least cosine with
            fp32 over a few sounds and texts.

    Raises:
        ContractError: the checkpoint is missing or damaged, fuses random crops, or its features or tokenizer are
            not those it was trained with.
        ParamsError: in bf16 this model would place sounds or texts elsewhere.
    """
    checkpoint = find_checkpoint(source, role="embedder")
    model = load_pretrained(ClapModel, checkpoint, role="embedder")
    if model.config.audio_config.enable_fusion:
        raise ContractError(
            f"embedder: {checkpoint.name} fuses random crops, so that no two runs agree; take an unfused checkpoint"
        )
    extractor = _load_extractor(checkpoint)
    tokenizer = _load_tokenizer(checkpoint, vocab_size=model.config.text_config.vocab_size)
    placed = choose_device(device)
    model.to(placed)
    features = MelFeatures(extractor, placed)
    embedder = _ClapEmbedder(model, checkpoint, features=features, tokenizer=tokenizer, batch_size=batch_size)
    if precision == "bf16":
        embedder.use_bf16()
    return embedder


def _load_extractor(checkpoint: Checkpoint) -> Any:
    try:
        extractor: Any = ClapFeatureExtractor.from_pretrained(checkpoint.path, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ContractError(
            f"embedder: {checkpoint.path} has no readable preprocessor_config.json; fetch the checkpoint again"
        ) from error
    if extractor.frequency_min != _FREQUENCY_MIN_HZ:
        raise ContractError(
            f"embedder: {checkpoint.name} has frequency_min {extractor.frequency_min} in its preprocessor_config.json; "
            f"LAION's CLAP needs {_FREQUENCY_MIN_HZ}"
        )
    return extractor


def _load_tokenizer(checkpoint: Checkpoint, *, vocab_size: int) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:
        raise ContractError(
            f"embedder: the tokenizer in {checkpoint.path} does not load; fetch the checkpoint again"
        ) from error
    num_words = len(tokenizer) - len(tokenizer.all_special_ids)
    if num_words < _MIN_WORDS or len(tokenizer) > vocab_size:
        raise ContractError(
            f"embedder: the tokenizer in {checkpoint.path} has {num_words} words for a model of {vocab_size}; "
            "its files are missing or another model's, fetch the checkpoint again"
        )
    return tokenizer


class _ClapEmbedder:
    """A loaded CLAP; implements `Embedder`."""

    def __init__(
        self, model: ClapModel, checkpoint: Checkpoint, *, features: MelFeatures, tokenizer: Any, batch_size: int
    ) -> None:
        config: Any = model.config
        self._model: Any = model
        self._features = features
        self._tokenizer = tokenizer
        self._batcher = Batcher(batch_size, role="embedder")
        self._in_bf16 = False
        text = config.text_config
        # RoBERTa counts positions from the padding id on.
        self._max_tokens = min(_MAX_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)
        self.sample_rate_hz = features.sample_rate_hz
        self.dim: int = config.projection_dim
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint,
            ("torch", "transformers", "tokenizers"),
            sample_rate_hz=self.sample_rate_hz,
            dim=self.dim,
            window_s=features.window_samples / features.sample_rate_hz,
            precision="fp32",
        )

    @property
    def batch_size(self) -> int:
        """Windows or texts embedded together; less than was asked for where memory did not suffice."""
        return self._batcher.batch_size

    def use_bf16(self) -> None:
        """Compute in bfloat16 from now on.

        Raises:
            ParamsError: a golden clip or text would be placed elsewhere.
        """
        clips_N = golden_clips(self.sample_rate_hz, self._features.window_samples / self.sample_rate_hz)
        expected = self.embed_audio(clips_N), self.embed_text(GOLDEN_TEXTS)
        lower_products(self._model)
        self._in_bf16 = True
        found = self.embed_audio(clips_N), self.embed_text(GOLDEN_TEXTS)
        least_cosine = check_vectors(np.concatenate(expected), np.concatenate(found))
        self.stamp |= {"precision": "bf16", "least_cosine": least_cosine}

    def embed_audio(self, waves_N: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed waves [B, D]: fixed windows (10 s) from the start, their mean brought back to unit length.

        Both transformers and laion_clap crop longer audio at random; neither sees any here. A short wave is
        repeated as often as it fits a window, then followed by silence, as in training.

        Raises:
            ValueError: a wave without samples.
        """
        windows_N: list[NDArray[np.float32]] = []
        owners: list[int] = []
        for index, wave_N in enumerate(waves_N):
            cut = self._windows(wave_N)
            windows_N += cut
            owners += [index] * len(cut)
        batches = [found_BD for _, found_BD in self._batcher.run(self._embed_windows, windows_N)]
        embedded_WD = np.concatenate(batches) if batches else np.zeros((0, self.dim), np.float32)
        sums_BD = np.zeros((len(waves_N), self.dim), np.float64)
        np.add.at(sums_BD, owners, embedded_WD)
        return _unit(sums_BD)

    def _windows(self, wave_N: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut into windows; a tail under 1 s after a whole window is left out, lest it weigh as much as that."""
        if not wave_N.size:
            raise ValueError("cannot embed a wave without samples")
        size = self._features.window_samples
        windows = [wave_N[start : start + size] for start in range(0, wave_N.size, size)]
        if len(windows) > 1 and windows[-1].size < _MIN_TAIL_S * self.sample_rate_hz:
            windows.pop()
        return windows

    def _embed_windows(self, windows_N: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        with self._inference():
            found = self._model.get_audio_features(self._features(windows_N))
            return found.pooler_output.float().cpu().numpy()

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts [B, D], their first 77 tokens; only texts of as many tokens share a batch."""
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"] if texts else []
        embedded_BD = np.zeros((len(texts), self.dim), np.float64)
        for _, group in same_length_groups([len(tokens) for tokens in ids]):
            batches = self._batcher.run(self._embed_tokens, [ids[index] for index in group])
            embedded_BD[group] = np.concatenate([found_BD for _, found_BD in batches])
        return _unit(embedded_BD)

    def _embed_tokens(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        with self._inference():
            tokens = torch.tensor(list(ids), device=self._model.device)
            found = self._model.get_text_features(tokens, attention_mask=torch.ones_like(tokens))
            return found.pooler_output.float().cpu().numpy()

    @contextlib.contextmanager
    def _inference(self) -> Generator[None]:
        with exact_inference(), torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._in_bf16):
            yield


def _unit(embedded_BD: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths_B1 = np.linalg.norm(embedded_BD, axis=1, keepdims=True)
    return (embedded_BD / np.maximum(lengths_B1, 1e-12)).astype(np.float32)
