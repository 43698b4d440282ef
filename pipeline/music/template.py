"""Captions for clips that have none: what is surely known, in one of several phrasings."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

# Around a described piece such as "a fast, bright tune" and details such as "at about 128 BPM".
_FRAMES = (
    "{piece} {details}",
    "you hear {piece} {details}",
    "a recording of {piece} {details}",
    "this is {piece} {details}",
    "the recording features {piece} {details}",
)
_BARE_FRAMES = ("{piece}", "you hear {piece}", "a recording of {piece}", "this is {piece}")
_NOUNS = ("piece", "track", "passage", "tune")
_VOICE_NOUNS = {
    "vocal": ("song", "vocal piece", "sung passage", "piece with a voice"),
    "instrumental": ("instrumental", "instrumental piece", "instrumental track", "piece without a voice"),
}
_MOST_ATTEMPTS = 20

# (upper limit, words): the first limit above the value gives the words; an empty string says nothing.
_Scale = tuple[tuple[float, tuple[str, ...]], ...]
_TEMPO: _Scale = (
    (80.0, ("slow", "unhurried", "slow-paced")),
    (112.0, ("mid-tempo", "moderately paced", "walking-pace")),
    (140.0, ("lively", "upbeat", "brisk")),
    (float("inf"), ("fast", "rapid", "very fast")),
)
# Not bright or dark: of these a reader takes the one for a mood.
_BRIGHTNESS: _Scale = (
    (900.0, ("muted", "low-toned", "dull-toned")),
    (1800.0, ("warm", "rounded", "soft-toned")),
    (3000.0, ("clear", "crisp", "open-toned")),
    (float("inf"), ("sharp-toned", "airy", "sizzling")),
)
_RANGE: _Scale = (
    (3.0, ("with an even level throughout", "with hardly any change in loudness", "at a steady level")),
    (9.0, ("with a mild rise and fall in loudness", "with gently varying dynamics", "")),
    (float("inf"), ("with strong dynamic contrasts", "moving between quiet and loud", "with a wide dynamic range")),
)
_DENSITY: _Scale = (
    (1.0, ("with sustained sounds", "with few new notes", "with long, held tones")),
    (4.0, ("with an open texture", "with a steady flow of notes", "")),
    (float("inf"), ("with a dense, busy texture", "with many short notes", "with busy rhythms")),
)
# As scores spell them: flats where the sharps' signature would be longer.
_SPELT = {
    "major": {"C#": "D flat", "D#": "E flat", "F#": "F sharp", "G#": "A flat", "A#": "B flat"},
    "minor": {"C#": "C sharp", "D#": "E flat", "F#": "F sharp", "G#": "G sharp", "A#": "B flat"},
}


def template_captions(attributes: Mapping[str, object], *, key: str, seed: int, num_captions: int = 1) -> list[str]:
    """Write sentences from a clip's measured attributes, each another one.

    Args:
        attributes: as `describe_audio` gives them; absent and None say nothing, and neither does a tempo, key, mode
            or voice that their `sure` does not name.
        key: the clip's key; with the seed it alone chooses the phrasings.
        seed: another seed, other phrasings.
        num_captions: how many; fewer come where the attributes do not yield so many.

    Returns:
        Sentences in English; the first one does not depend on how many there are.
    """
    captions: list[str] = []
    for number in range(num_captions + _MOST_ATTEMPTS):
        if len(captions) == num_captions:
            break
        # The number only where it counts, so that a first caption stays what it was.
        name = f"{seed} {key}" + f" {number}" * bool(number)
        caption = _write(attributes, random.Random(hashlib.sha256(name.encode()).digest()))
        if caption not in captions:
            captions.append(caption)
    return captions


def _write(attributes: Mapping[str, object], chooser: random.Random) -> str:
    tempo_bpm = _sure_number(attributes, "tempo_bpm")
    # Rounded as it is written, so that word and number tell of the same band.
    tempo_bpm = None if tempo_bpm is None else round(tempo_bpm)
    adjectives = [_word(chooser, _TEMPO, tempo_bpm), _word(chooser, _BRIGHTNESS, _number(attributes, "brightness_hz"))]
    details = [
        _tempo_phrase(chooser, tempo_bpm),
        _key_phrase(chooser, attributes),
        _word(chooser, _DENSITY, _number(attributes, "onset_rate_hz")),
        _word(chooser, _RANGE, _number(attributes, "loudness_range_lu")),
    ]
    voice = attributes.get("voice") if _is_sure(attributes, "voice") else None
    nouns = _VOICE_NOUNS.get(str(voice), _NOUNS)
    described = f"{', '.join(filter(None, adjectives))} {_choose(chooser, nouns)}".strip()
    return _sentence(chooser, f"{_article(described)} {described}", list(filter(None, details)))


def _choose(chooser: random.Random, words: tuple[str, ...]) -> str:
    return words[chooser.randrange(len(words))]


def _word(chooser: random.Random, scale: _Scale, value: float | None) -> str:
    if value is None:
        return ""
    return _choose(chooser, next(words for limit, words in scale if value < limit))


def _is_sure(attributes: Mapping[str, object], name: str) -> bool:
    sure = attributes.get("sure")
    return isinstance(sure, list) and name in sure


def _number(attributes: Mapping[str, object], name: str) -> float | None:
    value = attributes.get(name)
    return float(value) if isinstance(value, int | float) else None


def _sure_number(attributes: Mapping[str, object], name: str) -> float | None:
    return _number(attributes, name) if _is_sure(attributes, name) else None


def _tempo_phrase(chooser: random.Random, tempo_bpm: int | None) -> str:
    if tempo_bpm is None:
        return ""
    return _choose(chooser, (f"at about {tempo_bpm} BPM", f"around {tempo_bpm} beats per minute", ""))


def _key_phrase(chooser: random.Random, attributes: Mapping[str, object]) -> str:
    """Name the key if it is sure, else the mode if that is."""
    tonic, mode = attributes.get("tonic"), attributes.get("mode")
    if not isinstance(mode, str) or mode not in _SPELT:
        return ""
    of_mode = (f"in {_article(mode)} {mode} key", f"in {_article(mode)} {mode} mode")
    if _is_sure(attributes, "key") and isinstance(tonic, str):
        spelt = _SPELT[mode].get(tonic, tonic)
        return _choose(chooser, (f"in {spelt} {mode}", f"in the key of {spelt} {mode}", of_mode[0]))
    return _choose(chooser, of_mode) if _is_sure(attributes, "mode") else ""


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def _sentence(chooser: random.Random, piece: str, details: list[str]) -> str:
    frame = _choose(chooser, _FRAMES if details else _BARE_FRAMES)
    text = frame.format(piece=piece, details=", ".join(details))
    return f"{text[0].upper()}{text[1:]}."
