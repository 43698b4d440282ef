from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.demo.arrangement import BACKING, arrange
from pipeline.demo.morae import HEPBURN, split_morae, to_hepburn, to_hiragana, to_katakana, to_scat
from pipeline.demo.songbook import (
    PHRASE_REST_S,
    Variant,
    length_s,
    perform,
    sing_order,
    truth,
    usual_writing,
    write_lead,
)
from pipeline.demo.songbook_score import write_score
from pipeline.demo.songs import SONGS, TRADITIONAL, Line, Song
from pipeline.lyrics.score import read_score

VARIANTS: tuple[Variant, ...] = ("default", "SVS", "romaji")
BY_TITLE = {song.title: song for song in SONGS}
ONE_BAR = Line(notes="C4/4", verses=("ら",))


def make_song(*lines: Line, pickup_q: float = 0.0) -> Song:
    return Song(
        title="test", title_ja="試し", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="jazz", bpm=60, metre="4/4",
        fifths=0, mode="major", lines=lines, pickup_q=pickup_q,
    )  # fmt: skip


def told(song: Song) -> list[tuple[str, float | None, float | None, int | None]]:
    return [(p["text"], p["start_s"], p["end_s"], p.get("section")) for p in truth(song)]


def test_there_are_ten_songs_of_all_ten_styles_whose_authors_died_over_70_years_ago():
    assert len({song.title for song in SONGS}) == 10
    assert len({song.subset for song in SONGS}) == 10
    named = [name for song in SONGS for name in (song.lyricist, song.composer) if name != TRADITIONAL]
    assert len(named) >= 7
    for name in named:
        assert int(re.search(r"-(\d{4})\)$", name)[1]) + 70 < 2026


@pytest.mark.parametrize("song", SONGS, ids=lambda song: song.title)
def test_song_lasts_20_to_60_s_and_its_phrases_follow_one_another(song):
    total_s = length_s(write_lead(song))
    assert 20 <= total_s <= 60
    phrases = truth(song)
    edges = [edge for phrase in phrases for edge in (phrase["start_s"], phrase["end_s"])]
    assert edges == sorted(edges)
    assert edges[-1] <= total_s + 1e-3
    for phrase in phrases:
        assert re.fullmatch("[ァ-ン]+", phrase["kana"])
        assert phrase["end_s"] - phrase["start_s"] > 1


def test_songs_show_what_readers_stumble_over():
    lines = [line for song in SONGS for line in song.lines]
    assert {line.end for line in lines} >= {"rest", "breath", "fermata", "end-line", "end-paragraph", "none"}
    assert {song.melisma for song in SONGS} == {"blank", "dash", "space", "extend"}
    assert {line.volta for line in lines} == {0, 1, 2}
    assert sum(len(line.verses) == 2 for line in lines) > 8
    assert any(line.double_bar for line in lines)
    assert any(line.rehearsal for line in lines)
    assert any(line.kind == "scat" for line in lines)
    assert any("~" in line.notes for line in lines)
    assert any(line.bpm not in (0, song.bpm) for song in SONGS for line in song.lines)
    assert sum(not line.verses for line in lines) == 3
    for variant in ("は>わ", "へ>え", "を>お"):
        assert any(variant in verse for line in lines for verse in line.verses)


def test_second_ending_and_second_verse_are_sung_in_their_turn():
    kana = [phrase["kana"] for phrase in truth(BY_TITLE["hiraitahiraita"])]
    assert kana[0] == "ヒライタヒライタ"
    assert kana[4:6] == ["イツノマニカツボンダ", "ツボンダツボンダ"]
    assert kana[-1] == "イツノマニカヒライタ"
    assert len(kana) == 10


def test_every_phrase_has_its_usual_writing():
    for song in SONGS:
        assert len(usual_writing(song)) == len(truth(song))
        assert all(usual_writing(song))
    assert usual_writing(BY_TITLE["hiraitahiraita"])[4::5] == ["いつの間にかつぼんだ", "いつの間にか開いた"]
    assert usual_writing(BY_TITLE["koujounotsuki"])[4] == "秋陣営の霜の色"


