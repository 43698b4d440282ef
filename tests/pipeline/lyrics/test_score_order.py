from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.lyrics.score_order import BarMarks, play_order
from tests.pipeline.lyrics.score_making import (
    FORWARD,
    REPEAT,
    lines,
    lyric,
    note,
    read,
    rest,
    sung,
    texts,
    volta,
    words,
)


def test_a_repeat_sings_the_next_verse(tmp_path: Path):
    both = note(lyric("は") + lyric("さ", number=2)) + note(lyric("な") + lyric("くら", number=2)) + rest(2)
    phrases = read(tmp_path, sung("あ い う ="), FORWARD + both + REPEAT, sung("お わ り ="))
    assert lines(phrases) == [
        ("あいう", 0.0, 3.0),
        ("はな", 4.0, 6.0),
        ("さくら", 8.0, 10.0),
        ("おわり", 12.0, 15.0),
    ]
    assert [p.get("section") for p in phrases] == [0, 1, 2, 3]
    assert {p.get("confidence") for p in phrases} == {1.0}


def test_voltas_are_sung_on_their_passes(tmp_path: Path):
    verse = note(lyric("は") + lyric("さ", number=2)) + note(lyric("な") + lyric("くら", number=2)) + rest(2)
    bars = verse, volta("1", sung("い ち = ="), "<repeat direction='backward'/>"), volta("2", sung("に = = ="))
    assert texts(read(tmp_path, *bars, sung("お わ り ="))) == ["はな", "いち", "さくら", "に", "おわり"]


def test_a_refrain_is_sung_on_every_pass_though_it_stands_in_one_verse(tmp_path: Path):
    verse = "".join(note(lyric(a) + lyric(b, number=2)) for a, b in ("はさ", "なく", "がら"))
    hold = note(lyric("お")) + note(lyric("よ") + lyric("と", number=2)) + rest(2)
    phrases = read(tmp_path, verse + rest(), hold, sung("ヘ イ ホ =") + REPEAT)
    assert texts(phrases) == ["はなが", "およ", "ヘイホ", "さくら", "と", "ヘイホ"]


def test_verses_without_a_repeat_are_sung_one_after_another(tmp_path: Path):
    verse = note(lyric("1.は") + lyric("2.さ", number=2)) + note(lyric("な") + lyric("くら", number=2)) + rest(2)
    phrases = read(tmp_path, verse)
    assert lines(phrases) == [("はな", 0.0, 2.0), ("さくら", 4.0, 6.0)]
    assert [(p.get("section"), p.get("confidence")) for p in phrases] == [(0, 1.0), (1, 0.5)]


def test_a_plain_repeat_is_taken_for_every_verse_below_it(tmp_path: Path):
    verse = note(lyric("は") + lyric("さ", number=2) + lyric("つ", number=3)) + rest(3)
    phrases = read(tmp_path, verse + REPEAT, sung("お わ り ="))
    assert [(p["text"], p.get("confidence")) for p in phrases] == [
        ("は", 1.0),
        ("さ", 1.0),
        ("つ", 0.5),
        ("おわり", 1.0),
    ]


def test_a_line_of_romaji_below_the_kana_is_no_second_verse(tmp_path: Path):
    assert texts(
        read(tmp_path, note(lyric("は") + lyric("ha", number=2)) + note(lyric("な") + lyric("na", number=2)))
    ) == ["はな"]


def test_da_capo_al_fine_and_dal_segno_al_coda_are_followed(tmp_path: Path):
    a, b, c, d = (sung(f"{text} = = =") for text in "あいうえ")
    assert texts(read(tmp_path, a, b + words("Fine"), c + words("D.C. al Fine"))) == ["あ", "い", "う", "あ", "い"]
    sign = "<direction><direction-type><{}/></direction-type></direction>"
    bars = a, sign.format("segno") + b + words("To Coda"), c + words("D.S. al Coda"), sign.format("coda") + d
    assert texts(read(tmp_path, *bars)) == ["あ", "い", "う", "い", "え"]
    sounds = words(" ", "<sound segno='s'/>") + b, c + words(" ", "<sound dalsegno='s'/>"), d
    assert texts(read(tmp_path, a, *sounds)) == ["あ", "い", "う", "い", "う", "え"]


