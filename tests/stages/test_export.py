"""Export, from recordings with lyrics to files that other programs read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.data.provenance import folder_digest, pretty_json
from pipeline.data.records import ClipJson, Drop, Phrase, Reason
from pipeline.data.shards import (
    Sample,
    ShardEntry,
    ShardFile,
    decode_json,
    encode_json,
    load_index,
    write_folder_index,
    write_shard,
)
from pipeline.lyrics.songbloom import problems
from pipeline.lyrics.songs import Clip, make_song
from pipeline.lyrics.tags import parse_lyrics
from stages.export import Options, Target, write_songbloom
from tests.stages.conftest import RATE_HZ, run_stage, tune, write_lyrics_flac, write_params

VERSES = ["さくら　さくら", "やよいの空は", "見わたす「限り」", "かすみか雲か", "匂いぞ出ずる", "いざやいざや"]
CHORUS = ["いざや、いざや", "見にゆかん！"]
SONG_S = 56.0


def song_phrases() -> list[Phrase]:
    """Eight seconds of intro, then lines of four seconds: verse, chorus, a rest of eight seconds, verse, chorus."""
    texts = [*VERSES[:2], *CHORUS, *VERSES[2:5], *CHORUS]
    starts_s = [8.0, 12.0, 16.0, 20.0, 32.0, 36.0, 40.0, 44.0, 48.0]
    return [Phrase(text=t, start_s=s, end_s=s + 3.8, source="score") for t, s in zip(texts, starts_s, strict=True)]


def write_column(project: Path, name: str, member: str, phrases_of: dict[str, list[Phrase]]) -> None:
    """A column of lyrics as the stages make it: dealt out to clips by time, phrases that straddle a cut marked."""

    def lyrics(clip: ClipJson) -> dict[str, Any] | None:
        start_s, end_s = clip["span_s"]
        inside = in_clip(phrases_of.get(clip["track"], []), start_s, end_s)
        return {"phrases": inside} if inside else None

    write_members(project, name, member, lyrics)


def write_described(project: Path) -> None:
    """A column as `describe` makes it, for one recording."""
    attributes = {"tempo_bpm": 120.0, "key": "A minor"}
    captions = [{"text": "A tune of 120 beats", "source": "template"}]
    described = {"attributes": attributes, "captions": captions}
    write_members(project, "describe", "describe.json", lambda c: described if c["track"] == "song.flac" else None)


def write_members(project: Path, name: str, member: str, value_of: Callable[[ClipJson], dict[str, Any] | None]) -> None:
    ingest, folder = project / "shards/ingest/library", project / "shards" / name / "library"
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[ShardEntry] = []
    for entry in load_index(ingest):
        values = [
            (sample.key, value_of(decode_json(sample.members["json"]))) for sample in ShardFile(ingest / entry.name)
        ]
        samples = [Sample(key, {member: encode_json(value)}) for key, value in values if value is not None]
        entries.append(write_shard(folder / entry.name, samples))
    write_folder_index(folder, entries)
    manifest = {"schema": 1, "params": {}, "parents": {"ingest": folder_digest(ingest)}, "models": {}, "counts": {}}
    (folder / "manifest.json").write_bytes(pretty_json(manifest))


def in_clip(phrases: list[Phrase], start_s: float, end_s: float) -> list[Phrase]:
    inside: list[Phrase] = []
    for p in phrases:
        if p["start_s"] is None or p["end_s"] is None:
            inside.append(p)
        elif p["start_s"] < end_s and p["end_s"] > start_s:
            part = Phrase(
                text=p["text"],
                start_s=max(p["start_s"] - start_s, 0.0),
                end_s=min(p["end_s"], end_s) - start_s,
                source=p["source"],
            )
            if p["start_s"] < start_s or p["end_s"] > end_s:
                part["is_cut"] = True
            inside.append(part)
    return inside


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a song, one without times, one too short, and one without lyrics; clips of ten seconds."""
    project = tmp_path_factory.mktemp("songs")
    folder = project / "mine/library"
    folder.mkdir(parents=True)
    quiet_then_loud_N = tune(1, SONG_S) * np.repeat([0.1, 1.0], round(SONG_S / 2) * RATE_HZ).astype(np.float32)
    write_lyrics_flac(folder / "song.flac", quiet_then_loud_N, "")
    for seed, (name, length_s) in enumerate(
        {"untimed": 30.0, "short": 12.0, "mute": 25.0, "humming": 9.0}.items(), start=2
    ):
        soundfile.write(folder / f"{name}.wav", tune(seed, length_s), RATE_HZ)
    write_params(project, sources={})
    text = (project / "params.yaml").read_text("utf-8")
    (project / "params.yaml").write_text(
        re.sub(r"sources:\n(?:  .*\n)+", "sources:\n  library:\n    root: mine/library\n", text)
    )
    run_stage("ingest", root=project)
    run_stage("split", root=project)
    untimed = [Phrase(text="さくら", start_s=None, end_s=None, source="tag")]
    short = [Phrase(text="さくら", start_s=1.0, end_s=9.0, source="score")]
    humming = [Phrase(text="♪", start_s=1.0, end_s=9.0, source="tag")]
    write_column(
        project, "lyrics", "lyrics.json", {"song.flac": song_phrases(), "untimed.wav": untimed, "humming.wav": humming}
    )
    write_column(project, "transcribe", "asr.json", {"short.wav": short})
    write_described(project)
    return project


