from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ContractError
from pipeline.lyrics.score import read_score
from tests.pipeline.lyrics.score_making import (
    BREATH,
    DOUBLE,
    FERMATA,
    FORWARD,
    TIE,
    lines,
    lyric,
    note,
    read,
    rest,
    score_xml,
    sung,
    tempo,
    texts,
)

# The leading part


def jacappella(folder: Path, variant: str) -> tuple[Path, list[tuple[str, float, float, int]]]:
    """A score of six parts, and its truth: text, start and end in seconds at 90 quarters a minute, section."""
    verse = {
        "": ["は る が き た =", "ど こ に き た = = =", "や ま に き た ="],
        "_SVS": ["は る が き た =", "ど こ に き た = = =", "や ま に き た ="],
        "_romaji": ["ha ru ga ki ta =", "do ko ni ki ta = = =", "ya ma ni ki ta ="],
    }[variant]
    beats = " ".join(verse).split() + ["="] * 4 + " ".join(verse[:1]).split() + ["="] * 2
    bars = [sung(" ".join(beats[n : n + 4])) for n in range(0, len(beats), 4)]
    scat = [sung(line) for line in ("LA BA DA DA", "TU TU - DOO", "ダ バ ダ バ", "ラ ラ ラ =")]
    backing = [scat[n % 4] for n in range(len(bars))]
    parts = {"soprano": backing, "lead_vocal": bars, "alto": backing, "tenor": backing, "bass": backing}
    path = folder / f"haru{variant}.musicxml"
    path.write_text(score_xml({**parts, "vocal_percussion": backing}, head=tempo(90)))
    space = " " if variant == "_romaji" else ""
    spoken = [space.join(line.replace("=", "").split()) for line in verse]
    starts = [0, 6, 14, 24]
    beat_s = 60 / 90
    sections = [0, 0, 0, 1]
    return path, [
        (text, round(start * beat_s, 3), round((start + 5) * beat_s, 3), section)
        for text, start, section in zip([*spoken, spoken[0]], starts, sections, strict=True)
    ]


@pytest.mark.parametrize("variant", ["", "_SVS", "_romaji"])
def test_the_lead_of_a_choir_score_is_read_with_its_phrases_and_times(tmp_path: Path, variant: str):
    path, truth = jacappella(tmp_path, variant)
    phrases = read_score(path)
    assert [(*line, p.get("section")) for line, p in zip(lines(phrases), phrases, strict=True)] == truth
    assert {(p.get("kind"), p.get("confidence"), p["source"]) for p in phrases} == {("words", 1.0, "score")}
    assert [p.get("kana") for p in phrases] == ["ハルガキタ", "ドコニキタ", "ヤマニキタ", "ハルガキタ"]


def test_another_part_is_read_by_name_and_its_scat_is_marked(tmp_path: Path):
    path, _ = jacappella(tmp_path, "_SVS")
    first, *_ = read_score(path, part="Soprano")
    assert first["text"] == "LA BA DA DA TU TU DOOダバダバラララ"
    assert (first.get("kind"), first.get("kana")) == ("scat", "ラバダダトゥトゥドゥーダバダバラララ")
    assert lines(read_score(path, part="perc")) == lines(read_score(path, part="VOCAL PERCUSSION"))
    with pytest.raises(ContractError, match=r"no part 'flute'; there are 'soprano', 'lead_vocal', 'alto'"):
        read_score(path, part="flute")


def test_a_lead_without_lyrics_is_not_replaced_by_what_is_sung_behind_it(tmp_path: Path):
    path = tmp_path / "a.musicxml"
    path.write_text(score_xml({"Lead": [sung("- - - -")], "Soprano": [sung("LA BA DA DA")]}))
    assert read_score(path) == []
    path.write_text(
        score_xml({"Piano": [sung("- - - -")], "Soprano": [sung("は な が =")], "Alto": [sung("は - - =")]})
    )
    assert texts(read_score(path)) == ["はなが"]
    path.write_text(score_xml({"Backing vocal": [sung("LA LA LA LA")], "Melody": [sung("は な が =")]}))
    assert texts(read_score(path)) == ["はなが"]


@pytest.mark.parametrize(
    ("line", "kind", "kana"),
    [
        ("LA BA DA DA", "scat", "ラバダダ"),
        ("ダ バ ダ バ", "scat", "ダバダバ"),
        ("ぽっ ぽっ ぽ -", "words", "ポッポッポ"),
        ("春 が き た", "words", None),
        ("let it be me", "words", None),
    ],
)
def test_scat_is_kept_marked_and_given_in_kana(tmp_path: Path, line: str, kind: str, kana: str | None):
    (phrase,) = read(tmp_path, sung(line))
    assert (phrase.get("kind"), phrase.get("kana")) == (kind, kana)


