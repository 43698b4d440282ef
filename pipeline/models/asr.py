"""The recogniser port: how to search for words, and which of two Whispers does it.

What lies at `models.recogniser` decides. A `.pt` file, or a name of openai-whisper's list such as `small`, is read by
openai-whisper, the reference. A folder with `model.bin`, or a hub id such as `Systran/faster-whisper-small`, is
CTranslate2's and read by faster-whisper. Both answer the same call with the same fields, and neither drops what it
heard: that is for gates that count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.records import Heard
from pipeline.errors import ParamsError
from pipeline.models.base import Recogniser

# whisper's own ladder: sampling is tried where greedy decoding repeats itself or is unsure.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_TOKENS = 224
"""Most tokens that Whisper writes for a window: half its text context (openai-whisper, decoding.py)."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.pt)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How Whisper turns sound into words."""

    language: str | None = None
    """Code such as "ja" or "en"; None lets the model guess for every wave."""
    temperatures: tuple[float, ...] = TEMPERATURES
    """Tried in turn while a result looks wrong by the two limits below. Where all do, openai-whisper keeps the last,
    faster-whisper the likeliest that does not loop."""
    max_tokens: int | None = None
    """Most tokens per 30 s window; None for the model's own limit."""
    beam_size: int = 1
    """Hypotheses kept at temperature 0; 1 is greedy."""
    max_compression_ratio: float = 2.4
    """The next temperature is tried above this: loops compress well."""
    min_avg_logprob: float = -1.0
    """The next temperature is tried below this mean log-probability, nats."""


def load_recogniser(
    source: str, decoding: Decoding, *, device: str = "cpu", compute_type: str | None = None
) -> Recogniser:
    """Load a Whisper by whichever package reads what lies there; a name not found here may be downloaded.

    Args:
        source: a `.pt` file, a name of openai-whisper's list, a CTranslate2 folder, or a hub id.
        decoding: language and search.
        device: auto, cpu or cuda.
        compute_type: CTranslate2's word for the arithmetic, such as int8, int8_float16 or float32; None for int8 on
            the CPU and float16 on a GPU. Only for CTranslate2.

    Raises:
        ContractError: the checkpoint is missing or damaged.
        ParamsError: a language that Whisper, or this model, does not know; arithmetic that it cannot do here.
    """
    if Path(source).is_dir() or (_HUB_ID.fullmatch(source) and not Path(source).exists()):
        from pipeline.models.asr_faster import load_faster

        return load_faster(source, decoding, device=device, compute_type=compute_type)
    if compute_type is not None:
        raise ParamsError(
            f"compute_type {compute_type!r} is for a Whisper in CTranslate2's format, and {source} is none; "
            "convert it, or leave compute_type out"
        )
    from pipeline.models.asr_openai import load_openai

    return load_openai(source, decoding, device=device)


def check_language(name: str, language: str | None, *, known: Iterable[str], is_multilingual: bool) -> None:
    """Refuse a language that the model cannot write.

    Raises:
        ParamsError: with what to set instead.
    """
    if language is not None and language not in known:
        raise ParamsError(f"language {language!r} is none of Whisper's; use a code such as ja or en, or none to guess")
    if language not in {None, "en"} and not is_multilingual:
        raise ParamsError(f"recogniser {name} knows English only, not {language!r}; take one without .en")


def heard_within(segments: Iterable[Mapping[str, Any]], duration_s: float) -> list[Heard]:
    """Phrases with their times inside the wave: Whisper pads to 30 s and may place words there.

    Args:
        segments: with the names that openai-whisper gives their fields, in order.
        duration_s: length of the wave; what starts at or after its end is left out, and so is empty text.
    """
    phrases = (_heard(segment, duration_s) for segment in segments)
    return [phrase for phrase in phrases if phrase["text"] and phrase["start_s"] < duration_s]


def _heard(segment: Mapping[str, Any], duration_s: float) -> Heard:
    start_s = min(max(0.0, float(segment["start"])), duration_s)
    return Heard(
        text=str(segment["text"]).strip(),
        start_s=round(start_s, 3),
        end_s=round(min(max(start_s, float(segment["end"])), duration_s), 3),
        avg_logprob=round(float(segment["avg_logprob"]), 4),
        no_speech_prob=round(float(segment["no_speech_prob"]), 4),
        compression_ratio=round(float(segment["compression_ratio"]), 4),
    )
