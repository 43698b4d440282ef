"""Ingest on recordings that are odd, cut in every way, and never lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.data.shards import ShardFile, decode_json, read_jsonl
from tests.stages.conftest import RATE_HZ, run_stage, tune


def ingest(project: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """Ingest `project/lib` and give the json of every clip by key."""
    params = {"sources": {"library": {"root": "lib"}}, "ingest": {"sample_rate_hz": RATE_HZ, **settings}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("ingest", root=project)
    samples = [sample for tar in sorted((project / "shards/ingest/library").glob("*.tar")) for sample in ShardFile(tar)]
    return {sample.key: decode_json(sample.members["json"]) for sample in samples}


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    return tmp_path / "lib"


def test_an_offset_is_noted_and_taken_out(lib: Path):
    soundfile.write(lib / "leaning.wav", tune(0, 4.0) * 0.5 + 0.25, RATE_HZ)
    soundfile.write(lib / "upright.wav", tune(0, 4.0) * 0.5, RATE_HZ)
    soundfile.write(lib / "only.wav", np.full(4 * RATE_HZ, 0.3), RATE_HZ)
    clips = ingest(lib.parent)
    assert {key.split("_12e")[0]: clip["audio"]["dc_offset"] for key, clip in clips.items()} == {
        "library-leaning": pytest.approx(0.25, abs=1e-3),
        "library-upright": pytest.approx(0, abs=1e-3),
    }
    shard = ShardFile(next((lib.parent / "shards/ingest/library").glob("*.tar")))
    for sample in shard:
        (lib.parent / "clip.flac").write_bytes(sample.members["flac"])
        assert abs(soundfile.read(lib.parent / "clip.flac")[0].mean()) < 2e-3
    # Nothing but an offset is silence.
    drops = read_jsonl(lib.parent / "shards/ingest/library/drops.jsonl")
    assert {(drop["item"], drop["reason"]) for drop in drops} == {("only.wav", "silent")}


def test_two_equal_channels_are_noted(lib: Path):
    soundfile.write(lib / "both.wav", np.stack([tune(0), tune(0)], axis=1), RATE_HZ)
    soundfile.write(lib / "wide.wav", np.stack([tune(0), tune(1)], axis=1), RATE_HZ)
    clips = ingest(lib.parent)
    assert [clip["audio"]["dual_mono"] for clip in clips.values()] == [True, False]


def test_windows_may_overlap(lib: Path):
    soundfile.write(lib / "long.wav", tune(0, 25.0), RATE_HZ)
    clips = ingest(lib.parent, max_clip_s=10.0, overlap_s=5.0)
    assert [clip["span_s"] for clip in clips.values()] == [[0, 10], [5, 15], [10, 20], [15, 25]]
    (track,) = read_jsonl(lib.parent / "shards/ingest/library/tracks.jsonl")
    assert [clip["span_s"] for clip in track["clips"]] == [[0, 10], [5, 15], [10, 20], [15, 25]]


def test_silences_are_where_it_is_cut(lib: Path):
    wave_N = tune(0, 26.0)
    for start_s in (7.0, 15.5):
        wave_N[round(start_s * RATE_HZ) : round((start_s + 0.4) * RATE_HZ)] = 0
    soundfile.write(lib / "long.wav", wave_N, RATE_HZ)
    clips = ingest(lib.parent, max_clip_s=10.0, cut="silences")
    ends = [clip["span_s"][1] for clip in clips.values()]
    assert 7.0 < ends[0] < 7.4
    assert 15.5 < ends[1] < 15.9
    assert all(clip["num_samples"] <= 10 * RATE_HZ for clip in clips.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap_s": 10.0}, "overlap_s: 10.0, must be below max_clip_s"),
        ({"overlap_s": 1.0, "cut": "silences"}, "only windows can overlap"),
        ({"cut": "bars"}, "cut"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(lib: Path, settings, message, capsys):
    (lib / "a.wav").touch()
    with pytest.raises(SystemExit) as stopped:
        ingest(lib.parent, **settings)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recording_found_broken_at_its_end_leaves_no_clip(lib: Path):
    soundfile.write(lib / "whole.flac", tune(0, 30.0), RATE_HZ)
    data = (lib / "whole.flac").read_bytes()
    (lib / "cut.flac").write_bytes(data[: len(data) * 9 // 10])
    clips = ingest(lib.parent, max_drop_share=1.0)
    assert {clip["track"] for clip in clips.values()} == {"whole.flac"}
    (drop,) = read_jsonl(lib.parent / "shards/ingest/library/drops.jsonl")
    assert (drop["item"], drop["reason"], drop["clip"]) == ("cut.flac", "truncated", None)
    assert json.loads((lib.parent / "shards/ingest/library/manifest.json").read_bytes())["counts"]["in"] == 2


def test_names_of_every_kind_are_clips_or_drops(lib: Path):
    (lib / "...And Justice").mkdir()
    soundfile.write(lib / "...And Justice/01.wav", tune(0), RATE_HZ)
    shift_jis = lib / os.fsdecode("歌.wav".encode("cp932"))
    soundfile.write(lib / "plain.wav", tune(1), RATE_HZ)
    (lib / "plain.wav").rename(shift_jis)
    (lib / "gone.wav").symlink_to("nowhere.wav")
    (lib / "._01.wav").write_bytes(b"a Mac's own")
    clips = ingest(lib.parent)
    assert {clip["track"] for clip in clips.values()} == {"...And Justice/01.wav", r"\x89\xcc.wav"}
    (drop,) = read_jsonl(lib.parent / "shards/ingest/library/drops.jsonl")
    assert (drop["item"], drop["reason"]) == ("gone.wav", "audio_missing")


def test_a_given_time_beyond_the_end_is_a_drop_that_says_so(lib: Path):
    soundfile.write(lib / "a.wav", tune(0, 12.0), RATE_HZ)
    (lib / "list.csv").write_text("file_name,start_s,end_s,caption\na.wav,0,2000000000,all\na.wav,52,54,late\n")
    clips = ingest(lib.parent, max_clip_s=5.0)
    assert [clip["span_s"] for clip in clips.values()] == [[0, 5], [5, 10], [10, 12]]
    drops = read_jsonl(lib.parent / "shards/ingest/library/drops.jsonl")
    assert [(drop["reason"], drop["detail"]) for drop in drops] == [
        ("too_short", "52 s is beyond the end of the recording (12.0 s)")
    ]


def write_videos(folder: Path, names: dict[str, float]) -> None:
    """Files of so many seconds whose sound tells the second: second n is a tone of 200 + 10 n Hz."""
    for name, seconds in names.items():
        time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        phase = 2 * np.pi * np.cumsum(200 + 10 * np.floor(time_s)) / RATE_HZ
        soundfile.write(folder / name, 0.3 * np.sin(phase), RATE_HZ)


def test_a_row_of_musiccaps_gets_the_part_that_it_names(tmp_path: Path):
    root = tmp_path / "mc"
    (root / "audio").mkdir(parents=True)
    head = "ytid,start_s,end_s,aspect_list,caption,author_id,is_audioset_eval\n"
    rows = {
        "wholevideo0": (20, 30),  # the whole video
        "cutalready0": (30, 40),  # cut by the downloader
        "endsearly00": (20, 30),  # the video ends within the span
        "tooshort000": (90, 99),  # the video ends before it
        "namedtimes0": (30, 40),  # a longer cut, its times in the name
    }
    lines = [f"{ytid},{a},{b},\"['x']\",A caption,1,False\n" for ytid, (a, b) in rows.items()]
    (root / "musiccaps-public.csv").write_text(head + "".join(lines))
    write_videos(root / "audio", {"wholevideo0.wav": 60, "cutalready0.wav": 10, "endsearly00.wav": 25})
    write_videos(root / "audio", {"tooshort000.wav": 30, "[namedtimes0]-[20-50].wav": 30})
    params = {"sources": {"musiccaps": {"root": "mc"}}, "ingest": {"sample_rate_hz": RATE_HZ}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("ingest", root=tmp_path)
    shard = ShardFile(next((tmp_path / "shards/ingest/musiccaps").glob("*.tar")))
    spans = {clip["track"]: clip["span_s"] for clip in (decode_json(s.members["json"]) for s in shard)}
    assert spans == {
        "wholevideo0": [20, 30],
        "cutalready0": [0, 10],
        "endsearly00": [20, 25],
        "namedtimes0": [10, 20],
    }
    (drop,) = read_jsonl(tmp_path / "shards/ingest/musiccaps/drops.jsonl")[1:]
    assert drop["item"] == "tooshort000"
    assert "90 s is beyond the end" in drop["detail"]
