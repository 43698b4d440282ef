"""Readings against the dictionary's own phonemes, particles, moras, and what cannot be read."""

from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lyrics.kana import (
    PHONEMES,
    count_moras,
    moras,
    read_kana,
    to_katakana,
    to_phonemes,
    transliterate_word,
    unknown_share,
)

KANA = "".join(chr(n) for n in range(ord("ぁ"), ord("ん") + 1)) + "ー"


def openjtalk_phonemes(kana: str) -> list[str]:
    """What OpenJTalk itself makes of a word with this pronunciation."""
    import pyopenjtalk

    node: Any = pyopenjtalk.run_frontend("さくら")[0]
    node |= {"string": kana, "read": kana, "pron": kana, "mora_size": count_moras(kana), "acc": 0}
    labels = pyopenjtalk.make_label([node])
    return [label.split("-", 1)[1].split("+", 1)[0] for label in labels[1:-1]]


def test_the_phonemes_of_every_mora_are_those_of_openjtalk():
    # Before ラ, so that no last vowel is left out.
    given = {mora: openjtalk_phonemes(f"{mora}ラ") for mora in sorted(set(PHONEMES) - {"ヵ", "ヂェ", *"ヷヸヹヺ"})}
    assert len(given) > 150  # OpenJTalk knows all but those six
    assert given == {mora: [*PHONEMES[mora], "r", "a"] for mora in given}


@pytest.mark.parametrize(
    ("text", "kana"),
    [
        ("私は東京へ行く。", "ワタシワトーキョーエイク"),
        ("学校へ行こう", "ガッコーエイコー"),
        ("君が好きです", "キミガスキデス"),
        ("花を見る", "ハナオミル"),
        ("こんにちは", "コンニチワ"),
        ("はるのおがわは さらさらいくよ", "ハルノオガワワサラサライクヨ"),
        ("わたしはへやへ", "ワタシワヘヤエ"),
        ("はとぽっぽ", "ハトポッポ"),
        ("きれいなはなはきれい", "キレイナハナワキレイ"),
        ("このはなへ", "コノハナエ"),
        ("おうさま", "オウサマ"),  # kana alone keeps its spelling, which is that of the notes
        ("ラバダダ", "ラバダダ"),
        ("いすゞ、こゝろ", "イスズココロ"),
        ("3つ数えて", "ミッツカゾエテ"),
        ("1,000円", "センエン"),
        ("１０，０００回", "イチマンカイ"),
        ("3.14", "サンテンイチヨン"),
        ("2.5次元", "ニテンゴジゲン"),
        ("1,234.5", "センニヒャクサンジューヨンテンゴ"),
        ("0.1秒", "レイテンイチビョー"),
        ("1番星", "イチバンホシ"),
        ("100パーセント", "ヒャクパーセント"),
        ("人々", "ヒトビト"),
        ("何の歌", "ナンノウタ"),
        ("あーーー", "アーーー"),
        ("", ""),
    ],
)
def test_text_is_read_as_it_is_sung(text: str, kana: str):
    reading = read_kana(text)
    assert (reading.kana, reading.unknown) == (kana, {})
    assert reading.phonemes == to_phonemes(kana)


def test_spelling_by_sound_is_left_alone():
    assert read_kana("わたしわへやえ", is_sounding=True).kana == "ワタシワヘヤエ"
    assert read_kana("ははわ", is_sounding=True).kana == "ハハワ"
    assert read_kana("は", is_sounding=True).kana == "ハ"


def test_vowels_are_voiced_and_there_are_no_pauses():
    phonemes = read_kana("好きです、月。").phonemes
    assert "".join(phonemes) == "sukidesutsuki"
    assert not {"pau", "U", "I"} & set(phonemes)


def test_latin_letters_are_not_spelled_out_but_counted():
    reading = read_kana("Baby 愛してる☆ ☆")
    assert reading.kana == "アイシテル"
    assert reading.unknown == {"Baby": 1, "☆": 2}


def test_kanji_without_a_reading_are_counted():
    reading = read_kana("々さくら")
    assert "サクラ" in reading.kana
    assert reading.unknown == {"々": 1}


def test_the_share_of_what_cannot_be_read():
    assert unknown_share({}, 0) == 0
    assert unknown_share(read_kana("さくら").unknown, 3) == 0
    assert unknown_share(read_kana("さくら abc").unknown, 3) == 0.5
    assert unknown_share(read_kana("☆").unknown, 0) == 1


@pytest.mark.parametrize(
    ("kana", "number"),
    [
        ("サクラ", 3),
        ("キャット", 3),
        ("シンブン", 4),
        ("ラーーー", 4),
        ("ふぁいと", 3),
        ("しょっぱい", 4),
        ("abc 桜", 0),
        ("ッャ", 2),
    ],
)
def test_moras_are_counted_as_they_are_sung(kana: str, number: int):
    assert count_moras(kana) == number


@settings(deadline=None)  # the first reading loads the dictionary
@given(st.text(KANA, max_size=30))
def test_moras_give_the_kana_back(kana: str):
    assert "".join(moras(kana)) == to_katakana(kana)


@settings(deadline=None)  # the first reading loads the dictionary
@given(st.text(KANA, max_size=30))
def test_only_particles_of_kana_are_changed(kana: str):
    katakana = to_katakana(kana)
    sung = read_kana(kana).kana
    assert len(sung) == len(katakana)
    assert all(a == b or a + b in {"ハワ", "ヘエ", "ヲオ"} for a, b in zip(katakana, sung, strict=True))
    assert read_kana(kana, is_sounding=True).kana == katakana


@settings(deadline=None)  # the first reading loads the dictionary
@given(st.text(max_size=30))
def test_anything_can_be_read(text: str):
    reading = read_kana(text)
    assert set(reading.kana) <= {chr(n) for n in range(ord("ァ"), ord("ヺ") + 1)} | {"ー"}
    assert 0 <= unknown_share(reading.unknown, count_moras(reading.kana)) <= 1


@pytest.mark.parametrize(
    ("word", "kana"),
    [
        ("love", "ラブ"), ("Baby", "ベビー"), ("baby", "ベビー"), ("OK", "オーケイ"),
        ("DJ", "ディージェイ"), ("x", None), ("I", "アイ"),
        ("labadada", "ラバダダ"), ("sakura", "サクラ"), ("kitto", "キット"), ("matcha", "マッチャ"),
        ("shinbun", "シンブン"), ("oh", "オー"), ("yeah", "イェアー"), ("LALALA", "ラララ"),
        ("tonight", None), ("don't", None), ("xyzzy", None), ("사랑", None),
    ],
)  # fmt: skip
def test_words_are_transliterated_but_never_spelled(word: str, kana: str | None):
    assert transliterate_word(word) == kana


def test_the_dictionary_is_free_and_lies_in_the_wheel():
    import pyopenjtalk

    assert metadata("pyopenjtalk-plus")["License-Expression"] == "MIT"
    text = (Path(pyopenjtalk.__file__).parent / "dictionary" / "COPYING").read_text("utf-8")
    assert "Nara Institute of Science and Technology" in text
    assert "Redistribution and use in source and binary forms" in text
