"""Hepburn romaji and kana: readings in katakana of texts that say themselves how they sound."""

from __future__ import annotations

import re
import unicodedata

VOWELS = "aiueo"
_ROWS = {
    "": "アイウエオ",
    "k": "カキクケコ",
    "s": "サ・スセソ",
    "t": "タ・・テト",
    "n": "ナニヌネノ",
    "h": "ハヒ・ヘホ",
    "m": "マミムメモ",
    "y": "ヤ・ユ・ヨ",
    "r": "ラリルレロ",
    "w": "ワ・・・ヲ",
    "g": "ガギグゲゴ",
    "z": "ザ・ズゼゾ",
    "d": "ダ・・デド",
    "b": "バビブベボ",
    "p": "パピプペポ",
}
_GLIDES = {"k": "キ", "n": "ニ", "h": "ヒ", "m": "ミ", "r": "リ", "g": "ギ", "b": "ビ", "p": "ピ"}
_SMALL = {"a": "ャ", "u": "ュ", "o": "ョ"}
_OTHERS = {
    "shi": "シ",
    "chi": "チ",
    "tsu": "ツ",
    "fu": "フ",
    "ji": "ジ",
    "ti": "ティ",
    "di": "ディ",
    "vu": "ヴ",
    "wi": "ウィ",
    "we": "ウェ",
    "she": "シェ",
    "che": "チェ",
    "je": "ジェ",
    **{
        f"{head}{vowel}": kana + small
        for head, kana in (("sh", "シ"), ("ch", "チ"), ("j", "ジ"))
        for vowel, small in _SMALL.items()
    },
    **{
        f"{head}{vowel}": kana + small
        for head, kana in (("f", "フ"), ("ts", "ツ"), ("v", "ヴ"))
        for vowel, small in zip("aieo", "ァィェォ", strict=True)
    },
}
MORAE: dict[str, str] = {
    **{
        head + vowel: kana
        for head, row in _ROWS.items()
        for vowel, kana in zip(VOWELS, row, strict=True)
        if kana != "・"
    },
    **{f"{head}y{vowel}": kana + small for head, kana in _GLIDES.items() for vowel, small in _SMALL.items()},
    **_OTHERS,
}
"""Mora in Hepburn to katakana, with the sounds of loan words that Hepburn writes without doubt."""
JAPANESE = re.compile(r"[\u3005\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\u3400-\u9fff\uff66-\uff9f]")
KANA = re.compile(r"[\u30a1-\u30faー]+")
NOT_SOUNDED = re.compile(r"[\s、。，．・,.!?！？「」『』（）()…‥:;\"“”*♪☆★]+")
LONG_MARKS = str.maketrans("〜～~―", "ーーーー")
DOUBLED = frozenset("kstpcgdbzjfhr")


def is_japanese(text: str) -> bool:
    """Whether anything in a text is written in kana or kanji."""
    return JAPANESE.search(text) is not None


def kana_of(text: str) -> str | None:
    """The katakana of a text that is all kana.

    Returns:
        Katakana without spaces and punctuation; None where the text holds anything else.
    """
    folded = NOT_SOUNDED.sub("", unicodedata.normalize("NFKC", text.translate(LONG_MARKS)))
    katakana = "".join(chr(ord(letter) + 0x60) if "\u3041" <= letter <= "\u3096" else letter for letter in folded)
    return katakana if KANA.fullmatch(katakana) else None


def romaji_to_kana(text: str) -> str | None:
    """Read Hepburn romaji: long vowels with macron or circumflex, n', doubled consonants, one mora a word or many.

    Returns:
        Katakana; None where any word is no romaji.
    """
    folded = NOT_SOUNDED.sub(" ", unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("-", ""))
    words = [word for word in folded.split() if word != "'"]
    read = [_read_word(word, words[n + 1] if n + 1 < len(words) else "") for n, word in enumerate(words)]
    return "".join(kana for kana in read if kana) if read and None not in read else None


def _read_word(word: str, following: str) -> str | None:
    letters, is_long = _fold_long(word)
    kana, at = "", 0
    while at < len(letters):
        step = _read_mora(letters, at, following)
        if step is None:
            return None
        mora, length = step
        kana += mora + ("ー" if is_long[at + length - 1] else "")
        at += length
    return kana


def _fold_long(word: str) -> tuple[str, list[bool]]:
    """Letters without macron and circumflex, and which of them had one."""
    letters, is_long = "", list[bool]()
    for letter in unicodedata.normalize("NFD", word):
        if letter in "\u0304\u0302" and letters:
            is_long[-1] = True
        else:
            letters += letter
            is_long.append(False)
    return letters, is_long


def _read_mora(letters: str, at: int, following: str) -> tuple[str, int] | None:
    for length in (3, 2, 1):
        mora = MORAE.get(letters[at : at + length])
        if mora is not None and at + length <= len(letters):
            return mora, length
    head, rest = letters[at], letters[at + 1 :]
    if head == "n":
        return "ン", 2 if rest.startswith("'") else 1
    if head == "m" and (rest or following)[:1] in {"b", "p", "m"}:
        return "ン", 1
    if head in DOUBLED and ((rest or following)[:1] == head or (head == "t" and (rest or following)[:2] == "ch")):
        return "ッ", 1
    return None
