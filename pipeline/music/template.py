"""Captions for clips that have none: what was measured, in one of several phrasings."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

# Sentences around a description such as "a fast, bright piece" and details such as "at about 128 BPM".
_FRAMES = (
    "{Piece} {details}.",
    "You hear {piece} {details}.",
    "A recording of {piece} {details}.",
    "{Piece}, {details}.",
    "This is {piece} {details}.",
)
_NOUNS = ("piece", "track", "passage", "tune")
_MIN_TEMPO_CONFIDENCE = 0.3
_MIN_KEY_CONFIDENCE = 0.6

# (upper limit, words): the first limit above the value gives the words; an empty string says nothing.
_Scale = tuple[tuple[float, tuple[str, ...]], ...]
_TEMPO: _Scale = (
    (76.0, ("slow", "unhurried", "calm-paced")),
    (112.0, ("mid-tempo", "moderately paced", "walking-pace")),
    (140.0, ("lively", "upbeat", "brisk")),
    (float("inf"), ("fast", "rapid", "very fast")),
)
_BRIGHTNESS: _Scale = (
    (900.0, ("dark", "mellow", "muted")),
    (1800.0, ("warm", "rounded", "soft-toned")),
    (3000.0, ("bright", "clear", "crisp")),
    (float("inf"), ("very bright", "airy", "sizzling")),
)
_RANGE: _Scale = (
    (3.0, ("with an even level throughout", "with hardly any change in loudness", "at a steady level")),
    (9.0, ("with a gentle rise and fall in loudness", "with moderate dynamics", "")),
    (float("inf"), ("with strong dynamic contrasts", "moving between quiet and loud", "with a wide dynamic range")),
)
_DENSITY: _Scale = (
    (1.0, ("with sustained sounds", "with few new notes", "with long, held tones")),
    (4.0, ("with an open texture", "with a steady flow of notes", "")),
    (float("inf"), ("with a dense, busy texture", "with many quick notes", "with busy rhythms")),
)
_SPELT = {"C#": "C sharp", "D#": "D sharp", "F#": "F sharp", "G#": "G sharp", "A#": "B flat"}


def template_caption(attributes: Mapping[str, object], *, key: str, seed: int) -> str:
    """Write one sentence from a clip's measured attributes.

    Args:
        attributes: as `describe_audio` gives them; absent and None say nothing, and neither do a tempo or a key
            that were found with little confidence.
        key: the clip's key; with the seed it alone chooses the phrasing.
        seed: another seed, other phrasings.

    Returns:
        A sentence, in English.
    """
    chooser = random.Random(hashlib.sha256(f"{seed} {key}".encode()).digest())
    adjectives = [
        _word(chooser, _TEMPO, _tempo(attributes)),
        _word(chooser, _BRIGHTNESS, _number(attributes, "brightness_hz")),
    ]
    details = [
        _choose(chooser, (f"at about {tempo:.0f} BPM", f"around {tempo:.0f} beats per minute", ""))
        if (tempo := _tempo(attributes))
        else "",
        _key_phrase(chooser, attributes),
        _word(chooser, _DENSITY, _number(attributes, "onset_rate_hz")),
        _word(chooser, _RANGE, _number(attributes, "loudness_range_lu")),
    ]
    return _sentence(chooser, [word for word in adjectives if word], [part for part in details if part])


def _choose(chooser: random.Random, words: tuple[str, ...]) -> str:
    return words[chooser.randrange(len(words))]


def _word(chooser: random.Random, scale: _Scale, value: float | None) -> str:
    if value is None:
        return ""
    return _choose(chooser, next(words for limit, words in scale if value < limit))


def _number(attributes: Mapping[str, object], name: str) -> float | None:
    value = attributes.get(name)
    return float(value) if isinstance(value, int | float) else None


def _tempo(attributes: Mapping[str, object]) -> float | None:
    is_sure = (_number(attributes, "tempo_confidence") or 0.0) >= _MIN_TEMPO_CONFIDENCE
    return _number(attributes, "tempo_bpm") if is_sure else None


def _key_phrase(chooser: random.Random, attributes: Mapping[str, object]) -> str:
    tonic, mode = attributes.get("tonic"), attributes.get("mode")
    is_sure = (_number(attributes, "key_confidence") or 0.0) >= _MIN_KEY_CONFIDENCE
    if not (is_sure and isinstance(tonic, str) and isinstance(mode, str)):
        return ""
    spelt = _SPELT.get(tonic, tonic)
    return _choose(chooser, (f"in {spelt} {mode}", f"in the key of {spelt} {mode}", f"in a {mode} key"))


def _sentence(chooser: random.Random, adjectives: list[str], details: list[str]) -> str:
    described = f"{', '.join(adjectives)} {_choose(chooser, _NOUNS)}".strip()
    piece = f"{'an' if described[0] in 'aeiou' else 'a'} {described}"
    if not details:
        return f"{piece[0].upper()}{piece[1:]}."
    frame = _choose(chooser, _FRAMES)
    return frame.format(piece=piece, Piece=piece[0].upper() + piece[1:], details=", ".join(details))
