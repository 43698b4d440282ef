"""Lines that Whisper is known to invent where nobody speaks, and whether a text is one of them.

Whisper learnt from subtitled videos, so silence and music give it their closing lines and their makers' names. The list
gathers what users report of it: openai/whisper pull request 1253 and discussions 679 and 928, SYSTRAN/faster-whisper
issue 850, CheshireCC/faster-whisper-GUI issue 140, amicalhq/amical issue 71, Baranski et al. 2025 ("Investigation of
Whisper ASR hallucinations induced by non-speech audio", arXiv 2501.11378).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

STOCK = {
    "ja": (
        "ご視聴ありがとうございました",
        "ご視聴いただきありがとうございます",
        "最後までご視聴いただきありがとうございました",
        "最後まで見てくれてありがとう",
        "ご覧いただきありがとうございました",
        "ご清聴ありがとうございました",
        "見てくれてありがとうございます",
        "チャンネル登録お願いします",
        "チャンネル登録と高評価よろしくお願いします",
        "次回もお楽しみに",
        "次の動画でお会いしましょう",
        "また次回お会いしましょう",
        "それではまた次の動画で",
        "この動画が気に入ったら高評価をお願いします",
        "ご覧のスポンサーの提供でお送りします",
        "この番組は提供でお送りしました",
        "字幕作成",
        "字幕をご覧いただきありがとうございます",
        "作詞作曲編曲",
    ),
    "en": (
        "thanks for watching",
        "thank you for watching",
        "thank you for listening",
        "thank you so much for watching",
        "thanks for watching and see you in the next video",
        "see you in the next video",
        "see you next time",
        "please subscribe to my channel",
        "please like and subscribe",
        "don't forget to like and subscribe",
        "if you enjoyed this video please subscribe",
        "subtitles by the amara.org community",
        "transcription by castingwords",
        "captions by",
        "translated by",
        "all rights reserved",
    ),
    "zh": (
        "请不吝点赞订阅转发打赏支持明镜与点点栏目",
        "請不吝點贊訂閱轉發打賞支持明鏡與點點欄目",
        "由Amara.org社区提供的字幕",
        "中文字幕志愿者",
        "字幕志愿者",
        "谢谢观看",
        "感谢观看",
        "感谢您的观看",
        "感谢收看",
        "謝謝觀看",
        "感謝收看",
        "谢谢大家收看",
        "下期再见",
        "优优独播剧场",
    ),
    "ko": (
        "시청해주셔서 감사합니다",
        "구독과 좋아요 부탁드립니다",
        "다음 영상에서 만나요",
        "한글자막 제공",
        "MBC 뉴스 이덕영입니다",
    ),
    "other": (
        "Субтитры сделал DimaTorzok",
        "Субтитры создавал DimaTorzok",
        "Спасибо за просмотр",
        "Продолжение следует",
        "Подписывайтесь на мой канал",
        "Legendas pela comunidade Amara.org",
        "Subtítulos realizados por la comunidad de Amara.org",
        "Gracias por ver el video",
        "Obrigado por assistir",
        "Sous-titres réalisés par la communauté d'Amara.org",
        "Merci d'avoir regardé cette vidéo",
        "Untertitel der Amara.org-Community",
        "Vielen Dank fürs Zuschauen",
        "Sottotitoli creati dalla comunità Amara.org",
        "Grazie per aver guardato il video",
        "Napisy stworzone przez społeczność Amara.org",
        "Cảm ơn các bạn đã xem video",
        "Terima kasih telah menonton",
        "İzlediğiniz için teşekkür ederim",
    ),
}
"""Whole lines, by language."""

COURTESIES = (
    "ありがとうございました",
    "ありがとうございます",
    "おやすみなさい",
    "お疲れ様でした",
    "お疲れさまでした",
    "さようなら",
    "バイバイ",
    "はい",
    "うん",
    "thank you",
    "thank you very much",
    "thanks",
    "bye",
    "bye bye",
    "you",
    "okay",
    "谢谢",
    "谢谢大家",
    "감사합니다",
)
"""Lines that Whisper invents as well and people do sing: they count only where the sound speaks against them."""

TELLING = (
    *("チャンネル登録", "ご視聴", "御視聴", "高評価", "字幕視聴", "amaraorg", "subscrib", "transcriptionby"),
    *("订阅", "訂閱", "点赞", "點贊", "明镜", "자막", "구독", "시청", "субтитр", "подписыва", "legendas"),
    *("untertitel", "soustitr", "sottotitol"),
)
"""Parts of words that no song contains and subtitled videos do; letters only, in lower case."""

HINTS = ("字幕", "subtitl")
"""Parts of words that a song seldom contains: with other words they count only where the sound speaks against them."""

CREDITS = ("字幕作成", "字幕by", "subtitlesby", "captionsby", "translatedby")
"""How a line begins that names who made a video; letters only, in lower case."""

ANNOTATIONS = (
    *(
        "拍手",
        "音楽",
        "笑い声",
        "歓声",
        "間奏",
        "前奏",
        "後奏",
        "効果音",
        "泣き声",
        "鳴き声",
        "ため息",
        "咳払い",
        "口笛",
    ),
    *("鼻歌", "無音", "沈黙", "聞き取れない", "聞き取れません", "終わり", "ギターソロ", "bgm", "音乐", "音樂", "掌声"),
    *("掌聲", "笑声", "笑聲", "欢呼", "박수", "음악", "웃음"),
)
"""Words between brackets that say what sounds, not what is sung."""
SHORT_ANNOTATIONS = frozenset(
    {"笑", "笑い", "爆笑", "苦笑", "咳", "完", "終", "歌", "曲", "雑音", "騒音", "続く", "つづく", "se"}
)
"""Those that are part of other words; they count alone."""
_ENGLISH = """
    applause music musical laugh laughs laughing laughter chuckles chuckling cheer cheers cheering clapping claps
    singing sings speaking speaks humming hums whistling whistles sobbing sighs sighing gasps coughs coughing silence
    instrumental interlude intro outro solo inaudible indistinct unintelligible foreign language audience crowd blank
    audio bgm noise static playing upbeat japanese"""
ENGLISH_ANNOTATIONS = frozenset(_ENGLISH.split())
"""The same, word by word."""

_SMALLEST = 6
"""A stock line within a longer text counts from this many letters."""
_SHORTEST_COURTESY = 4
"""Shorter ones are parts of other words."""
_MOST = 0.8
"""A text is made of stock lines if they cover this share of its letters."""
_ENGLISH_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_NOT_LETTERS = re.compile(r"[\W_]+")


def letters(text: str) -> str:
    """Letters and digits of a text alone, widths and cases folded."""
    return _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold())


def is_courtesy(text: str) -> bool:
    """Whether a text is nothing but a phrase of courtesy or assent."""
    return letters(text) in _courtesies()


def is_stock(text: str, min_similarity: float) -> bool:
    """Whether a text is made of lines of the list, closely resembles one, or names who made a video.

    Args:
        text: one phrase.
        min_similarity: of the pairs of neighbouring letters (Dice), from which a text counts as a variant.
    """
    plain = letters(text)
    if plain.startswith(CREDITS) or any(part in plain for part in TELLING):
        return True
    if plain in _courtesies():
        return False
    if _covered_share(plain) >= _MOST:
        return True
    own = _pairs(plain)
    for line, pairs in _lines():
        # What goes on after a stock line, as "thank you for watching over me", says something else.
        if line in plain:
            continue
        # Lengths alone rule most lines out.
        if 2 * min(len(own), len(pairs)) < min_similarity * (len(own) + len(pairs)):
            continue
        if own and 2 * len(own & pairs) >= min_similarity * (len(own) + len(pairs)):
            return True
    return False


def mentions_stock(text: str) -> bool:
    """Whether a text contains a line of the list, or a word that is rather a video's than a song's."""
    plain = letters(text)
    if any(hint in plain for hint in HINTS):
        return True
    return any(line in plain and (len(line) >= _SMALLEST or 2 * len(line) >= len(plain)) for line, _ in _lines())


def is_annotation(bracketed: str) -> bool:
    """Whether words between brackets tell what sounds, as applause and music, or are no words at all."""
    plain = letters(bracketed)
    if plain in SHORT_ANNOTATIONS or not any(char.isalpha() for char in plain):
        return True
    words = _ENGLISH_WORD.findall(unicodedata.normalize("NFKC", bracketed).casefold())
    if words and plain.isascii():
        return 2 * sum(word in ENGLISH_ANNOTATIONS for word in words) >= len(words)
    return 2 * sum(len(word) * plain.count(word) for word in ANNOTATIONS) >= len(plain)


def _covered_share(plain: str) -> float:
    """The share of a text's letters that lie in stock lines, and in courtesies beside one."""
    lines = [line for line, _ in _lines() if line in plain]
    if not lines:
        return 0.0
    is_covered = [False] * len(plain)
    for line in [*lines, *(line for line in _courtesies() if len(line) >= _SHORTEST_COURTESY)]:
        for found in re.finditer(re.escape(line), plain):
            is_covered[found.start() : found.end()] = [True] * len(line)
    return sum(is_covered) / len(plain)


def _pairs(plain: str) -> frozenset[str]:
    return frozenset(plain[n : n + 2] for n in range(len(plain) - 1))


@lru_cache(maxsize=1)
def _courtesies() -> frozenset[str]:
    return frozenset(map(letters, COURTESIES))


@lru_cache(maxsize=1)
def _lines() -> tuple[tuple[str, frozenset[str]], ...]:
    lines: Iterable[str] = (line for lines in STOCK.values() for line in lines)
    return tuple((plain, _pairs(plain)) for plain in map(letters, lines))
