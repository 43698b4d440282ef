"""Every source that the real files allow: real CSVs, real recordings under the names that they ask for."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.shards import ShardFile, decode_json, read_jsonl
from tests.stages.conftest import run_stage

# Rows of the real CSVs whose recordings are "there": real recordings of other music, renamed.
MUSICCAPS = {
    "{ytid}.wav": "librosa-data/Kevin_MacLeod_-_Vibe_Ace.ogg",
    "[{ytid}]-[{start}-{end}].mp3": "spleeter-example/audio_example.mp3",
    "{ytid}_{start}_{end}.flac": "whisper-test/jfk.flac",
    "-{ytid}.wav": "vocadito/vocadito_10.wav",  # a name that fits no row
}
SONG_DESCRIBER = {
    "{path}.2min.mp3": "audiocraft-assets/electro_1.mp3",
    "{path}.mp3": "audiocraft-assets/sep_drums_1.mp3",
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def link(target: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(target)


@pytest.fixture(scope="module")
def project(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    link(real_data.resolve() / "musiccaps/musiccaps-public.csv", root / "musiccaps/musiccaps-public.csv")
    for row, (form, file) in zip(
        rows_of(real_data / "musiccaps/musiccaps-public.csv"), MUSICCAPS.items(), strict=False
    ):
        name = form.format(ytid=row["ytid"], start=row["start_s"], end=row["end_s"])
        link(real_data.resolve() / file, root / "musiccaps/audio" / name)
    link(real_data.resolve() / "song-describer/song_describer.csv", root / "song_describer/song_describer.csv")
    tracks = {row["track_id"]: row for row in rows_of(real_data / "song-describer/song_describer.csv")}
    for row, (form, file) in zip(tracks.values(), SONG_DESCRIBER.items(), strict=False):
        name = form.format(path=row["path"].removesuffix(".mp3"))
        link(real_data.resolve() / file, root / "song_describer/audio" / name)
    link(real_data.resolve(), root / "library")
    params: dict[str, Any] = {
        "sources": {name: {"root": name} for name in ("musiccaps", "song_describer", "library")},
        "ingest": {"sample_rate_hz": 16000, "max_drop_share": 1.0},
        "split": {"seed": 0},
        "engine": {"workers": 2},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("ingest", root=root)
    run_stage("split", root=root)
    return root


def counts(project: Path, corpus: str) -> dict[str, Any]:
    return json.loads((project / "shards/ingest" / corpus / "manifest.json").read_bytes())["counts"]


@pytest.mark.parametrize("corpus", ["musiccaps", "song_describer", "library"])
def test_every_item_is_used_or_dropped_with_a_reason(project: Path, corpus: str):
    found = counts(project, corpus)
    print(f"\n{corpus}: {json.dumps(found, sort_keys=True)}")
    drops = read_jsonl(project / "shards/ingest" / corpus / "drops.jsonl")
    assert found["in"] == found["used"] + sum(found["dropped"].values())
    assert Counter(drop["reason"] for drop in drops if drop["clip"] is None) == found["dropped"]
    num_clips = sum(len(ShardFile(tar)) for tar in (project / "shards/ingest" / corpus).glob("*.tar"))
    assert num_clips == found["out"] > 0


def test_the_real_csvs_are_read_whole(project: Path):
    musiccaps, describer = counts(project, "musiccaps"), counts(project, "song_describer")
    assert (musiccaps["in"], musiccaps["used"], musiccaps["dropped"]) == (5521, 3, {"audio_missing": 5518})
    assert (describer["in"], describer["used"]) == (706, 2)
    assert describer["dropped"] == {"audio_missing": 696, "filtered": 8}


def test_renamed_recordings_are_known_for_what_they_are(project: Path):
    table = json.loads((project / "shards/split/split.json").read_bytes())
    same = {frozenset(key.split("-")[0] for key in pair) for pair in table["near_duplicates"]}
    assert {frozenset({"library", "musiccaps"}), frozenset({"library", "song_describer"})} <= same
    # MusicCaps' three are in its own test or train by the CSV; their copies in the library follow them.
    for low, high in table["near_duplicates"]:
        assert table["split"][low] == table["split"][high]


def test_captions_and_aspects_are_those_of_the_row(project: Path, real_data: Path):
    rows = {row["ytid"]: row for row in rows_of(real_data / "musiccaps/musiccaps-public.csv")}
    clips = [
        decode_json(sample.members["json"])
        for tar in (project / "shards/ingest/musiccaps").glob("*.tar")
        for sample in ShardFile(tar)
    ]
    assert len(clips) == 3
    for clip in clips:
        assert clip["captions"][0]["text"] == " ".join(rows[clip["track"]]["caption"].split())
        assert clip["num_samples"] <= 10 * 16000
