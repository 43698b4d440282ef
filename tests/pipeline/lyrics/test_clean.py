"""Cleaning: a table of hard lines, and that nothing sung is lost, whatever the text."""

from __future__ import annotations

import time
import unicodedata
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.data.records import Phrase
from pipeline.lyrics.clean import CleanParams, Policy, clean_phrases, clean_text

HARD_LINES: list[tuple[str, str, dict[str, int]]] = [
    # half-width kana and voicing marks
    ("ｻｸﾗ ｻｸﾗ", "サクラ サクラ", {}),
    ("ｶﾞｸｾｲﾉ ﾊﾟﾋﾟﾌﾟ", "ガクセイノ パピプ", {}),
    ("か゛くせい", "がくせい", {}),
    ("ﾗﾌﾞｰ", "ラブー", {}),
    ("あ゛ー", "あー", {"symbol": 1}),
    ("ｱｲｼﾃﾙ｡", "アイシテル。", {}),
    # strokes
    ("ラ〜ラ～ラ―ラ－", "ラーラーラーラー", {}),
    ("さあ〜〜〜", "さあー", {}),
    ("あーーー", "あーーー", {}),
    ("愛〜", "愛ー", {}),
    ("さよなら――また明日", "さよなら、また明日", {}),
    ("〜さくら〜", "さくら", {"punctuation": 2}),
    ("ハ-ト", "ハート", {}),
    ("1995〜2000年", "1995 2000年", {"punctuation": 1}),
    ("oh-oh さくら", "oh-oh さくら", {}),
    # what NFKC folds, and what it may not
    ("ＡＢＣの歌", "ABCの歌", {}),
    ("㌔の旅", "キロの旅", {}),
    ("さくら™㊗", "さくら", {"symbol": 2}),
    ("人々〆切〇", "人々〆切〇", {}),
    ("こゝろ いすゞ", "こゝろ いすゞ", {}),
    ("さくら　さくら", "さくら さくら", {}),
    ("夢…それは…", "夢、それは", {}),
    ("夢・・・それは", "夢、それは", {}),
    ("ロック・アンド・ロール", "ロック・アンド・ロール", {}),
    ("だい\u200bすき\ufeff", "だいすき", {"symbol": 2}),
    # ruby
    ("漢字《かんじ》を書く", "漢字を書く", {"ruby": 1}),
    ("漢字（かんじ）を書く", "漢字を書く", {"ruby": 1}),
    ("漢字(かんじ)を書く", "漢字を書く", {"ruby": 1}),
    ("｜二人称《あなた》と", "二人称と", {"ruby": 1}),
    ("<ruby>夢<rp>(</rp><rt>ゆめ</rt><rp>)</rp></ruby>の中", "夢の中", {"ruby": 1}),
    ("<ruby><rb>夢</rb><rt>ゆめ</rt></ruby>の中", "夢の中", {"ruby": 1}),
    ("本気(マジ)で", "本気で", {"ruby": 1}),
    ("母(はは)の心", "母の心", {"ruby": 1}),
    ("love(ラブ)", "love", {"ruby": 1}),
    # what looks like ruby and is sung
    ("君(ラララ)", "君 ラララ", {"punctuation": 0}),
    ("空(どこまでもたかく)", "空 どこまでもたかく", {}),
    ("愛してる(あいしてる)", "愛してる あいしてる", {"punctuation": 2}),
    # repeats
    ("さくら x2", "さくら", {"repeat_mark": 1}),
    ("さくら×2", "さくら", {"repeat_mark": 1}),
    ("さくら(×３)", "さくら", {"repeat_mark": 1}),
    ("さくら（2回）", "さくら", {"repeat_mark": 1}),
    ("※くりかえし", "", {"repeat_mark": 1}),
    ("(※繰り返し)", "", {"repeat_mark": 1}),
    ("※1 Repeat", "", {"repeat_mark": 1}),
    ("△繰り返し ×2", "", {"repeat_mark": 1}),
    ("(以下同様)", "", {"repeat_mark": 1}),
    ("※〜※ くり返し", "", {"repeat_mark": 1}),
    ("くりかえし くりかえし", "くりかえし くりかえし", {}),
    ("☆くりかえす日々", "くりかえす日々", {"symbol": 1}),
    ("※さくら", "さくら", {"symbol": 1}),
    # credits
    ("作詞：山田太郎", "", {"credit": 1}),
    ("作詞・作曲：山田太郎", "", {"credit": 1}),
    ("作詞　山田太郎　作曲　山田花子", "", {"credit": 1}),
    ("歌：初音ミク", "", {"credit": 1}),
    (" 作词 : 某某", "", {"credit": 1}),
    ("曲 : 某某", "", {"credit": 1}),
    ("Lyrics by Somebody", "", {"credit": 1}),
    ("Words & Music by Somebody", "", {"credit": 1}),
    ("歌を歌おう", "歌を歌おう", {}),
    ("All by myself", "All by myself", {}),
    # headings
    ("[Chorus] さくら", "さくら", {"heading": 1}),
    ("[Verse 1: Somebody]", "", {"heading": 1}),
    ("【サビ】", "", {"heading": 1}),
    ("(間奏)", "", {"heading": 1}),
    ("＜Aメロ＞", "", {"heading": 1}),
    ("Bメロ", "", {"heading": 1}),
    ("A:さくら", "さくら", {"heading": 1}),
    ("1番", "", {"heading": 1}),
    ("1. さくら", "さくら", {"heading": 1}),
    ("〜間奏〜", "", {"heading": 1}),
    ("Pre-Chorus", "", {"heading": 1}),
    ("一番好きな歌", "一番好きな歌", {}),
    ("サビしい夜", "サビしい夜", {}),
    # who sings
    ("男：さくら", "さくら", {"speaker": 1}),
    ("【ミク】さくら", "さくら", {"speaker": 1}),
    ("(女)さくら", "さくら", {"speaker": 1}),
    ("全員「さくら」", "さくら", {"speaker": 1, "punctuation": 2}),
    # signs
    ("♪さくら♪", "さくら", {"symbol": 2}),
    ("だいすき♡🎵", "だいすき", {"symbol": 2}),
    ("「好き」と言って", "好きと言って", {"punctuation": 2}),
    ("好き！嫌い？", "好き。嫌い。", {}),
    ("ねえ, 君", "ねえ、君", {}),
    ("、、さくら、、", "さくら", {}),
    ("100%勇気", "100パーセント勇気", {}),
    ("&lt;さくら&gt; &amp; もも", "さくら もも", {"punctuation": 2, "symbol": 1}),
    # addresses, stamps, mark-up
    ("https://example.com/a?b さくら", "さくら", {"url": 1}),
    ("www.example.jp", "", {"url": 1}),
    ("by RentAnything.com", "", {"url": 1}),
    ("[00:12.30]さくら<00:13.10>さくら", "さくらさくら", {"stamp": 2}),
    ("[ar:Somebody]", "", {"stamp": 1}),
    ("<i>さくら</i>", "さくら", {"markup": 2}),
    ("You might also like", "", {"markup": 1}),
    # other languages stay here
    ("Baby 愛してる", "Baby 愛してる", {}),
    ("Don't stop, baby!", "Don't stop, baby!", {}),
    ("사랑해 さくら", "사랑해 さくら", {}),
    ("Tシャツ", "Tシャツ", {}),
    # what looks like a mark, and is sung
    ("君と×2の恋", "君と 2の恋", {"symbol": 1}),
    ("午前2:30の駅", "午前2 30の駅", {"symbol": 1}),
    ("夜9:00の空", "夜9 00の空", {"symbol": 1}),
    ("Song by song, we go on", "Song by song, we go on", {}),
    ("written by the stars", "written by the stars", {}),
    ("Music by night", "Music by night", {}),
    ("Written by Anna Lee & 山田", "", {"credit": 1}),
    ("music by: somebody", "", {"credit": 1}),
    ("Tell.me why", "Tell。me why", {}),
    ("Hold me tight.Me and you", "Hold me tight。Me and you", {}),
    ("example.com/song さくら", "さくら", {"url": 1}),
    ("D.S. love", "DS love", {}),
    ("D.C.の夜に", "DCの夜に", {}),
    ("D.S. al Coda", "", {"repeat_mark": 1}),
    ("We'll embed", "We'll embed", {}),
    ("さくら12Embed", "さくら", {"markup": 1}),
    ("I love the music (music)", "I love the music music", {"punctuation": 2}),
    ("らーめん-つけめん", "らーめん つけめん", {}),
    ("さくら-", "さくらー", {}),
    ("O.K. baby", "OK baby", {}),
    ("君がNo.1", "君がNo 1", {}),
    ("Y.M.C.A.", "YMCA", {}),
    ("It is I. And you", "It is I. And you", {}),
    # that nothing is sung
    ("纯音乐，请欣赏", "", {"instrumental": 1}),
    ("此歌曲为没有填词的纯音乐，请您欣赏", "", {"instrumental": 1}),
    ("This track is instrumental.", "", {"instrumental": 1}),
    ("[00:05,00][1:02:03.00]さくら", "さくら", {"stamp": 2}),
]


