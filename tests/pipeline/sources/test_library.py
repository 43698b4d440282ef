from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.files import open_source
from pipeline.data.records import Track
from pipeline.errors import ParamsError
from pipeline.lyrics.tags import read_tags
from pipeline.sources.table import corpus_tracks
from tests.pipeline.sources.test_sidefiles import SINGING, human
from tests.pipeline.sources.test_tars import make_tar


def library(folder: Path, **settings: Any) -> dict[str, Track]:
    tracks = corpus_tracks("library", {"root": str(folder), **settings}, folder)
    return {track.id: track for track in tracks}


def song(**facts: Any) -> bytes:
    return json.dumps(SINGING | facts).encode()


def test_every_file_is_listed_with_its_side_text(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for name in (
        "b.wav",
        "sub/a.mp3",
        ".hidden.wav",
        "sub/._a.mp3",
        "notes.pdf",
        "c.flac",
        "d.flac",
        "e.flac",
        "f.wav",
    ):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("a  slow\nwaltz")
    (tmp_path / "b.lrc").write_text("[00:01.00]la")
    (tmp_path / "c.json").write_text('{"description": "a fast reel", "bpm": 120, "genre": "reel"}')
    (tmp_path / "d.json").write_text("no json")
    (tmp_path / "e.json").write_text('["a list"]')
    (tmp_path / "f.json").write_text('{"caption": "x", "start": 9, "end": 5}')
    (tmp_path / "f.txt").write_bytes(b"\x80\x81\x82\x83")
    (tmp_path / "notes.txt").write_text("of no recording")
    found = library(tmp_path)
    # Side files that served are no items; those that did not are.
    assert list(found) == [
        *(
            "b.wav",
            "c.flac",
            "d.flac",
            "d.json",
            "e.flac",
            "e.json",
            "f.json",
            "f.txt",
            "f.wav",
            "notes.pdf",
            "notes.txt",
        ),
        "sub/a.mp3",
    ]
    captions = {name: track.captions for name, track in found.items() if track.captions}
    assert captions == {"b.wav": human("a slow waltz"), "c.flac": human("a fast reel")}
    assert (found["b.wav"].lyrics, found["c.flac"].aspects) == ("[00:01.00]la", ("reel",))
    assert found["sub/a.mp3"].groups == {"track": "library:sub/a.mp3"}


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match="no such folder"):
        library(tmp_path / "none")
    with pytest.raises(ParamsError, match="holds no files"):
        library(tmp_path)


@pytest.mark.parametrize("json_first", [True, False])
def test_a_tar_stands_for_its_recordings(tmp_path: Path, json_first: bool):
    pairs = [("--0fvYUtDas", b"one" * 400), ("x/a.b.c", b"two"), ("./dotted", b"three")]
    files: list[tuple[str, bytes]] = []
    for name, data in pairs:
        pair = [(f"{name}.json", song(id=name[:11])), (f"{name}.mp3", data)]
        files += pair if json_first else pair[::-1]
    noise = [
        ("._--0fvYUtDas.mp3", b"mac"),
        ("PaxHeader/a.mp3", b"pax"),
        ("__MACOSX/._a.mp3", b"mac"),
        ("README.md", b"?"),
    ]
    (tmp_path / "data").mkdir()
    path = make_tar(tmp_path / "data" / "train-0000.tar", files + noise)
    found = library(tmp_path)
    assert list(found) == [
        "data/train-0000.tar/--0fvYUtDas.mp3",
        "data/train-0000.tar/x/a.b.c.mp3",
        "data/train-0000.tar/dotted.mp3",
        "data/train-0000.tar/README.md",
    ]
    for (_, data), track in zip(pairs, found.values(), strict=False):
        assert track.path == path
        assert track.member is not None
        with open_source(path, track.member) as source:
            assert source.read() == data
        assert track.groups["song"] == "title:夜に駆ける"
    first = found["data/train-0000.tar/--0fvYUtDas.mp3"]
    assert first.groups["video"] == "youtube:--0fvYUtDas"
    assert first.groups["track"] == "library:data/train-0000.tar/--0fvYUtDas.mp3"
    assert first.licence is not None


def test_a_clip_of_musiccaps_joins_its_video(tmp_path: Path):
    make_tar(tmp_path / "a.tar", [("0i8dM6EnpbI.mp3", b"m"), ("0i8dM6EnpbI.json", song(id="0i8dM6EnpbI"))])
    caps = tmp_path / "caps"
    caps.mkdir()
    header = "ytid,start_s,end_s,aspect_list,caption,author_id,is_audioset_eval"
    (caps / "musiccaps-public.csv").write_text(f"{header}\n0i8dM6EnpbI,0,10,[],c,1,False\n")
    (clip,) = corpus_tracks("musiccaps", {"root": "caps"}, tmp_path)
    assert library(tmp_path)["a.tar/0i8dM6EnpbI.mp3"].groups["video"] == clip.groups["video"]


def test_a_broken_tar_is_one_fault_and_keeps_what_lies_before(tmp_path: Path):
    data = make_tar(tmp_path / "whole.tar", [("a.mp3", bytes(600)), ("b.mp3", bytes(600))]).read_bytes()
    (tmp_path / "whole.tar").write_bytes(data[:2000])
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "y.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    found = library(tmp_path)
    assert list(found) == ["whole.tar", "x.tar.gz", "y.tar", "whole.tar/a.mp3"]
    assert found["whole.tar"].fault == "cut short at byte 2000, without an end; the 1 files before that are used"
    assert "unpack it" in found["x.tar.gz"].fault
    assert "unpack it" in found["y.tar"].fault
    assert found["whole.tar/a.mp3"].fault == ""


