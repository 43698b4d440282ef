"""Scat: syllables that are sung for their sound, in Latin letters or in kana.

Script cannot tell it from words, so two things must come together: every syllable of the phrase lies in a closed
inventory, and the phrase shows that it means nothing, by a syllable that no word has (doo, ドゥ), by a pair that only
scat knows (ダバ), or by one light syllable sung three times over (ラララ). Words that double themselves, such as
ぽっぽっぽ, パパ and トントントン, lack one or the other.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby, pairwise
from typing import NamedTuple

from pipeline.lyrics.romaji import LONG_MARKS, MORAE, NOT_SOUNDED, is_japanese, kana_of


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ROWS = {
    "": "ア イ ウ エ オ",
    "b": "バ ビ ブ ベ ボ",
    "d": "ダ ディ ドゥ デ ド",
    "l": "ラ リ ル レ ロ",
    "r": "ラ リ ル レ ロ",
    "n": "ナ ニ ヌ ネ ノ",
    "p": "パ ピ プ ペ ポ",
    "t": "タ ティ トゥ テ ト",
    "w": "ワ ウィ ウ ウェ ウォ",
    "y": "ヤ イ ユ イェ ヨ",
    "z": "ザ ジ ズ ゼ ゾ",
    "f": "ファ フィ フ フェ フォ",
    "j": "ジャ ジ ジュ ジェ ジョ",
    "sh": "シャ シ シュ シェ ショ",
    "sk": "スカ スキ スク スケ スコ",
    "tr": "トゥラ トゥリ トゥル トゥレ トゥロ",
    "dw": "ドゥワ ドゥウィ ドゥ ドゥウェ ドゥウォ",
    "zw": "ズワ ズウィ ズ ズウェ ズウォ",
}
_VOWELS = {
    "a": ("a", "ah", "aa", "aah"),
    "i": ("i", "ee", "ii"),
    "u": ("u", "oo", "ooh", "uu", "ou"),
    "e": ("e", "eh"),
    "o": ("o", "oh"),
}
_CLOSED = _words(
    "bop bap bip bam bom bum bim ban boom dop dap dip dit dut dum dub dun dan dah doot doop dooby doobie doom din "
    "wop wap whop wom shap shop shoop shoom skat scat zum zoom jum lan lun lum pum pom pam tum tut toot tam ting "
    "ram rum rap dim dam nan num yum yap yup dat"
)
"""Syllables with an end, of which only these are scat."""
_SPELLED = (
    ("mm", "ン", ""),
    ("hm", "ン", ""),
    ("dm", "ドゥ", "ン"),
    ("dn", "ドゥ", "ン"),
    ("bm", "ブ", "ン"),
    ("hoo", "フ", "ー"),
)
_HITS = (("tsu", "ツ"), ("ts", "ツ"), ("tss", "ツ"), ("ka", "カ"), ("kah", "カ"), ("chi", "チ"), ("chk", "チ"))
"""Cymbals and snares of a vocal percussionist."""
_ALONE = (("ku", "ク"), ("k", "ク"), ("t", "トゥ"))
"""Hits that are no part of a longer word; also romaji, so that only a beat of them shows scat."""
BEATS = frozenset(_words("tuku tsk tska tk dugu bts tka"))
"""Two hits that are scat when they come again, without a space."""
VOCABLES = frozenset(_words("ah aah aaah uh oh ooh wo woah whoa"))
"""Calls that mean nothing when there is nothing else, more than once."""
MIN_STRAY_SYLLABLES = 8
"""A phrase of so many may have one syllable beyond the inventory."""
_WEAK = frozenset(
    _words(
        "a i o oh ah eh be bee do to too no we woo boo tee yo ye yah you fee fa shop zoom rap rum dip boom ram dam dim "
        "tut pop ban dan bum yum tip pan din doom tam"
    )
)
"""Syllables that are English words or calls: they go along with scat, and never show it."""
_SINGLE_WORDS = frozenset(_words("banana bandana papa papaya data dada baba nana tara lara nanny lulu dandy tutor"))
MARKED_CORES = frozenset({"ドゥ", "トゥ", "デュ", "ドゥワ", "トゥラ", "トゥル", "トゥリ"})
LIGHT_CORES = frozenset("ラルナダバパ")
RUN_CORES = frozenset("ラル")
SCAT_CORES = frozenset(
    _words(
        "ラ リ ル レ ロ ダ ディ デ ド ドゥ デュ バ ビ ブ ベ ボ パ ナ タ ティ トゥ "
        "ワ ウィ ヤ シャ シュ シェ ジャ ジュ ザ ズ ファ ン"
    )
)
PAIR_CORES = frozenset(_words("ダ バ ラ ル リ シャ シュ ビ ド デ ベ パ ワ ヤ ウィ ディ ブ ボ ジャ ズ"))
PAIRS = {("ダ", "バ"): 3, ("バ", "ダ"): 3, ("シャ", "バ"): 3, ("シュ", "ビ"): 4, ("パ", "ヤ"): 4}
"""Neighbours that scat alone has, and how many syllables the phrase needs for them to tell."""
SILENT_E = re.compile(r".{2,}[rnltpf]e")
"""Words that end like this are English: line, future."""
HUMMED = frozenset({"ン"})
HELD = frozenset({"ア", "ウ", "オ"})
MIN_REPEATS = 3
KANA_RUN = re.compile(r"([\u3041-\u3096\u30a1-\u30fe\uff66-\uff9f〜～]+)")
KANA_GROUP = re.compile(r"([\u30a2\u30a4\u30a6\u30a8\u30aa-\u30f4][ァィゥェォャュョ]?)([ーッン]*)")
DO_BE = ((re.compile(r"\bdo(?=[\s-]+be\b)"), "doo"), (re.compile(r"(?<=\bbe)([\s-]+)do\b"), r"\1doo"))
"""Two English words that are none side by side."""


class Syllable(NamedTuple):
    """A syllable of scat in katakana."""

    core: str
    tail: str
    """What closes or prolongs it."""
    is_marked: bool
    """No word sounds like it."""
    is_weak: bool
    """It may as well be a word."""
    is_stray: bool = False
    """It lies beyond the inventory."""


def is_scat(text: str) -> bool:
    """Whether a phrase is scat from beginning to end; one word in it, and it is not, if it is short."""
    syllables = _syllables(text)
    if not syllables or _is_word(text):
        return False
    words = [] if is_japanese(text) else _latin_words(text)
    if any(word in ALONE for word in words):
        return _is_beat(words)
    if len(words) > 1 and VOCABLES.issuperset(words):
        return True
    weak = sum(syllable.is_weak for syllable in syllables)
    if 2 * weak > len(syllables) or (2 * weak == len(syllables) and len(syllables) < 4):
        return False
    signs = (_is_marked, _has_pair, _has_run, _is_held, _is_drummed)
    known = [syllable for syllable in syllables if not syllable.is_stray]
    return any(sign(known) for sign in signs)


def to_kana(text: str) -> str | None:
    """Write scat in katakana: LABADADA is ラバダダ, doo is ドゥー.

    Returns:
        Katakana of any text in kana; None where one in Latin letters is not made of the syllables of scat.
    """
    kana = kana_of(text)
    if kana is None and (syllables := _syllables(text)):
        return "".join(syllable.core + syllable.tail for syllable in syllables)
    return kana


def _syllables(text: str) -> list[Syllable]:
    """Syllables of a text; none where anything in it is beyond the inventory, but for one of many."""
    found = list[Syllable]()
    for piece in KANA_RUN.split(text):
        words = [piece] if is_japanese(piece) else _latin_words(piece)
        for word in words:
            split = _split_kana(word) if is_japanese(word) else _split_word(word) or _stray(word)
            if not split:
                return []
            found += split
    num_stray = sum(syllable.is_stray for syllable in found)
    return found if num_stray == 0 or (num_stray == 1 and len(found) >= MIN_STRAY_SYLLABLES) else []


def _stray(word: str) -> list[Syllable]:
    """A word of one syllable that can be read; one letter is none."""
    kana = MORAE.get(word) if len(word) > 1 else None
    return [Syllable(kana, "", False, True, True)] if kana else []


def _split_kana(text: str) -> list[Syllable]:
    kana = kana_of(text) or ""
    found = [Syllable(m[1], m[2], m[1] in MARKED_CORES, False) for m in KANA_GROUP.finditer(kana)]
    if "".join(syllable.core + syllable.tail for syllable in found) != kana:
        return []
    found = [one if _is_listed(one) else one._replace(is_weak=True, is_stray=True) for one in found]
    # What stands at an end is a particle or begins a word.
    has_word = any(syllable.is_stray for syllable in [*found[:1], *found[-1:]])
    return [] if has_word else found


def _is_listed(syllable: Syllable) -> bool:
    # Vowels are scat where they are held; うたおう is a word.
    return syllable.core in SCAT_CORES or (syllable.core in HELD and "ー" in syllable.tail)


def _latin_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text.translate(LONG_MARKS)).lower()
    for pattern, spelling in DO_BE:
        folded = pattern.sub(spelling, folded)
    return [word for word in re.split(r"[\s\-–ー'’]+", NOT_SOUNDED.sub(" ", folded)) if word]


def _latin_syllables() -> dict[str, Syllable]:
    table: dict[str, Syllable] = {}
    for head, row in _ROWS.items():
        for (vowel, spellings), core in zip(_VOWELS.items(), row.split(), strict=True):
            for n, spelling in enumerate(spellings):
                text = head + spelling
                is_marked = core in MARKED_CORES or (head in {"l", "tr", "sk", "dw", "zw"} and vowel in "aiu")
                is_marked = is_marked or text in {"ooh", "aah", "wah", "dah", "bah", "shoo"}
                table[text] = Syllable(core, "ー" if n else "", is_marked and text not in _WEAK, text in _WEAK)
    for text in _CLOSED:
        table[text] = _closed(text, table)
    table |= {text: Syllable(core, tail, True, False) for text, core, tail in _SPELLED}
    table |= {text: Syllable(core, "", False, False) for text, core in _HITS}
    table |= {"hey": Syllable("ヘ", "イ", False, True), "uh": Syllable("ア", "ー", False, True)}
    table |= dict.fromkeys(("woah", "whoa"), Syllable("ウォ", "ー", False, True))
    return table


def _closed(text: str, table: dict[str, Syllable]) -> Syllable:
    if text in {"dooby", "doobie"}:
        return Syllable("ドゥ", "ービー", True, False)
    spelled = text.replace("wh", "w").replace("sc", "sk")
    end = "ng" if spelled.endswith("ng") else spelled[-1]
    open_ = table[spelled.removesuffix(end)] if end != "h" else table[spelled]
    ends = {"m": "ン", "n": "ン", "ng": "ン", "h": "", "p": "プ", "t": "ト", "b": "ブ"}
    is_stopped = end in {"p", "t"} and not open_.tail
    return Syllable(open_.core, open_.tail + ("ッ" if is_stopped else "") + ends[end], text not in _WEAK, text in _WEAK)


LATIN = _latin_syllables()
ALONE = {text: Syllable(core, "", False, True) for text, core in _ALONE}
LATIN_SPELLINGS = sorted(LATIN, key=len, reverse=True)


def _split_word(word: str) -> list[Syllable]:
    """Syllables of a word by the longest spelling that leaves a rest which can be read; none where it cannot."""
    squeezed = re.sub(r"(m)\1{2,}", "mm", re.sub(r"([aou])\1{2,}", r"\1\1", word))
    if squeezed in {"a", "i", "o"}:
        return [LATIN[squeezed]]
    if squeezed in ALONE:
        return [ALONE[squeezed]]
    if SILENT_E.fullmatch(squeezed):
        return []
    reach: list[list[Syllable] | None] = [[], *([None] * len(squeezed))]
    for end in range(1, len(squeezed) + 1):
        for spelling in LATIN_SPELLINGS:
            before = reach[end - len(spelling)] if len(spelling) <= end else None
            is_vowel = spelling in {"a", "i", "u", "e", "o"}
            if before is not None and squeezed.endswith(spelling, 0, end) and not is_vowel:
                reach[end] = [*before, LATIN[spelling]]
                break
    return reach[-1] or []


def _is_beat(words: list[str]) -> bool:
    """Two hits in turn, and again: tu ku tu ku."""
    return len(words) >= 4 and "".join(words[:2]) in BEATS and words == (words[:2] * len(words))[: len(words)]


def _is_word(text: str) -> bool:
    """One word of two different syllables, or a known one: too little to tell."""
    words = [] if is_japanese(text) else _latin_words(text)
    if len(words) != 1:
        return False
    cores = [syllable.core for syllable in _split_word(words[0])]
    return words[0] in _SINGLE_WORDS or (len(cores) == 2 and cores[0] != cores[1])


def _is_marked(syllables: list[Syllable]) -> bool:
    """Syllables that no word has; トゥ in kana also begins トゥルー, so that one must not stand with one other."""
    marked = [syllable for syllable in syllables if syllable.is_marked]
    if not marked:
        return False
    only_tu = all(syllable.core == "トゥ" for syllable in marked)
    return not (only_tu and len(marked) == 1 and len(syllables) == 2)


def _has_pair(syllables: list[Syllable]) -> bool:
    cores = [syllable.core for syllable in syllables]
    return set(cores) <= PAIR_CORES and any(len(cores) >= PAIRS.get(pair, len(cores) + 1) for pair in pairwise(cores))


def _has_run(syllables: list[Syllable]) -> bool:
    """ラララ, ルララ; with ン only ランランラン, since バンバンバン and ルンルンルン are words."""
    cores = [syllable.core for syllable in syllables]
    if set(cores) <= RUN_CORES and len(cores) >= MIN_REPEATS:
        return not all(syllable.core == "ル" and "ン" in syllable.tail for syllable in syllables)
    runs = [(core, list(run)) for core, run in groupby(syllables, key=lambda syllable: syllable.core)]
    return any(
        core in LIGHT_CORES
        and len(run) >= MIN_REPEATS
        and not any(set(syllable.tail) & set("ンッ") for syllable in run[:-1])
        for core, run in runs
    )


def _is_held(syllables: list[Syllable]) -> bool:
    """Humming, and vowels that are held, more than once."""
    cores = {syllable.core for syllable in syllables}
    if cores <= HUMMED:
        return len(syllables) > 1 or bool(syllables[0].tail)
    return len(syllables) > 1 and cores <= HELD and all("ー" in syllable.tail for syllable in syllables)


def _is_drummed(syllables: list[Syllable]) -> bool:
    """Vocal percussion: a drum, closed by ン so that ぶつかる is none, and a cymbal or snare."""
    has_drum = any(syllable.core in {"ブ", "ボ", "ドゥ"} and "ン" in syllable.tail for syllable in syllables)
    return (
        has_drum and len(syllables) >= MIN_REPEATS and any(core == hit.core for _, core in _HITS for hit in syllables)
    )
