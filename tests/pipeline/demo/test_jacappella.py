from __future__ import annotations

import csv
import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.demo.arrangement import BACKING
from pipeline.demo.covers import TAR_NAME, write_singing
from pipeline.demo.jacappella import COLUMNS, TEST_LIST, TRUTH_NAME, write_jacappella
from pipeline.demo.songbook import truth
from pipeline.demo.songs import SONGS
from pipeline.errors import ParamsError
from pipeline.sources.jacappella import SourceParams, read_tracks

RATE_HZ = 8_000
PARTS = ("lead_vocal", *BACKING, "mixture")


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_lines(path: Path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def voiced(wave_N, phrases, rate_hz):
    """Levels inside the phrases and in the rests of over 0.1 s between them."""
    inside = [wave_N[int(p["start_s"] * rate_hz) : int(p["end_s"] * rate_hz)] for p in phrases]
    ends = [0.0, *(p["end_s"] for p in phrases)]
    starts = [*(p["start_s"] for p in phrases), len(wave_N) / rate_hz]
    rests = [(a + 0.03, b - 0.03) for a, b in zip(ends, starts, strict=True) if b - a > 0.1]
    between = [wave_N[int(a * rate_hz) : int(b * rate_hz)] for a, b in rests]
    return [float(np.sqrt(np.mean(part**2))) for part in inside], [float(np.sqrt(np.mean(p**2))) for p in between]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("jacappella")
    write_jacappella(folder, num_songs=3, seed=5, sample_rate_hz=RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def covers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("singing")
    write_singing(folder, num_tracks=2, seed=5, sample_rate_hz=16_000)
    return folder


def test_folder_is_laid_out_as_jacappella(corpus):
    for song in SONGS[:3]:
        names = {path.name for path in (corpus / song.subset / song.title).iterdir()}
        scores = {f"{song.title}{ending}.musicxml" for ending in ("", "_SVS", "_romaji")}
        assert names == scores | {f"{part}.wav" for part in PARTS}
    with (corpus / "meta.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["voice_part"] for row in rows] == ["lead_vocal", *BACKING] * 3
    assert {row["title_in_ja"] for row in rows} == {"さくらさくら", "ちょうちょう", "蛍の光"}
    assert all(all(row.values()) for row in rows)
    assert (corpus / TEST_LIST).read_text("utf-8") == "hotarunohikari\n"
    assert "Not the jaCappella corpus" in (corpus / "README.txt").read_text("utf-8")


@pytest.mark.parametrize("score", ["default", "SVS", "romaji"])
def test_source_finds_every_song_with_audio_and_score(corpus, score):
    params = SourceParams(root=str(corpus), parts=("lead_vocal", "bass", "mixture"), score=score)
    tracks = read_tracks(params, corpus)
    assert [track.id for track in tracks] == [
        f"{song.subset}/{song.title}/{part}" for song in SONGS[:3] for part in ("lead_vocal", "bass", "mixture")
    ]
    assert all(track.path and track.score for track in tracks)
    assert [track.official_split for track in tracks] == ["train"] * 6 + ["test"] * 3


def test_parts_of_a_song_are_of_one_length_and_sum_to_the_mixture(corpus):
    waves = {}
    for part in PARTS:
        waves[part], rate_hz = soundfile.read(corpus / "jazz" / "chouchou" / f"{part}.wav", dtype="float32")
        assert rate_hz == RATE_HZ
    assert len({len(wave_N) for wave_N in waves.values()}) == 1
    total_N = sum(waves[part] for part in PARTS[:-1])
    error = np.sqrt(np.mean((total_N - waves["mixture"]) ** 2) / np.mean(total_N**2))
    assert error < 0.05
    assert 0.1 < np.abs(waves["mixture"]).max() <= 0.91


@pytest.mark.parametrize("song", SONGS[:3], ids=lambda song: song.title)
def test_lead_is_heard_where_the_truth_says_and_nowhere_else(corpus, song):
    wave_N, _ = soundfile.read(corpus / song.subset / song.title / "lead_vocal.wav", dtype="float32")
    line = next(line for line in read_lines(corpus / TRUTH_NAME) if line["title"] == song.title)
    assert line["phrases"] == truth(song)
    inside, between = voiced(wave_N, line["phrases"], RATE_HZ)
    assert min(inside) > 0.02
    assert between
    assert max(between) < 0.002


def test_covers_are_mp3_and_json_in_a_tar(covers):
    with tarfile.open(covers / TAR_NAME) as archive:
        members = archive.getmembers()
        contents = {member.name: archive.extractfile(member).read() for member in members}
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
    ids = [name.removesuffix(".json") for name in contents if name.endswith(".json")]
    assert ids[0].startswith("--")
    assert [len(track_id) for track_id in ids] == [11, 11]
    assert set(contents) == {f"{track_id}{ending}" for track_id in ids for ending in (".json", ".mp3")}
    for track_id in ids:
        facts = json.loads(contents[f"{track_id}.json"])
        assert facts["id"] == track_id
        assert "lyrics" not in facts
        with soundfile.SoundFile(io.BytesIO(contents[f"{track_id}.mp3"])) as sound:
            assert (sound.format, sound.channels) == ("MP3", 2)
            assert abs(sound.frames / sound.samplerate - facts["duration_sec"]) < 1.1


def test_truth_of_covers_lies_outside_the_tar_and_follows_the_new_tempo(covers):
    lines = read_lines(covers / TRUTH_NAME)
    assert [path.name for path in covers.rglob("*") if path.is_file() and not path.name.startswith(".")] == [
        "train-0000.tar"
    ]
    for line in lines:
        written = truth(next(song for song in SONGS if song.title == line["title"]))
        assert [phrase["kana"] for phrase in line["phrases"]] == [phrase["kana"] for phrase in written]
        # Straight in time: one start and one pace.
        pairs = [(p["start_s"], w["start_s"]) for p, w in zip(line["phrases"], written, strict=True)]
        pace, intro_s = np.polyfit([w for _, w in pairs], [p for p, _ in pairs], 1)
        assert 0.85 < pace < 1.12
        assert intro_s > 1
        assert max(abs(intro_s + pace * w - p) for p, w in pairs) < 2e-3


def test_voice_joins_the_accompaniment_at_the_first_phrase(covers):
    line = read_lines(covers / TRUTH_NAME)[0]
    with tarfile.open(covers / TAR_NAME) as archive:
        data = archive.extractfile(f"{line['id']}.mp3").read()
    wave_NC, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    start_s = line["phrases"][0]["start_s"]
    # MP3 pads its start by some 50 ms.
    before = wave_NC[int(0.3 * rate_hz) : int((start_s - 0.1) * rate_hz)]
    after = wave_NC[int((start_s + 0.15) * rate_hz) : int((start_s + 3) * rate_hz)]
    assert 0.01 < np.sqrt(np.mean(before**2)) < 0.6 * np.sqrt(np.mean(after**2))


def test_same_seed_gives_same_bytes_and_another_other_voices(corpus, covers, tmp_path):
    for name, seed in (("again", 5), ("other", 6)):
        for kind in ("jacappella", "singing"):
            (tmp_path / name / kind).mkdir(parents=True)
        write_jacappella(tmp_path / name / "jacappella", num_songs=1, seed=seed, sample_rate_hz=RATE_HZ)
        write_singing(tmp_path / name / "singing", num_tracks=2 if seed == 5 else 1, seed=seed, sample_rate_hz=16_000)
    lead = "neutral/sakurasakura/lead_vocal.wav"
    again, other = (read_bytes(tmp_path / name / "jacappella") for name in ("again", "other"))
    whole = read_bytes(corpus)
    song = {name for name in again if name.startswith("neutral/")}
    assert len(song) == 10
    assert all(again[name] == whole[name] for name in song)
    assert other[lead] != again[lead]
    assert read_bytes(tmp_path / "again" / "singing") == read_bytes(covers)
    assert read_bytes(tmp_path / "other" / "singing")[TAR_NAME] != read_bytes(covers)[TAR_NAME]


@pytest.mark.parametrize("num_songs", [0, 11])
def test_refuses_more_songs_than_there_are(tmp_path, num_songs):
    with pytest.raises(ParamsError, match="there are 10 songs"):
        write_jacappella(tmp_path, num_songs=num_songs, seed=0)


def test_refuses_an_empty_set_of_covers(tmp_path):
    with pytest.raises(ParamsError, match="at least 1"):
        write_singing(tmp_path, num_tracks=0, seed=0)


@pytest.mark.long
def test_whole_sets_take_a_minute_and_40_megabytes(tmp_path):
    (tmp_path / "singing").mkdir()
    started_s = time.process_time()
    write_jacappella(tmp_path, seed=0)
    write_singing(tmp_path / "singing", seed=0)
    assert time.process_time() - started_s < 60
    assert sum(map(len, read_bytes(tmp_path).values())) < 40e6
