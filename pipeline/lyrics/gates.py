"""Gates for what a speech recogniser claims to have heard: Whisper invents text where nothing is sung."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.data.records import Heard, Phrase
from pipeline.lyrics.languages import is_foreign, is_kanaless
from pipeline.lyrics.loops import Line, LoopParams, is_loop, looping_phrases
from pipeline.lyrics.stock_phrases import is_annotation, is_courtesy, is_stock, mentions_stock
from pipeline.lyrics.vad import Span, sounding_share

_SMALL_KANA = frozenset("ぁぃぅぇぉゃゅょゎゕゖァィゥェォャュョヮヵヶ")
_MORA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u30fc]")
_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3005]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_VOWELS = re.compile(r"[aeiouyà-åè-ïò-öù-ü]+", re.IGNORECASE)
_OTHER_WORD = re.compile(r"[^\W\d_\u3005\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]+")
_DIGIT = re.compile(r"\d")
MORAS_PER_IDEOGRAPH = 1.7
"""Of Chinese characters in Japanese lyrics; pinned by a test that reads lines aloud with a dictionary."""
USUAL_MORAS_PER_S = (1.0, 7.0)
"""Of a sung phrase; slower and faster ones count less."""
_SLACK_S = 0.25
"""Vocal activity is late at an onset and Whisper's times are not exact: what a short phrase is forgiven."""

