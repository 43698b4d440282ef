"""How likely a text is to be one of a language: by its letters, and by which of them stand side by side.

Natural logarithms of rough probabilities. They rank readings of the same bytes, so that only differences count; the
shares behind them (how much of a text its 100 or 500 most frequent letters make up) are those that frequency lists of
these languages agree on within a factor of two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Literal

from pipeline.lyrics.letters import (
    CYRILLIC,
    HANGUL,
    HANZI,
    HIRAGANA,
    KANJI,
    PAIRS,
    TAIWAN_AND_HONG_KONG,
)

Language = Literal["latin", "ja", "zh", "zh_hant", "ko", "ru", "halfwidth", "other", "any"]
Class = Literal["", "ascii", "latin", "kana", "hanzi", "hangul", "cyrillic"]

TO_TRADITIONAL = dict(zip(PAIRS[::2], PAIRS[1::2], strict=True))
TRADITIONAL = "".join(TO_TRADITIONAL.get(letter, letter) for letter in HANZI)
LATIN_LETTERS = frozenset("éèàáäöüñçóíúêâôåøæßãõîïûëìòùýÿðþšžœ")
SIGNS = frozenset("’“”‘–—…«»°®©™´·•¿¡¢£\xa0")
RARE_SIGNS = frozenset("ªº²³½¼¾±µ€×÷§¥†¤")
CJK_SIGNS = frozenset("、。「」『』・〜～！？…：（）【】《》，；—“”‘’·　♪★☆♥♡")
SMALL_KANA = frozenset("ぁぃぅぇぉゎゕゖァィゥェォヮヵヶヮゐゑヰヱヴ")
# Half-width katakana by how often they are written; what voices or shrinks a sound follows but a few.
OFTEN_HALFWIDTH, SELDOM_HALFWIDTH = frozenset("ｱｲｳｶｷｸｺｻｼｽﾀﾃﾄﾅﾉﾗﾘﾙﾚﾝｯｰﾞ"), frozenset("ｦｧｨｩｪｫﾇﾈﾋﾍﾎﾐﾑﾒﾓﾕﾖﾛﾜﾔ｡｢｣､･")
VOICED_HALFWIDTH = frozenset("ｳｶｷｸｹｺｻｼｽｾｿﾀﾁﾂﾃﾄﾊﾋﾌﾍﾎ")
HALFWIDTH_AFTER = {"ﾞ": VOICED_HALFWIDTH, "ﾟ": frozenset("ﾊﾋﾌﾍﾎ")} | dict.fromkeys("ｬｭｮ", frozenset("ｷｼﾁﾆﾋﾐﾘﾃﾌﾞﾟ"))
MISPLACED = -8.0

# Latin of middle and eastern Europe, Greek, Hebrew and Arabic, the scripts of India and Thailand, Vietnamese.
OTHER_SCRIPTS = (
    ("\u0100", "\u017f"),
    ("\u0370", "\u03ff"),
    ("\u05d0", "\u06ff"),
    ("\u0900", "\u0e7f"),
    ("\u1ea0", "\u1ef9"),
)

NEVER = -18.0
STRANGE = -15.0
RARE = -12.0
# Letters of two scripts within a word.
MIXED = -4.0
TWO_ACCENTS = -3.0
CAPITAL_WITHIN = -5.0
# In a word all in capitals they cost nothing.
CAPITAL_AGAIN = 2.0
JOINED = {frozenset(pair) for pair in (("ascii", "latin"), ("kana", "hanzi"))}


def log_likelihood(text: str, language: Language) -> float:
    """How likely a text is in a language, as a natural logarithm; `any` takes the most likely one."""
    return sum(_best_scores(text, language))


def mean_likelihood(text: str, language: Language) -> float:
    """Mean over the letters of a text that are not ASCII; 0 where there are none."""
    scores = [score for letter, score in zip(text, _best_scores(text, language), strict=True) if not letter.isascii()]
    return sum(scores) / len(scores) if scores else 0.0


def _best_scores(text: str, language: Language) -> list[float]:
    if language != "any":
        return _scores(text, language)
    return max((_scores(text, one) for one in LETTER_SCORES), key=sum)


def _scores(text: str, language: Language) -> list[float]:
    of_letter = LETTER_SCORES[language]
    pairs = zip(" " + text, text, strict=False)
    return [of_letter(letter) + _neighbours(before, letter) for before, letter in pairs]


@cache
def _neighbours(before: str, letter: str) -> float:
    if before not in HALFWIDTH_AFTER.get(letter, before):
        return MISPLACED
    left, right = _class(before), _class(letter)
    if not left or not right:
        return 0.0
    capital = CAPITAL_WITHIN if before.islower() and letter.isupper() and {left, right} != {"ascii"} else 0.0
    if left == right == "cyrillic" and before.isupper() and letter.isupper():
        return CAPITAL_AGAIN
    if left == right:
        return capital + (TWO_ACCENTS if left == "latin" else 0.0)
    return capital if frozenset((left, right)) in JOINED else MIXED


@cache
def _class(letter: str) -> Class:
    if letter.isascii():
        return "ascii" if letter.isalpha() else ""
    if not letter.isalpha():
        return ""
    if letter < "\u0250":
        return "latin"
    if "\u0400" <= letter < "\u0530":
        return "cyrillic"
    if "\u3041" <= letter <= "\u30ff" or "\uff66" <= letter <= "\uff9d":
        return "kana"
    if "\uac00" <= letter <= "\ud7a3":
        return "hangul"
    return "hanzi" if _is_hanzi(letter) else ""


def _is_hanzi(letter: str) -> bool:
    return "\u3400" <= letter <= "\u9fff" or "\uf900" <= letter <= "\ufaff"


def _shared(letter: str) -> float | None:
    """What all languages say of ASCII and of what is no letter at all."""
    if letter.isascii():
        if letter.isalpha():
            return -3.0
        if letter.isdigit() or letter == " ":
            return -3.5
        return NEVER if unicodedata.category(letter) == "Cc" and letter not in "\t\r\n" else -5.0
    return NEVER if unicodedata.category(letter) in {"Cc", "Co", "Cn", "Cs"} or letter == "\ufffd" else None


@cache
def _latin(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if letter in LATIN_LETTERS:
        return -6.0
    if letter.lower() in LATIN_LETTERS:
        return -8.0
    if letter in SIGNS or letter in RARE_SIGNS:
        return -8.0 if letter in "¡¿«»" else -8.5 if letter in SIGNS else -9.0
    return RARE if ord(letter) < 0x250 else STRANGE


@cache
def _ja(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if "\uff61" <= letter <= "\uff9f":
        return -9.5
    if "\u3041" <= letter <= "\u3096":
        return -4.0 if letter in HIRAGANA else -8.0 if letter in SMALL_KANA else -5.5
    if "\u30a1" <= letter <= "\u30fc":
        return -8.0 if letter in SMALL_KANA else -5.3
    if _is_hanzi(letter) or letter == "々":
        lead = letter.encode("euc_jp", "ignore")[:1]
        rest = STRANGE if not lead or lead == b"\x8f" else -10.8 if lead < b"\xd0" else -13.5
        return _ranked(letter, KANJI, ((440, -6.8), (len(KANJI), -8.4)), rest)
    return _cjk_sign(letter)


@cache
def _zh(letter: str) -> float:
    lead = letter.encode("gb2312", "ignore")[:1]
    return _hanzi(letter, HANZI, -16.0 if not lead else -9.6 if lead < b"\xd8" else -12.8)


@cache
def _zh_hant(letter: str) -> float:
    if letter in TAIWAN_AND_HONG_KONG:
        return -9.0
    lead = letter.encode("big5", "ignore")[:1]
    return _hanzi(letter, TRADITIONAL, -16.0 if not lead else -10.0 if lead < b"\xc9" else -13.0)


def _hanzi(letter: str, by_rank: str, rest: float) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if "\u3041" <= letter <= "\u30fc":
        return -10.0
    if _is_hanzi(letter):
        return _ranked(letter, by_rank, ((100, -5.5), (450, -7.2), (len(by_rank), -8.3)), rest)
    return _cjk_sign(letter)


@cache
def _ko(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if "\uac00" <= letter <= "\ud7a3":
        rest = -9.3 if letter.encode("euc_kr", "ignore") and len(letter.encode("euc_kr", "ignore")) == 2 else -14.0
        return _ranked(letter, HANGUL, ((120, -5.0), (len(HANGUL), -6.3)), rest)
    return -12.5 if _is_hanzi(letter) else _cjk_sign(letter)


@cache
def _ru(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    rank = CYRILLIC.find(letter.lower())
    if rank >= 0:
        return (-4.0 if rank < 16 else -5.5 if rank < 33 else -8.0) - (2.0 if letter.isupper() else 0.0)
    return -8.0 if letter in SIGNS else STRANGE


@cache
def _other(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if any(first <= letter <= last for first, last in OTHER_SCRIPTS):
        return -7.5
    return STRANGE if letter.isalpha() else -9.0


@cache
def _halfwidth(letter: str) -> float:
    shared = _shared(letter)
    if shared is not None:
        return shared
    if "\uff61" <= letter <= "\uff9f":
        return -3.3 if letter in OFTEN_HALFWIDTH else -5.6 if letter in SELDOM_HALFWIDTH else -4.2
    return STRANGE


def _cjk_sign(letter: str) -> float:
    if letter in CJK_SIGNS:
        return -6.5
    return -8.5 if "\uff01" <= letter <= "\uff5e" else RARE


def _ranked(letter: str, by_rank: str, scores: tuple[tuple[int, float], ...], rest: float) -> float:
    rank = by_rank.find(letter)
    return next((score for end, score in scores if 0 <= rank < end), rest)


LETTER_SCORES: dict[Language, Callable[[str], float]] = {
    "latin": _latin,
    "ja": _ja,
    "zh": _zh,
    "zh_hant": _zh_hant,
    "ko": _ko,
    "ru": _ru,
    "halfwidth": _halfwidth,
    "other": _other,
}
