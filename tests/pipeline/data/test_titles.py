from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.titles import fold_title, tag_groups


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
