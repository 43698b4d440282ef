"""Whisper behind the recogniser port, by faster-whisper on CTranslate2: the fast one.

Shape letters: N samples.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import _LANGUAGE_CODES  # pyright: ignore[reportPrivateUsage]
from numpy.typing import NDArray

from pipeline.data.records import Heard
from pipeline.errors import ContractError, ParamsError
from pipeline.models.asr import MAX_TOKENS, Decoding, check_language, heard_within
from pipeline.models.base import Checkpoint, Recogniser, choose_device, find_checkpoint, make_stamp

_SEED = 0
_FILES = ("model.bin", "config.json", "tokenizer.json")
_COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}
# CTranslate2's wheel opens it by this name at the first multiplication; torch's own wheels bring CUDA 13's.
_CUBLAS, _CUBLAS_WHEEL = "libcublas.so.12", "nvidia/cublas/lib"


def load_faster(source: str, decoding: Decoding, *, device: str = "cpu", compute_type: str | None = None) -> Recogniser:
    """Load a Whisper in CTranslate2's format from a folder or the hub (e.g. "Systran/faster-whisper-small").

    Args:
        source: a local folder, or a hub id.
        decoding: language and search.
        device: auto, cpu or cuda.
        compute_type: CTranslate2's word for the arithmetic; None for int8 on the CPU, float16 on a GPU.

    Raises:
        ContractError: the checkpoint is missing, damaged or incomplete.
        ParamsError: a language that Whisper, or this model, does not know; arithmetic that this device has not; a GPU
            without the library that CTranslate2 needs.
    """
    check_language(source, decoding.language, known=_LANGUAGE_CODES, is_multilingual=True)
    if decoding.max_tokens is not None and decoding.max_tokens > MAX_TOKENS:
        decoding = replace(decoding, max_tokens=MAX_TOKENS)
    chosen = choose_device(device)
    if chosen == "cuda":
        _load_cublas()
    compute_type = compute_type or _COMPUTE_TYPES[chosen]
    _check_arithmetic(compute_type, chosen)
    checkpoint = find_checkpoint(source, role="recogniser")
    missing = [name for name in _FILES if not (checkpoint.path / name).is_file()]
    if missing:
        raise ContractError(
            f"recogniser: {checkpoint.path} lacks {', '.join(missing)}; it is no Whisper in CTranslate2's format or "
            "incomplete, convert or fetch it again"
        )
    model = _load(checkpoint.path, chosen, compute_type)
    open_model = partial(
        ctranslate2.models.Whisper, str(checkpoint.path), device=chosen, compute_type=compute_type, intra_threads=1
    )
    model.model = _Workers(model.model, open_model)  # pyright: ignore[reportAttributeAccessIssue]
    check_language(
        checkpoint.name, decoding.language, known=_LANGUAGE_CODES, is_multilingual=model.model.is_multilingual
    )
    return _FasterRecogniser(model, checkpoint, decoding)


def _load_cublas() -> None:
    """Load cuBLAS of CUDA 12 from the system, or from its wheel, where CTranslate2 would not look for it."""
    wheels = [Path(place) / _CUBLAS_WHEEL / _CUBLAS for place in sys.path]
    for place in (_CUBLAS, *(str(path) for path in wheels if path.is_file())):
        with contextlib.suppress(OSError):
            ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
            return
    raise ParamsError(
        f"recogniser: faster-whisper finds no {_CUBLAS} for the GPU; `python -m pip install nvidia-cublas-cu12`, "
        "set models.device to cpu, or models.recogniser to a .pt file"
    )


def _check_arithmetic(compute_type: str, device: str) -> None:
    supported = sorted(ctranslate2.get_supported_compute_types(device))
    if compute_type not in supported:
        raise ParamsError(
            f"compute_type {compute_type!r} does not run on this machine's {device}; take one of {', '.join(supported)}"
        )


def _load(folder: Path, device: str, compute_type: str) -> WhisperModel:
    try:
        return WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=1, num_workers=1, local_files_only=True
        )
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(f"recogniser: {folder} does not load ({reason}); convert or fetch it again") from error


class _Workers:
    """CTranslate2's model, with sampling that depends on the wave alone.

    CTranslate2 seeds the generator of a worker thread at its first draw and never again, so that what is sampled for
    a wave would depend on the waves before it. Sampling therefore runs in a worker of its own, new for every wave that
    needs it; greedy and beam search draw nothing and keep the first.
    """

    def __init__(self, steady: Any, open_model: Callable[[], Any]) -> None:
        self._steady, self._open = steady, open_model
        self._sampling: Any = None

    def forget_draws(self) -> None:
        """Start a wave: the next draw is the first of its generator."""
        self._sampling = None

    def generate(self, *args: Any, **search: Any) -> Any:
        """Search as CTranslate2 does."""
        if not search.get("sampling_temperature"):
            return self._steady.generate(*args, **search)
        if self._sampling is None:
            self._sampling = self._open()
            ctranslate2.set_random_seed(_SEED)
        return self._sampling.generate(*args, **search)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._steady, name)


class _FasterRecogniser:
    """A loaded faster-whisper; implements `Recogniser`."""

    def __init__(self, model: WhisperModel, checkpoint: Checkpoint, decoding: Decoding) -> None:
        self._model = model
        # CTranslate2's model inside faster-whisper's.
        self._workers: Any = model.model
        self._decoding = decoding
        self.sample_rate_hz: int = model.feature_extractor.sampling_rate
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint,
            ("ctranslate2", "faster-whisper", "tokenizers"),
            sample_rate_hz=self.sample_rate_hz,
            compute_type=self._workers.compute_type,
            **asdict(decoding),
        )

    def transcribe(self, wave_N: NDArray[np.float32]) -> list[Heard]:
        """Recognise a wave; each window by itself, so that one hallucination does not feed the next."""
        if not wave_N.size:
            return []
        self._workers.forget_draws()
        segments, _ = self._model.transcribe(np.ascontiguousarray(wave_N, np.float32), **self._search())
        return heard_within(map(asdict, segments), wave_N.size / self.sample_rate_hz)

    def _search(self) -> dict[str, Any]:
        decoding = self._decoding
        return {
            "language": decoding.language,
            "beam_size": decoding.beam_size,
            "best_of": 1,
            "temperature": list(decoding.temperatures),
            "compression_ratio_threshold": decoding.max_compression_ratio,
            "log_prob_threshold": decoding.min_avg_logprob,
            # faster-whisper would leave out such windows and say nothing: a gate counts them.
            "no_speech_threshold": None,
            "condition_on_previous_text": False,
            "vad_filter": False,
            "max_new_tokens": self._room(decoding.max_tokens),
        }

    def _room(self, max_tokens: int | None) -> int | None:
        """What to ask for: CTranslate2 halves the length that it is given, the prompt included."""
        if max_tokens is None:
            return None
        # Start; and, where there are several languages, language and task.
        prompt_tokens = 3 if self._workers.is_multilingual else 1
        return max(2 * max_tokens - prompt_tokens, max_tokens)
