from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.encodings import decode_text, repair_texts
from tests.pipeline.lyrics.titles_of_songs import CHINESE, EUROPEAN, JAPANESE, KOREAN, RUSSIAN, TRADITIONAL

Titles = Sequence[str]
WRITTEN: list[tuple[str, Titles, str]] = [
    ("Japanese", JAPANESE, "cp932"),
    ("Japanese", JAPANESE, "euc_jp"),
    ("Japanese", JAPANESE, "gbk"),
    ("Chinese", CHINESE, "gbk"),
    ("Traditional", TRADITIONAL, "gbk"),
    ("Traditional", TRADITIONAL, "big5"),
    ("Korean", KOREAN, "cp949"),
    ("Russian", RUSSIAN, "cp1251"),
    *((name, titles, "utf-8") for name, titles in (("Japanese", JAPANESE), ("Chinese", CHINESE), ("Korean", KOREAN))),
    ("European", EUROPEAN, "utf-8"),
]
# A title of two letters in an encoding that few tags have can be several texts: it is left out rather than guessed.
LEAST_ALONE = {"cp932": 0.97, "gbk": 0.75, "big5": 0.9, "cp949": 0.9, "euc_jp": 0.6, "utf-8": 0.98, "cp1251": 0.9}


def writable(titles: Titles, encoding: str) -> list[str]:
    """Those titles that the encoding has letters for, as they come back from it."""
    kept = [title.encode(encoding, "ignore").decode(encoding) for title in titles]
    return [title for title, written in zip(kept, titles, strict=True) if len(title) == len(written)]


def mislabelled(text: str, encoding: str) -> str:
    return text.encode(encoding).decode("latin-1")


def as_cp1252(text: str, encoding: str) -> str:
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode(encoding))