def test_english_in_a_japanese_song_is_not_read_as_romaji(tmp_path: Path):
    phrases = read(tmp_path, sung("は な が ="), sung("home so true ="), sung("to me - ="))
    assert [(p["text"], p.get("kana")) for p in phrases] == [
        ("はなが", "ハナガ"),
        ("home so true", None),
        ("to me", None),
    ]


# Phrases and sections


@pytest.mark.parametrize(
    ("qpm", "beats", "num_phrases"),
    [(60, 0.25, 1), (60, 0.5, 2), (60, 1, 2), (100, 0.5, 1), (120, 1, 2), (200, 1, 2), (200, 0.75, 1), (75, 0.5, 2)],
)
def test_a_phrase_ends_at_a_rest_of_a_beat_or_of_400_ms(tmp_path: Path, qpm: float, beats: float, num_phrases: int):
    phrases = read(tmp_path, note(lyric("は")) + rest(beats) + note(lyric("な")), head=tempo(qpm))
    assert len(phrases) == num_phrases


def test_in_compound_time_the_beat_is_three_eighths(tmp_path: Path):
    bar = note(lyric("は"), beats=0.5) + rest(1) + note(lyric("な"), beats=1.5)
    assert len(read(tmp_path, bar, metre=(6, 8), head=tempo(200))) == 1


@pytest.mark.parametrize("mark", [BREATH, FERMATA, "<notations><articulations><caesura/></articulations></notations>"])
def test_a_phrase_ends_after_a_breath_mark_or_fermata(tmp_path: Path, mark: str):
    bar = note(lyric("は")) + note(lyric("な"), marks=mark) + note() + note(lyric("が"))
    assert lines(read(tmp_path, bar)) == [("はな", 0.0, 3.0), ("が", 3.0, 4.0)]


def test_a_mark_within_a_word_waits_for_its_end(tmp_path: Path):
    bar = note(lyric("ha", "begin"), marks=FERMATA) + note(lyric("lle", "end")) + note(lyric("lu")) + rest()
    assert texts(read(tmp_path, bar)) == ["halle", "lu"]


def test_a_fermata_over_a_rest_ends_a_phrase(tmp_path: Path):
    held = rest(0.25).replace("</note>", FERMATA + "</note>")
    assert texts(read(tmp_path, note(lyric("は")) + held + note(lyric("な")))) == ["は", "な"]


def test_ends_of_lines_and_paragraphs_are_kept(tmp_path: Path):
    bar = note(lyric("は")) + note(lyric("な", after="<end-line/>")) + note(lyric("が", after="<end-paragraph/>"))
    phrases = read(tmp_path, bar + note(lyric("さ")))
    assert [(p["text"], p.get("section")) for p in phrases] == [("はな", 0), ("が", 0), ("さ", 1)]


@pytest.mark.parametrize(
    "mark", ["<direction><direction-type><rehearsal>B</rehearsal></direction-type></direction>", FORWARD]
)
def test_a_section_begins_at_a_rehearsal_mark_or_repeat_sign(tmp_path: Path, mark: str):
    phrases = read(tmp_path, sung("は な が さ"), mark + sung("く は な ="))
    assert [(p["text"], p.get("section")) for p in phrases] == [("はながさ", 0), ("くはな", 1)]


def test_a_section_begins_after_a_double_bar_and_after_a_bar_of_rest(tmp_path: Path):
    bars = sung("は な が さ") + DOUBLE, sung("く は な ="), sung("= = = ="), sung("が さ い ="), sung("た よ = =")
    phrases = read(tmp_path, *bars)
    assert [(p["text"], p.get("section")) for p in phrases] == [
        ("はながさ", 0),
        ("くはな", 1),
        ("がさい", 2),
        ("たよ", 2),
    ]


def test_notes_that_lead_into_a_section_stay_with_it(tmp_path: Path):
    phrases = read(tmp_path, sung("は な = さ") + DOUBLE, sung("く は な ="))
    assert [(p["text"], p.get("section")) for p in phrases] == [("はな", 0), ("さくはな", 1)]


# Syllables


