from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Heard
from pipeline.lyrics.agreement import UNHEARD, agreements


def heard(text: str, start_s: float, end_s: float) -> Heard:
    return Heard(text=text, start_s=start_s, end_s=end_s, avg_logprob=-0.4, no_speech_prob=0.1, compression_ratio=1.2)


FIRST = [heard("春高楼の花の宴", 0.0, 4.0), heard("めぐる盃かげさして", 5.0, 9.0), heard("千代の松が枝", 10.0, 14.0)]


def test_the_same_words_agree_wholly():
    assert agreements(FIRST, FIRST) == [1.0, 1.0, 1.0]


def test_kana_and_punctuation_do_not_matter():
    assert agreements([heard("サクラ さくら", 0, 3)], [heard("さくら、サクラ。", 0.5, 3.2)]) == [1.0]


def test_phrases_may_be_divided_otherwise():
    joined = [
        heard("春高楼の花の宴めぐる盃かげさして", 0.2, 9.1),
        heard("千代の松が", 10.0, 12.0),
        heard("枝", 12.0, 14.0),
    ]
    assert min(agreements(FIRST, joined)) > 0.8
    assert min(agreements(joined, FIRST)) > 0.8


def test_other_words_at_the_same_time_do_not_agree():
    others = [heard("ご視聴ありがとう", 0.0, 4.0), *FIRST[1:]]
    first, second, third = agreements(FIRST, others)
    assert first < 0.2
    assert (second, third) == (1.0, 1.0)


def test_the_same_words_at_another_time_do_not_agree():
    assert agreements(FIRST[:1], [heard("春高楼の花の宴", 60.0, 64.0)]) == [UNHEARD]


def test_silence_of_the_other_pass_says_less_than_other_words():
    assert agreements(FIRST, []) == [UNHEARD] * 3
    assert agreements(FIRST, [FIRST[0], FIRST[2]])[1] == UNHEARD


def test_part_of_the_words_agree_in_part():
    (share,) = agreements([heard("あかしやの花が咲いてる", 0, 4)], [heard("あかしやの穴が空いてる", 0, 4)])
    assert 0.4 < share < 1.0


def test_a_phrase_without_letters_agrees_with_nothing():
    assert agreements([heard("♪", 0, 4)], [heard("さくら", 0, 4)]) == [0.0]
    assert agreements([heard("さくら", 0, 4)], [heard("♪", 0, 4)]) == [0.0]


@st.composite
def transcripts(draw: st.DrawFn) -> list[Heard]:
    texts = draw(st.lists(st.text("あいうえおかきくサクラ空 ♪", max_size=20), max_size=12))
    starts = sorted(draw(st.lists(st.floats(0, 60), min_size=len(texts), max_size=len(texts))))
    return [heard(text, start_s, start_s + 2.0) for text, start_s in zip(texts, starts, strict=True)]


@given(transcripts(), transcripts())
def test_agreement_is_a_share_for_every_phrase(first: list[Heard], second: list[Heard]):
    found = agreements(first, second)
    assert len(found) == len(first)
    assert all(0 <= share <= 1 for share in found)


@given(transcripts())
def test_a_pass_agrees_with_itself(phrases: list[Heard]):
    for share, phrase in zip(agreements(phrases, phrases), phrases, strict=True):
        if any(char.isalpha() for char in phrase["text"]):
            assert share == pytest.approx(1.0)