def outcomes(files: Sequence[Mapping[str, str]], encoding: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for texts in files:
        found = repair_texts({name: mislabelled(text, encoding) for name, text in texts.items()})
        for name, text in texts.items():
            counts["right" if found[name] == text else "left out" if found[name] is None else "wrong"] += 1
    return counts


def test_there_is_enough_to_measure():
    assert len({*JAPANESE, *CHINESE, *TRADITIONAL, *KOREAN}) >= 200
    assert len(EUROPEAN) >= 100


@pytest.mark.parametrize(("name", "titles", "encoding"), WRITTEN)
def test_texts_of_a_file_are_put_right_together(name: str, titles: Titles, encoding: str):
    titles, draw = writable(titles, encoding), random.Random(f"{name} {encoding}")
    lines = sorted(titles, key=len)[-len(titles) // 4 :]
    files = [
        {"title": draw.choice(titles), "artist": draw.choice(titles), "lyrics": draw.choice(lines)} for _ in range(150)
    ]
    counts = outcomes(files, encoding)
    assert counts["wrong"] == 0
    assert counts["right"] / counts.total() >= 0.97


@pytest.mark.parametrize(("name", "titles", "encoding"), WRITTEN)
def test_a_title_alone_is_put_right_or_left_out(name: str, titles: Titles, encoding: str):
    counts = outcomes([{"title": title} for title in writable(titles, encoding)], encoding)
    assert counts["right"] / counts.total() >= LEAST_ALONE[encoding], name
    # The one that is known: three rare kanji in EUC-JP are three Chinese letters in GBK.
    assert counts["wrong"] <= (1 if encoding == "euc_jp" else 0)


@pytest.mark.parametrize("title", EUROPEAN)
def test_european_texts_stay_as_they_are(title: str):
    assert repair_texts({"title": title}) == {"title": title}
    # Windows-1252 that is called Latin-1: curly quotes and dashes come out.
    assert repair_texts({"title": mislabelled(title, "cp1252")}) == {"title": title}


def test_european_names_stay_beside_texts_that_are_put_right():
    texts = {"title": mislabelled("月亮代表我的心", "gbk"), "artist": "Björk", "album": "plain", "lyrics": "もう日本語"}
    assert repair_texts(texts) == {
        "title": "月亮代表我的心",
        "artist": "Björk",
        "album": "plain",
        "lyrics": "もう日本語",
    }


@pytest.mark.parametrize(
    ("text", "encoding"), [("夜に駆ける", "cp932"), ("朋友一生一起走", "gbk"), ("봄날은 간다", "cp949")]
)
def test_texts_that_came_as_windows_1252_are_put_right(text: str, encoding: str):
    assert repair_texts({"title": as_cp1252(text, encoding)}) == {"title": text}


def test_lyrics_tell_how_a_short_title_is_read():
    title, lyrics = (mislabelled(text, "euc_jp") for text in ("花", "うさぎ追いしかの山 小鮒釣りしかの川"))
    assert repair_texts({"title": title}) == {"title": None}
    assert repair_texts({"title": title, "lyrics": lyrics})["title"] == "花"


def test_long_lyrics_are_put_right_whole():
    lyrics = "\n".join(JAPANESE) * 50
    assert repair_texts({"lyrics": mislabelled(lyrics, "euc_jp")}) == {"lyrics": lyrics.replace("～", "〜")}


def test_a_field_that_ends_within_a_letter_keeps_what_is_whole():
    data = "さくらさくらやよいのそらはみわたすかぎり".encode("cp932")[:29]
    assert repair_texts({"title": data.decode("latin-1")}) == {"title": "さくらさくらやよいのそらはみ"}


def test_texts_that_lost_letters_are_left_out():
    assert repair_texts({"a": "夜\ufffd駆ける", "b": "夜に駆\ufffd", "c": "\ufffd", "d": ""}) == {
        "a": None,
        "b": "夜に駆",
        "c": None,
        "d": "",
    }
    assert repair_texts({"a": mislabelled("夜\ufffd駆", "utf-8")}) == {"a": None}


@pytest.mark.parametrize("data", [b"\x80\x81\x82\x83", bytes(range(128, 256)), b"\xc3\x28\xa0\x01"])
def test_bytes_that_are_no_text_are_left_out(data: bytes):
    assert repair_texts({"title": data.decode("latin-1")}) == {"title": None}


HALFWIDTH = ["ｱｲ ｼﾃﾙ", "ﾗﾌﾞﾗﾌﾞ", "ﾄｰｷｮｰ ﾗﾌﾞｽﾄｰﾘｰ", "ﾊﾙﾉｵｶﾞﾜﾊｻﾗｻﾗｲｸﾖ", "ﾒﾘｰｸﾘｽﾏｽ", "ｼﾞｬﾊﾟﾝ", "ｱｲ", "ﾕｷ", "ﾃﾚﾋﾞ", "ｷﾐｶﾞｽｷ"]


@pytest.mark.parametrize("text", HALFWIDTH)
def test_halfwidth_kana_is_widened_or_left_out(text: str):
    whole = unicodedata.normalize("NFKC", text)
    title = mislabelled(text, "cp932")
    assert repair_texts({"title": title})["title"] in {whole, None if len(text) < 7 else whole}
    lyrics = mislabelled("うさぎ追いしかの山 小鮒釣りしかの川", "cp932")
    assert repair_texts({"title": title, "lyrics": lyrics})["title"] == whole


def test_halfwidth_kana_alone_is_read():
    found = [repair_texts({"title": mislabelled(text, "cp932")})["title"] for text in HALFWIDTH[:6]]
    assert found == [
        "アイ シテル",
        "ラブラブ",
        "トーキョー ラブストーリー",
        "ハルノオガワハサラサライクヨ",
        "メリークリスマス",
        "ジャパン",
    ]
    assert (
        decode_text("[00:01.00]ﾊﾙﾉｵｶﾞﾜ\n[00:02.00]ｻﾗｻﾗｲｸﾖ\n".encode("cp932"))
        == "[00:01.00]ハルノオガワ\n[00:02.00]サラサライクヨ\n"
    )


@pytest.mark.parametrize("title", ["МОСКВА", "ПЕСНЯ", "НЕ ПЛАЧЬ", "МИЛЛИОН АЛЫХ РОЗ", "ВЕЧЕР", "ДОЖДЬ"])
def test_russian_capitals_are_no_kana(title: str):
    found = repair_texts({"title": mislabelled(title, "cp1251")})["title"]
    assert found is None or not re.search("[\u30a0-\u30ff]", found)


def test_seven_bit_japanese_is_read():
    assert repair_texts({"title": "荒城の月".encode("iso2022_jp").decode("ascii")}) == {"title": "荒城の月"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("歌\r\n詞".encode(), "歌\r\n詞"),
        ("\ufeff歌詞".encode(), "歌詞"),
        ("歌詞".encode("utf-16"), "歌詞"),
        (b"\xfe\xff" + "歌詞".encode("utf-16-be"), "歌詞"),
        ("うさぎ追いしかの山".encode("cp932"), "うさぎ追いしかの山"),
        ("床前明月光，疑是地上霜".encode("gbk"), "床前明月光，疑是地上霜"),
        ("un café à la crème".encode("latin-1"), "un café à la crème"),
        (b"\xff\xfe\x00", None),
        (b"\x80\x81\x82\x83", None),
        (b"", ""),
    ],
)
def test_text_files_are_decoded_whatever_their_encoding(data: bytes, text: str | None):
    assert decode_text(data) == text


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=30), max_size=4))
def test_any_text_is_kept_changed_or_left_out(texts: dict[str, str]):
    found = repair_texts(texts)
    assert found.keys() == texts.keys()
    assert all(text is None or "\ufffd" not in text for text in found.values())


@given(st.text(st.characters(codec="ascii", exclude_characters="\x1b")))
def test_plain_ascii_is_never_touched(text: str):
    assert repair_texts({"title": text, "lyrics": mislabelled("さくらさくら", "cp932")})["title"] == text


@given(st.binary(max_size=60))
def test_any_bytes_decode_to_text_or_none(data: bytes):
    text = decode_text(data)
    assert text is None or "\ufffd" not in text or b"\xef\xbf\xbd" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff")