def test_syllables_are_joined_to_words(tmp_path: Path):
    line = [("grand", "begin"), ("fa", "middle"), ("ther", "end"), ("sings", "single")]
    (phrase,) = read(tmp_path, "".join(note(lyric(*word)) for word in line))
    assert phrase["text"] == "grandfather sings"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ふぁ オノ しょ っと", "ふぁオノしょっと"),
        ("は ー る -", "はる"),
        ("は &#x3000; る 〜", "はる"),
        ("ハ ー ル ー", "ハル"),
        ("ス キ ー は", "スキーは"),
        ("1.は る 2 3", "はる 2 3"),
        ("さ くら LOVE を", "さくら LOVEを"),
    ],
)
def test_texts_of_japanese_notes_are_joined(tmp_path: Path, line: str, text: str):
    assert lines(read(tmp_path, sung(line))) == [(text, 0.0, 4.0)]


def test_extended_tied_and_untexted_notes_prolong_a_syllable(tmp_path: Path):
    bars = (
        note(lyric("は"), head="") + note("<lyric number='1'><extend/></lyric>") + note() + rest(),
        note(lyric("な"), marks=TIE[0]) + note(lyric("な"), marks=TIE[1]) + note(lyric("が")) + rest(),
        note() + note() + note() + rest(),
    )
    assert lines(read(tmp_path, *bars)) == [("は", 0.0, 3.0), ("なが", 4.0, 7.0)]


def test_a_rest_within_a_melisma_does_not_start_a_phrase(tmp_path: Path):
    assert lines(read(tmp_path, sung("は = ー な"))) == [("は", 0.0, 1.0), ("な", 3.0, 4.0)]


def test_grace_notes_chords_elisions_rests_and_humming_keep_their_texts(tmp_path: Path):
    two = "<lyric number='1'><syllabic>end</syllabic><text>co</text><elision>_</elision><syllabic>single</syllabic>"
    bar = (
        note(lyric("bian", "begin"))
        + note(two + "<text>e</text></lyric>")
        + note(lyric("x"), head="<grace/>")
        + note(lyric("dolce"))
        + note(lyric("dolce"), head="<chord/>")
        + rest().replace("</note>", lyric("mio") + "</note>")
    )
    assert texts(read(tmp_path, bar)) == ["bianco e x dolce mio"]
    hum = note("<lyric number='1'><humming/></lyric>")
    assert [(p["text"], p.get("kind")) for p in read(tmp_path, hum * 3)] == [("ンンン", "scat")]


def test_of_two_voices_the_first_with_lyrics_is_read(tmp_path: Path):
    backup = "<backup><duration>16</duration></backup>"
    upper = "".join(note(voice=1) for _ in range(4))
    lower = "".join(note(lyric(text), voice=2) for text in "はながさ")
    both = "".join(note(lyric(text), voice=1) for text in "くらよと")
    phrases = read(tmp_path, upper + backup + lower, both + backup + lower, upper + backup + upper)
    assert lines(phrases) == [("はながさくらよと", 0.0, 12.0)]


def test_chord_symbols_do_not_sound(tmp_path: Path):
    symbol = "<harmony><root><root-step>C</root-step></root><kind>major</kind></harmony>"
    assert lines(read(tmp_path, sung("は =") + symbol + sung("= ="))) == [("は", 0.0, 1.0)]


# Times


def test_times_follow_the_tempo_of_any_part(tmp_path: Path):
    path = tmp_path / "a.musicxml"
    lead = [sung("は な が ="), sung("さ い た =")]
    path.write_text(score_xml({"Flute": [sung("- - - -"), sung("- -") + tempo(120) + sung("- -")], "Lead": lead}))
    assert lines(read_score(path)) == [("はなが", 0.0, 3.0), ("さいた", 4.0, 6.5)]


def test_the_tempo_that_is_played_counts_before_the_one_that_is_printed(tmp_path: Path):
    mark = "<metronome><beat-unit>{}</beat-unit><per-minute>{}</per-minute></metronome>"
    one = "<direction><direction-type>" + mark + "</direction-type>{}</direction>"
    for head, end_s in (
        (one.format("half", "60", ""), 1.0),
        (one.format("quarter", "ca. 100", "<sound tempo='30'/>"), 4.0),
        ("<sound tempo='240'/>", 0.5),
        ("<sound tempo='0'/>" + tempo(60), 2.0),
    ):
        (phrase,) = read(tmp_path, sung("は な"), head=head)
        assert (phrase["end_s"], phrase.get("confidence")) == (end_s, 1.0)


