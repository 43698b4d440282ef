"""CLAP behind the embedder port, by transformers.

Shape letters: B batch, W windows, N samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from pipeline.errors import ContractError
from pipeline.models.base import (
    Checkpoint,
    Embedder,
    choose_device,
    exact_inference,
    find_checkpoint,
    load_pretrained,
    make_stamp,
    same_length_batches,
)

_BATCH_SIZE = 8
# LAION trained with mel bands from 50 Hz; transformers' default of 0 moves the features by 18 dB, without a word.
_FREQUENCY_MIN_HZ = 50
# laion_clap reads 77 tokens of a text.
_MAX_TOKENS = 77
# A tokenizer whose files are absent may load with its special tokens only.
_MIN_WORDS = 16
_MIN_TAIL_S = 1.0


def load_embedder(source: str, *, device: str = "cpu", batch_size: int = _BATCH_SIZE) -> Embedder:
    """Load a CLAP without feature fusion from a folder or the hub (e.g. "laion/clap-htsat-unfused").

    Args:
        source: a local folder, or a hub id.
        device: auto, cpu or cuda.
        batch_size: windows, or texts of one length, embedded together.

    Raises:
        ContractError: the checkpoint is missing or damaged, fuses random crops, or its features or tokenizer are
            not those it was trained with.
    """
    checkpoint = find_checkpoint(source, role="embedder")
    model = load_pretrained(ClapModel, checkpoint, role="embedder")
    if model.config.audio_config.enable_fusion:
        raise ContractError(
            f"embedder: {checkpoint.name} fuses random crops, so that no two runs agree; take an unfused checkpoint"
        )
    extractor = _load_extractor(checkpoint)
    tokenizer = _load_tokenizer(checkpoint, vocab_size=model.config.text_config.vocab_size)
    model.to(choose_device(device))
    return _ClapEmbedder(model, checkpoint, extractor=extractor, tokenizer=tokenizer, batch_size=batch_size)


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
        self, model: ClapModel, checkpoint: Checkpoint, *, extractor: Any, tokenizer: Any, batch_size: int
    ) -> None:
        config: Any = model.config
        self._model: Any = model
        self._extractor = extractor
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        text = config.text_config
        # RoBERTa counts positions from the padding id on.
        self._max_tokens = min(_MAX_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)
        self.sample_rate_hz: int = extractor.sampling_rate
        self.dim: int = config.projection_dim
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint,
            ("torch", "transformers", "tokenizers"),
            sample_rate_hz=self.sample_rate_hz,
            dim=self.dim,
            window_s=extractor.nb_max_samples / extractor.sampling_rate,
        )

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
        embedded_WD = np.zeros((len(windows_N), self.dim), np.float32)
        for start in range(0, len(windows_N), self._batch_size):
            batch = slice(start, start + self._batch_size)
            embedded_WD[batch] = self._embed_windows(windows_N[batch])
        sums_BD = np.zeros((len(waves_N), self.dim), np.float64)
        np.add.at(sums_BD, owners, embedded_WD)
        return _unit(sums_BD)

    def _windows(self, wave_N: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut into windows; a tail under 1 s after a whole window is left out, lest it weigh as much as that."""
        if not wave_N.size:
            raise ValueError("cannot embed a wave without samples")
        size = self._extractor.nb_max_samples
        windows = [wave_N[start : start + size] for start in range(0, wave_N.size, size)]
        if len(windows) > 1 and windows[-1].size < _MIN_TAIL_S * self.sample_rate_hz:
            windows.pop()
        return windows

    def _embed_windows(self, windows_N: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        # "rand_trunc" names the unfused kind of features; nothing is longer than a window, so nothing is random.
        features = self._extractor(
            windows_N,
            sampling_rate=self.sample_rate_hz,
            truncation="rand_trunc",
            padding="repeatpad",
            return_tensors="pt",
        )
        with exact_inference():
            inputs = features["input_features"].to(self._model.device, torch.float32)
            return self._model.get_audio_features(inputs).pooler_output.cpu().numpy()

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts [B, D], their first 77 tokens; only texts of as many tokens share a batch."""
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"] if texts else []
        embedded_BD = np.zeros((len(texts), self.dim), np.float64)
        for indices in same_length_batches([len(tokens) for tokens in ids], self._batch_size):
            with exact_inference():
                tokens = torch.tensor([ids[index] for index in indices], device=self._model.device)
                features = self._model.get_text_features(tokens, attention_mask=torch.ones_like(tokens))
                embedded_BD[indices] = features.pooler_output.cpu().numpy()
        return _unit(embedded_BD)


def _unit(embedded_BD: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths_B1 = np.linalg.norm(embedded_BD, axis=1, keepdims=True)
    return (embedded_BD / np.maximum(lengths_B1, 1e-12)).astype(np.float32)
