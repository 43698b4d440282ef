"""Kana, mora by mora: how each is spelt in Hepburn, and what the mouth does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

GEMINATE, NASAL, PROLONGED = "っ", "ん", "ー"
MELISMA = "_"
"""Stands for a note that prolongs the syllable before."""

_ROWS = {
    "": "あいうえお", "k": "かきくけこ", "s": "さ・すせそ", "t": "た・・てと", "n": "なにぬねの", "h": "はひ・へほ",
    "m": "まみむめも", "y": "や・ゆ・よ", "r": "らりるれろ", "w": "わ・・・・", "g": "がぎぐげご", "z": "ざ・ずぜぞ",
    "d": "だ・・でど", "b": "ばびぶべぼ", "p": "ぱぴぷぺぽ",
}  # fmt: skip
_CONTRACTED = {
    "き": "ky", "し": "sh", "ち": "ch", "に": "ny", "ひ": "hy", "み": "my", "り": "ry", "ぎ": "gy", "じ": "j",
    "び": "by", "ぴ": "py",
}  # fmt: skip
_OTHERS = {
    "し": "shi", "ち": "chi", "つ": "tsu", "ふ": "fu", "じ": "ji", "ぢ": "ji", "づ": "zu", "を": "o", "ゔ": "vu",
    "しぇ": "she", "ちぇ": "che", "じぇ": "je", "てぃ": "ti", "でぃ": "di", "とぅ": "tu", "どぅ": "du", "うぃ": "wi",
    "うぇ": "we", "うぉ": "wo", "ふぁ": "fa", "ふぃ": "fi", "ふぇ": "fe", "ふぉ": "fo", "ゔぁ": "va", "ゔぃ": "vi",
    "ゔぇ": "ve", "ゔぉ": "vo", "つぁ": "tsa", "つぇ": "tse", "つぉ": "tso", "いぇ": "ye", "ふゅ": "fyu", "でゅ": "dyu",
    "ゐ": "i", "ゑ": "e", "ぁ": "a", "ぃ": "i", "ぅ": "u", "ぇ": "e", "ぉ": "o", "ゃ": "ya", "ゅ": "yu", "ょ": "yo",
}  # fmt: skip


def _table() -> dict[str, str]:
    table = {
        kana: consonant + vowel
        for consonant, row in _ROWS.items()
        for kana, vowel in zip(row, "aiueo", strict=True)
        if kana != "・"
    }
    for kana, consonant in _CONTRACTED.items():
        table |= {kana + small: consonant + vowel for small, vowel in zip("ゃゅょ", "auo", strict=True)}
    return table | _OTHERS


HEPBURN = _table()
"""Every mora with a vowel, in hiragana; a small letter by itself counts as its large one."""
_PAIR = re.compile("|".join(sorted((kana for kana in HEPBURN if len(kana) == 2), reverse=True)) + "|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mora:
    """What is sung in one beat of the language."""

    kana: str
    """In hiragana; `ー` prolongs the one before."""
    consonant: str
    """As Hepburn spells it; `N` for the nasal, `Q` for the stop of a double consonant."""
    vowel: str
    """One of `aiueo`, or nothing for `N`, `Q` and a prolonged sound."""


def to_hiragana(text: str) -> str:
    """Turn katakana into hiragana and leave the rest."""
    return "".join(chr(ord(char) - 0x60) if "ァ" <= char <= "ヶ" else char for char in text)


def to_katakana(text: str) -> str:
    """Turn hiragana into katakana and leave the rest."""
    return "".join(chr(ord(char) + 0x60) if "ぁ" <= char <= "ゖ" else char for char in text)


def split_morae(text: str) -> list[Mora]:
    """Cut kana into morae.

    Raises:
        ValueError: a character that is no kana.
    """
    return [_mora(kana) for kana in _PAIR.findall(to_hiragana(text))]


def _mora(kana: str) -> Mora:
    if kana in (MELISMA, PROLONGED):
        return Mora(PROLONGED, "", "")
    if kana in (NASAL, GEMINATE):
        return Mora(kana, "N" if kana == NASAL else "Q", "")
    if kana not in HEPBURN:
        raise ValueError(f"{kana!r} is not a mora")
    return Mora(kana, HEPBURN[kana][:-1], HEPBURN[kana][-1])


def to_hepburn(text: str, following: str = "") -> str:
    """Spell kana in Hepburn.

    Args:
        text: morae of one note.
        following: what is sung next, which decides how a final small tsu is spelt.
    """
    return "".join(_spell(split_morae(text), split_morae(following)))


def _spell(morae: list[Mora], following: list[Mora]) -> Iterator[str]:
    for mora, after in zip(morae, [*morae[1:], *following[:1], None], strict=False):
        if mora.consonant == "Q":
            yield {"c": "t"}.get(initial := after.consonant[:1] if after else "", initial)
        else:
            yield {"N": "n"}.get(mora.consonant, mora.consonant) + mora.vowel


def to_scat(text: str) -> str:
    """Spell a scat syllable in Latin letters as arrangers write it: ラ is LA, ブン is BUM."""
    return to_hepburn(text).upper().replace("R", "L").replace("BUN", "BUM")
