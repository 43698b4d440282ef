"""Lyrics as they are found, down to what is sung: every removal counted by reason, no song dropped for a phrase.

Bare kana and kanji are never removed: a direction such as 繰り返し counts as one only where a mark, a bracket or a
colon says so, since songs do sing those words; only the notice of a piece without any (纯音乐，请欣赏) goes as it is.
A removal inside a phrase leaves a space where it parted words.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.data.records import Phrase
from pipeline.lyrics.kana import count_moras, read_kana, transliterate_word

Policy = Literal["keep", "drop", "transliterate"]
Step = Callable[[str, Counter[str]], str]

MAX_PASSES = 20
"""A removal may lay bare another mark; each pass takes at least one away, and no line has so many."""
MAX_MORAS_PER_KANJI = 5
"""Of a reading in brackets (志, こころざし); longer words there are an echo, and sung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanParams:
    """Section `lyrics.clean` of params.yaml."""

    other_languages: Policy = "keep"
    """What becomes of words in other scripts than kana and kanji: `keep`, `drop`, or `transliterate` to katakana by
    the dictionary, then as romaji; words that neither knows stay, and are counted. Scat is always kept."""


class Cleaned(NamedTuple):
    """A text after cleaning."""

    text: str
    removed: dict[str, int]
    """How often each reason applied: `ruby`, `repeat_mark`, `credit`, `heading`, `speaker`, `symbol`, `punctuation`,
    `url`, `stamp`, `markup`, `instrumental`, `language`; `transliterated`; and `not_transliterated` for words that
    stay as they are."""
    sounding: str
    """The text with every ruby in the place of what it stands over: 宇宙《そら》 is sung そら."""


# --- letters ---------------------------------------------------------------------------------------------------------

_KANA = "\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe"
_KANJI = "々〆〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# A ruby on its way through the steps: BASE text OVER reading END. Private letters, so that no step takes them apart.
_BASE, _OVER, _END = "\ue000", "\ue001", "\ue002"
_FOREIGN_LETTER = rf"(?:(?![{_KANA}{_KANJI}])[^\W\d_])"
_FOREIGN_WORD = re.compile(rf"{_FOREIGN_LETTER}+(?:['’]{_FOREIGN_LETTER}+)*")
_READING = rf"[{_KANA}・A-Za-z]+"
_OPEN, _CLOSE = r"[(\[{<〈【〔]", r"[)\]}>〉】〕]"
_WAVES, _DASHES = "〜~∼∿〰⁓", "‐‒–—―−─━-"


# --- steps: each maps a line to a line -------------------------------------------------------------------------------


def _normalise(line: str, removed: Counter[str]) -> str:
    """NFKC, but for what it would spoil: 〜, …, ゛ by itself, and signs that it turns into letters (™, ㊗)."""
    line = html.unescape(line).translate({0xFF5E: "〜", 0x2026: "・・・", 0x2025: "・・", 0xFF02: '"'})
    line = re.sub(rf"(?<=[{_KANA}])[゛ﾞ]", "\u3099", line)
    line = re.sub(rf"(?<=[{_KANA}])[゜ﾟ]", "\u309a", line)
    # ㌔ and its like are katakana in a square, and sung.
    spoilt = [
        letter
        for letter in line
        if unicodedata.category(letter) in {"So", "Sk"}
        and unicodedata.normalize("NFKC", letter) != letter
        and not "\u3300" <= letter <= "\u3357"
    ]
    removed["symbol"] += len(spoilt)
    return unicodedata.normalize("NFKC", line.translate({ord(letter): " " for letter in spoilt}))


def _remove(pattern: str, reason: str, *, by: str = " ", flags: re.RegexFlag = re.IGNORECASE) -> Step:
    compiled = re.compile(pattern, flags)

    def step(line: str, removed: Counter[str]) -> str:
        line, number = compiled.subn(by, line)
        removed[reason] += number
        return line

    return step