def test_a_slower_line_takes_longer_each_time_round():
    phrases = truth(BY_TITLE["edokomoriuta"])
    lengths_s = [round(phrase["end_s"] - phrase["start_s"], 2) for phrase in phrases]
    assert lengths_s[0] == lengths_s[2] == round(7.5 * 60 / 66, 2)
    assert lengths_s[1] == lengths_s[3] == round(8 * 60 / 58, 2)
    assert [phrase["section"] for phrase in phrases] == [0, 0, 1, 1]


def test_particles_are_spelt_one_way_and_sung_another():
    texts = {variant: truth(BY_TITLE["sakurasakura"], variant=variant)[1] for variant in VARIANTS}
    assert [phrase["text"] for phrase in texts.values()] == [
        "やよいのそらは", "やよいのそらわ", "ya yo i no so ra wa",
    ]  # fmt: skip
    assert {phrase["kana"] for phrase in texts.values()} == {"ヤヨイノソラワ"}


def test_scat_is_marked_and_read_in_kana_in_every_variant():
    phrases = [truth(BY_TITLE["chouchou"], variant=variant)[-1] for variant in VARIANTS]
    assert {phrase["kind"] for phrase in phrases} == {"scat"}
    assert {phrase["kana"] for phrase in phrases} == {"ラバダラバダラバダバダ"}
    assert [phrase["text"][:8] for phrase in phrases] == ["ラバダラバダラバ", "LA BA DA", "la ba da"]
    assert {phrase["kind"] for phrase in truth(BY_TITLE["chouchou"])[:-1]} == {"words"}


def test_short_rest_goes_on_and_long_rest_ends_the_phrase():
    quick = make_song(Line(notes="C4 r/.25 C4/.75 C4/2", verses=("ら り る",)))
    slow = make_song(Line(notes="C4 r/.5 C4/.5 C4/2", verses=("ら り る",)))
    assert 0.25 < PHRASE_REST_S < 0.5
    assert told(quick) == [("らりる", 0.0, 4.0, 0)]
    assert told(slow) == [("ら", 0.0, 1.0, 0), ("りる", 1.5, 4.0, 0)]


def test_repeat_and_endings_are_unfolded_and_other_bars_sung_once():
    song = make_song(
        ONE_BAR,
        Line(notes="C4/4", verses=("り",), repeat="start"),
        Line(notes="C4/4", verses=("る",), volta=1, repeat="end"),
        Line(notes="C4/4", verses=("れ",), volta=2),
        Line(notes="C4/4", verses=("ろ",), repeat="both"),
    )
    paper = write_lead(song)
    assert "".join(note.sung for note in perform(paper)) == "らりるりれろろ"
    assert list(sing_order(paper.bars)) == [(0, 0), (1, 0), (2, 0), (1, 1), (3, 1), (4, 0), (4, 1)]


def test_tied_notes_are_one_and_pickup_bar_is_short():
    song = make_song(Line(notes="C4 C4/4 ~C4/2 r/1", verses=("ら り",)), pickup_q=1)
    assert [float(bar.length_q) for bar in write_lead(song).bars] == [1, 4, 3]
    assert [(note.sung, note.start_s, note.end_s) for note in perform(write_lead(song))] == [("ら", 0, 1), ("り", 1, 7)]


@pytest.mark.parametrize(
    ("notes", "verse", "message"),
    [
        ("C4 C4", "ら", "as many syllables"),
        ("C4", "ら ら", "as many syllables"),
        ("C4/3 C4/2", "ら ら", "crosses the end"),
        ("H4", "ら", "not a note"),
    ],
)
def test_song_with_a_slip_of_the_pen_is_refused(notes, verse, message):
    with pytest.raises(ValueError, match=message):
        write_lead(make_song(Line(notes=notes, verses=(verse,))))


