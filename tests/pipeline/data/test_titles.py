from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.titles import fold_title, tag_groups, title_folds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("荒城の月", "荒城の月 (cover)"),
        ("荒城の月", "【歌ってみた】荒城の月"),
        ("ふるさと", "ふるさと / 誰か"),
        ("Furusato", "FURUSATO - Live at Tokyo"),
        ("ﾌﾙｻﾄ", "フルサト"),
        ("Let it be", "Let It Be (feat. X)"),
        ("Let it be", "let it be feat. someone"),
    ],
)
def test_covers_of_one_song_meet(one: str, other: str):
    assert fold_title(one) == fold_title(other) != ""


@pytest.mark.parametrize(("one", "other"), [("春が来た", "春よ来い"), ("Song 1", "Song 2"), ("赤とんぼ", "とんぼ")])
def test_other_songs_stay_apart(one: str, other: str):
    assert fold_title(one) != fold_title(other)


def test_a_title_of_brackets_alone_keeps_its_letters():
    assert fold_title("(untitled)") == "untitled"
    assert fold_title("!!!") == ""


@given(st.text(max_size=40))
def test_folding_twice_changes_nothing(title: str):
    assert fold_title(fold_title(title)) == fold_title(title)


def test_tags_tell_groups_and_empty_ones_tell_none():
    tags = {"title": "Song (live)", "artist": "A. Singer", "album": "First", "lyrics": "la"}
    assert tag_groups(tags) == {
        "song": "title:song",
        "song_in_english": "title:song",
        "artist": "name:asinger",
        "album": "name:asinger/first",
    }
    assert tag_groups({"title": "!!!"}) == tag_groups({}) == {}


REAL_TITLES = [
    ("YOASOBI「夜に駆ける」 Official Music Video", "夜に駆ける"),
    ("YOASOBI『夜に駆ける』/ covered by X", "夜に駆ける"),
    ("【歌ってみた】夜に駆ける / YOASOBI covered by X", "夜に駆ける"),
    ("夜に駆ける／YOASOBI（Cover）", "夜に駆ける"),
    ("Ado - うっせぇわ", "うっせぇわ"),
    ("【Ado】うっせぇわ", "うっせぇわ"),
    ("うっせぇわ covered by X", "うっせぇわ"),
    ("うっせぇわ cover", "うっせぇわ"),
    ("うっせぇわ - Ado (Piano Cover)", "うっせぇわ"),
    ("うっせぇわ 歌ってみた", "うっせぇわ"),
    ("歌ってみた / 千本桜", "千本桜"),
    ("千本桜 / 初音ミク", "千本桜"),
    ("千本桜/初音ミク", "千本桜"),
    ("【千本桜】歌ってみた【X】", "千本桜"),
    ("千本桜 feat. 初音ミク", "千本桜"),
    ("千本桜【カラオケ】", "千本桜"),
    ("千本桜 - インスト", "千本桜"),
    ("【MV】千本桜 / WhiteFlame feat 初音ミク", "千本桜"),
    ("千本桜 Piano ver.", "千本桜"),
    ("米津玄師 - Lemon", "Lemon"),
    ("米津玄師 MV「Lemon」", "Lemon"),
    ("DAOKO × 米津玄師『打上花火』MUSIC VIDEO", "打上花火"),
    ("LiSA『紅蓮華』-MUSiC CLiP-", "紅蓮華"),
    ("TVアニメ「鬼滅の刃」オープニング 「紅蓮華」", "紅蓮華"),
    ("紅蓮華 / LiSA 『鬼滅の刃』主題歌", "紅蓮華"),
    ("Official髭男dism - Pretender［Official Video］", "pretender"),
    ("LiSA - 紅蓮華 / THE FIRST TAKE", "紅蓮華"),
    ("廻廻奇譚 - Eve MV", "廻廻奇譚"),
    ("King Gnu - 白日", "白日"),
    ("back number – 水平線", "水平線"),
    ("We Live in Time", "We Live in Time"),
    ("Bryce Dessner - We Live in Time", "We Live in Time"),
    ("Under Cover of Darkness", "Under Cover of Darkness"),
    ("The Strokes - Under Cover of Darkness (Official Video)", "Under Cover of Darkness"),
    ("Paul McCartney - Live and Let Die", "Live and Let Die"),
    ("Live Forever - 2014 Remaster", "Live Forever"),
    ("Let It Be - Live at Tokyo", "Let It Be"),
    ("Let It Be - Acoustic Version", "Let It Be"),
    ("Let It Be [Karaoke Instrumental]", "Let It Be"),
    ("The Beatles - Let It Be (Remastered 2009) | Official Audio", "Let It Be"),
    ("AC/DC - Thunderstruck", "Thunderstruck"),
    ("荒城の月（弾き語り）", "荒城の月"),
    ("歌ってみた 千本桜", "千本桜"),
    ("千本桜 ～piano～", "千本桜"),
    ("夜に駆ける-YOASOBI", "夜に駆ける"),
    ("a-ha - Take On Me", "Take On Me"),
]


@pytest.mark.parametrize(("title", "song"), REAL_TITLES)
def test_titles_of_videos_name_their_song(title: str, song: str):
    assert fold_title(song) in title_folds(title)
    assert 1 <= len(title_folds(title)) <= 3


@pytest.mark.parametrize(
    ("title", "folds"),
    [
        ("YOASOBI「夜に駆ける」 Official Music Video", ("夜に駆ける",)),
        ("千本桜 / 初音ミク", ("千本桜",)),
        ("Ado - うっせぇわ", ("うっせぇわ", "ado")),
        ("LiSA『紅蓮華』-MUSiC CLiP-", ("紅蓮華",)),
        ("We Live in Time", ("weliveintime",)),
        ("Live and Let Die", ("liveandletdie",)),
        ("Under Cover of Darkness", ("undercoverofdarkness",)),
        ("Under Cover", ("undercover", "under")),
        ("歌ってみた", ("歌ってみた",)),
        ("Live", ("live",)),
    ],
)
def test_no_more_songs_than_a_title_may_name(title: str, folds: tuple[str, ...]):
    assert title_folds(title) == folds


def test_a_side_that_the_tags_or_the_channel_name_is_no_song():
    assert title_folds("Ado - うっせぇわ", ["Ado Official"]) == ("うっせぇわ",)
    assert title_folds("Ado / うっせぇわ", ["Ado公式チャンネル"]) == ("うっせぇわ",)
    assert title_folds("Ai - Lemon", ["Aimyon"]) == ("lemon", "ai")
    assert title_folds("Lemon", ["Lemon"]) == ("lemon",)
    assert tag_groups({"title": "廻廻奇譚 - Eve", "artist": "Eve"})["song"] == "title:廻廻奇譚"
    assert tag_groups({"title": "廻廻奇譚 - Eve"}, ["Eve"]) == {
        "song": "title:廻廻奇譚",
        "song_in_english": "title:廻廻奇譚",
    }


def test_other_songs_that_a_title_may_name_are_further_groups():
    assert tag_groups({"title": "廻廻奇譚 - Eve"})["song_2"] == "title:廻廻奇譚"


@given(st.text(alphabet="abうた -/「」()【】|『』cover live", max_size=40), st.lists(st.text(max_size=4), max_size=2))
def test_any_title_folds_to_letters(title: str, names: list[str]):
    folds = title_folds(title, names)
    assert bool(folds) == any(letter.isalnum() for letter in title)
    assert all(fold.isalnum() for fold in folds)