def test_without_a_tempo_times_are_guessed_and_less_believed(tmp_path: Path):
    (phrase,) = read(tmp_path, sung("は な"), head="")
    assert (phrase["end_s"], phrase.get("confidence")) == (1.0, 0.5)


# Real scores, read by eye


def test_a_real_children_s_song_is_read(real_data: Path):
    phrases = read_score(real_data / "nit-song070" / "song070_f00001_063.xml")
    assert lines(phrases) == [
        ("げんこつやまのたぬきさん", 4.364, 8.182),
        ("おっぱいのんでねんねして", 8.727, 12.545),
        ("だっこしておんぶしてまたあした", 13.091, 16.909),
    ]
    assert [p.get("kana") for p in phrases] == [
        "ゲンコツヤマノタヌキサン",
        "オッパイノンデネンネシテ",
        "ダッコシテオンブシテマタアシタ",
    ]
    assert {(p.get("kind"), p.get("section"), p.get("confidence")) for p in phrases} == {("words", 0, 1.0)}


def test_a_real_score_without_long_rests_is_one_phrase(real_data: Path):
    # Its rests are of an eighth at 92, 0.33 s; ツ stands under one of them.
    (phrase,) = read_score(real_data / "echigo-jishi" / "Echigo-Jishi.musicxml")
    assert lines([phrase]) == [
        (
            "オノガスガタヲハナトミテニワニサイタリサカセタリソコナオケサニイナコトイワレネマリネマラズマチアカス"
            "ゴザレハナシマショコンコマツノコカゲデマツノハノヨニコンコマヤカニヒイテウトヤシシノキョク",
            13.37,
            60.652,
        )
    ]
    assert phrase.get("kana") == phrase["text"]


def test_a_real_english_song_is_read(real_data: Path):
    phrases = read_score(real_data / "sinsyplus" / "voice-en.xml")
    tick = (
        "ninety years without slumbering tick tock tick tock his life seconds numbering tick tock tick tock it stopped"
    )
    assert lines(phrases) == [
        ("my grandfather's clock was too large for the shelf so it stood ninety years on the floor", 2.0, 12.0),
        ("it was taller by half than the old man himself though it weighed not a pennyweight more", 12.667, 22.667),
        ("it was bought on the morn of the day that he was born and was always his treasure and pride", 23.333, 33.333),
        ("but it stopped", 34.0, 35.333),
        ("short", 36.0, 36.667),
        ("never to go again when the old man died", 37.333, 44.0),
        (tick, 44.667, 56.667),
        ("short", 57.333, 58.0),
        ("never to go again when the old man died", 58.667, 66.0),
    ]
    assert {(p.get("kind"), p.get("kana")) for p in phrases} == {("words", None)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "42a-MultiVoice-TwoVoicesOnStaff-Lyrics.xml",
            [("This", 0, 1), ("is the", 1, 2), ("lyrics of Voice1", 2.5, 4)],
        ),
        ("61a-Lyrics.xml", [("Tralali Ja! Trara! Bah!", 0, 6)]),
        (
            "61b-MultipleLyrics.xml",
            [("Tralala, ja! Trara...", 0, 4), ("tralala, ja! Trara.", 4, 8), ("TRALALA, JA! TRARA...", 8, 12)],
        ),
        ("61d-Lyrics-Melisma.xml", [("Melisma.", 0, 4)]),
        ("61f-Lyrics-GracedNotes.xml", [("Lyrics on notes with graces", 0, 4)]),
        ("61j-Lyrics-Elisions.xml", [("a b c d e f g h", 0, 2)]),
        ("41g-PartNoId.xml", []),
        ("45b-RepeatWithAlternatives.xml", []),
        ("90a-Compressed-MusicXML.mxl", []),
    ],
)
def test_the_music_xml_test_suite_is_read(real_data: Path, name: str, expected: list[tuple[str, float, float]]):
    phrases = read_score(real_data / "musicxml-test-suite" / name)
    assert lines(phrases) == expected
    assert all(p.get("confidence") == 0.5 for p in phrases)  # none has a tempo


def test_real_midi_is_read_with_lyrics_and_without(real_data: Path):
    assert lines(read_score(real_data / "utaformatix-ts" / "standard.mid")) == [("どれみふぁそらしど", 0.0, 4.0)]
    silent = ["muzic/emogen_piano_2.mid", "partitura/mozart_k265_var1.mid", "partitura/test_multi_part.xml"]
    assert [read_score(real_data / name) for name in [*silent, "mikuscore/invalid_note_duration.musicxml"]] == [[]] * 4
