from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.plausibility import LETTER_SCORES, Language, log_likelihood, mean_likelihood

SAMPLES: list[tuple[str, Language]] = [
    ("うさぎ追いしかの山", "ja"),
    ("カタカナのうた", "ja"),
    ("月亮代表我的心", "zh"),
    ("海闊天空", "zh_hant"),
    ("봄날은 간다", "ko"),
    ("Подмосковные вечера", "ru"),
    ("déjà vu, mañana", "latin"),
    ("Příliš žluťoučký kůň", "other"),
    ("Ζορμπάς", "other"),
]


@pytest.mark.parametrize(("text", "language"), SAMPLES)
def test_a_text_is_likeliest_in_its_own_language(text: str, language: Language):
    assert max(LETTER_SCORES, key=lambda other: log_likelihood(text, other)) == language
    assert log_likelihood(text, "any") == log_likelihood(text, language)


@pytest.mark.parametrize(
    ("likely", "unlikely", "language"),
    [
        ("山の歌", "ﾔﾏﾉｳﾀ", "ja"),  # half-width kana: Shift-JIS seen where it is not
        ("花の色", "絨の鞣", "ja"),
        ("我们的歌", "丿亍兀乜", "zh"),
        ("vie en rose", "viセ en rose", "ja"),
        ("Été la", "éTÉ lÀ", "latin"),
        ("a\tb\nc", "a\x01b\x02c", "latin"),
        ("가나다라", "갂낢닭랋", "ko"),
    ],
)
def test_what_is_written_outweighs_what_is_not(likely: str, unlikely: str, language: Language):
    assert log_likelihood(likely, language) > log_likelihood(unlikely, language) + 3


def test_the_mean_is_of_letters_beyond_ascii():
    assert mean_likelihood("plain", "latin") == 0
    assert mean_likelihood("é", "latin") == mean_likelihood("à la é la", "latin")


@given(st.text(max_size=40), st.sampled_from([*LETTER_SCORES, "any"]))
def test_any_text_has_a_finite_likelihood(text: str, language: Language):
    assert -40 * max(len(text), 1) <= log_likelihood(text, language) <= 0
