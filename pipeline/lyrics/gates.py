"""Gates for what a speech recogniser claims to have heard: Whisper invents text where nothing is sung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Heard(Protocol):
    """What the gates read of a recognised phrase: a mapping with these keys."""

    def __getitem__(self, key: str, /) -> object:
        """`text`, `avg_logprob`, `no_speech_prob`, `compression_ratio`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParams:
    """Section `transcribe.gates` of params.yaml; the defaults are Whisper's own thresholds."""

    min_avg_logprob: float = -1.0
    """Mean log-probability of a phrase's tokens, nats."""
    max_no_speech_prob: float = 0.6
    """Probability that nothing is spoken in the window."""
    max_compression_ratio: float = 2.4
    """Length of the text over its gzip length: loops compress well."""


def refusal(phrase: Heard, gates: GateParams) -> str | None:
    """Name the gate that a phrase fails, None if it passes all.

    Args:
        phrase: one recognised phrase.
        gates: the thresholds.
    """
    if not str(phrase["text"]).strip():
        return "empty"
    if _number(phrase, "no_speech_prob") > gates.max_no_speech_prob:
        return "no_speech"
    if _number(phrase, "avg_logprob") < gates.min_avg_logprob:
        return "avg_logprob"
    if _number(phrase, "compression_ratio") > gates.max_compression_ratio:
        return "compression_ratio"
    return None


def _number(phrase: Heard, key: str) -> float:
    value = phrase[key]
    return float(value) if isinstance(value, (int, float)) else 0.0
