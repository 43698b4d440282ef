"""SongBloom's format: what we write passes a check that shares no code with the writer, and the check finds faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Phrase
from pipeline.lyrics.sections import Section
from pipeline.lyrics.songbloom import MODELS, PROMPT_S, cut_prompt, problems, songbloom_lyrics


def section(kind: str, length_s: float, *texts: str, start_s: float = 0.0) -> Section:
    phrases = tuple(Phrase(text=text, start_s=None, end_s=None, source="score") for text in texts)
    return Section(kind, start_s, start_s + length_s, phrases)  # pyright: ignore[reportArgumentType]


SONG = [
    section("intro", 4.2),
    section("verse", 20, "さくら、さくら", "「やよい」の空は。見わたす限り！"),
    section("inst", 12.4),
    section("chorus", 20, "Don't stop, baby", "かすみか雲か"),
    section("outro", 0.3),
]


def test_a_song_for_each_model():
    words = "[verse] さくら さくら. やよいの空は. 見わたす限り"
    chorus = "[chorus] Don't stop baby. かすみか雲か"
    short = songbloom_lyrics(SONG, seconds_per_tag=MODELS["150s"].seconds_per_tag)
    assert short == f"[intro] [intro] [intro] [intro] , {words} , {' '.join(['[inst]'] * 12)} , {chorus}"
    long = songbloom_lyrics(SONG, seconds_per_tag=MODELS["240s"].seconds_per_tag)
    assert long == f"[intro] , {words} , [inst] [inst] , {chorus}"
    assert problems(short) == problems(long) == []


def test_what_has_no_words_is_not_told_of():
    sections = [
        section("inst", 3),
        section("verse", 9),
        section("verse", 9, "♪", "、"),
        section("inst", 4),
        section("verse", 5, "あ"),
    ]
    assert songbloom_lyrics(sections, seconds_per_tag=1) == " ".join(["[inst]"] * 7) + " , [verse] あ"


def test_verses_that_follow_each_other_stay_apart():
    assert (
        songbloom_lyrics([section("verse", 5, "あ"), section("verse", 5, "い")], seconds_per_tag=1)
        == "[verse] あ , [verse] い"
    )


@pytest.mark.parametrize("sections", [[], [section("inst", 30)], [section("verse", 5, "。")]])
def test_a_song_without_words_cannot_be_written(sections: list[Section]):
    with pytest.raises(ValueError, match="no section with words"):
        songbloom_lyrics(sections, seconds_per_tag=1)


TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="さくら桜、。「」！？,.…・[]() 　\n!?:;ａlove'", max_size=20),
)
KINDS = st.sampled_from(["intro", "verse", "chorus", "inst", "outro"])
SECTIONS = st.lists(
    st.tuples(KINDS, st.floats(0, 60), st.lists(TEXTS, max_size=4)).map(
        lambda drawn: section(drawn[0], drawn[1], *(drawn[2] if drawn[0] in {"verse", "chorus"} else []))
    ),
    max_size=8,
)


@given(SECTIONS, st.sampled_from([1.0, 5.0]))
def test_whatever_is_written_passes_the_check(sections: list[Section], seconds_per_tag: float):
    lyrics = songbloom_lyrics([*sections, section("chorus", 10, "さくら")], seconds_per_tag=seconds_per_tag)
    assert problems(lyrics) == []
    assert sum(lyrics.count(f"[{kind}]") for kind in ("intro", "inst", "outro")) * seconds_per_tag <= 0.5 * 5 * 8 + sum(
        s.duration_s for s in sections
    )


GOOD = "[intro] [intro] , [verse] さくら. さくら , [inst] , [chorus] はな"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "さくら",
        "[intro] [intro]",
        "[verse]",
        "[verse] さくら, さくら",
        "[verse] さくら. , [inst]",
        "[verse] さくら ,  [inst]",
        "[verse] さくら,[inst]",
        "[verse] さくら 、さくら",
        "[verse] 「さくら」",
        "[verse] さくら。",
        "[verse] さくら！",
        "[verse] さくら. . さくら",
        "[verse] [verse] さくら",
        "[intro] さくら , [verse] さくら",
        "[intro] [inst] , [verse] さくら",
        "[prechorus] さくら , [verse] さくら",
        "[verse] さくら\n",
        " [verse] さくら",
        "[verse] さくら　さくら",
        "[verse] さくら , ",
        "verse さくら",
    ],
)
def test_the_check_finds_what_is_wrong(bad: str):
    assert problems(GOOD) == []
    assert problems(bad)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(["、", ",", "[", "]", "\n", "。", "[solo]"]))
def test_one_wrong_letter_is_found(at: int, letter: str):
    assert problems(GOOD[:at] + letter + GOOD[at:])


@pytest.mark.parametrize(
    "lyrics",
    [
        # Of the project's own documentation, shortened.
        "[chorus] 晚风中闪过. 几帧从前啊. 不响 , [inst] [inst] [inst] [inst] , [verse] 这世界有那么多人. 多幸运",
        "[intro] [intro] , [verse] 在寂静的夜里.旋律悄然苏醒 , [chorus] SongBloom.让歌声绽放天空 , [outro] [outro]",
        "[verse] Are you going to Scarborough Fair. Parsley sage , [chorus] Then he'll be a true love of mine",
    ],
)
def test_songblooms_own_examples_pass(lyrics: str):
    assert problems(lyrics) == []


def sung(*spans_s: tuple[float, float | None]) -> list[Phrase]:
    return [Phrase(text="さくら", start_s=start_s, end_s=end_s, source="score") for start_s, end_s in spans_s]


def test_the_prompt_lies_where_it_leaves_most():
    # The end is sung, the beginning is not.
    cut = cut_prompt(sung((20, 30), (50, 58)), (0, 60), max_target_s=150, min_target_s=20)
    assert cut == ((50, 60), (0, 50))
    # A long song: the target is as long as the model's longest, the prompt full of singing beyond it.
    cut = cut_prompt(sung((0, 50), (170, 180)), (0, 240), max_target_s=150, min_target_s=20)
    assert cut == ((170, 180), (0, 150))


def test_a_target_never_cuts_a_phrase():
    cut = cut_prompt(sung((0, 9), (9, 28), (28, 45), (45, None)), (0, 60), max_target_s=30, min_target_s=20)
    assert cut is not None
    assert cut.target_s == (0, 28)


@pytest.mark.parametrize(
    ("phrases", "length_s"),
    [(sung((1, 5)), 22.9), (sung((0, 60)), 60.0), (sung((0, 8)), 22.0), ([], 60.0)],
)
def test_a_song_that_cannot_spare_a_prompt_has_none(phrases: list[Phrase], length_s: float):
    assert cut_prompt(phrases, (0, length_s), max_target_s=150, min_target_s=20) is None


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.5, 20)), min_size=1, max_size=12),
    st.floats(20, 400),
    st.floats(10, 60),
)
def test_prompt_and_target_keep_apart(steps: list[tuple[float, float]], length_s: float, min_target_s: float):
    spans: list[tuple[float, float | None]] = []
    at_s = 0.0
    for pause_s, sung_s in steps:
        spans.append((at_s + pause_s, at_s + pause_s + sung_s))
        at_s += pause_s + sung_s
    inside = [(a, b) for a, b in spans if b is not None and b < length_s]
    cut = cut_prompt(sung(*inside), (0, length_s), max_target_s=150, min_target_s=min_target_s)
    if cut is None:
        return
    (prompt_start_s, prompt_end_s), (start_s, end_s) = cut
    assert prompt_end_s <= start_s + 1e-6 or end_s <= prompt_start_s + 1e-6
    assert 0 <= prompt_start_s < prompt_end_s <= length_s + 1e-6
    assert 3 - 1e-6 <= prompt_end_s - prompt_start_s <= PROMPT_S + 1e-6
    assert min_target_s - 0.01 <= end_s - start_s <= 150 + 1e-6
    assert all(b <= start_s + 0.003 or a >= start_s - 0.003 for a, b in inside)
    assert all(a >= end_s - 0.003 or b <= end_s + 0.003 for a, b in inside)
    assert any(start_s - 0.003 <= a and b <= end_s + 0.003 for a, b in inside)