@pytest.mark.parametrize(("line", "text", "removed"), HARD_LINES, ids=[line for line, *_ in HARD_LINES])
def test_hard_lines(line: str, text: str, removed: dict[str, int]):
    cleaned = clean_text(line, policy="keep")
    assert (cleaned.text, cleaned.removed) == (text, {reason: number for reason, number in removed.items() if number})


def test_the_table_is_long():
    assert len({line for line, *_ in HARD_LINES}) == len(HARD_LINES) >= 60


SUNG = st.one_of(
    st.characters(min_codepoint=0x3041, max_codepoint=0x3096),
    st.characters(min_codepoint=0x30A1, max_codepoint=0x30FA),
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
    st.sampled_from("ー々〇作詞曲歌間奏一二番繰返くりかえしサビ全員男女"),
)
MARKS = """
x2 ×3 ※ くりかえし 繰り返し [ ] 【 】 ( ) （ ） サビ 作詞 ： : A 1 番 《 》 ｜ 〜 ～ ― -- … ♪ love Don't ! , . 、 。 ゛
ﾞ ｶ &amp; <b> <ruby> <rt> </ruby> http://a.b [00:01.00] Chorus 漢字 かな カナ é 사랑 % 2回
"""
MARK = st.sampled_from([*MARKS.split(), " ", "　", "\n", "\u200b"])
ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(MARK, max_size=12).map("".join),
    st.lists(st.one_of(MARK, SUNG), max_size=12).map("".join),
)


