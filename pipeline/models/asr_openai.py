"""Whisper behind the recogniser port, by openai-whisper: the reference. Needs no ffmpeg program."""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
import whisper.tokenizer
from numpy.typing import NDArray

from pipeline.data.records import Heard
from pipeline.errors import ContractError
from pipeline.models.asr import Decoding, check_language, heard_within
from pipeline.models.base import Checkpoint, Recogniser, choose_device, make_stamp

_SEED = 0


def load_openai(source: str, decoding: Decoding, *, device: str = "cpu") -> Recogniser:
    """Load a Whisper from a `.pt` file in openai-whisper's format, or by a name from its list ("small").

    A named model is downloaded to whisper's own cache unless it is there.

    Args:
        source: a file, or a name.
        decoding: language and search.
        device: auto, cpu or cuda.

    Raises:
        ContractError: the checkpoint is missing or damaged.
        ParamsError: a language that Whisper, or this model, does not know.
    """
    check_language(source, decoding.language, known=whisper.tokenizer.LANGUAGES, is_multilingual=True)
    checkpoint = _find(source)
    model = load_whisper(checkpoint.path, device=choose_device(device))
    check_language(
        checkpoint.name,
        decoding.language,
        known=whisper.tokenizer.LANGUAGES,
        is_multilingual=model.is_multilingual,
    )
    load_vocabulary(model)
    return _OpenaiRecogniser(model, checkpoint, decoding)


def load_whisper(path: Path, *, device: str = "cpu") -> Any:
    """Load openai-whisper's model itself, for inference; nothing but weights is unpickled.

    Raises:
        ContractError: the file is no Whisper checkpoint.
    """
    try:
        with warnings.catch_warnings():
            # torch remarks on pickles it did not write, then refuses or loads them; either is all there is to say.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return whisper.load_model(str(path), device=device).eval()
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ContractError(
            f"recogniser: {path} is no Whisper checkpoint ({type(error).__name__}); fetch it again"
        ) from error


def load_vocabulary(model: Any, **prompt: Any) -> whisper.tokenizer.Tokenizer:
    """Load the vocabulary that a Whisper was trained with; `prompt` may name `language` and `task`."""
    with warnings.catch_warnings():
        # whisper leaves the file to the garbage collector, once: here, before its cache holds what was in it.
        warnings.simplefilter("ignore", ResourceWarning)
        return whisper.tokenizer.get_tokenizer(model.is_multilingual, num_languages=model.num_languages, **prompt)


def _find(source: str) -> Checkpoint:
    path = Path(source)
    if path.is_file():
        return Checkpoint(path, path.name, None)
    if source not in whisper.available_models():
        raise ContractError(
            f"recogniser: no file {source}; set models.recogniser to a Whisper .pt file, a folder in CTranslate2's "
            f"format, a hub id of one, or one of {', '.join(whisper.available_models())}"
        )
    return Checkpoint(_download(source), source, None)


def _download(name: str) -> Path:
    """Fetch a released model to whisper's cache, checked against the digest that whisper knows."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # where whisper itself looks
    root = Path(cache) / "whisper"
    try:
        # Whisper gives no public way to fetch without loading, and the digest needs the file.
        url = whisper._MODELS[name]  # pyright: ignore[reportPrivateUsage]
        path = whisper._download(url, str(root), in_memory=False)  # pyright: ignore[reportPrivateUsage]
        return Path(str(path))
    except (OSError, RuntimeError) as error:
        raise ContractError(
            f"recogniser: {name} is not in {root} and does not download ({type(error).__name__}); "
            "go online once, or set models.recogniser to a .pt file"
        ) from error


class _OpenaiRecogniser:
    """A loaded Whisper; implements `Recogniser`."""

    def __init__(self, model: Any, checkpoint: Checkpoint, decoding: Decoding) -> None:
        self._model = model
        self._decoding = decoding
        self.sample_rate_hz: int = whisper.audio.SAMPLE_RATE
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint, ("torch", "openai-whisper"), sample_rate_hz=self.sample_rate_hz, **asdict(decoding)
        )

    def transcribe(self, wave_N: NDArray[np.float32]) -> list[Heard]:
        """Recognise a wave; each window by itself, so that one hallucination does not feed the next."""
        if not wave_N.size:
            return []
        # Sampling at higher temperatures draws from torch's global generator: seeded here, restored after.
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(_SEED)
            result = self._model.transcribe(
                np.ascontiguousarray(wave_N, np.float32),
                language=self._decoding.language,
                temperature=self._decoding.temperatures,
                compression_ratio_threshold=self._decoding.max_compression_ratio,
                logprob_threshold=self._decoding.min_avg_logprob,
                # Whisper would leave out such windows and say nothing: a gate counts them.
                no_speech_threshold=None,
                beam_size=self._decoding.beam_size if self._decoding.beam_size > 1 else None,
                sample_len=self._decoding.max_tokens,
                condition_on_previous_text=False,
                fp16=self._model.device.type == "cuda",
                verbose=None,
            )
        return heard_within(result["segments"], wave_N.size / self.sample_rate_hz)
