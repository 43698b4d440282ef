"""Lyrics from scores and tags, as they reach the clips, held against the truth of the demo's songs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml

from pipeline.data.shards import ShardFile, decode_json, read_jsonl
from pipeline.demo.jacappella import write_jacappella
from pipeline.lyrics.songs import join_phrases
from pipeline.models.aligner import AlignerConfig, CtcAligner
from pipeline.models.networks import save_network
from tests.stages.conftest import RATE_HZ, run_stage, tune, write_lyrics_flac


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs") / "jacappella"
    folder.mkdir()
    write_jacappella(folder, num_songs=4, seed=0)
    return folder


def project_of(folder: Path, root: Path, **sections: Any) -> Path:
    params = {
        "sources": {"jacappella": {"root": str(folder)}},
        "ingest": {"sample_rate_hz": 16000},
        "lyrics": {},
    } | sections
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("ingest", root=root)
    return root


def columns(project: Path, column: str, corpus: str = "jacappella") -> dict[str, Any]:
    tars = sorted((project / "shards" / column / corpus).glob("*.tar"))
    return {
        sample.key: decode_json(next(iter(data for name, data in sample.members.items() if name.endswith("json"))))
        for tar in tars
        for sample in ShardFile(tar)
    }


def sung(project: Path, part: str = "lead_vocal") -> dict[str, list[dict[str, Any]]]:
    """Phrases of each song, put together again from its clips."""
    clips, lyrics = columns(project, "ingest"), columns(project, "lyrics")
    songs: dict[str, list[Any]] = {}
    for key, clip in clips.items():
        phrases = lyrics[key]["phrases"] if key in lyrics else []
        songs.setdefault(clip["track"], []).append((tuple(clip["span_s"]), phrases))
    return {
        track.split("/")[1]: join_phrases(parts) for track, parts in songs.items() if track.rpartition("/")[2] == part
    }


def truth(folder: Path) -> dict[str, list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (folder / ".truth.jsonl").read_text("utf-8").splitlines()]
    return {line["title"]: line["phrases"] for line in lines}


def test_the_demo_songs_come_out_as_they_were_put_in(songs: Path, tmp_path: Path):
    project = project_of(songs, tmp_path)
    run_stage("lyrics", root=project)
    found, wanted = sung(project), truth(songs)
    assert set(found) == set(wanted)
    for title, phrases in found.items():
        assert [phrase["text"] for phrase in phrases] == [phrase["text"] for phrase in wanted[title]]
        for phrase, other in zip(phrases, wanted[title], strict=True):
            assert phrase["start_s"] == pytest.approx(other["start_s"], abs=2e-3)
            assert phrase["end_s"] == pytest.approx(other["end_s"], abs=2e-3)
            assert (phrase["kind"], phrase["section"]) == (other["kind"], other["section"])
            assert phrase["kana"].isalpha()


def test_a_phrase_across_a_cut_is_marked_in_both_clips(songs: Path, tmp_path: Path):
    project = project_of(songs, tmp_path, ingest={"sample_rate_hz": 16000, "max_clip_s": 5.0})
    run_stage("lyrics", root=project)
    marked = [
        phrase for column in columns(project, "lyrics").values() for phrase in column["phrases"] if "is_cut" in phrase
    ]
    assert len(marked) >= 8
    wanted = {title: len(phrases) for title, phrases in truth(songs).items()}
    assert {title: len(phrases) for title, phrases in sung(project).items()} == wanted


@pytest.mark.parametrize("score", ["SVS", "romaji"])
def test_every_variant_of_the_score_gives_kana_as_sung(songs: Path, tmp_path: Path, score: str):
    sources = {"jacappella": {"root": str(songs), "score": score}}
    project = project_of(songs, tmp_path, sources=sources)
    run_stage("lyrics", root=project)
    wanted = {title: "".join(p["kana"] for p in phrases) for title, phrases in truth(songs).items()}
    assert {t: "".join(p["kana"] for p in phrases) for t, phrases in sung(project).items()} == wanted


def test_backing_parts_sing_scat_and_nothing_else(songs: Path, tmp_path: Path):
    sources = {"jacappella": {"root": str(songs), "parts": ["soprano"], "score": "SVS"}}
    project = project_of(songs, tmp_path, sources=sources)
    run_stage("lyrics", root=project)
    phrases = [phrase for song in sung(project, "soprano").values() for phrase in song]
    assert phrases
    assert {phrase["kind"] for phrase in phrases} == {"scat"}
    assert all(phrase["kana"].isalpha() and not phrase["kana"].isascii() for phrase in phrases)


def test_a_score_that_cannot_be_read_costs_its_song_alone(songs: Path, tmp_path: Path, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(songs, mine)
    broken = next(mine.glob("*/*/*[a-z].musicxml"))
    broken.write_text("<score-partwise>")
    project = project_of(mine, tmp_path)
    run_stage("lyrics", root=project)
    drops = read_jsonl(project / "shards/lyrics/jacappella/drops.jsonl")
    assert {drop["reason"] for drop in drops} == {"bad_score"}
    assert broken.name in drops[0]["detail"]
    assert len(columns(project, "lyrics")) > 5
    with pytest.raises(SystemExit):
        run_stage("lyrics", "--set", "lyrics.part=choir", root=project)
    assert "no part 'choir'" in capsys.readouterr().err


def library(root: Path, **texts: str) -> Path:
    (root / "lib").mkdir()
    for name, lyrics in texts.items():
        write_lyrics_flac(root / "lib" / f"{name}.flac", tune(len(name), 6.0), lyrics)
    soundfile.write(root / "lib" / "none.wav", tune(9, 6.0), RATE_HZ)
    params = {"sources": {"library": {"root": "lib"}}, "ingest": {"sample_rate_hz": RATE_HZ}, "lyrics": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("ingest", root=root)
    return root


def test_tags_are_cleaned_and_read(tmp_path: Path):
    project = library(
        tmp_path, song="[00:00.00]作詞：だれか\n[00:01.00]桜《さくら》咲く (x2)\n[00:03.00]【サビ】春が来た"
    )
    run_stage("lyrics", root=project)
    (column,) = columns(project, "lyrics", "library").values()
    assert [(p["text"], p["kana"]) for p in column["phrases"]] == [("桜咲く", "サクラサク"), ("春が来た", "ハルガキタ")]
    (song,) = read_jsonl(project / "shards/lyrics/library/songs.jsonl")
    assert {"credit", "ruby", "repeat_mark"} <= set(song["removed"])
    assert song["moras"] == 10


def test_too_much_that_cannot_be_read_fails_the_stage(tmp_path: Path, capsys):
    project = library(tmp_path, song="さくら ⌘⌘ Qwrt zxcv Qwrt zxcv やよいの")
    with pytest.raises(SystemExit) as stopped:
        run_stage("lyrics", root=project)
    assert stopped.value.code == 1
    assert "has no reading (" in capsys.readouterr().err
    run_stage("lyrics", "--set", "lyrics.max_unknown_share=1.0", root=project)


def test_an_unreadable_encoding_is_a_drop_of_its_own(tmp_path: Path):
    project = library(tmp_path, song="さくら")
    tracks = project / "shards/ingest/library/tracks.jsonl"
    lines = [json.loads(line) | {"tags": {"garbled": "lyrics title"}} for line in tracks.read_text().splitlines()]
    tracks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_stage("lyrics", root=project)
    drops = read_jsonl(project / "shards/lyrics/library/drops.jsonl")
    assert {drop["reason"] for drop in drops} == {"bad_encoding"}


def test_words_without_times_are_placed_by_an_aligner(tmp_path: Path):
    folder = tmp_path / "checkpoints/aligner"
    torch.manual_seed(0)
    config = AlignerConfig(vocabulary=("", *"アカサタナハマヤラワイキシチニ"), width=16)
    save_network(CtcAligner(config), config, folder)
    project = library(tmp_path, song="さくら\n やよいの\nそらは")
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["ingest"]["max_clip_s"] = 2.0
    settings["models"] = {"root": "checkpoints", "device": "cpu"}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    run_stage("ingest", root=project)
    run_stage("lyrics", root=project)
    assert columns(project, "lyrics", "library") == {}  # three clips, and no times
    run_stage("lyrics", "--set", "models.aligner=aligner", root=project)
    parts = [
        (tuple(clip["span_s"]), columns(project, "lyrics", "library").get(key, {"phrases": []})["phrases"])
        for key, clip in columns(project, "ingest", "library").items()
        if clip["track"] == "song.flac"
    ]
    found = join_phrases(parts)
    # An untrained aligner places them anywhere, but each once, in order, and within the recording.
    assert [phrase["text"] for phrase in found] == ["さくら", "やよいの", "そらは"]
    times = [time_s for phrase in found for time_s in (phrase["start_s"], phrase["end_s"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 6.0
    assert all(0 <= phrase["confidence"] <= 1 for phrase in found)
    assert "aligner" in json.loads((project / "shards/lyrics/library/manifest.json").read_bytes())["models"]
