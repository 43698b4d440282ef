from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.data.records import Track
from pipeline.errors import ContractError, ParamsError
from pipeline.sources.table import corpus_tracks

HEAD = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
ROWS = [
    """-0Gj8-vB1q4,30,40,"/m/0140xf","['it\\'s sad', ""singer's voice""]","A slow\nsong, sad",4,False,True""",
    """_a234567890,0,10,/m/04rlf,['pop'],A pop song,3,False,False""",
    """abcdefghijk,10,20,/m/04rlf,[],Gone,3,False,False""",
]


def corpus(folder: Path, rows: list[str] = ROWS, *, end: str = "\r\n", head: str = HEAD) -> Path:
    (folder / "audio").mkdir(parents=True)
    (folder / "musiccaps-public.csv").write_bytes(end.join([head, *rows, ""]).encode())
    return folder


def tracks(folder: Path, **settings: str) -> list[Track]:
    return corpus_tracks("musiccaps", {"root": folder.name, **settings}, folder.parent)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_become_tracks_in_every_byte_variant(tmp_path: Path, end: str):
    folder = corpus(tmp_path / "mc", end=end)
    (folder / "audio" / "-0Gj8-vB1q4.wav").touch()
    first, second, third = tracks(folder)
    assert first.captions == ({"text": "A slow song, sad", "source": "human", "author": "4"},)
    assert first.aspects == ("it's sad", "singer's voice")
    assert (first.official_split, second.official_split) == ("test", "train")
    assert first.path == folder / "audio" / "-0Gj8-vB1q4.wav"
    assert first.groups == {"video": "youtube:-0Gj8-vB1q4"}
    assert (third.path, third.missing) == (None, "no audio/abcdefghijk.*")


@pytest.mark.parametrize(
    "name", ["_a234567890.mp3", "[_a234567890]-[0-10].webm", "_a234567890_0_10.wav", "_a234567890.m4a"]
)
def test_audio_is_found_under_every_naming_habit(tmp_path: Path, name: str):
    folder = corpus(tmp_path / "mc")
    (folder / "audio" / name).touch()
    assert tracks(folder)[1].path == folder / "audio" / name


def test_columns_are_read_by_name(tmp_path: Path):
    folder = corpus(tmp_path / "mc", ["0," + row for row in ROWS], head="," + HEAD)
    assert [track.id for track in tracks(folder)] == ["-0Gj8-vB1q4", "_a234567890", "abcdefghijk"]


def test_wrong_input_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"musiccaps-public\.csv"):
        tracks(tmp_path / "nowhere")
    with pytest.raises(ContractError, match="no column ytid"):
        tracks(corpus(tmp_path / "other", ["a,b"], head="a,b"))
    (bad, short) = tracks(corpus(tmp_path / "bad", ["abcdefghijk,0,10,/m/1,[oops,Text,3,False,False", "abcdefghijl,0"]))
    assert bad.fault.startswith("row 1")
    assert short.fault.startswith("row 2")
    folder = corpus(tmp_path / "latin")
    (folder / "musiccaps-public.csv").write_bytes(b"ytid\xff\xfe\n")
    with pytest.raises(ContractError, match="UTF-8"):
        tracks(folder)
    with pytest.raises(ParamsError, match=r"sources\.musiccaps\.root"):
        corpus_tracks("musiccaps", {}, tmp_path)
    with pytest.raises(ParamsError, match="no such corpus"):
        corpus_tracks("spotify", {"root": "x"}, tmp_path)


def test_the_real_csv_is_read_whole(real_data: Path):
    path = real_data / "musiccaps"
    found = corpus_tracks("musiccaps", {"root": str(path)}, Path())
    with (path / "musiccaps-public.csv").open(newline="", encoding="utf-8") as file:
        assert len(found) == len(list(csv.DictReader(file))) == 5521
    assert sum(track.official_split == "test" for track in found) == 2858
    assert all(track.captions[0]["text"] and track.aspects for track in found)


def test_audio_wins_over_a_picture_of_the_same_name(tmp_path: Path):
    folder = corpus(tmp_path / "mc")
    for ending in ("jpg", "info.json", "wav"):
        (folder / "audio" / f"_a234567890.{ending}").touch()
    assert tracks(folder)[1].path == folder / "audio" / "_a234567890.wav"


def test_audio_elsewhere_is_named(tmp_path: Path):
    folder = corpus(tmp_path / "mc")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "_a234567890.wav").touch()
    with pytest.raises(ParamsError, match="does not lie below its root"):
        tracks(folder, audio=str(tmp_path / "elsewhere"))


ROW = "{ytid},{start},{end},/m/04rlf,['{aspect}'],{caption},3,False,{is_test}"


def row(ytid: str = "_a234567890", start: str = "50", end: str = "60", caption: str = "Text", **more: str) -> str:
    return ROW.format(ytid=ytid, start=start, end=end, caption=caption, **{"aspect": "pop", "is_test": "False"} | more)


@pytest.mark.parametrize(
    ("names", "chosen", "file_start_s"),
    [
        (["_a234567890_10_20.wav", "_a234567890_50_60.wav"], "_a234567890_50_60.wav", 50.0),
        (["_a234567890.wav", "[_a234567890]-[50-60].wav"], "[_a234567890]-[50-60].wav", 50.0),
        (["_a234567890_0_300.wav", "[_a234567890]-[40-70.5].wav"], "[_a234567890]-[40-70.5].wav", 40.0),
        (["_a234567890_10_20.wav", "_a234567890.wav"], "_a234567890.wav", None),
        (["_a234567890_10_20.wav", "_a234567890_55_70.wav"], None, None),
    ],
)
def test_a_file_is_chosen_by_the_times_in_its_name(
    tmp_path: Path, names: list[str], chosen: str | None, file_start_s: float | None
):
    folder = corpus(tmp_path / "mc", [row()])
    for name in names:
        (folder / "audio" / name).touch()
    (track,) = tracks(folder)
    assert (track.path and track.path.name, track.file_start_s) == (chosen, file_start_s)
    assert track.span_s == (50, 60)


def test_a_row_that_comes_again_is_the_same_track(tmp_path: Path):
    rows = [row(caption="One", aspect="a"), row(start="50.0", caption="Other", aspect="b", is_test="True"), row()]
    (track,) = tracks(corpus(tmp_path / "mc", rows))
    assert [caption["text"] for caption in track.captions] == ["One", "Other", "Text"]
    assert (track.aspects, track.official_split) == (("a", "b", "pop"), "test")


def test_two_spans_of_one_video_are_two_tracks_of_one_group(tmp_path: Path):
    folder = corpus(tmp_path / "mc", [row(), row(start="10", end="20.5"), row(start="x"), row(start="y")])
    (folder / "audio" / "_a234567890.wav").touch()
    found = tracks(folder)
    assert [track.id for track in found] == [
        "_a234567890",
        "_a234567890@10-20.5",
        "_a234567890@row 3",
        "_a234567890@row 4",
    ]
    assert [bool(track.fault) for track in found] == [False, False, True, True]
    assert found[0].groups == found[1].groups == {"video": "youtube:_a234567890"}
    # A file without times may be the cut of one span, not of both.
    assert [track.file_start_s for track in found[:2]] == [None, 0.0]


def test_a_row_without_a_video_is_a_fault(tmp_path: Path):
    found = tracks(corpus(tmp_path / "mc", [row(ytid=""), row(ytid=" ")]))
    assert [(track.id, track.fault) for track in found] == [("row 1", "row 1: no ytid"), ("row 2", "row 2: no ytid")]
