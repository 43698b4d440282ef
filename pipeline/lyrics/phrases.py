"""Phrases of a recording dealt out to its clips, with their readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import Phrase
from pipeline.lyrics.align import time_phrases
from pipeline.lyrics.kana import Reading, moras, read_kana, to_phonemes
from pipeline.lyrics.romaji import is_japanese

EDGE_S = 0.01
"""A phrase that reaches less than this beyond the edge of a clip ends there."""


def phrases_in_span(phrases: Iterable[Phrase], start_s: float, end_s: float) -> list[Phrase]:
    """Take the phrases that sound within a span, with times from its start; `is_cut` marks those that go on beyond it.

    Phrases without times belong to every clip of a recording only when it has no more than one: see `stages.lyrics`.
    """
    inside: list[Phrase] = []
    for phrase in phrases:
        begin, end = phrase["start_s"], phrase["end_s"]
        if begin is None or begin >= end_s or (begin if end is None else end) < start_s or end == start_s:
            continue  # a phrase without an end, the last one, sounds only where it begins
        cut = Phrase(**phrase)
        cut["start_s"] = round(max(begin - start_s, 0.0), 3)
        cut["end_s"] = None if end is None else round(min(end, end_s) - start_s, 3)
        if begin < start_s - EDGE_S or (end is not None and end > end_s + EDGE_S):
            cut["is_cut"] = True
        inside.append(cut)
    return inside


def add_readings(phrases: Sequence[Phrase], *, is_sounding: bool) -> tuple[list[Phrase], list[Reading]]:
    """Say how each Japanese phrase is read.

    Args:
        phrases: cleaned; scat, romaji and ruby have their kana already.
        is_sounding: kana are spelled as they sound, particles included, as in scores for singing synthesis.

    Returns:
        Copies with `kana` where it is known, and the readings that were made, with what they could not read.
    """
    found: list[Phrase] = []
    readings: list[Reading] = []
    for phrase in phrases:
        copy = Phrase(**phrase)
        if phrase.get("kind") != "scat" and is_japanese(phrase["text"]) and not _has_ruby_reading(phrase):
            reading = read_kana(phrase["text"], is_sounding=is_sounding)
            copy["kana"] = reading.kana
            readings.append(reading)
        found.append(copy)
    return found, readings


def _has_ruby_reading(phrase: Phrase) -> bool:
    """Whether kana came with a text that is not kana itself."""
    return "kana" in phrase and phrase["source"] != "score"


def unread(readings: Iterable[Reading]) -> dict[str, int]:
    """What could not be read, most often first."""
    counted: Counter[str] = Counter()
    for reading in readings:
        counted.update(reading.unknown)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def align_phrases(
    phrases: Sequence[Phrase],
    vocabulary: Sequence[str],
    align: Callable[[Sequence[int]], NDArray[np.float64]],
) -> list[Phrase]:
    """Say when phrases are sung that came without times.

    Args:
        phrases: all of a recording, in the order of singing.
        vocabulary: sounds that the aligner knows, moras in katakana or phonemes.
        align: gives start, end and confidence [L, 3] of the tokens of the whole text.

    Returns:
        Copies with `start_s`, `end_s` and `confidence`; as they were where the recording is too short for the words.
    """
    spell = moras if "ア" in vocabulary else to_phonemes
    sounds = [spell(phrase.get("kana", "")) for phrase in phrases]
    try:
        times = time_phrases(sounds, vocabulary, align)
    except ValueError:
        return list(phrases)
    timed = [Phrase(**phrase) for phrase in phrases]
    for phrase, time in zip(timed, times, strict=True):
        phrase["start_s"], phrase["end_s"], phrase["confidence"] = time
    return timed
