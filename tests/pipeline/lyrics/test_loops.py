from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.loops import Line, LoopParams, Repeat, is_loop, longest_repeat, looping_phrases

PARAMS = LoopParams()


def line(text: str, start_s: float = 0.0, end_s: float = 4.0, pace: float = 3.0, share: float | None = 1.0) -> Line:
    return Line(text, start_s, end_s, pace, share)


@pytest.mark.parametrize(
    ("text", "repeat"),
    [
        ("ラララ ラララ", Repeat(1, 6)),
        ("ソーラン ソーラン ソーラン", Repeat(4, 3)),
        ("さくら さくら", Repeat(3, 2)),
        ("この道はいつか来た道", Repeat(9, 1)),
        ("no, no, no!", Repeat(2, 3)),
        ("", Repeat(0, 1)),
    ],
)
def test_the_unit_and_its_times_are_found(text: str, repeat: Repeat):
    found = longest_repeat(text)
    assert found.times == repeat.times
    assert repeat.times == 1 or found == repeat


@given(st.text("あいうえおかきくけこ", min_size=1, max_size=6), st.integers(2, 30))
def test_whatever_is_repeated_is_found(unit: str, times: int):
    found = longest_repeat(unit * times)
    assert found.num_letters * found.times >= len(unit) * (times - 1)
    assert found.num_letters <= len(unit)


@pytest.mark.parametrize(
    "text",
    [
        "ぽっぽっぽ",
        "ラララララララララララララララララララララ",
        "はいはいはいはいはいはい",
        "ワッショイ ワッショイ ワッショイ ワッショイ ワッショイ ワッショイ",
        "りんりん りんりん りいんりん",
        "どんどんひゃらら どんひゃらら",
    ],
)
def test_what_is_sung_over_and_over_is_no_loop(text: str):
    assert not is_loop(line(text), PARAMS)


@pytest.mark.parametrize(
    "text", ["あ" * 120, "はい" * 40, "それは" * 30, "お願いします" * 9, "この道はいつか来た道" * 5]
)
def test_a_stuck_decoder_is_a_loop(text: str):
    assert is_loop(line(text), PARAMS)
    assert is_loop(line(text, share=None), PARAMS)


def test_repeats_that_nothing_bears_out_are_a_loop_sooner():
    text = "ラ" * 20
    assert not is_loop(line(text), PARAMS)
    assert not is_loop(line(text, share=None), PARAMS)
    assert is_loop(line(text, share=0.2), PARAMS)
    assert is_loop(line(text, pace=11.0), PARAMS)
    assert not is_loop(line("ラ" * 40), PARAMS)
    assert is_loop(line("ラ" * 40, share=0.7), PARAMS)


def test_a_refrain_between_verses_is_no_loop():
    song = ["どんどん", "ひゃらら", "朝から聞こえる", "笛太鼓"] * 5
    lines = [line(text, n * 4 + 0.3 * (n % 3), n * 4 + 3.5) for n, text in enumerate([*song[:-4], "別の歌詞"])]
    assert not looping_phrases(lines, LoopParams(max_plain_lines=6))
    # The block as a whole can come too often, if it is the only thing that comes.
    assert looping_phrases(lines, LoopParams(max_plain_lines=3))


def test_a_line_sung_three_times_is_no_loop():
    lines = [line("来い来い", n * 2.0, n * 2.0 + 1.8) for n in range(3)]
    assert not looping_phrases(lines, PARAMS)


def test_equal_lines_like_clockwork_are_a_loop():
    clockwork = [line("もう一度", n * 2.0, n * 2.0 + 2.0) for n in range(6)]
    unknown = [phrase._replace(sounding_share=None) for phrase in clockwork]
    assert looping_phrases(unknown[:5], PARAMS) == set(range(5))
    # Where it sounds, the first two may be true.
    assert looping_phrases(clockwork[:5], PARAMS) == {2, 3, 4}
    sung = [phrase._replace(start_s=phrase.start_s + 0.15 * (n % 2)) for n, phrase in enumerate(clockwork)]
    assert not looping_phrases(sung[:5], PARAMS)
    assert looping_phrases(sung, PARAMS) == {5}


def test_equal_lines_where_nothing_sounds_or_too_fast_are_a_loop():
    lines = [line("もう一度", n * 2.0 + 0.2 * (n % 3), n * 2.0 + 1.5) for n in range(4)]
    assert not looping_phrases(lines, PARAMS)
    assert looping_phrases([phrase._replace(sounding_share=0.3) for phrase in lines], PARAMS) == set(range(4))
    assert looping_phrases([phrase._replace(moras_per_s=15.0) for phrase in lines], PARAMS) == set(range(4))
    assert not looping_phrases([phrase._replace(sounding_share=None) for phrase in lines], PARAMS)


def test_a_run_is_found_through_other_lines_between():
    texts = ["だから"] * 4 + ["それで"] + ["だから"] * 4
    lines = [line(text, n * 2.0 + 0.2 * (n % 3), n * 2.0 + 1.5) for n, text in enumerate(texts)]
    assert looping_phrases(lines, PARAMS) == {6, 7, 8}


def test_blocks_of_lines_that_come_again_and_again_are_a_loop():
    lines = [line("あるひ" if n % 2 else "もりのなか", n * 2.0, n * 2.0 + 1.9) for n in range(12)]
    assert looping_phrases(lines, PARAMS) == set(range(4, 12))
    silent = [phrase._replace(sounding_share=0.1) for phrase in lines]
    assert looping_phrases(silent, PARAMS) == set(range(12))


def test_wordless_refrains_may_come_often_but_not_like_clockwork():
    lines = [line("ナナナ ナナナナ", n * 4 + 0.1 * (n % 3), n * 4 + 3.5) for n in range(12)]
    assert not looping_phrases(lines, PARAMS)
    assert looping_phrases([line("ナナナ ナナナナ", n * 4.0, n * 4.0 + 4) for n in range(12)], PARAMS) == set(
        range(2, 12)
    )


def test_lines_without_letters_are_left_to_others():
    assert not looping_phrases([line("♪", n * 2.0, n * 2.0 + 2) for n in range(9)], PARAMS)
    assert not looping_phrases([], PARAMS)


@pytest.mark.parametrize("times", [6, 8, 10])
@pytest.mark.parametrize("chorus", [["もう一度"], ["あるひ", "もりのなか"], ["はるが", "きた", "どこに"]])
def test_a_chorus_that_sounds_is_thinned_out_and_never_lost(chorus: list[str], times: int):
    rng = np.random.default_rng(times)
    texts = chorus * times
    lines = [line(text, n * 3.0 + rng.uniform(-0.2, 0.2), n * 3.0 + 2.7) for n, text in enumerate(texts)]
    assert looping_phrases(lines, PARAMS) == set(range(5 * len(chorus), len(texts)))


def test_a_run_that_takes_on_the_lengths_of_other_lines_keeps_two():
    lines = [line("もう一度", n * 4.0, n * 4.0 + length_s) for n, length_s in enumerate([1.5, 3.8, 2.2, 3.1, 1.2, 3.5])]
    assert looping_phrases(lines, PARAMS) == {2, 3, 4, 5}


def test_the_statements_that_stay_are_those_that_sound():
    shares = [0.1, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9]
    lines = [line("もう一度", n * 2.0, n * 2.0 + 2.0, share=share) for n, share in enumerate(shares)]
    assert looping_phrases(lines, PARAMS) == {0, 2, 4, 5, 6}
