"""Texts that were read in the wrong encoding: put right, or known to be lost.

Old tags hold GBK, Shift-JIS, EUC-JP, Big5, EUC-KR, Windows-1251 or UTF-8 and call it Latin-1. Each reading of the
bytes gets the logarithm of how likely such a text is (the letters of a language by how often they are written, and
whether neighbours belong together); a reading is believed where it leads by a margin. All texts of a file lie in one
encoding, but for those that are what they say; so they are weighed together, and a short title is read by its lyrics.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.lyrics.plausibility import Language, log_likelihood, mean_likelihood


class Reading(NamedTuple):
    """A way to read bytes: an encoding, the language that one expects in it, and how often that is met."""

    encodings: tuple[str, ...]
    language: Language
    prior: float


# Natural logarithms; GBK and Shift-JIS are what old players' tags hold, EUC-JP is rare.
READINGS = (
    Reading(("utf-8",), "any", 4.0),
    Reading(("gbk", "gb18030"), "zh", -1.0),
    Reading(("gbk", "gb18030"), "zh_hant", -3.0),
    Reading(("gbk", "gb18030"), "ja", -5.0),
    Reading(("cp932",), "ja", -1.0),
    Reading(("euc_jp", "euc_jis_2004"), "ja", -4.0),
    Reading(("cp950", "big5hkscs"), "zh_hant", -2.0),
    Reading(("cp950", "big5hkscs"), "ja", -6.0),
    Reading(("cp949",), "ko", -1.5),
    Reading(("cp1251",), "ru", -8.0),
    Reading(("iso2022_jp",), "ja", -1.0),
)
LATIN_PRIOR = 4.0
MIN_MARGIN = 4.0
"""How far ahead of every other text a reading must be; 4 is odds of 55 to 1."""
MIN_MEAN = -12.0
"""A reading whose letters are rarer than this on average is no text."""
MIN_LATIN_MEAN = -9.5
USUAL_LATIN_MEAN = -8.6
MAX_WEIGHED_BYTES = 6000
MIN_CUT_BYTES = 24
TWO_ASCII_LETTERS = re.compile("[A-Za-z].*[A-Za-z]", re.DOTALL)
HALFWIDTH = re.compile("[\uff61-\uff9f]+")
SHOWS_HALFWIDTH = re.compile("[\uff66-\uff7f\uff9e\uff9f]")
"""Without any of these the bytes are capitals of Windows-1251 as well."""
ALL_HALFWIDTH, MAYBE_CYRILLIC = -6.0, -8.0
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
LOST = "\ufffd"
# What Windows-1252 has where Latin-1 has control characters; five places are empty.
CP1252 = {byte: letter for byte in range(128, 160) if (letter := bytes([byte]).decode("cp1252", "ignore"))}
BYTE_OF = {letter: byte for byte, letter in CP1252.items()}


def repair_texts(texts: Mapping[str, str]) -> dict[str, str | None]:
    """Put right those texts of one file that were read as Latin-1 or Windows-1252 and are not.

    Args:
        texts: by any name, as the file's tags were read.

    Returns:
        The same names; None where no reading of a text is plausible, so that nothing garbled is passed on.
    """
    suspects = {name: data for name, text in texts.items() if (data := _bytes_behind(text)) is not None}
    choices = _choose(suspects) if suspects else {}
    return {name: choices[name] if name in choices else _undamaged(text) for name, text in texts.items()}


def decode_text(data: bytes) -> str | None:
    """Decode a text file: UTF-8, UTF-16 with its mark, or else the most plausible of the encodings above.

    Returns:
        The text; None where no reading is plausible.
    """
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
    encoding = next((marks[mark] for mark in marks if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None if encoding != "utf-8" else repair_texts({"": data.decode("latin-1")})[""]


class _Choice(NamedTuple):
    """How likely it is that a reading is right, and what it makes of every text."""

    score: float
    language: Language
    texts: dict[str, str]


def _bytes_behind(text: str) -> bytes | None:
    """The bytes that were read as Latin-1 or Windows-1252; None where the text is beyond doubt."""
    if text.isascii() and "\x1b" not in text:
        return None
    codes = [ord(letter) if letter < "\u0100" else BYTE_OF.get(letter, -1) for letter in text]
    return None if -1 in codes else bytes(codes)


def _undamaged(text: str) -> str | None:
    """A text of letters that no single byte stands for; None if some were lost when it was read."""
    whole = text.rstrip(LOST)  # a field of fixed length ends within a letter
    return None if LOST in whole or (text and not whole) else whole


def _choose(suspects: Mapping[str, bytes]) -> dict[str, str | None]:
    latin = {name: data.decode("latin-1").translate(CP1252) for name, data in suspects.items()}
    as_latin = {name: _score(text, suspects[name], "latin") for name, text in latin.items()}
    distinct = {data: as_latin[name] for name, data in suspects.items()}
    choices = [_Choice(LATIN_PRIOR + sum(distinct.values()), "latin", latin)]
    for reading in READINGS:
        score, texts, weighed = reading.prior, dict(latin), set[bytes]()
        for name, data in suspects.items():
            text = _decode(data, reading.encodings)
            # A text may be what it says, though its neighbours are not.
            likelihood, kept = -float("inf") if text is None else _score(text, data, reading.language), as_latin[name]
            if text is not None and likelihood > kept - MIN_MARGIN:
                texts[name] = text
            if data not in weighed:  # an album named like its title says nothing new
                score += max(likelihood, kept - MIN_MARGIN)
                weighed.add(data)
        choices.append(_Choice(score, reading.language, texts))
    choices.sort(key=lambda choice: -choice.score)
    return {name: _believed(name, latin[name], choices) for name in suspects}


def _believed(name: str, latin: str, choices: Sequence[_Choice]) -> str | None:
    best = choices[0]
    text = best.texts[name]
    language, least = ("latin", MIN_LATIN_MEAN) if text == latin else (best.language, MIN_MEAN)
    rival = next((choice.score for choice in choices if choice.texts[name] != text), -float("inf"))
    mean = mean_likelihood(text, language)
    # Usual accents in words need no lead: a CJK reading of so few bytes proves nothing.
    is_usual = text == latin and mean >= USUAL_LATIN_MEAN and (len(text) == 1 or TWO_ASCII_LETTERS.search(text))
    sure = mean >= least and (best.score - rival >= MIN_MARGIN or is_usual)
    if not sure or LOST in text or CONTROL.search(text):
        return None
    return HALFWIDTH.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)


def _score(text: str, data: bytes, language: Language) -> float:
    # Of long lyrics the same part in every reading.
    weighed_share = min(1.0, MAX_WEIGHED_BYTES / max(len(data), 1))
    part = text[: round(weighed_share * len(text))]
    score = log_likelihood(part, language)
    if language != "ja" or not HALFWIDTH.search(part):
        return score
    is_shown = SHOWS_HALFWIDTH.search(part)
    return max(score, log_likelihood(part, "halfwidth") + ALL_HALFWIDTH + (0.0 if is_shown else MAYBE_CYRILLIC))


def _decode(data: bytes, encodings: Sequence[str]) -> str | None:
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            # ID3v1 ends after 30 bytes, be it within a letter.
            if len(data) >= MIN_CUT_BYTES and error.start >= len(data) - 3 and error.end == len(data):
                return data[: error.start].decode(encoding)
    return None