@pytest.mark.parametrize("song", SONGS, ids=lambda song: song.title)
def test_backing_parts_fill_every_bar_with_scat_alone(song):
    paper = arrange(write_lead(song))
    assert tuple(paper.parts) == ("lead_vocal", *BACKING)
    total_q = sum(bar.length_q for bar in paper.bars)
    for notes in paper.parts.values():
        assert sum(note.length_q for note in notes) == total_q
    for part in BACKING:
        assert {phrase["kind"] for phrase in truth(song, part=part)} == {"scat"}


@pytest.mark.parametrize("song", SONGS, ids=lambda song: song.title)
@pytest.mark.parametrize("variant", VARIANTS)
def test_score_reads_back_as_the_truth(tmp_path, song, variant):
    path = tmp_path / "score.musicxml"
    path.write_bytes(write_score(arrange(write_lead(song)), variant))
    found = read_score(path)
    wanted = truth(song, variant=variant)
    assert [phrase["text"] for phrase in found] == [phrase["text"] for phrase in wanted]
    for name in ("start_s", "end_s"):
        assert [phrase[name] for phrase in found] == pytest.approx([phrase[name] for phrase in wanted], abs=2e-3)


def test_score_is_musicxml_with_six_parts_and_every_kind_of_mark():
    from music21 import converter

    texts = [write_score(arrange(write_lead(song)), "SVS").decode() for song in SONGS]
    for song, text in zip(SONGS, texts, strict=True):
        assert 'score-partwise version="4.0"' in text
        score = converter.parseData(text, format="musicxml")
        assert [part.partName for part in score.parts] == ["lead_vocal", *BACKING]
        lengths_q = {float(part.duration.quarterLength) for part in score.parts}
        assert lengths_q == {float(sum(bar.length_q for bar in write_lead(song).bars))}
    whole = "".join(texts)
    for mark in (
        "<fermata", "<breath-mark", "<end-line", "<end-paragraph", "<rehearsal>", "light-light", 'direction="forward"',
        'direction="backward"', 'number="2" type="discontinue"', "<extend ", ">ー<", ">\u3000<", 'lyric number="2"',
        '<tied type="start"', 'implicit="yes"', 'rest measure="yes"', "<unpitched>", ">LA<", ">TU<", ">DU<", ">BUM<",
        ">TSU<", ">KA<", "<alter>-1<",
    ):  # fmt: skip
        assert mark in whole, mark


def test_scores_differ_by_their_spelling_alone():
    paper = arrange(write_lead(BY_TITLE["sakurasakura"]))
    trees = [ElementTree.fromstring(write_score(paper, variant)) for variant in VARIANTS]
    lyrics = [[text.text for text in tree.iter("text")] for tree in trees]
    assert "は" in lyrics[0]
    assert "は" not in lyrics[1]
    assert "ダ" in lyrics[0]
    assert "DA" in lyrics[1]
    assert {"sa", "ku", "ra", "ー", "bum"} <= set(lyrics[2])
    assert len({len(texts) for texts in lyrics}) == 1
    for tree in trees:
        for text in tree.iter("text"):
            text.text = ""
    assert len({ElementTree.tostring(tree) for tree in trees}) == 1


@given(st.lists(st.sampled_from([*HEPBURN, "ん", "っ", "ー"]), max_size=12))
def test_kana_are_cut_into_morae_and_lose_nothing(morae):
    text = "".join(morae)
    assert "".join(mora.kana for mora in split_morae(text)) == text
    assert to_hiragana(to_katakana(text)) == text
    assert split_morae(to_katakana(text)) == split_morae(text)
    assert to_hepburn(text).isascii()


@pytest.mark.parametrize(
    ("text", "following", "spelt"),
    [("いっ", "た", "it"), ("あっ", "ち", "at"), ("しゅん", "", "shun"), ("っ", "", ""), ("がっこう", "", "gakkou")],
)
def test_hepburn(text, following, spelt):
    assert to_hepburn(text, following) == spelt


def test_scat_in_latin_letters():
    assert [to_scat(text) for text in ("ラ", "トゥ", "ドゥ", "ブン")] == ["LA", "TU", "DU", "BUM"]


def test_what_is_no_kana_is_refused():
    with pytest.raises(ValueError, match="not a mora"):
        split_morae("さX")