def test_of_two_coda_signs_one_leaves_after_its_bar_or_before_it(tmp_path: Path):
    a, b, c, d = (sung(f"{text} = = =") for text in "あいうえ")
    sign = "<direction><direction-type><coda/></direction-type></direction>"
    jump = words("D.C. al Coda")
    assert texts(read(tmp_path, a, b + sign, c + jump, sign + d)) == ["あ", "い", "う", "あ", "い", "え"]
    assert texts(read(tmp_path, a, sign + b, c + jump, sign + d)) == ["あ", "い", "う", "あ", "え"]


def test_a_jump_to_nowhere_is_less_believed(tmp_path: Path):
    phrases = read(tmp_path, sung("あ = = ="), sung("い = = =") + words("D.S. al Coda"))
    assert [(p["text"], p.get("confidence")) for p in phrases] == [(text, 0.7) for text in "あいあい"]


def order(*bars: BarMarks) -> str:
    return " ".join(f"{played.bar}.{played.turn}" for played in play_order(bars)[0])


def ending(*passes: int, times: int = 0) -> BarMarks:
    return BarMarks(endings=frozenset(passes), repeat_times=times)


def test_the_order_of_bars_by_their_marks():
    bar, start, back = BarMarks(), BarMarks(repeat_start=True), BarMarks(repeat_times=2)
    assert order(bar, bar) == "0.1 1.1"
    assert order(bar, BarMarks(repeat_times=3), bar) == "0.1 1.1 0.2 1.2 0.3 1.3 2.1"
    assert order(back, back) == "0.1 0.2 1.1 1.2"
    assert order(bar, start, back, bar) == "0.1 1.1 2.1 1.2 2.2 3.1"
    assert order(bar, ending(1, 2, times=2), ending(3), bar) == "0.1 1.1 0.2 1.2 0.3 2.3 3.1"
    assert order(bar, ending(1, times=2), ending(2, times=2), bar) == "0.1 1.1 0.2 2.2 3.1"
    assert order(bar, ending(1, times=2), bar, back) == "0.1 1.1 0.2 2.1 3.1 2.2 3.2"
    assert order(bar, ending(1, times=2), ending(2), ending(1, times=2), ending(2)).startswith("0.1 1.1 0.2 2.2 3.1")
    capo = BarMarks(jump="capo", jump_until="fine")
    assert order(bar, back, BarMarks(fine=True), capo) == "0.1 1.1 0.2 1.2 2.1 3.1 0.3 1.3 2.2"
    assert order(bar, ending(1, times=2), ending(2), capo) == "0.1 1.1 0.2 2.2 3.1 0.3 2.2 3.2"


marks = st.builds(
    BarMarks,
    repeat_start=st.booleans(),
    repeat_times=st.sampled_from([0, 0, 2, 3]),
    endings=st.sampled_from([frozenset[int](), frozenset({1}), frozenset({2}), frozenset({1, 2}), frozenset({3})]),
    segno=st.booleans(),
    coda=st.booleans(),
    to_coda=st.booleans(),
    fine=st.booleans(),
    jump=st.sampled_from([None, None, "capo", "segno"]),
    jump_until=st.sampled_from([None, "fine", "coda"]),
)


@given(st.lists(marks, max_size=12))
def test_any_marks_come_to_an_end(bars: list[BarMarks]):
    played, _ = play_order(bars)
    assert len(played) < 1000
    assert all(turn.turn >= 1 for turn in played)
    assert not bars or not played or played[0].bar <= 1 or bars[0].endings
