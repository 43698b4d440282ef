from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.records import Track
from pipeline.errors import ContractError, ParamsError
from pipeline.sources.jacappella import TEST_LIST
from pipeline.sources.table import corpus_tracks

PARTS = ("lead_vocal", "soprano", "alto", "tenor", "bass", "vocal_percussion")
HEAD = "title_in_en,title_in_ja,lyric_writer,subset,voice_part,singer_id,gender,first_lang"


def corpus(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [HEAD]
    for subset, title, japanese in (("jazz", "nanatsunoko", "七つの子"), ("enka", "koujounotsuki", "荒城の月")):
        song = folder / subset / title
        song.mkdir(parents=True)
        for part in PARTS:
            rows.append(f"{title},{japanese},someone,{subset},{part},s1,f,ja")
            (song / f"{part}.wav").touch()
        (song / "mixture.wav").touch()
        for ending in ("_romaji", "_SVS", ""):
            (song / f"{title}{ending}.musicxml").touch()
    (folder / "meta.csv").write_text("\n".join([*rows, ""]), "utf-8")
    (folder / "test_song_list_for_vocal_ensemble_separation.txt").write_text("koujounotsuki\n", "utf-8")
    return folder


def tracks(folder: Path, **settings: object) -> dict[str, Track]:
    return {t.id: t for t in corpus_tracks("jacappella", {"root": folder.name, **settings}, folder.parent)}


def test_the_lead_is_taken_unless_parts_are_named(tmp_path: Path):
    folder = corpus(tmp_path / "jc")
    assert list(tracks(folder)) == ["jazz/nanatsunoko/lead_vocal", "enka/koujounotsuki/lead_vocal"]
    both = tracks(folder, parts=["bass", "mixture"])
    assert len(both) == 4
    assert both["jazz/nanatsunoko/mixture"].path == folder / "jazz/nanatsunoko/mixture.wav"


def test_a_song_is_one_group_whatever_the_part(tmp_path: Path):
    found = tracks(corpus(tmp_path / "jc"), parts=["lead_vocal", "bass"])
    songs = {track.groups["song"] for name, track in found.items() if name.startswith("jazz")}
    assert songs == {"title:七つの子"}
    assert found["jazz/nanatsunoko/bass"].groups["song_in_english"] == "title:nanatsunoko"


@pytest.mark.parametrize(
    ("variant", "name"), [("default", "nanatsunoko"), ("SVS", "nanatsunoko_SVS"), ("romaji", "nanatsunoko_romaji")]
)
def test_the_score_is_chosen_by_its_exact_ending(tmp_path: Path, variant: str, name: str):
    found = tracks(corpus(tmp_path / "jc"), score=variant)
    assert found["jazz/nanatsunoko/lead_vocal"].score.name == f"{name}.musicxml"


def test_the_published_list_is_test(tmp_path: Path):
    found = tracks(corpus(tmp_path / "jc"))
    assert {name.split("/")[1]: track.official_split for name, track in found.items()} == {
        "nanatsunoko": "train",
        "koujounotsuki": "test",
    }


def test_a_nested_root_is_found_and_a_missing_part_is_no_error(tmp_path: Path):
    corpus(tmp_path / "download" / "jaCappella")
    (tmp_path / "download/jaCappella/jazz/nanatsunoko/lead_vocal.wav").unlink()
    track = tracks(tmp_path / "download")["jazz/nanatsunoko/lead_vocal"]
    assert (track.path, track.missing) == (None, "no jazz/nanatsunoko/lead_vocal.wav")


def test_wrong_input_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match="test_song_list"):
        tracks(tmp_path / "none")
    folder = corpus(tmp_path / "jc")
    with pytest.raises(ParamsError, match=r"sources\.jacappella\.parts"):
        tracks(folder, parts=["kazoo"])
    (folder / "meta.csv").unlink()
    with pytest.raises(ParamsError, match=r"meta\.csv"):
        tracks(folder)
    (folder / "meta.csv").write_text("a,b\n")
    with pytest.raises(ContractError, match="title_in_en"):
        tracks(folder)


@pytest.mark.parametrize("line", ["Koujou No_Tsuki", "KOUJOUNOTSUKI", "荒城の月"])
def test_the_list_matches_however_a_title_is_written(tmp_path: Path, line: str):
    folder = corpus(tmp_path / "jc")
    (folder / TEST_LIST).write_text(f"{line}\nsomethingelse\n", "utf-8")
    assert tracks(folder)["enka/koujounotsuki/lead_vocal"].official_split == "test"


def test_a_list_of_other_songs_is_an_error(tmp_path: Path):
    folder = corpus(tmp_path / "jc")
    (folder / TEST_LIST).write_text("somethingelse\nanother\n", "utf-8")
    with pytest.raises(ContractError, match=r"none of its 2 titles .* such as 'somethingelse'"):
        tracks(folder)
