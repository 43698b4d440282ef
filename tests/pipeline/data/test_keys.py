from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.keys import KEY_PATTERN, clip_key

IDS = st.text(max_size=200) | st.text("aA_-.1あ/", max_size=12)


@given(IDS, IDS, st.integers(0, 20000), st.integers(0, 20000))
def test_clip_key_never_maps_two_clips_to_one_key(one: str, other: str, clip: int, other_clip: int):
    same = clip_key("toy", one, clip) == clip_key("toy", other, other_clip)
    assert same == ((one, clip) == (other, other_clip))


@given(IDS)
def test_clip_key_is_legal_and_bounded(upstream_id: str):
    key = clip_key("toy", upstream_id, 0)
    assert KEY_PATTERN.fullmatch(key)
    assert len(key) <= 130


@pytest.mark.parametrize(
    ("upstream_id", "key"),
    [
        ("-0Gj8-vB1q4", "musiccaps--0_gj8-v_b1q4-0003"),
        ("_a", "musiccaps-__a-0003"),
        ("1.2min", "musiccaps-1_12e2min-0003"),
        ("歌", "musiccaps-_1e6_1ad_18c-0003"),
    ],
)
def test_clip_key_follows_its_documented_rule(upstream_id: str, key: str):
    assert clip_key("musiccaps", upstream_id, 3) == key


def test_clip_key_takes_a_file_name_that_is_no_text():
    assert clip_key("toy", "a\udcff", 0) == "toy-a_1ff-0000"


@pytest.mark.parametrize(("corpus", "clip"), [("with-dash", 0), ("Capital", 0), ("", 0), ("toy", -1)])
def test_clip_key_refuses_what_would_break_the_rule(corpus: str, clip: int):
    with pytest.raises(ValueError, match="corpus"):
        clip_key(corpus, "a", clip)