_WHO = (
    "作詞|作詩|作曲|編曲|訳詞|補作詞|補詞|原詞|原曲|採譜|作词|编曲|监制|制作人|混音(?:师)?|母带(?:工程师)?|录音(?:师|室)?|"
    "出品(?:人)?|发行|企划|统筹|演唱|原唱|翻唱"
)
_WHO_COLON = (
    f"{_WHO}|歌|歌詞|唄|うた|歌手|詞|词|曲|曲名|題名|タイトル|アルバム|アーティスト|演奏|制作|調声|調教|動画|映像|絵|イラスト|"
    "ボーカル|ヴォーカル|ミックス|マスタリング|プロデュース|和声|和音|吉他|贝斯|鼓|键盘|弦乐|人声|出典|収録|発売|"
    "lyrics?|words?|music|lyricist|composer?|arrang(?:er|ement)|producer|artist|singer|title|album|song|vocals?|mix|"
    "mastering|guitars?|bass|drums|piano|keyboards?|strings|illust(?:ration)?|movie|op|sp|isrc"
)
_BY = "lyrics?|words?|music|song|written|composed|arranged|produced|mixed|mastered|performed|sung|translated"
_BETWEEN = r"\s*(?:[/・&、,]|and)\s*"
_NAMES = r"(?:(?:[^\Wa-z_][\w.'’]*+|[&/-]|and\b|feat\b)[\s,、・.]*+)++"
_CREDITS = (
    rf"\s*(?:{_WHO_COLON})(?:{_BETWEEN}(?:{_WHO_COLON}))*\s*[:：].*",
    rf"\s*(?:{_WHO})(?:{_BETWEEN}(?:{_WHO}))*\s+\S.*",
    rf"\s*(?:{_BY})(?:{_BETWEEN}(?:{_BY}))*\s+by\s*[:：].*",
    # Names have capitals; songs sing of music by night.
    rf"\s*(?-i:(?=[A-Z]))(?:{_BY})(?:{_BETWEEN}(?:{_BY}))*\s+by\s+(?-i:{_NAMES})",
    r"\s*(?:©|\(c\)|copyright\b|jasrac\b|nextone\b|all rights reserved).*",
    r".*未经.{0,12}许可.*",
)
_SECTION = (
    r"(?:[a-d]メロ|(?:大|ラス|ラスト|落ち)?サビ|間奏|前奏|後奏|イントロ|アウトロ|エンディング|コーラス|(?:ギター|ピアノ)?ソロ|"
    r"セリフ|せりふ|台詞|語り|ナレーション|ラップ|合いの手|掛け声|手拍子|拍手|歓声|ブリッジ|ヴァース|[0-9一二三四五六七八九十]+番|"
    r"(?:pre|post)?[- ]?chorus|verse|bridge|intro|outro|interlude|inst(?:rumental)?(?: break)?|hook|refrain|"
    r"(?:guitar |piano |sax )?solo|ending|coda|break(?:down)?|drop|rap|spoken|vamp|ad[- ]?libs?|music|silence)"
)
_NUMBER = r"(?:\s*(?:[0-9]+|[ivx]+\b))?"
_HEADING_LINE = (
    rf"\s*(?:(?:pre|post)?[- ]?chorus|verse|bridge|intro|outro|interlude|instrumental|[a-d]メロ){_NUMBER}\s*[:：]?\s*|"
    rf"\s*[#♯■●◆★☆*]\s*{_SECTION}{_NUMBER}\s*|\s*[0-9]+番\s*"
    rf"|\s*[〜~\-—―]+\s*{_SECTION}{_NUMBER}\s*[〜~\-—―]+\s*"
)
# In brackets behind words of the same language these are an echo, and sung.
_ECHO = r"(?<=[a-z,!?] )[(](?:music|silence|drop|break|rap|hook|solo|ending|refrain|drums?)[)]"
_HEADING_INSIDE = (
    rf"(?!{_ECHO}){_OPEN}\s*{_SECTION}{_NUMBER}(?:\s*[:：\-–].*?)?\s*{_CLOSE}|^\s*{_SECTION}{_NUMBER}\s*[:：]"
    r"|^\s*[a-z][0-9]?\s*[:：]|^\s*[(]?[0-9]{1,2}[.)](?![0-9])"
)
# What stands alone in heavy brackets is a heading, whatever it says; before words it names who sings them.
_BRACKETED_LINE = r"^\s*(?:【[^【】]{1,16}】|\[[^\[\]]{1,16}\]|〔[^〔〕]{1,16}〕)\s*$"
_SINGER = "男声?|女声?|男女|全員?|合唱|独唱|二人|ソロ|vo(?:cal)?s?|cho(?:rus)?|all|both|[a-z]"
_SPEAKERS = (
    r"^\s*(?:【[^【】]{1,12}】|\[[^\[\]]{1,12}\]|〔[^〔〕]{1,12}〕)(?=\s*\S)"
    rf"|^\s*[(]\s*(?:{_SINGER})\s*[)]|^\s*(?:{_SINGER})\s*(?=[「『])"
    r"|^\s*[^\W_][\w・&]{0,7}\s*(?:(?<![0-9])[:：]|[:：](?![0-9]))(?=\s*\S)"
)
_AGAIN = r"(?:くりかえし|くり返し|繰り?返し|繰りかえし|リピート|同様|repeat)"
_MARK = "[※*△▲☆★◎○●◇◆□■▽▼#♯]"
_TIMES = r"[x×✕✖╳⨯*]\s?[0-9]{1,2}(?![0-9a-z])(?:\s*回)?"
# Possessive, since a row of marks and spaces could be taken apart in any number of ways.
_REPEATS = (
    rf"{_OPEN}\s*(?:{_MARK}|以下|{_TIMES}|[0-9]{{1,2}}\s*回?|\s)*+{_AGAIN}[^()\[\]【】〔〕]{{0,6}}{_CLOSE}"
    rf"|{_OPEN}?(?>{_MARK}\s*(?:印|[0-9]|[a-z]\b)?[〜~\-\s]*)++{_CLOSE}?\s*(?:を|から|部分|以下)*\s*(?:[0-9]+回)?\s*"
    rf"{_AGAIN}(?![{_KANA}{_KANJI}])(?:\s*(?:{_TIMES}|[0-9]+回))?{_CLOSE}?|^\s*d\.\s?[cs]\.?(?:\s+al\s+(?:fine|coda).*)?\s*$"
    rf"|{_OPEN}\s*(?:{_TIMES}|[0-9]{{1,2}}\s*(?:回|times|x|×))\s*{_CLOSE}|(?<![0-9a-z]){_TIMES}(?![{_KANA}{_KANJI}])|〃"
)
_STAMPS = (
    r"[\[<]\s*(?:[0-9]{1,2}:)?[0-9]{1,3}:[0-9]{1,2}(?:[.:,][0-9]{1,6})?\s*[\]>]"
    r"|\[(?:ar|ti|al|au|by|re|ve|la|length|offset|id|tool|kana|#):[^\]]*\]"
)
_HOST = r"(?<![\w.])(?:by\s+)?[a-z0-9-]+(?:\.[a-z0-9-]+)*"
# Sentences run together (Tell.me why) look like hosts: those go by with a path, or as the end of a line.
_URLS = (
    rf"(?:https?://|www\.)[^\s、。）」]+|{_HOST}\.(?:com|net|org|jp|info|tv|me|co)/\S*"
    rf"|{_HOST}\.(?:com|net|org|jp|tv)(?=\s*$)"
)
_INSTRUMENTAL = (
    r"^.{0,12}纯音乐[\s,，。]*请.{0,3}欣赏.*$|^.{0,8}没有填词的纯音乐.*$"
    r"|^\W*(?:this (?:song|track|piece) is )?(?:an )?instrumental(?: track| version| piece| music)?\W*$"
)
_TAGS = "a|b|br|center|div|em|font|i|p|rb|rp|rt|ruby|small|span|strong|u"
_MARKUP = rf"</?(?:{_TAGS})\b[^<>]*>|^\s*you might also like\s*$|(?:^\s*|(?<=\S))[0-9]*(?-i:Embed)\s*$"


