"""How Japanese is sung: the reading in katakana, its phonemes and its moras.

The reading comes from OpenJTalk's dictionary by pyopenjtalk-plus (MIT; the dictionary inside its wheel is NAIST-jdic
and UniDic, BSD), which needs no network. The phonemes are made from the reading by a table, so that the two always
agree: OpenJTalk's set, without devoiced vowels, since whoever sings voices them, and without pauses, since a score or
a recording knows those better.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pipeline.lyrics.romaji import romaji_to_kana
from pipeline.lyrics.scat import to_kana


def _table(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# Rows of the syllabary in the order of their vowels; a dot where a row has none.
_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "s": "サ.スセソ", "t": "タ..テト", "n": "ナニヌネノ", "h": "ハヒ.ヘホ",
    "m": "マミムメモ", "y": "ヤ.ユ.ヨ", "r": "ラリルレロ", "w": "ワ....", "g": "ガギグゲゴ", "z": "ザ.ズゼゾ",
    "d": "ダ..デド", "b": "バビブベボ", "p": "パピプペポ", "sh": ".シ...", "ch": ".チ...", "ts": "..ツ..",
    "f": "..フ..", "j": ".ジ...", "v": "..ヴ..",
}  # fmt: skip
_PAIRS = _table(
    """
    kya キャ  kyu キュ  kye キェ  kyo キョ  gya ギャ  gyu ギュ  gye ギェ  gyo ギョ  sha シャ  shu シュ
    she シェ  sho ショ  ja ジャ  ju ジュ  je ジェ  jo ジョ  cha チャ  chu チュ  che チェ  cho チョ
    nya ニャ  nyu ニュ  nye ニェ  nyo ニョ  hya ヒャ  hyu ヒュ  hye ヒェ  hyo ヒョ  bya ビャ  byu ビュ
    bye ビェ  byo ビョ  pya ピャ  pyu ピュ  pye ピェ  pyo ピョ  mya ミャ  myu ミュ  mye ミェ  myo ミョ
    rya リャ  ryu リュ  rye リェ  ryo リョ  ti ティ  tu トゥ  tya テャ  tyu テュ  tyo テョ  di ディ
    du ドゥ  dya デャ  dyu デュ  dyo デョ  fa ファ  fi フィ  fe フェ  fo フォ  va ヴァ  vi ヴィ  ve ヴェ
    vo ヴォ  tsa ツァ  tsi ツィ  tse ツェ  tso ツォ  si スィ  zi ズィ  wi ウィ  we ウェ  wo ウォ  ye イェ
    kwa クヮ  gwa グヮ
    """
)
_SAME = _table(
    """
    ヂ ジ  ヅ ズ  ヲ オ  ヰ イ  ヱ エ  ヵ カ  ヶ ケ  クァ クヮ  グァ グヮ  ヂャ ジャ  ヂュ ジュ  ヂョ ジョ  ヂェ ジェ
    ヷ ヴァ  ヸ ヴィ  ヹ ヴェ  ヺ ヴォ
    """
)
"""Moras that sound like others."""
_SMALL = "ァィゥェォャュョヮ"
_FULL_SIZE = dict(zip(_SMALL, "アイウエオヤユヨワ", strict=True))
_MORA = re.compile(rf"[ァ-ヺ](?<![{_SMALL}ッン])[{_SMALL}]?|[{_SMALL}ッンー]")
_KANA = re.compile("[ァ-ヺー]+")
_KANJI = "々〆〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_READABLE = re.compile(rf"[ぁ-ゖゝゞァ-ヺー-ヾ{_KANJI}0-9０-９%％]+")
_SILENT = re.compile(r"[\s、。・,.!?！？「」『』()（）'’~〜…-]+")
_PARTICLES = {"ハ": "ワ", "ヘ": "エ", "ヲ": "オ"}
_BEFORE_NOUNS = {
    "",
    "な",
    "この",
    "その",
    "あの",
    "どの",
    "こんな",
    "そんな",
    "あんな",
    "どんな",
    "わが",
    "ある",
    "あらゆる",
}
_LETTER_NAMES = {
    "a": "エー|エイ", "b": "ビー", "c": "シー", "d": "ディー", "e": "イー", "f": "エフ", "g": "ジー",
    "h": "エイチ|エッチ", "i": "アイ", "j": "ジェー|ジェイ", "k": "ケー|ケイ", "l": "エル", "m": "エム", "n": "エヌ",
    "o": "オー", "p": "ピー", "q": "キュー", "r": "アール", "s": "エス", "t": "ティー", "u": "ユー", "v": "ブイ|ヴイ",
    "w": "ダブリュー", "x": "エックス", "y": "ワイ", "z": "ゼット|ズィー",
}  # fmt: skip
MAX_INITIALS = 4
"""Capitals in a row that are sung letter by letter (OK, DJ, ABC); longer words in capitals are words."""


def _phoneme_table() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {"ン": ("N",), "ッ": ("cl",)}
    for consonant, kana in _ROWS.items():
        for vowel, letter in zip("aiueo", kana, strict=True):
            table[letter] = (consonant, vowel) if consonant else (vowel,)
    table |= {kana: (roman[:-1], roman[-1]) for roman, kana in _PAIRS.items()}
    table |= {kana: table[other] for kana, other in _SAME.items()}
    del table["."]
    return table


PHONEMES = _phoneme_table()
"""Phonemes of every mora but ー, which repeats the vowel before it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is sung."""

    kana: str
    """Katakana without spaces or punctuation."""
    phonemes: tuple[str, ...]
    unknown: Mapping[str, int]
    """What could not be read, words and signs, with how often each came."""


def read_kana(text: str, *, is_sounding: bool = False) -> Reading:
    """Read a text.

    Text with kanji is read by the dictionary, long vowels as ー. Text of kana alone stays letter for letter, since its
    letters are the notes of a score; only the particles は, へ and を become ワ, エ and オ.

    Args:
        text: cleaned lyrics.
        is_sounding: the text is spelled as it sounds, particles included, as in scores for singing synthesis.
    """
    unknown: Counter[str] = Counter()
    kana = ""
    normal = _plain_numbers(unicodedata.normalize("NFKC", text))
    at = 0
    for match in _READABLE.finditer(normal):
        unknown.update(_unread(normal[at : match.start()]))
        kana += _read_run(match[0], is_sounding, unknown)
        at = match.end()
    unknown.update(_unread(normal[at:]))
    return Reading(kana, to_phonemes(kana), dict(sorted(unknown.items())))


def _plain_numbers(text: str) -> str:
    """Write 1,000 and 2.5 as the dictionary knows them: 1000 and 2点5; nought is れい there."""
    text = re.sub(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])", lambda number: number[0].replace(",", ""), text)
    return re.sub(
        r"(?<![\d.])(\d+)\.(?=\d+(?![\d.]))", lambda number: ("れい" if number[1] == "0" else number[1]) + "点", text
    )


def _unread(between: str) -> list[str]:
    """Words and signs between stretches that can be read; what is silent anyway is none."""
    return [part for part in re.findall(r"[^\W_]+|[\W_]", _SILENT.sub(" ", between)) if part.strip()]


def _read_run(run: str, is_sounding: bool, unknown: Counter[str]) -> str:
    plain = to_katakana(run)
    if _KANA.fullmatch(plain):
        return plain if is_sounding else _read_particles(run, plain)
    kana = ""
    for surface, _, pron in _words(run):
        if _KANA.fullmatch(pron):
            kana += pron.replace("ヲ", "オ")
        else:
            kept = "".join(_KANA.findall(to_katakana(surface)))
            unknown.update(letter for letter in surface if not _KANA.fullmatch(to_katakana(letter)))
            kana += kept
    return kana


def _read_particles(run: str, plain: str) -> str:
    """Put は, へ and を where they are particles as they sound, and leave every other letter as it is."""
    if not any(letter in _PARTICLES for letter in plain):
        return plain
    sung, before = "", ""
    for surface, read, pron in _words(run):
        spelled = to_katakana(surface)
        if len(spelled) == len(read) == len(pron):
            # No particle begins a phrase, or follows what must stand before a noun.
            bare = before in _BEFORE_NOUNS
            letters = zip(range(len(spelled)), spelled, pron, strict=True)
            spelled = "".join(b if _PARTICLES.get(a) == b and (n or not bare) else a for n, a, b in letters)
        sung, before = sung + spelled, surface
    # Where the dictionary took the text apart in a way that does not give it back, it is left alone.
    sung = sung.replace("ヲ", "オ")
    as_written = plain.replace("ヲ", "オ")
    same = len(sung) == len(plain) and all(b in (a, _PARTICLES.get(a)) for a, b in zip(as_written, sung, strict=True))
    return sung if same else as_written


@lru_cache(maxsize=65536)
def _words(run: str) -> tuple[tuple[str, str, str], ...]:
    """Words by the dictionary: as written, as read, as pronounced."""
    import pyopenjtalk

    with warnings.catch_warnings():
        # pyopenjtalk-plus calls SudachiPy by a name that is on its way out.
        warnings.filterwarnings("ignore", "Dictionary.create", DeprecationWarning)
        # Without its model of 何: whether that runs depends on what else is installed.
        nodes = pyopenjtalk.run_frontend(run, predict_nani=False)
    return tuple((node["string"], node["read"].replace("’", ""), node["pron"].replace("’", "")) for node in nodes)


def to_katakana(text: str) -> str:
    """Write hiragana as katakana, and ゝ ヽ ゞ ヾ as what they repeat; other letters stay."""
    kana = ""
    for letter in text:
        if letter in "ゝヽ" and kana:
            kana += unicodedata.normalize("NFD", kana[-1])[0]
        elif letter in "ゞヾ" and kana:
            kana += unicodedata.normalize("NFC", unicodedata.normalize("NFD", kana[-1])[0] + "\u3099")
        else:
            kana += chr(ord(letter) + 0x60) if "ぁ" <= letter <= "ゖ" else letter
    return kana


def to_phonemes(kana: str) -> tuple[str, ...]:
    """Write a reading in OpenJTalk's phonemes.

    Args:
        kana: katakana or hiragana; other letters are passed over.
    """
    phonemes: list[str] = []
    vowel = ""
    for mora in moras(kana):
        if mora == "ー":
            sounds = (vowel,) if vowel else ()
        else:
            sounds = PHONEMES.get(mora) or tuple(
                sound for letter in mora for sound in PHONEMES.get(_FULL_SIZE.get(letter, letter), ())
            )
        phonemes += sounds
        vowel = sounds[-1] if sounds and sounds[-1] in "aiueo" else "" if mora != "ー" else vowel
    return tuple(phonemes)


def moras(kana: str) -> list[str]:
    """Cut kana into moras, in katakana: ッ, ン and ー are one each, a small vowel or ャュョ belongs to its mora."""
    return _MORA.findall(to_katakana(kana))


def count_moras(kana: str) -> int:
    """Number of moras of a text; letters that are not kana count none."""
    return len(moras(kana))


def unknown_share(unknown: Mapping[str, int], num_moras: int) -> float:
    """Share of what was to be read that could not be: unknown letters over those and all moras, 0 to 1."""
    num_unknown = sum(len(word) * number for word, number in unknown.items())
    return num_unknown / max(num_unknown + num_moras, 1)


def transliterate_word(word: str) -> str | None:
    """Write a word in Latin letters in katakana, by the dictionary, as romaji, or as scat.

    Returns:
        None for a word that neither knows: the dictionary would spell it, and nobody sings that.
    """
    letters = word.replace("'", "")
    if not re.fullmatch("[A-Za-z]+", letters):
        return None
    # The dictionary knows Baby and love, but neither baby nor Love.
    for spelling in dict.fromkeys((letters, letters.capitalize(), letters.lower())):
        words = [(unicodedata.normalize("NFKC", surface).lower(), pron) for surface, _, pron in _words(spelling)]
        is_spelled = any(_is_spelled(surface, pron) for surface, pron in words)
        if not is_spelled or (letters.isupper() and len(letters) <= MAX_INITIALS):
            return "".join(pron for _, pron in words)
    return romaji_to_kana(letters) or to_kana(letters)


def _is_spelled(word: str, pron: str) -> bool:
    """Whether a reading names the letters of a word, or is none at all."""
    names = "".join(f"(?:{_LETTER_NAMES.get(letter, letter)})" for letter in word)
    return bool(re.fullmatch(names, pron)) or not _KANA.fullmatch(pron)