def test_the_same_recording_again_is_a_fault(tmp_path: Path):
    make_tar(
        tmp_path / "a.tar", [("v.mp3", b"same"), ("v.json", song(id="v")), ("twice.mp3", b"1"), ("twice.mp3", b"2")]
    )
    make_tar(tmp_path / "b.tar", [("v.mp3", b"same"), ("v.json", song(id="v"))])
    # The vocals alone, or another encoding, are another recording of the same video.
    make_tar(tmp_path / "c.tar", [("v.wav", b"same"), ("v.json", song(id="v"))])
    make_tar(tmp_path / "d.tar", [("v.mp3", b"longer"), ("v.json", song(id="v"))])
    found = library(tmp_path)
    faults = {name: track.fault for name, track in found.items() if track.fault}
    assert faults == {
        "a.tar/twice.mp3#2": "a.tar/twice.mp3 comes again",
        "b.tar/v.mp3": "the same video as a.tar/v.mp3, with as many bytes",
    }
    assert len({track.groups["video"] for name, track in found.items() if "/v." in name}) == 1


def test_settings_leave_recordings_out_by_score_and_length(tmp_path: Path):
    facts = {"good": (70, 200), "poor": (49.5, 200), "short": (70, 20), "long": (70, 301), "unknown": (None, None)}
    files = [(f"{name}.json", song(id=name, dataset_score=s, duration_sec=d)) for name, (s, d) in facts.items()]
    make_tar(tmp_path / "a.tar", files + [(f"{name}.mp3", name.encode()) for name in facts])
    assert not any(track.unwanted for track in library(tmp_path).values())
    found = library(tmp_path, min_score=50, min_track_s=30, max_track_s=300)
    assert {name: track.unwanted for name, track in found.items() if track.unwanted} == {
        "a.tar/poor.mp3": "score 49.5 is below min_score 50",
        "a.tar/short.mp3": "20 s is below min_track_s 30",
        "a.tar/long.mp3": "301 s is above max_track_s 300",
    }


def test_a_csv_tells_of_recordings_beside_and_below_it(tmp_path: Path):
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for name in ("set/a.wav", "set/sub/b.wav", "set/c.wav", "a.wav"):
        (tmp_path / name).touch()
    (tmp_path / "set" / "metadata.csv").write_text(
        "file_name,caption,start_s,end_s\na.wav,first,,\na.wav,second,,\nsub\\b.wav,late,5,9\nsub/b.wav,early,0,5\n"
        f"./sub/../c.wav,dotted,,\n{tmp_path}/a.wav,absolute,,\ngone.wav,x,,\ngone.wav,y,,\na.wav,bad,9,5\n,none,,\n"
    )
    (tmp_path / "plain.csv").write_text("name,caption\na.wav,slow\n")
    found = library(tmp_path)
    assert found["set/a.wav"].captions == human("first", "second")
    assert [(cut.start_s, cut.captions) for cut in found["set/sub/b.wav"].cuts] == [
        (0.0, human("early")),
        (5.0, human("late")),
    ]
    assert found["set/c.wav"].captions == human("dotted")
    assert found["a.wav"].captions == human("absolute")
    missing = found["set/gone.wav"]
    assert (missing.path, missing.missing) == (None, "no set/gone.wav, which row 7 of set/metadata.csv names")
    assert found["set/metadata.csv#9"].fault == "row 9: start 9 and end 5 are no span in seconds"
    assert found["set/metadata.csv#10"].fault == "row 10: names no file"
    assert "plain.csv" in found
    assert len(found) == 8


def test_lists_work_inside_tars_and_as_json_lines(tmp_path: Path):
    rows = b'{"file_name": "x/a.mp3", "caption": "said inside"}\n'
    make_tar(tmp_path / "a.tar", [("metadata.jsonl", rows), ("x/a.mp3", b"m")])
    found = library(tmp_path)
    assert list(found) == ["a.tar/x/a.mp3"]
    assert found["a.tar/x/a.mp3"].captions == human("said inside")


def test_a_list_may_name_any_file(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text("file\nnotes.pdf\n../outside.wav\n")
    (tmp_path / "notes.pdf").touch()
    found = library(tmp_path)
    assert found["notes.pdf"].path == tmp_path / "notes.pdf"
    assert found["../outside.wav"].missing


def test_side_files_that_cannot_be_opened_say_nothing(tmp_path: Path):
    (tmp_path / "a.wav").touch()
    for name in ("a.txt", "list.csv"):
        (tmp_path / name).symlink_to("/proc/self/mem")  # a file whose first byte cannot be read
    assert list(library(tmp_path)) == ["a.txt", "a.wav", "list.csv"]


def test_names_that_are_no_utf8_are_spelt_out(tmp_path: Path):
    (tmp_path / "a\udcff.wav").touch()
    assert list(library(tmp_path)) == ["a\\xff.wav"]


NAMES = st.text(st.sampled_from("aB-_.～é/"), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from([".mp3", ".json", ".txt", ".csv", ""]), st.binary(max_size=20))))
def test_whatever_a_tar_holds_ids_are_unique(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, bytes]]
):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    make_tar(folder / "a.tar", [(name + suffix, data) for name, suffix, data in files])
    tracks = corpus_tracks("library", {"root": str(folder)}, folder)
    assert len({track.id for track in tracks}) == len(tracks)


def test_real_recordings_in_a_tar_are_what_they_are_as_files(tmp_path: Path, real_data: Path):
    paths = sorted((real_data / "mediafile-tags").glob("full.*"))
    assert len(paths) > 3
    make_tar(tmp_path / "a.tar", [(path.name, path.read_bytes()) for path in paths])
    for path, track in zip(paths, library(tmp_path).values(), strict=True):
        assert track.path is not None
        with open_source(track.path, track.member) as source:
            assert read_tags(source, name=path.name) == read_tags(path)