def _mark_ruby(line: str, _: Counter[str]) -> str:
    """Set readings in brackets apart from what they stand over; they are counted when all is done."""
    line = re.sub(r"<ruby>(.*?)</ruby>", _html_ruby, line, flags=re.IGNORECASE)
    line = re.sub(rf"[|]([^|《》]+)《({_READING})》", rf"{_BASE}\1{_OVER}\2{_END}", line)
    line = re.sub(rf"([{_KANJI}]+)《({_READING})》", rf"{_BASE}\1{_OVER}\2{_END}", line)
    line = re.sub(rf"([{_KANJI}]+)(?:[(]([{_KANA}]+)[)]|\[([{_KANA}]+)\])", _bracket_ruby, line)
    line = re.sub(r"((?<![a-z])[a-z][a-z']+)[(]([ァ-ヺー]+)[)]", _bracket_ruby, line, flags=re.IGNORECASE)
    return line


def _html_ruby(match: re.Match[str]) -> str:
    inside = re.sub(r"<rp>.*?(?:</rp>|(?=<))", "", match[1], flags=re.IGNORECASE)
    reading = "".join(re.findall(r"<rt>(.*?)(?:</rt>|$|(?=<))", inside, re.IGNORECASE))
    base = re.sub(r"<[^<>]*>", "", re.sub(r"<rt>.*?(?:</rt>|$|(?=<))", "", inside, flags=re.IGNORECASE))
    return f"{_BASE}{base}{_OVER}{reading}{_END}" if base and reading else match[0]


