from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ContractError
from pipeline.lyrics.score import read_score

NOTE = "<note>{pitch}<duration>{d}</duration><voice>1</voice><type>quarter</type>{lyric}</note>"
PITCH, REST = "<pitch><step>C</step><octave>4</octave></pitch>", "<rest/>"
TEMPO = (
    "<direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>60</per-minute></metronome>"
    "</direction-type><sound tempo='60'/></direction>"
)


def note(text: str = "", syllabic: str = "single") -> str:
    lyric = f"<lyric number='1'><syllabic>{syllabic}</syllabic><text>{text}</text></lyric>" if text else ""
    return NOTE.format(pitch=PITCH, d=1, lyric=lyric)


def rest(beats: int = 1) -> str:
    return NOTE.format(pitch=REST, d=beats, lyric="")


def score(path: Path, parts: dict[str, list[list[str]]]) -> Path:
    """Write MusicXML: by part name, measures of four beats."""
    names = "".join(f"<score-part id='P{n}'><part-name>{name}</part-name></score-part>" for n, name in enumerate(parts))
    bodies = ""
    for n, measures in enumerate(parts.values()):
        body = ""
        for m, notes in enumerate(measures):
            head = (
                "<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>"
                + TEMPO
            )
            body += f"<measure number='{m + 1}'>{head if m == 0 else ''}{''.join(notes)}</measure>"
        bodies += f"<part id='P{n}'>{body}</part>"
    head = "<?xml version='1.0' encoding='UTF-8'?><score-partwise version='3.1'>"
    path.write_text(f"{head}<part-list>{names}</part-list>{bodies}</score-partwise>")
    return path


def test_the_leading_part_is_read_and_phrases_end_at_rests(tmp_path: Path):
    lead = [[note("さ"), note("く"), note("ら"), rest()], [note("や"), note("よ"), note("い"), note()]]
    scat = [[note("LA"), note("BA"), note("DA"), note("DA")]] * 2
    phrases = read_score(score(tmp_path / "a.musicxml", {"soprano": scat, "lead_vocal": lead}))
    assert [(p["text"], p["start_s"], p["end_s"]) for p in phrases] == [("さくら", 0.0, 3.0), ("やよい", 4.0, 8.0)]


def test_syllables_are_joined_to_words(tmp_path: Path):
    line = [[note("grand", "begin"), note("fa", "middle"), note("ther", "end"), note("sings")]]
    (phrase,) = read_score(score(tmp_path / "a.musicxml", {"Voice": line}))
    assert phrase["text"] == "grandfather sings"


def test_a_score_without_lyrics_has_no_phrases(tmp_path: Path):
    assert read_score(score(tmp_path / "a.musicxml", {"Piano": [[note()] * 4]})) == []


def test_what_is_no_score_is_named(tmp_path: Path):
    (tmp_path / "a.musicxml").write_text("no score")
    with pytest.raises(ContractError, match=r"a\.musicxml"):
        read_score(tmp_path / "a.musicxml")


def test_real_japanese_scores_are_read(real_data: Path):
    phrases = read_score(real_data / "nit-song070" / "song070_f00001_063.xml")
    assert [phrase["text"] for phrase in phrases] == [
        "げんこつやまのたぬきさん",
        "おっぱいのんでねんねして",
        "だっこしておんぶしてまたあした",
    ]
    assert "".join(p["text"] for p in read_score(real_data / "utaformatix-ts" / "standard.mid")) == "どれみふぁそらしど"
