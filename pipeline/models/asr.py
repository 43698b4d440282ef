"""Whisper behind the recogniser port, by openai-whisper; needs no ffmpeg program."""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
import whisper.tokenizer
from numpy.typing import NDArray

from pipeline.data.records import Heard
from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import Checkpoint, Recogniser, choose_device, make_stamp

# whisper's own ladder: sampling is tried where greedy decoding repeats itself or is unsure.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How Whisper turns sound into words."""

    language: str | None = None
    """Code such as "ja" or "en"; None lets the model guess for every wave."""
    temperatures: tuple[float, ...] = TEMPERATURES
    """Tried in turn while a result looks wrong by whisper's own thresholds."""
    max_tokens: int | None = None
    """Most tokens per 30 s window; None for the model's own limit."""


def load_recogniser(source: str, decoding: Decoding, *, device: str = "cpu") -> Recogniser:
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
    language = decoding.language
    if language is not None and language not in whisper.tokenizer.LANGUAGES:
        raise ParamsError(f"language {language!r} is none of Whisper's; use a code such as ja or en, or none to guess")
    checkpoint = _find(source)
    chosen = choose_device(device)
    try:
        with warnings.catch_warnings():
            # torch remarks on pickles it did not write, then refuses or loads them; either is all there is to say.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            model = whisper.load_model(str(checkpoint.path), device=chosen)
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ContractError(
            f"recogniser: {checkpoint.path} is no Whisper checkpoint ({type(error).__name__}); fetch it again"
        ) from error
    if language not in {None, "en"} and not model.is_multilingual:
        raise ParamsError(f"recogniser {checkpoint.name} knows English only, not {language!r}; take one without .en")
    with warnings.catch_warnings():
        # whisper leaves its vocabulary's file to the garbage collector, once: here, before the cache holds it.
        warnings.simplefilter("ignore", ResourceWarning)
        whisper.tokenizer.get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    return _WhisperRecogniser(model.eval(), checkpoint, decoding)


def _find(source: str) -> Checkpoint:
    path = Path(source)
    if path.is_file():
        return Checkpoint(path, path.name, None)
    if source not in whisper.available_models():
        raise ContractError(
            f"recogniser: no file {source}; set models.recogniser to a Whisper .pt file or one of "
            f"{', '.join(whisper.available_models())}"
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


class _WhisperRecogniser:
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
                sample_len=self._decoding.max_tokens,
                condition_on_previous_text=False,
                fp16=self._model.device.type == "cuda",
                verbose=None,
            )
        duration_s = wave_N.size / self.sample_rate_hz
        phrases = (_heard(segment, duration_s) for segment in result["segments"])
        return [phrase for phrase in phrases if phrase["text"] and phrase["start_s"] < duration_s]


def _heard(segment: dict[str, Any], duration_s: float) -> Heard:
    """A whisper segment with its times inside the wave: whisper pads to 30 s and may place words there."""
    start_s = min(max(0.0, float(segment["start"])), duration_s)
    return Heard(
        text=str(segment["text"]).strip(),
        start_s=round(start_s, 3),
        end_s=round(min(max(start_s, float(segment["end"])), duration_s), 3),
        avg_logprob=round(float(segment["avg_logprob"]), 4),
        no_speech_prob=round(float(segment["no_speech_prob"]), 4),
        compression_ratio=round(float(segment["compression_ratio"]), 4),
    )