def _bracket_ruby(match: re.Match[str]) -> str:
    base, reading = match[1], match[2] or match[3]
    is_echo = re.match(r"(.)\1\1|([ァ-ヺー]{1,2})\2|ウォ|イェ|ヘイ|アー|オー|ウー|フー|ハイ", reading)
    if is_echo or (not base.isascii() and count_moras(reading) > MAX_MORAS_PER_KANJI * len(base)):
        return f"{base} {reading}"
    return f"{_BASE}{base}{_OVER}{reading}{_END}"


def _prolong(line: str, removed: Counter[str]) -> str:
    """Write every stroke that prolongs a vowel as ー; other strokes part words."""
    framed = re.fullmatch(rf"\s*([{_WAVES}{_DASHES}])(.+)\1\s*", line)
    if framed:
        removed["punctuation"] += 2
        line = framed[2]
    line = re.sub(r"[—―─━–]{2,}", "、", line)
    # らーめん-つけめん are two words; ハ-ト is one.
    line = re.sub(r"(?<=[ぁ-ゖンッー])[-‐−](?=[ぁぃぅぇぉゃゅょゎっん])", "ー", line)
    line = re.sub(r"(?<=[ぁ-ゖ])[-‐−](?=[ぁ-ゖ])|(?<=[ンッー])[-‐−](?=[ぁ-ヺ])", " ", line)
    line = re.sub(rf"(?<=[{_KANA}{_END}])(?:[{_WAVES}]+|[{_DASHES}])(?![0-9A-Za-z])", "ー", line)
    line = re.sub(rf"(?<=[{_KANJI}])[{_WAVES}]+(?![0-9A-Za-z{_KANJI}])", "ー", line)
    line = re.sub(rf"(?<=[{_KANA}{_KANJI}])[―—]", "、", line)
    line = re.sub(rf"[{_DASHES}]", "-", line)
    line, number = re.subn(rf"[{_WAVES}]|(?<!{_FOREIGN_LETTER})-|-(?!{_FOREIGN_LETTER})", " ", line)
    removed["punctuation"] += number
    return line


