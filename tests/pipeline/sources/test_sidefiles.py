from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Caption, Cut
from pipeline.data.titles import tag_groups
from pipeline.sources.sidefiles import SINGING_LICENCE, About, about, read_rows, read_side


def human(*texts: str) -> tuple[Caption, ...]:
    return tuple(Caption(text=text, source="human") for text in texts)


AUDIOCRAFT = {
    "key": "",
    "artist": "Voyager I",
    "sample_rate": 48000,
    "file_extension": "mp3",
    "description": "A cool song from  Voyager.",
    "keywords": "bright, pulsing, cool",
    "duration": 15.0,
    "bpm": "",
    "genre": "electronic",
    "title": "Enracinement",
    "name": "electro_1",
    "instrument": "Mix",
    "moods": ["uplifting", "motivational"],
}
SINGING = {
    "id": "--0fvYUtDas",
    "url": "https://www.youtube.com/watch?v=--0fvYUtDas",
    "title": "【歌ってみた】夜に駆ける / YOASOBI covered by X",
    "channel_id": "UC123",
    "channel_title": "X",
    "duration_sec": 215,
    "topic_categories": ["https://en.wikipedia.org/wiki/Pop_music", "https://en.wikipedia.org/wiki/Music_of_Asia"],
    "dataset_category": "cover",
    "dataset_genre": "J-Pop",
    "dataset_score": 72.5,
}


def test_json_as_audiocraft_writes_it():
    found = read_side(".json", json.dumps(AUDIOCRAFT).encode())
    assert found == About(
        captions=human("A cool song from Voyager."),
        aspects=("bright", "pulsing", "cool", "electronic", "uplifting", "motivational", "Mix"),
        groups=tag_groups({"title": "Enracinement", "artist": "Voyager I"}),
    )


def test_json_of_japanese_singing_voice():
    found = about(SINGING)
    assert found.groups == {
        "video": "youtube:--0fvYUtDas",
        "song": "title:夜に駆ける",
        "song_in_english": "title:夜に駆ける",
        "artist": "youtube:UC123",
    }
    assert found.aspects == ("pop music", "music of asia", "j-pop")
    assert (found.score, found.duration_s, found.licence) == (72.5, 215, SINGING_LICENCE)


@pytest.mark.parametrize("category", ["official", "diverse", None])
def test_a_channel_stands_for_a_singer_only_with_covers(category: str | None):
    assert "artist" not in about(SINGING | {"dataset_category": category}).groups


def test_a_channel_without_an_id_goes_by_its_name():
    assert about(SINGING | {"channel_id": None}).groups["artist"] == "youtube:x"


def test_broken_facts_are_left_out():
    odd = about(
        {"dataset_score": "high", "duration_sec": float("inf"), "title": 5, "id": ["a"], "topic_categories": {}}
    )
    assert (odd.score, odd.duration_s) == (None, None)
    assert odd.groups["video"] == "youtube:a"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932"])
def test_side_texts_of_any_encoding_are_read(encoding: str):
    found = read_side(".txt", "ゆっくりした\nワルツ、ピアノ".encode(encoding))
    assert found == About(captions=human("ゆっくりした ワルツ、ピアノ"))
    found = read_side(".json", json.dumps({"caption": "ゆっくりしたワルツ"}, ensure_ascii=False).encode(encoding))
    assert found == About(captions=human("ゆっくりしたワルツ"))


def test_lyrics_keep_their_lines():
    assert read_side(".lrc", b"\n[00:01.00]la\r\n[00:02.00]li\n") == About(lyrics="[00:01.00]la\r\n[00:02.00]li")
    assert about({"lyrics": "la la\nli"}).lyrics == "la la\nli"


@pytest.mark.parametrize("data", [b"no json", b'["a list"]', b"[" * 100_000, b"\x80\x81\x82"])
def test_side_files_that_cannot_be_read_say_nothing(data: bytes):
    assert read_side(".json", data) is None


def test_half_of_a_letter_pair_is_replaced():
    assert read_side(".json", b'{"caption": "a \\ud83d b"}') == About(captions=human("a ? b"))


