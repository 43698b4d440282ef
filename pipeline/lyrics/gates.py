"""Gates for what a speech recogniser claims to have heard: Whisper invents text where nothing is sung."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.records import Heard


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
    if not phrase["text"].strip():
        return "empty"
    if phrase["no_speech_prob"] > gates.max_no_speech_prob:
        return "no_speech"
    if phrase["avg_logprob"] < gates.min_avg_logprob:
        return "avg_logprob"
    if phrase["compression_ratio"] > gates.max_compression_ratio:
        return "compression_ratio"
    return None