def export(project: Path, out: Path, form: str, *flags: str) -> None:
    run_stage("export", "--format", form, "--corpus", "library", "--out", str(out), *flags, root=project)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def bloom(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "bloom"
    export(songs, out, "songbloom")
    return out


def test_a_song_becomes_a_line_of_jsonl(bloom: Path):
    (line,) = lines_of(bloom / "songs.jsonl")
    assert line["idx"] == "library-song_12eflac"
    assert problems(line["lyrics"]) == []
    # Before the last two lines: the longest target beside the most singing.
    assert line["prompt_span_s"] == [44.0, 54.0]
    assert line["target_span_s"] == [0.0, 44.0]
    tags = re.findall(r"\[(\w+)\]", line["lyrics"])
    assert tags == ["intro"] * 8 + ["verse", "chorus"] + ["inst"] * 8 + ["verse"]
    assert "見わたす限り" in line["lyrics"]
    assert [kind for kind, _, _ in line["sections"]] == ["intro", "verse", "chorus", "inst", "verse"]


def test_prompt_and_target_share_no_sample(bloom: Path):
    (line,) = lines_of(bloom / "songs.jsonl")
    (prompt_start_s, prompt_end_s), (target_start_s, target_end_s) = line["prompt_span_s"], line["target_span_s"]
    assert prompt_end_s <= target_start_s or target_end_s <= prompt_start_s
    prompt_N, prompt_hz = soundfile.read(line["prompt_wav"])
    target_N, target_hz = soundfile.read(line["audio_path"])
    assert (prompt_hz, len(prompt_N)) == (48_000, 480_000)
    assert (target_hz, len(target_N)) == (RATE_HZ, 44 * RATE_HZ)


def test_the_song_sounds_as_before_ingest(bloom: Path, songs: Path):
    (line,) = lines_of(bloom / "songs.jsonl")
    target_N, _ = soundfile.read(line["audio_path"])
    source_N, _ = soundfile.read(songs / "mine/library/song.flac")
    source_N = source_N[: len(target_N)]
    gain = float(target_N @ source_N / (source_N @ source_N))
    # The clips stood at one loudness each; their steps are gone, quiet parts are quiet again.
    assert np.abs(target_N - gain * source_N).max() < 0.01 * np.abs(target_N).max()
    # No clip was turned up, or its peaks would be cut off.
    gains_db = [clip["audio"]["gain_db"] for clip in clips_of(songs) if clip["track"] == "song.flac"]
    assert max(gains_db) - min(gains_db) > 10
    assert gain == pytest.approx(10 ** (min(gains_db) / 20), rel=0.01)


def clips_of(project: Path) -> list[ClipJson]:
    tars = sorted((project / "shards/ingest/library").glob("*.tar"))
    return [decode_json(sample.members["json"]) for tar in tars for sample in ShardFile(tar)]


def test_overlapping_clips_make_the_same_song(songs: Path, bloom: Path, tmp_path: Path):
    project = tmp_path / "project"
    shutil.copytree(songs, project, ignore=shutil.ignore_patterns("shards"))
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["ingest"]["overlap_s"] = 2.0
    (project / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    run_stage("ingest", root=project)
    write_column(project, "lyrics", "lyrics.json", {"song.flac": song_phrases()})
    assert [clip["span_s"] for clip in clips_of(project) if clip["track"] == "song.flac"][:2] == [[0, 10], [8, 18]]
    export(project, tmp_path / "out", "songbloom")
    (line,), (plain,) = lines_of(tmp_path / "out/songs.jsonl"), lines_of(bloom / "songs.jsonl")
    names = ("lyrics", "prompt_span_s", "target_span_s", "sections")
    assert [line[name] for name in names] == [plain[name] for name in names]
    (target_N, _), (plain_N, _) = soundfile.read(line["audio_path"]), soundfile.read(plain["audio_path"])
    assert len(target_N) == len(plain_N)
    gain = float(target_N @ plain_N / (plain_N @ plain_N))
    assert np.abs(target_N - gain * plain_N).max() < 0.01 * np.abs(target_N).max()


def test_lyrics_that_would_be_misread_are_never_written(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def broken_writer(*_: object, **__: object) -> str:
        return "[verse] さくら, さくら"

    monkeypatch.setattr("pipeline.lyrics.songbloom.songbloom_lyrics", broken_writer)
    line = refused(capsys, songs, tmp_path / "out", "songbloom")
    assert "library-song_12eflac: lyrics that SongBloom would misread: ',' inside the words" in line
    assert not (tmp_path / "out").exists()


def test_every_recording_is_accounted_for(bloom: Path):
    manifest = json.loads((bloom / "manifest.json").read_text())
    assert manifest["counts"] == {"in": 5, "used": 1, "dropped": {"no_lyrics": 3, "too_short": 1}}
    drops = {drop["item"]: (drop["reason"], drop["detail"]) for drop in lines_of(bloom / "drops.jsonl")}
    assert drops["untimed.wav"] == ("no_lyrics", "lyrics without times")
    assert drops["mute.wav"] == drops["humming.wav"] == ("no_lyrics", "")
    assert drops["short.wav"][0] == "too_short"


def test_the_other_model_has_longer_tags(songs: Path, tmp_path: Path):
    export(songs, tmp_path / "out", "songbloom", "--model", "240s")
    (line,) = lines_of(tmp_path / "out/songs.jsonl")
    assert re.findall(r"\[(\w+)\]", line["lyrics"]) == ["intro"] * 2 + ["verse", "chorus"] + ["inst"] * 2 + ["verse"]


def test_a_short_song_has_a_shorter_prompt(songs: Path, tmp_path: Path):
    export(songs, tmp_path / "out", "songbloom", "--min-target-s", "8")
    lines = {line["idx"]: line for line in lines_of(tmp_path / "out/songs.jsonl")}
    short = lines["library-short_12ewav"]
    # Four seconds could be spared, but only three without cutting the phrase from 1 to 9 s.
    assert (short["prompt_span_s"], short["target_span_s"]) == ([9.0, 12.0], [0.0, 9.0])
    assert soundfile.info(short["prompt_wav"]).duration == pytest.approx(3.0, abs=0.001)


@pytest.mark.parametrize("voice", ["energy", "silero"])
def test_voices_may_be_measured(songs: Path, tmp_path: Path, voice: str):
    export(songs, tmp_path / "out", "songbloom", "--voice", voice)
    (line,) = lines_of(tmp_path / "out/songs.jsonl")
    assert problems(line["lyrics"]) == []


def test_lrc_files_are_read_again(songs: Path, tmp_path: Path):
    export(songs, tmp_path / "out", "lrc")
    files = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").glob("*.lrc")}
    assert set(files) == {
        "library-song_12eflac.lrc",
        "library-untimed_12ewav.lrc",
        "library-short_12ewav.lrc",
        "library-humming_12ewav.lrc",
    }
    text = files["library-song_12eflac.lrc"]
    assert text.startswith("[ti:Sakura]\n[ar:Somebody]\n[length:00:56.00]\n[00:08.00]さくら さくら\n")
    read = parse_lyrics(text)
    # A phrase that the cut at 10 s went through is one again.
    assert [(p["text"], p["start_s"]) for p in read] == [
        (" ".join(p["text"].split()), p["start_s"]) for p in song_phrases()
    ]
    assert files["library-untimed_12ewav.lrc"].endswith("\nさくら\n")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["dropped"] == {"no_lyrics": 1}


@pytest.fixture(scope="module")
def holed(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The song without its clip from 30 to 40 s, as if that had been silent."""
    project = tmp_path_factory.mktemp("holed")
    shutil.copytree(songs, project, dirs_exist_ok=True)
    for column in ("ingest", "lyrics"):
        folder = project / "shards" / column / "library"
        entries: list[ShardEntry] = []
        for entry in load_index(folder):
            samples = [sample for sample in ShardFile(folder / entry.name) if sample.key != "library-song_12eflac-0003"]
            entries.append(write_shard(folder / entry.name, samples))
        write_folder_index(folder, entries)
    for column in ("lyrics", "transcribe", "describe"):
        path = project / "shards" / column / "library/manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        manifest["parents"]["ingest"] = folder_digest(project / "shards/ingest/library")
        path.write_text(json.dumps(manifest), "utf-8")
    return project


def test_an_lrc_goes_on_after_a_hole(holed: Path, tmp_path: Path):
    export(holed, tmp_path / "out", "lrc")
    read = parse_lyrics((tmp_path / "out/library-song_12eflac.lrc").read_text("utf-8"))
    sung = [p for p in song_phrases() if p["start_s"] not in (32.0, 36.0)]
    assert [(p["text"], p["start_s"]) for p in read] == [(" ".join(p["text"].split()), p["start_s"]) for p in sung]


def test_phrases_outside_the_stretch_are_counted(holed: Path, bloom: Path, tmp_path: Path):
    export(holed, tmp_path / "out", "songbloom", "--min-target-s", "8")
    lines = {line["idx"]: line["num_phrases_outside"] for line in lines_of(tmp_path / "out/songs.jsonl")}
    assert lines == {"library-song_12eflac": 3, "library-short_12ewav": 0}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["num_phrases_outside"] == 3
    assert json.loads((bloom / "manifest.json").read_text())["num_phrases_outside"] == 0


def test_a_song_whose_words_all_lie_outside_the_stretch_says_so(tmp_path: Path):
    words: list[Phrase] = [Phrase(text="さくら", start_s=1.0, end_s=3.0, source="score")]
    clips: list[Clip] = []
    for number, (span_s, phrases) in enumerate([((0.0, 5.0), words), ((8.0, 20.0), [])]):
        clip: Any = {"key": f"x-{number}", "track": "x", "span_s": list(span_s)}
        clips.append((clip, Sample(f"x-{number}", {"lyrics.json": encode_json({"phrases": phrases})})))
    song = make_song({"track": "x", "tags": {}, "duration_s": 20.0}, clips)
    drop = write_songbloom(song, Target(tmp_path, tmp_path, Options(format="songbloom")))
    assert drop == Drop("x", Reason.NO_LYRICS, "1 phrases outside the longest stretch")


@pytest.fixture(scope="module")
def craft(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "craft"
    export(songs, out, "audiocraft")
    return out


def test_clips_get_audiocrafts_side_files(craft: Path):
    names = sorted(path.stem for path in craft.glob("*.flac"))
    assert names == sorted(path.stem for path in craft.glob("*.json") if path.stem != "manifest")
    assert len(names) == 15
    assert json.loads((craft / "library-song_12eflac-0001.json").read_text("utf-8")) == {
        "title": "Sakura",
        "artist": "Somebody",
        "name": "library-song_12eflac-0001",
        "description": "A tune of 120 beats",
        "keywords": "",
        "key": "A minor",
        "bpm": 120.0,
        "genre": "",
        "instrument": "Mix",
        "moods": [],
        "duration": 10.0,
        "sample_rate": RATE_HZ,
        "file_extension": "flac",
    }
    assert json.loads((craft / "library-mute_12ewav-0000.json").read_text("utf-8"))["bpm"] == ""
    assert soundfile.info(craft / f"{names[0]}.flac").samplerate == RATE_HZ


AUDIOCRAFT = """
import json, os, sys, warnings
from types import ModuleType
warnings.simplefilter("ignore")
xformers, spacy = ModuleType("xformers"), ModuleType("spacy")
xformers.ops = ModuleType("xformers.ops")
xformers.ops.unbind = xformers.ops.LowerTriangularMask = xformers.ops.memory_efficient_attention = object
sys.modules |= {"xformers": xformers, "xformers.ops": xformers.ops, "spacy": spacy}
from audiocraft.data.music_dataset import MusicDataset
data = MusicDataset.from_path(sys.argv[1], segment_duration=1.0, sample_rate=16000, channels=1, shuffle=False)
infos = {info.name: info for _, info in (data[n] for n in range(100))}
info = infos["library-song_12eflac-0001"]
print(json.dumps([len(infos), list(data[0][0].shape), info.description, info.bpm, info.key, info.title]))
"""


@pytest.mark.long
def test_audiocraft_reads_its_side_files(craft: Path, tmp_path: Path):
    config = tmp_path / "team.yaml"
    config.write_text("default: {dora_dir: /nowhere, reference_dir: /nowhere, partitions: {global: a, team: a}}")
    ran = subprocess.run(
        [sys.executable, "-c", AUDIOCRAFT, str(craft)],
        env={**os.environ, "AUDIOCRAFT_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    read = json.loads(ran.stdout.splitlines()[-1])
    assert read == [15, [1, 16000], "A tune of 120 beats", 120.0, "a minor", "Sakura"]


def refused(capsys: pytest.CaptureFixture[str], project: Path, out: Path, *flags: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        export(project, out, *flags)
    assert stopped.value.code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_another_folder_is_never_overwritten(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "no export of ours" in refused(capsys, songs, tmp_path / "mine", "lrc")
    assert "no export of ours" in refused(capsys, songs, songs / "shards/ingest/library", "lrc")
    assert "no export of ours" in refused(capsys, songs, tmp_path / "mine/thesis.txt", "lrc")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_an_earlier_export_is_replaced_whole(songs: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()  # empty: nothing to lose
    export(songs, out, "lrc")
    export(songs, out, "songbloom")
    assert not list(out.glob("*.lrc"))
    assert sorted(path.name for path in out.iterdir()) == [
        "drops.jsonl",
        "manifest.json",
        "prompts",
        "songs.jsonl",
        "targets",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no scratch is left


def test_the_same_export_twice_is_the_same(songs: Path, bloom: Path, tmp_path: Path):
    export(songs, tmp_path / "out", "songbloom")

    def content(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {str(p.relative_to(folder)): p.read_bytes().replace(str(folder).encode(), b"OUT") for p in paths}

    assert content(tmp_path / "out") == content(bloom)


def test_only_some(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export(songs, tmp_path / "out", "lrc", "--limit", "2")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["in"] == 2
    numbers = []
    for split in ("train", "val", "test"):
        export(songs, tmp_path / split, "lrc", "--split", split)
        numbers.append(json.loads((tmp_path / split / "manifest.json").read_text())["counts"]["in"])
    assert sum(numbers) == 5
    assert "5 in" not in capsys.readouterr().out


def test_a_dry_run_writes_nothing(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export(songs, tmp_path / "out", "lrc", "--dry-run")
    assert "would write 5 recordings" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_errors_are_one_line(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "at least 1" in refused(capsys, songs, tmp_path / "a", "songbloom", "--min-target-s", "0")
    with pytest.raises(SystemExit):
        run_stage("export", "--format", "lrc", "--corpus", "nothing", "--out", str(tmp_path / "a"), root=songs)
    assert "not in `sources`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_stage("export", "--format", "nothing", "--corpus", "library", "--out", str(tmp_path / "a"), root=songs)
    assert "invalid choice" in capsys.readouterr().err


def test_lyrics_must_be_there_and_of_these_clips(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    project = tmp_path / "project"
    shutil.copytree(songs, project)
    manifest = project / "shards/lyrics/library/manifest.json"
    stale = json.loads(manifest.read_text())
    stale["parents"]["ingest"] = "another"
    manifest.write_text(json.dumps(stale))
    assert "run `python -m stages.lyrics` again" in refused(capsys, project, tmp_path / "out", "lrc")
    for name in ("lyrics", "transcribe"):
        shutil.rmtree(project / "shards" / name)
    assert "no lyrics yet" in refused(capsys, project, tmp_path / "out", "lrc")
    export(project, tmp_path / "craft", "audiocraft", "--limit", "1")  # needs no lyrics
    assert list((tmp_path / "craft").glob("*.flac"))