def test_a_csv_names_recordings_and_what_is_said_of_them():
    rows = read_rows(
        ".csv",
        b"\xef\xbb\xbfFile_Name,text,tags,title,artist,license\r\n"
        b"a.wav,\"one,\r\ntwo\",\"['slow', 'sad']\",Song,X,CC BY 4.0\r\n"
        b"a.wav,again,fast; loud|live,None,,\r\n"
        b"b.wav\r\n",
    )
    assert rows is not None
    assert [(row.number, row.file, row.fault) for row in rows] == [(1, "a.wav", ""), (2, "a.wav", ""), (3, "b.wav", "")]
    assert rows[0].about | rows[1].about == About(
        captions=human("one, two", "again"),
        aspects=("slow", "sad", "fast", "loud", "live"),
        groups=tag_groups({"title": "Song", "artist": "X"}),
        licence="CC BY 4.0",
    )
    assert rows[2].about == About()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["file_name", "file", "path", "filename"])
def test_lists_with_any_delimiter_and_name_of_the_column(delimiter: str, column: str):
    rows = read_rows(".csv", f"{column}{delimiter}caption\na.wav{delimiter}slow\n".encode())
    assert rows is not None
    assert (rows[0].file, rows[0].about.captions) == ("a.wav", human("slow"))


def test_times_cut_clips_in_order():
    text = "file,start_s,end,caption\na.wav,10,20.5,late\na.wav,0,5,early\na.wav,10,20.5,late again\na.wav,,,whole\n"
    rows = read_rows(".csv", text.encode())
    assert rows is not None
    found = About()
    for row in rows:
        found |= row.about
    assert found.cuts == (Cut(0.0, 5.0, human("early")), Cut(10.0, 20.5, human("late", "late again")))
    assert found.captions == human("whole")


@pytest.mark.parametrize("times", ["5,5", "-1,3", "x,3", "3,", ",3", "0,inf", "nan,3"])
def test_times_that_are_no_span_fault_the_row(times: str):
    rows = read_rows(".csv", f"file,start,end\na.wav,{times}\nb.wav,0,1\n".encode())
    assert rows is not None
    assert "no span in seconds" in rows[0].fault
    assert rows[1].about.cuts == (Cut(0.0, 1.0),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['a b', \"c\"]", ("a b", "c")),
        ("[a, b", ("[a", "b")),
        ('["a", null, 3]', ('["a"', "null", "3]")),
        ("[" * 500, ("[" * 500,)),
        ("None", ()),
        ("x;x|y", ("x", "y")),
    ],
)
def test_aspects_are_lists_however_they_are_written(text: str, words: tuple[str, ...]):
    assert about({"tags": text}).aspects == words


def test_a_row_without_a_file_or_behind_an_open_quote_is_faulted():
    rows = read_rows(".csv", b'file,caption\n,slow\na.wav,ok\nb.wav,"never closed\nc.wav,x\n')
    assert rows is not None
    assert [row.fault for row in rows][:2] == ["names no file", ""]
    assert rows[2].fault.startswith("not readable from here on")


def test_a_csv_without_such_a_column_is_no_list():
    assert read_rows(".csv", b"name,caption\na.wav,slow\n") is None
    assert read_rows(".csv", b"") is None
    assert read_rows(".csv", b'"open') is None
    assert read_rows(".csv", b"\x80\x81\x82") is None
    assert read_rows(".jsonl", b'{"name": "a"}\n') is None


def test_json_lines_are_a_list_too():
    lines = [
        {"file_name": "a.wav", "caption": ["slow", "calm"]},
        {"path": "/x/b.wav", "duration": 3.5, "genre": "folk"},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n\nbroken\n[1]\n{}\n"
    rows = read_rows(".jsonl", text.encode())
    assert rows is not None
    assert [(row.number, row.file, row.fault) for row in rows] == [
        (1, "a.wav", ""),
        (2, "/x/b.wav", ""),
        (4, "", "no JSON object"),
        (5, "", "no JSON object"),
        (6, "", "names no file"),
    ]
    assert rows[0].about.captions == human("slow", "calm")
    assert rows[1].about.aspects == ("folk",)


@given(st.sampled_from([".csv", ".tsv", ".jsonl"]), st.binary(max_size=80))
def test_any_bytes_are_rows_or_no_list(suffix: str, data: bytes):
    rows = read_rows(suffix, b"file,start,tags\n" + data)
    assert rows is None or all(row.file or row.fault for row in rows)


@given(
    st.dictionaries(
        st.sampled_from([*AUDIOCRAFT, *SINGING, "tags", "start", "end"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=5,
        ),
    )
)
def test_any_json_says_something_or_is_refused(fields: dict[str, object]):
    with contextlib.suppress(ValueError):  # times that are no span
        assert all(caption["text"] for caption in about(fields).captions)
