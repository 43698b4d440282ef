from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.records import Track
from pipeline.errors import ContractError, ParamsError
from pipeline.sources.song_describer import read_licences
from pipeline.sources.table import corpus_tracks

HEAD = "caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"
ROWS = [
    "1,1004034,Electronic music,True,0,368880,118196,34/1004034.mp3,202.5",
    '2,1004034,"Calm, and\nslow",,1,368880,118196,34/1004034.mp3,202.5',
    "3,948,Bad caption,False,1,87,12,48/948.mp3,60.0",
    "4,949,Guitar,True,1,87,13,49/949.mp3,60.0",
]
LICENCES = """34/1004034.mp3
"A" by B from Jamendo: http://x
Available under a Creative Commons Attribution-NonCommercial-NoDerivs license: http://creativecommons.org/licenses/by-nc-nd/3.0/
--
49/949.mp3
"C" by D from Jamendo: http://y
Available under a Creative Commons Attribution license: http://creativecommons.org/licenses/by/3.0/
--
"""


def corpus(folder: Path) -> Path:
    folder.mkdir()
    (folder / "song_describer.csv").write_text("\n".join([HEAD, *ROWS, ""]), "utf-8")
    (folder / "audio_licenses.txt").write_text(LICENCES, "utf-8")
    return folder


def tracks(folder: Path, **settings: object) -> dict[str, Track]:
    return {t.id: t for t in corpus_tracks("song_describer", {"root": folder.name, **settings}, folder.parent)}


def test_all_captions_of_a_track_are_kept(tmp_path: Path):
    found = tracks(corpus(tmp_path / "sdd"))
    assert list(found) == ["1004034", "948", "949"]
    assert [c["text"] for c in found["1004034"].captions] == ["Electronic music", "Calm, and slow"]
    assert found["949"].groups == {"track": "jamendo:949", "artist": "jamendo:87", "album": "jamendo:13"}


@pytest.mark.parametrize(("validity", "captions"), [("valid", 2), ("not_invalid", 3), ("all", 4)])
def test_validity_has_three_values(tmp_path: Path, validity: str, captions: int):
    found = tracks(corpus(tmp_path / "sdd"), validity=validity)
    assert sum(len(track.captions) for track in found.values()) == captions
    # A track without a caption that counts is left out by the setting, not in silence.
    assert bool(found["948"].unwanted) == (validity != "all")
    assert len(found) == 3


def test_it_is_for_evaluation_unless_training_is_allowed(tmp_path: Path):
    folder = corpus(tmp_path / "sdd")
    assert {track.official_split for track in tracks(folder).values()} == {"test"}
    assert {track.official_split for track in tracks(folder, allow_training=True).values()} == {"train"}


def test_licences_are_read_per_track_and_no_derivatives_are_flagged(tmp_path: Path):
    found = tracks(corpus(tmp_path / "sdd"))
    assert found["1004034"].licence.endswith("(no derivatives)")
    assert "Attribution license" in found["949"].licence
    assert not found["949"].licence.endswith("(no derivatives)")
    assert read_licences(tmp_path / "absent.txt") == {}


@pytest.mark.parametrize(
    "name",
    [
        "audio/34/1004034.2min.mp3",
        "audio/audio/34/1004034.2min.mp3",
        "audio/34/1004034.mp3",
        "audio/1004034.2min.mp3",
        "audio/1004034.mp3",
    ],
)
def test_audio_is_found_however_it_was_unpacked(tmp_path: Path, name: str):
    folder = corpus(tmp_path / "sdd")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()
    found = tracks(folder)
    assert found["1004034"].path == folder / name
    assert found["949"].missing == "no audio/49/949.2min.*, nor the like"


def test_wrong_input_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"song_describer\.csv"):
        tracks(tmp_path / "none")
    with pytest.raises(ParamsError, match=r"sources\.song_describer\.validity"):
        tracks(corpus(tmp_path / "sdd"), validity="good")
    (tmp_path / "sdd" / "song_describer.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ContractError, match="no column track_id"):
        tracks(tmp_path / "sdd")


def test_the_real_csv_is_read_whole(real_data: Path):
    found = corpus_tracks("song_describer", {"root": str(real_data / "song-describer"), "validity": "all"}, Path())
    assert len(found) == 706
    assert sum(len(track.captions) for track in found) == 1106
    assert len({track.groups["artist"] for track in found}) == 191
    valid = corpus_tracks("song_describer", {"root": str(real_data / "song-describer"), "validity": "valid"}, Path())
    assert (sum(not track.unwanted for track in valid), sum(len(track.captions) for track in valid)) == (547, 746)


@pytest.mark.parametrize(("word", "is_kept"), [("TRUE", True), ("true", True), ("False", False), ("FALSE", False)])
def test_validity_is_read_in_any_letter_case(tmp_path: Path, word: str, is_kept: bool):
    folder = corpus(tmp_path / "sdd")
    (folder / "song_describer.csv").write_text(f"{HEAD}\n1,949,Guitar,{word},1,87,13,49/949.mp3,60.0\n", "utf-8")
    assert bool(tracks(folder, validity="valid")["949"].captions) == is_kept


def test_rows_that_name_no_file_of_the_corpus_are_faults(tmp_path: Path):
    folder = corpus(tmp_path / "sdd")
    (tmp_path / "evil.mp3").touch()
    rows = [
        "1,949,Guitar,True,1,87,13,,60.0",
        "2,950,Guitar,True,1,87,13,../../evil.mp3,60.0",
        "3,951,Guitar,True,1,87,13,/etc/evil.mp3,60.0",
        "4,,Guitar,True,1,87,13,49/949.mp3,60.0",
        "5,../../evil,Guitar,True,1,87,13,49/949.mp3,60.0",
        "6,952,Guitar,True,1,87,13,.,60.0",
    ]
    (folder / "song_describer.csv").write_text("\n".join([HEAD, *rows, ""]), "utf-8")
    found = tracks(folder)
    assert [track.path for track in found.values()] == [None] * 6
    assert found["949"].fault == "row 1: no path"
    assert found["950"].fault == "row 2: path '../../evil.mp3' is none below audio"
    assert found["row 4"].fault == "row 4: track_id '' is no name of a file"
    assert all(track.fault for track in found.values())


@pytest.mark.parametrize("name", ["34/1004034.2min.wav", "34/1004034.flac", "1004034.2min.OGG", "1004034.wav"])
def test_audio_of_any_ending_is_found(tmp_path: Path, name: str):
    folder = corpus(tmp_path / "sdd")
    (folder / "audio" / name).parent.mkdir(parents=True)
    (folder / "audio" / name).touch()
    (folder / "audio" / name).with_suffix(".txt").touch()
    assert tracks(folder)["1004034"].path == folder / "audio" / name
