"""Random things to sing: morae about as frequent as in Japanese, and everyday words; no line of any song."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from pipeline.demo.morae import GEMINATE, HEPBURN, NASAL, PROLONGED, split_morae


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FREQUENT = {
    "い": 60, "う": 45, "か": 45, "し": 50, "の": 50, "と": 38, "た": 45, "な": 42, "て": 38, "で": 20, "に": 35,
    "わ": 25, "る": 38, "ま": 25, "く": 32, "こ": 28, "が": 25, "き": 28, "す": 32, "り": 28, "ら": 28, "れ": 20,
    "も": 22, "お": 25, "あ": 28, "つ": 22, "さ": 25, "せ": 15, "よ": 18, "ち": 18, "そ": 13, "み": 20, "じ": 14,
    "だ": 15, "け": 17, "え": 15, "や": 14, "ゆ": 8, "ひ": 12, "ふ": 11, "ほ": 9, "め": 14, "む": 9, "ね": 9, "ろ": 11,
    "は": 18, "へ": 4, "ぬ": 4, "ぎ": 6, "ぐ": 7, "げ": 7, "ご": 9, "ざ": 5, "ず": 8, "ぜ": 3, "ぞ": 4, "ど": 12,
    "ば": 9, "び": 6, "ぶ": 7, "べ": 6, "ぼ": 5, "ぱ": 3, "ぴ": 3, "ぷ": 3, "ぺ": 2, "ぽ": 3, "しょ": 8, "しゅ": 5,
    "しゃ": 4, "ちょ": 5, "ちゃ": 4, "ちゅ": 3, "じゅ": 3, "じょ": 4, "じゃ": 4, "きょ": 5, "きゅ": 3, "きゃ": 3,
    "りょ": 3, "りゅ": 2,
}  # fmt: skip
"""Rough counts per thousand morae; every other mora that can be spelt has a tenth of one."""
RARE = 0.1
FLATNESS = 0.6
"""Power to which the counts are raised: what is rare must be learnt too."""
WORDS = _words(
    """
    あさ あめ あお あか あき あした あそぶ あたま あたらしい あつい あなた あに あね あるく いえ いし いけ いつか
    いちご いぬ いま いもうと いろ うえ うさぎ うた うみ うれしい えがお えき えんぴつ おおきい おかあさん おとうさん
    おちゃ おと おとこ おんな かい かえる かお かがみ かぜ かぞく かなしい かばん かみ からだ かわ かんがえる がっこう
    きいろ きのう きもち きゃく きょう きる きれい ぎんこう くさ くつ くも くるま くらい けしき けむり げんき こえ
    こおり こころ ことば こども このは ごはん さいふ さかな さむい さんぽ ざっし しお しごと しずか しま しゃしん
    しろい しんぶん じかん じゅぎょう じょうぶ すいか すずしい すな すわる せかい せなか せんせい ぜんぶ そと そら
    たいよう たかい たけ たのしい たび たべもの だいじ だれか ちいさい ちから ちず ちゃわん ちょっと つき つくえ つち
    つばさ つめたい つよい てがみ てぶくろ でんき でんしゃ とおい とけい とびら とり どうぶつ なか ながい なつ
    なつかしい なまえ なみ におい にく にし にもつ にわ ぬくもり ねがい ねこ ねむる のはら のむ はし はしる はじめて
    はたけ はな はなし はね はやい ばしょ ひがし ひかり ひくい ひこうき ひと ひとり ひま ひゃく びょういん ふかい ふね
    ふゆ ふるさとへ へや べんきょう ほし ほそい ほんとう ぼうし まいにち まえ まつり まど まもる みぎ みず みせ みち
    みどり みなと みみ むかし むし むすめ むら めがね もり もん やくそく やさしい やすみ やま ゆうがた ゆき ゆびわ
    ゆめ よる よろこび らいねん りんご りょうり るす れきし れんしゅう ろうそく わかい わすれる わたし わらう きって
    けっこん ずっと もっと ゆっくり まって はっぱ ラジオ パン ピアノ テレビ カメラ ボール プール ギター
    """
)
"""Everyday ones, as they sound."""
LITTLE_WORDS = ("が", "お", "に", "の", "わ", "と", "も", "で", "え", "から", "まで", "よ", "ね", "だけ", "ば", "")
SAME_SOUND = {"ぢ": "じ", "づ": "ず", "を": "お", "ゐ": "い", "ゑ": "え"}
_ALONE = frozenset("ぁぃぅぇぉゃゅょ")
_STOPPED = ("k", "s", "t", "p", "c")


@cache
def _weighted() -> tuple[list[str], list[float]]:
    morae = [kana for kana in HEPBURN if kana not in _ALONE and kana not in SAME_SOUND]
    weights = np.array([FREQUENT.get(kana, RARE) for kana in morae]) ** FLATNESS
    return morae, (weights / weights.sum()).tolist()


def draw_morae(num_morae: int, rng: np.random.Generator) -> list[str]:
    """Draw a phrase of about so many morae, in hiragana, as it sounds."""
    draw = _draw_words if rng.random() < 0.5 else _draw_sounds
    return list(draw(num_morae, rng))


def _draw_words(num_morae: int, rng: np.random.Generator) -> Iterator[str]:
    count = 0
    while count < num_morae:
        word = WORDS[rng.integers(len(WORDS))] + LITTLE_WORDS[rng.integers(len(LITTLE_WORDS))]
        morae = [mora.kana for mora in split_morae(word) if mora.kana != PROLONGED]
        yield from morae
        count += len(morae)


def _draw_sounds(num_morae: int, rng: np.random.Generator) -> Iterator[str]:
    kana, weights = _weighted()
    drawn = rng.choice(len(kana), num_morae, p=weights).tolist()
    for number, index in enumerate(drawn):
        if number and number % 3 and rng.random() < 0.12:
            stops = HEPBURN[kana[index]].startswith(_STOPPED) and rng.random() < 0.5
            yield GEMINATE if stops else NASAL
        yield kana[index]