_QUOTES = '「」『』“”„"《》〝〟″'
_BRACKETS = "()[]{}<>〈〉【】〔〕«»"
_FULL_STOPS = "!?‼⁉⁈⁇。."
_FOREIGN_MARKS = "'’&-"


def _keep_letters(line: str, removed: Counter[str]) -> str:
    """Keep letters, digits, 々 ー ・ 、 。 and what belongs to words of other languages."""
    line = re.sub(r"(?<=[0-9])\s?%", "パーセント", line)
    line = re.sub(r"(?:・\s?){2,}|\.{2,}", "、", line)
    # O.K., Y.M.C.A. and No.1 end no sentence.
    line = re.sub(
        r"(?<![A-Za-z.])(?:[A-Za-z]\.){2,}+(?:[A-Za-z](?![A-Za-z]))?", lambda found: found[0].replace(".", ""), line
    )
    line = re.sub(r"(?<![A-Za-z])([Nn]o)\.\s?(?=[0-9])", r"\1 ", line)
    kept: list[str] = []
    for n, letter in enumerate(line):
        before, after = (kept[-1] if kept else " "), line[n + 1 : n + 2]
        kept.append(_kept_letter(letter, before[-1:] or " ", after, removed))
    return _space("".join(kept))


def _kept_letter(letter: str, before: str, after: str, removed: Counter[str]) -> str:
    category = unicodedata.category(letter)
    follows_word = bool(_FOREIGN_WORD.match(before))
    if letter in f" ・、。{_BASE}{_OVER}{_END}" or category[0] == "L" or letter == "〇" or letter.isdigit():
        return letter
    if letter in _FOREIGN_MARKS and follows_word and _FOREIGN_WORD.match(after):
        return "'" if letter == "’" else letter
    if letter in ",.!?" and follows_word and not after.strip(" ,.!?、。"):
        return letter
    if letter in ",." and before.isdigit() and after.isdigit():
        return letter
    if category[0] == "M" and follows_word:
        return letter  # vowel signs of scripts that have them
    if letter in f",，{_FULL_STOPS}":
        return "、" if letter in ",，" else "。"
    if category == "Zs" or letter == "\t":
        return " "
    removed["punctuation" if letter in _QUOTES + _BRACKETS else "symbol"] += 1
    return "" if letter in _QUOTES or category[0] in "MC" else " "


def _space(line: str) -> str:
    line = re.sub(r"\s+", " ", line)
    line = re.sub(r" ?([、。]) ?", r"\1", line)
    line = re.sub(r"[、。]*。[、。]*", "。", line)
    line = re.sub(r"、+", "、", line)
    return line.strip(" ").lstrip("、。・ ").rstrip("、・ ")


_STEPS: tuple[Step, ...] = (
    _normalise,
    _remove(_STAMPS, "stamp", by=""),
    _remove(_URLS, "url"),
    _remove(_INSTRUMENTAL, "instrumental"),
    _remove("^(?:" + "|".join(_CREDITS) + ")$", "credit"),
    _remove(_REPEATS, "repeat_mark"),
    _remove(rf"^(?:{_HEADING_LINE})$", "heading"),
    _remove(_HEADING_INSIDE, "heading"),
    _mark_ruby,
    _remove(_MARKUP, "markup"),
    _remove(_BRACKETED_LINE, "heading"),
    _remove(_SPEAKERS, "speaker"),
    _prolong,
    _keep_letters,
)