def sung(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if letter.isalnum() or letter in "ー々")


@settings(deadline=None)  # the first reading loads the dictionary
@given(st.lists(st.one_of(SUNG, st.sampled_from("、。")), max_size=40).map("".join), st.sampled_from(get_args(Policy)))
@example("くりかえしくりかえし", "drop")
@example("作詞作曲", "drop")
@example("間奏。一番、全員", "transliterate")
def test_nothing_sung_is_lost_from_kana_and_kanji(text: str, policy: Policy):
    cleaned = clean_text(text, policy=policy)
    assert sung(cleaned.text) == sung(text)
    assert (cleaned.removed, cleaned.sounding) == ({}, cleaned.text)


@settings(deadline=None)  # the first reading loads the dictionary
@given(ANY_TEXT, st.sampled_from(get_args(Policy)))
def test_cleaning_twice_is_cleaning_once(text: str, policy: Policy):
    once = clean_text(text, policy=policy)
    again = clean_text(once.text, policy=policy)
    assert again.text == once.text
    assert set(again.removed) <= {"not_transliterated"}


@settings(deadline=None)  # the first reading loads the dictionary
@given(ANY_TEXT)
def test_every_removal_is_counted(text: str):
    cleaned = clean_text(text, policy="keep")
    if not cleaned.removed and not set("&%゛") & set(text):
        assert sung(cleaned.text).replace("ー", "") == sung(text).replace("ー", "")


