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
    *("チャンネル登録", "ご視聴", "御視聴", "高評価", "字幕視聴", "amaraorg", "subscrib", "subtitl", "transcriptionby"),
    *("订阅", "訂閱", "点赞", "點贊", "明镜", "字幕", "자막", "구독", "시청", "субтитр", "подписыва", "legendas"),
    *("untertitel", "soustitr", "sottotitol"),
)
"""Parts of words that no song contains and subtitled videos do; letters only, in lower case."""

_SMALLEST = 6
"""A stock line within a longer text counts from this many letters."""
_NOT_LETTERS = re.compile(r"[\W_]+")


def letters(text: str) -> str:
    """Letters and digits of a text alone, widths and cases folded."""
    return _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold())


def is_courtesy(text: str) -> bool:
    """Whether a text is nothing but a phrase of courtesy or assent."""
    return letters(text) in _courtesies()


def is_stock(text: str, min_similarity: float) -> bool:
    """Whether a text is, contains or closely resembles a line of the list.

    Args:
        text: one phrase.
        min_similarity: of the pairs of neighbouring letters (Dice), from which a text counts as a variant.
    """
    plain = letters(text)
    if any(part in plain for part in TELLING):
        return True
    if plain in _courtesies():
        return False
    own = _pairs(plain)
    for line, pairs in _lines():
        if line in plain and (len(line) >= _SMALLEST or 2 * len(line) >= len(plain)):
            return True
        # Lengths alone rule most lines out.
        if 2 * min(len(own), len(pairs)) < min_similarity * (len(own) + len(pairs)):
            continue
        if own and 2 * len(own & pairs) >= min_similarity * (len(own) + len(pairs)):
            return True
    return False


def _pairs(plain: str) -> frozenset[str]:
    return frozenset(plain[n : n + 2] for n in range(len(plain) - 1))


@lru_cache(maxsize=1)
def _courtesies() -> frozenset[str]:
    return frozenset(map(letters, COURTESIES))


@lru_cache(maxsize=1)
def _lines() -> tuple[tuple[str, frozenset[str]], ...]:
    lines: Iterable[str] = (line for lines in STOCK.values() for line in lines)
    return tuple((plain, _pairs(plain)) for plain in map(letters, lines))
