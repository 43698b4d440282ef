"""Whether a text can be of the language asked: by script, by characters that the language lacks, by function words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_SCRIPTS = {
    "kana": re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u30fc\uff66-\uff9d]"),
    "han": re.compile(r"[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"),
    "hangul": re.compile(r"[\u1100-\u11ff\uac00-\ud7a3]"),
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"),
    "cyrillic": re.compile(r"[\u0400-\u04ff]"),
}
_WRITTEN_IN = {
    "ja": {"kana", "han", "latin"},
    "zh": {"han", "latin"},
    "yue": {"han", "latin"},
    "ko": {"hangul", "han", "latin"},
    **{code: {"cyrillic", "latin"} for code in ("ru", "uk", "bg", "be", "sr", "mk", "kk", "mn")},
    **{code: {"latin"} for code in ("en", "es", "pt", "fr", "de", "it", "nl", "id", "ms", "vi", "pl", "tr", "sv")},
}
"""Languages by Whisper's code; of others no text is refused."""
# Frequent words of other languages in Latin letters that are neither English words nor syllables of scat.
_FOREIGN = """
    que por para com uma um não nao mais você voce eu isso muito obrigado obrigada como está esta el los las del una
    con pero porque muy gracias hola yo tú es en y je tu il elle nous vous ne pas est et le les des une dans pour avec
    mais ce sur merci ich du er sie wir ihr nicht und der das ist ein eine für von zu den dem auch habe danke io che
    per sono non di ho grazie questo yang dan untuk ini itu tidak saya kamu dengan ada terima kasih của là và các bạn
    không một cho anh em đã nie się jest że na jak ale bir bu ve için çok değil het een van niet ik jij och att det
    som"""
_ENGLISH = """
    the you i to and a me my in of it is on for we love your be that all no not oh this so do don't i'm it's can
    will with let go what when are was just like know baby come get one time now up down but if have has he she they
    there here night day heart never ever"""
_FOREIGN_WORDS, _ENGLISH_WORDS = frozenset(_FOREIGN.split()), frozenset(_ENGLISH.split())
_CHINESE = re.compile("[你您們這嗎吧呢麼麽啊她沒]|大家好|收看|觀看|謝謝|因為|我的|是的")
"""Of Chinese in the traditional characters, which Japanese character sets have too."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def is_foreign(
    text: str,
    language: str,
    *,
    also_sung: Sequence[str] = ("en",),
    max_foreign_share: float = 0.2,
    max_kanaless_han: int | None = None,
) -> bool:
    """Whether a text is written in a way in which the language is not.

    Words in Latin letters are part of songs in any language; a whole phrase of three or more of them is foreign where
    the language has another script, unless it may be English and English is `also_sung`.

    Args:
        text: one phrase.
        language: Whisper's code; of a language that is not known here nothing is foreign.
        also_sung: other languages that may come, as codes; English and nothing else is told apart.
        max_foreign_share: share of letters in scripts of other languages.
        max_kanaless_han: a Japanese phrase of Chinese characters alone may have this many; None for any number, since
            names of places and the like are written so.
    """
    if language not in _WRITTEN_IN:
        return False
    counts = count_scripts(text)
    num_letters = sum(counts.values())
    num_own = sum(counts[script] for script in _WRITTEN_IN[language])
    if num_letters - num_own > max_foreign_share * num_letters:
        return True
    if language == "ja" and _is_chinese(text, counts, max_kanaless_han):
        return True
    words = _WORD.findall(text.casefold())
    if 2 * counts["latin"] <= num_letters or len(words) < 3:
        return False
    if language == "en" or (_WRITTEN_IN[language] != {"latin"} and "en" in also_sung):
        return _is_other_latin(words)
    return _WRITTEN_IN[language] != {"latin"} and not also_sung


def count_scripts(text: str) -> dict[str, int]:
    """Count the letters of a text by script: kana, han, hangul, latin, cyrillic, other."""
    counts = {script: len(pattern.findall(text)) for script, pattern in _SCRIPTS.items()}
    num_letters = sum(unicodedata.category(char)[0] == "L" for char in text)
    return {**counts, "other": max(0, num_letters - sum(counts.values()))}


def is_kanaless(texts: Sequence[str]) -> bool:
    """Whether a whole track, of three lines in Chinese characters at least, has no kana: then it is not Japanese."""
    counts = [count_scripts(text) for text in texts]
    num_han = sum(2 * line["han"] > sum(line.values()) for line in counts)
    return num_han >= 3 and not any(line["kana"] for line in counts)


def _is_chinese(text: str, counts: dict[str, int], max_kanaless_han: int | None) -> bool:
    """Characters or words that only Chinese has, or too many without a single kana."""
    num_simplified = sum(map(_is_simplified, text))
    if counts["kana"] and num_simplified:
        return 5 * num_simplified >= counts["han"] + counts["kana"]
    if counts["kana"]:
        return False
    is_long = max_kanaless_han is not None and counts["han"] > max_kanaless_han
    return num_simplified > 0 or is_long or _CHINESE.search(text) is not None


@lru_cache(maxsize=8192)
def _is_simplified(char: str) -> bool:
    """Whether mainland China's character set of 1980 has a character and Japan's does not."""
    return _has(char, "gb2312") and not _has(char, "cp932")


def _has(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _is_other_latin(words: Sequence[str]) -> bool:
    """Whether words in Latin letters are rather of another language than English."""
    if sum(not word.isascii() for word in words) >= 2:
        return True
    num_foreign = sum(word in _FOREIGN_WORDS for word in words)
    # One such word among many is a name or a chance.
    return num_foreign * 5 >= len(words) and num_foreign > sum(word in _ENGLISH_WORDS for word in words)