@settings(deadline=None)  # the first reading loads the dictionary
@given(ANY_TEXT)
def test_what_is_left_are_letters_and_few_signs(text: str):
    cleaned = clean_text(text, policy="drop")
    assert not [
        a
        for a in cleaned.text
        if not (a.isalnum() or a in "々〇ー・、。 \n,." or unicodedata.category(a) in {"Lm", "Nl"})
    ]


def test_dropped_words_are_counted():
    cleaned = clean_text("Baby, don't cry 愛してる", policy="drop")
    assert (cleaned.text, cleaned.removed) == ("愛してる", {"language": 3})


def test_words_are_transliterated_as_far_as_they_are_known():
    cleaned = clean_text("Baby love 愛してる tonight", policy="transliterate")
    assert cleaned.text == "ベビー ラブ 愛してる tonight"
    assert cleaned.removed == {"not_transliterated": 1, "transliterated": 2}


@pytest.mark.parametrize(
    "piece", ["* ", "※ 1 ", "作詞・", "lyrics and ", "(", "(1", "x 2", "〜", "【", "a.b", "<ruby>", "a ", "　", "「"]
)
def test_no_line_takes_long(piece: str):
    started_s = time.perf_counter()
    clean_text(piece * 150 + "x", policy="keep")
    assert time.perf_counter() - started_s < 2


def test_digits_that_number_verses_go_and_a_countdown_stays():
    song = "1\nさくら\n2\nやよい"
    assert clean_text(song, policy="keep")[:2] == ("さくら\nやよい", {"heading": 2})
    kept, removed = clean_phrases([phrase(line) for line in song.split()], CleanParams())
    assert ([p["text"] for p in kept], removed["heading"]) == (["さくら", "やよい"], 2)
    for song in ("3\n2\n1\nさくら", "1\n2\n3\nさくら", "さくら\n1", "2\nさくら"):
        assert clean_text(song, policy="keep").text == song
        assert [
            p["text"] for p in clean_phrases([phrase(line) for line in song.split()], CleanParams())[0]
        ] == song.split()


def test_lines_stay_lines():
    assert clean_text("作詞：山田\r\nさくら\n\n♪\nさくら", policy="keep").text == "さくら\nさくら"


def test_what_ruby_says_is_what_sounds():
    cleaned = clean_text("宇宙《そら》へ、本気(マジ)", policy="keep")
    assert (cleaned.text, cleaned.sounding) == ("宇宙へ、本気", "そらへ、マジ")
    # Not so where nothing but the number of a verse is left.
    assert clean_text("｜1《いち》\nさくら", policy="keep")[0::2] == ("さくら", "さくら")


def phrase(text: str, **more: object) -> Phrase:
    return Phrase(text=text, start_s=1.0, end_s=2.0, source="tag", **more)  # pyright: ignore[reportArgumentType]


def test_a_phrase_may_go_but_never_the_song():
    phrases = [phrase("作詞：山田"), phrase("Hello world"), phrase("さくら x2"), phrase("♪")]
    kept, removed = clean_phrases(phrases, CleanParams(other_languages="drop"))
    assert kept == [phrase("さくら")]
    assert removed == {"credit": 1, "language": 2, "repeat_mark": 1, "symbol": 1, "empty": 3}
    assert phrases[2]["text"] == "さくら x2"  # what came in is not changed


def test_scat_is_never_dropped():
    kept, _ = clean_phrases([phrase("LABADADA", kind="scat")], CleanParams(other_languages="drop"))
    assert [p["text"] for p in kept] == ["LABADADA"]


def test_the_reading_follows_the_text():
    params = CleanParams()
    ruby, same, other = (
        phrase("宇宙(そら)へ"),
        phrase("わたしは♪", kana="ワタシワ"),
        phrase("[Chorus] わたしは", kana="コーラスワタシワ"),
    )
    kept, _ = clean_phrases([ruby, same, other], params)
    assert [p.get("kana") for p in kept] == ["ソラエ", "ワタシワ", None]
    assert [p["text"] for p in kept] == ["宇宙へ", "わたしは", "わたしは"]