_BRACKETS = (("(", ")"), ("（", "）"), ("[", "]"), ("【", "】"), ("〈", "〉"), ("<", ">"), ("*", "*"))
_IN_BRACKETS = "|".join(rf"{re.escape(a)}[^{re.escape(b)}]*{re.escape(b)}" for a, b in _BRACKETS)
_ALL_BRACKETED = re.compile(rf"(?:\s*(?:{_IN_BRACKETS}))+\s*")
_BRACKETED = re.compile(_IN_BRACKETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParams:
    """Section `transcribe.gates` of params.yaml; Whisper's own thresholds where it has one."""

    min_avg_logprob: float = -1.0
    """Mean log-probability of a phrase's tokens, nats."""
    max_no_speech_prob: float = 0.6
    """Probability that nothing is spoken in the window; above it a phrase passes only if it is sure of itself."""
    sure_avg_logprob: float = -0.9
    """A phrase is sure of itself from this log-probability."""
    max_compression_ratio: float = 2.4
    """Length of a window's text over its gzip length; above it a phrase passes only if it can be sung as it stands."""
    moras_per_s: tuple[float, float] = (0.5, 12.0)
    """Least and most moras per second that sounds."""
    min_sounding_share: float = 0.4
    """Share of a phrase's time in which a voice is active."""
    min_stock_similarity: float = 0.75
    """From which a phrase counts as a variant of a stock phrase, 0 to 1; above 1 only exact ones count."""
    max_foreign_share: float = 0.2
    """Share of letters in scripts in which the language is not written."""
    max_kanaless_han: int = 6
    """In a Japanese track without any kana a phrase has at most so many characters."""
    also_sung: tuple[str, ...] = ("en",)
    """Languages in Latin letters of which a song in another script may have whole phrases; none refuses them all."""
    loops: LoopParams = field(default_factory=LoopParams)
    """When repetition is a stuck decoder's."""
    min_agreement: float = 0.2
    """Agreement of two passes, where there were two: below it the other pass heard other words."""
    min_confidence: float = 0.14
    """Of all evidence together (see `confidence`)."""


class Verdict(NamedTuple):
    """What the gates say of one phrase."""

    gate: str | None
    """The first gate that it fails, None if it passes all."""
    confidence: float


class Judged(NamedTuple):
    """What is left of a transcript, and how many phrases each gate refused."""

    kept: list[Phrase]
    refused: Counter[str]


def judge_phrases(
    phrases: Sequence[Heard],
    params: GateParams,
    *,
    vocal_spans_s: Sequence[Span] | None,
    language: str | None,
    agreements: Sequence[float] | None = None,
) -> Judged:
    """Keep the phrases of a track that can be believed.

    Args:
        phrases: all of a track, in order of time.
        params: the thresholds.
        vocal_spans_s: where somebody may be singing, in the times of the phrases; None where it is not known.
        language: Whisper's code of the language sung; None lets every language pass.
        agreements: of each phrase with a second pass (see `pipeline.lyrics.agreement`), 0 to 1.

    Returns:
        The phrases kept, with confidence, and the number refused by gate.
    """
    verdicts = judge_each(phrases, params, vocal_spans_s=vocal_spans_s, language=language, agreements=agreements)
    kept = [
        Phrase(
            text=phrase["text"].strip(),
            start_s=phrase["start_s"],
            end_s=phrase["end_s"],
            source="asr",
            confidence=round(verdict.confidence, 4),
        )
        for phrase, verdict in zip(phrases, verdicts, strict=True)
        if verdict.gate is None
    ]
    return Judged(kept, Counter(verdict.gate for verdict in verdicts if verdict.gate is not None))


def judge_each(
    phrases: Sequence[Heard],
    params: GateParams,
    *,
    vocal_spans_s: Sequence[Span] | None,
    language: str | None,
    agreements: Sequence[float] | None = None,
) -> list[Verdict]:
    """The verdict on every phrase; arguments as for `judge_phrases`."""
    lines = [_line(phrase, vocal_spans_s) for phrase in phrases]
    looping = looping_phrases(lines, params.loops)
    has_kana = not is_kanaless([line.text for line in lines])
    max_han = None if has_kana else params.max_kanaless_han
    known = agreements if agreements is not None else [None] * len(phrases)
    verdicts: list[Verdict] = []
    for n, (phrase, line, agreement) in enumerate(zip(phrases, lines, known, strict=True)):
        believed = confidence(phrase, line, agreement)
        gate = _text_gate(line, params, language=language, max_kanaless_han=max_han)
        gate = gate or ("loop" if n in looping else None) or _sound_gate(phrase, line, params)
        if gate is None and agreement is not None and agreement < params.min_agreement:
            gate = "agreement"
        if gate is None and believed < params.min_confidence:
            gate = "confidence"
        verdicts.append(Verdict(gate, believed))
    return verdicts


def confidence(phrase: Heard, line: Line, agreement: float | None = None) -> float:
    """How far to believe a phrase, 0 to 1.

    The product of exp(avg_logprob), the geometric mean of its tokens' probabilities; the share of its time that
    sounds; 1 - 0.5 times the no-speech probability, which Whisper gives high for singing too, so it can only halve; how
    usual its moras per second are; and 0.5 + 0.5 times the agreement of two passes. What is not known counts as 1.
    """
    believed = math.exp(min(0.0, phrase["avg_logprob"]))
    believed *= 1.0 if line.sounding_share is None else line.sounding_share
    believed *= 1 - 0.5 * min(max(phrase["no_speech_prob"], 0.0), 1.0)
    believed *= _usual_pace(line.moras_per_s)
    return believed * (0.5 + 0.5 * (1.0 if agreement is None else agreement))


def _usual_pace(moras_per_s: float) -> float:
    """1 for paces at which songs are sung, less by the factor by which a pace is beyond."""
    least, most = USUAL_MORAS_PER_S
    return min(1.0, max(moras_per_s, 1e-3) / least, most / max(moras_per_s, 1e-3))


def estimate_moras(text: str) -> float:
    """Estimate the moras of a text without a dictionary.

    Kana count one each, small vowels and ゃゅょ none; Chinese characters 1.7; hangul one; words in other letters their
    groups of vowels, at least one; digits two.
    """
    text = unicodedata.normalize("NFKC", text)
    kana = sum(char not in _SMALL_KANA for char in _MORA.findall(text))
    words = sum(max(1, len(_VOWELS.findall(word))) for word in _OTHER_WORD.findall(text))
    ideographs = MORAS_PER_IDEOGRAPH * len(_IDEOGRAPH.findall(text))
    return kana + words + ideographs + len(_HANGUL.findall(text)) + 2 * len(_DIGIT.findall(text))


def _line(phrase: Heard, vocal_spans_s: Sequence[Span] | None) -> Line:
    """What the rules look at in a phrase; moras are counted over the time that sounds."""
    start_s, end_s = phrase["start_s"], phrase["end_s"]
    share = None if vocal_spans_s is None else sounding_share(start_s, end_s, vocal_spans_s)
    sounding_s = (end_s - start_s) * (1.0 if share is None else share)
    moras_per_s = estimate_moras(phrase["text"]) / (max(sounding_s, 0.0) + _SLACK_S)
    return Line(phrase["text"], start_s, end_s, moras_per_s, share)


def _text_gate(line: Line, params: GateParams, *, language: str | None, max_kanaless_han: int | None) -> str | None:
    """The gates that look at the words."""
    text = line.text.strip()
    if not any(char.isalpha() for char in text):
        return "empty"
    if _ALL_BRACKETED.fullmatch(text) and all(is_annotation(found[1:-1]) for found in _BRACKETED.findall(text)):
        return "annotation"
    if language is not None and is_foreign(
        text,
        language,
        also_sung=params.also_sung,
        max_foreign_share=params.max_foreign_share,
        max_kanaless_han=max_kanaless_han,
    ):
        return "language"
    if is_stock(text, params.min_stock_similarity):
        return "stock_phrase"
    return "loop" if is_loop(line, params.loops) else None


def _sound_gate(phrase: Heard, line: Line, params: GateParams) -> str | None:
    """The gates that hold the words against the sound and the recogniser's own doubts."""
    least, most = params.moras_per_s
    is_sung = line.sounding_share is None or line.sounding_share >= 0.5
    if line.sounding_share is not None and line.sounding_share < params.min_sounding_share:
        return "silent"
    if phrase["avg_logprob"] < params.min_avg_logprob:
        return "avg_logprob"
    is_sure = phrase["avg_logprob"] >= params.sure_avg_logprob
    if phrase["no_speech_prob"] > params.max_no_speech_prob and not is_sure:
        return "no_speech"
    if not least <= line.moras_per_s <= most:
        return "mora_rate"
    can_be_sung = least <= line.moras_per_s <= params.loops.max_sung_moras_per_s
    if phrase["compression_ratio"] > params.max_compression_ratio and not can_be_sung:
        return "compression_ratio"
    if is_courtesy(line.text) and not (
        is_sung and is_sure and phrase["no_speech_prob"] < params.max_no_speech_prob / 2
    ):
        return "stock_phrase"
    if mentions_stock(line.text) and not (
        is_sung and is_sure and phrase["no_speech_prob"] <= params.max_no_speech_prob
    ):
        return "stock_phrase"
    return None