def clean_text(text: str, *, policy: Policy) -> Cleaned:
    """Clean a text line by line.

    Args:
        text: lyrics as found.
        policy: what becomes of words in other scripts, see `CleanParams`.

    Returns:
        The text that is left, in lines as before but without empty ones; cleaning it again changes nothing.
    """
    removed: Counter[str] = Counter()
    # Whoever writes our own three letters does not mean them.
    text = re.sub(f"[{_BASE}{_OVER}{_END}]", "", text)
    lines = [_clean_line(line, policy, removed) for line in text.splitlines()]
    lines = [line for line in lines if line]
    numbers = _verse_numbers([_plain(line) for line in lines])
    removed["heading"] += len(numbers)
    marked = "\n".join(line for n, line in enumerate(lines) if n not in numbers)
    plain = _plain(marked)
    sounding = re.sub(rf"{_BASE}[^{_OVER}]*{_OVER}|{_END}", "", marked)
    removed["ruby"] = marked.count(_OVER)
    if plain != marked:
        # With the ruby gone a line may have become something else, such as the number of a verse.
        again = clean_text(plain, policy=policy)
        if again.text != plain:
            plain = sounding = again.text
            removed.update(again.removed)
    if policy == "transliterate":
        removed["not_transliterated"] = len(_FOREIGN_WORD.findall(plain))
    return Cleaned(plain, {reason: number for reason, number in sorted(removed.items()) if number}, sounding)


def _plain(marked: str) -> str:
    return re.sub(rf"{_OVER}[^{_END}]*{_END}|{_BASE}", "", marked)


def _verse_numbers(lines: Sequence[str]) -> set[int]:
    """Which lines number verses: single digits from 1 upwards, each before words; 3, 2, 1 is a countdown, and sung."""
    places = [n for n, line in enumerate(lines) if re.fullmatch("[1-9]", line)]
    ascend = [lines[n] for n in places] == [str(number) for number in range(1, len(places) + 1)]
    before_words = all(n + 1 < len(lines) and n + 1 not in places for n in places)
    return set(places) if ascend and before_words else set()


def _clean_line(line: str, policy: Policy, removed: Counter[str]) -> str:
    for _ in range(MAX_PASSES):
        before = line
        for step in _STEPS:
            line = step(line, removed)
        line = _other_languages(line, policy, removed)
        if line == before:
            break
    return line


def _other_languages(line: str, policy: Policy, removed: Counter[str]) -> str:
    if policy == "keep":
        return line

    def replaced(match: re.Match[str]) -> str:
        kana = transliterate_word(match[0]) if policy == "transliterate" else " "
        if kana is None:
            return match[0]
        removed["transliterated" if policy == "transliterate" else "language"] += 1
        return kana

    return _FOREIGN_WORD.sub(replaced, line)


def clean_phrases(phrases: Iterable[Phrase], params: CleanParams) -> tuple[list[Phrase], Counter[str]]:
    """Clean the phrases of a song.

    A phrase of which nothing is left goes, and is counted as `empty`; the song itself is never lost by that. A phrase
    with ruby gets its `kana` from the ruby, since that is what is sung.

    Returns:
        The phrases that are left, as copies, and what was removed by reason over all of them.
    """
    kept: list[Phrase] = []
    removed: Counter[str] = Counter()
    for phrase in phrases:
        policy: Policy = "keep" if phrase.get("kind") == "scat" else params.other_languages
        cleaned = clean_text(phrase["text"], policy=policy)
        removed.update(cleaned.removed)
        if any(letter.isalnum() for letter in cleaned.text):
            kept.append(_with_text(phrase, cleaned))
        else:
            removed["empty"] += 1
    numbers = _verse_numbers([phrase["text"] for phrase in kept])
    removed.update(["heading"] * len(numbers) + ["empty"] * len(numbers))
    return [phrase for n, phrase in enumerate(kept) if n not in numbers], removed


def _with_text(phrase: Phrase, cleaned: Cleaned) -> Phrase:
    copy = Phrase(**phrase)
    copy["text"] = cleaned.text.replace("\n", " ")
    if cleaned.sounding != cleaned.text:
        copy["kana"] = read_kana(cleaned.sounding).kana
    elif "kana" in copy and _letters(copy["text"]) != _letters(phrase["text"]):
        del copy["kana"]  # the reading of a text that held more
    return copy


def _letters(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if letter.isalnum())
