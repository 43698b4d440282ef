"""Whole recordings are heard as streams, and what is heard comes back to the clips at the right times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.data.records import Heard
from pipeline.data.shards import ShardFile, decode_json, read_jsonl
from pipeline.lyrics.songs import join_phrases
from tests.stages.conftest import run_stage, write_lyrics_flac

RATE_HZ = 16_000
# A word for every pitch: what a recogniser with perfect pitch would write down.
WORDS = {220: "はるが", 330: "きたきた", 440: "どこに", 550: "やまに", 660: "さとに"}


class PerfectPitch:
    """A recogniser that knows the tones above by their pitch; a port of ours, so it sees only what the stage gives."""

    sample_rate_hz = RATE_HZ
    longest_s = 0.0

    def transcribe(self, wave_N: np.ndarray) -> list[Heard]:
        PerfectPitch.longest_s = max(PerfectPitch.longest_s, len(wave_N) / RATE_HZ)
        sounds = np.abs(wave_N) > 0.01
        frames = sounds[: len(sounds) // 160 * 160].reshape(-1, 160).any(axis=1).astype(int)
        edges = np.flatnonzero(np.diff(frames, prepend=0, append=0)).reshape(-1, 2) / 100
        return [heard(wave_N, start_s, end_s) for start_s, end_s in edges if end_s - start_s > 0.3]


def heard(wave_N: np.ndarray, start_s: float, end_s: float) -> Heard:
    part_N = wave_N[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
    pitch_hz = np.count_nonzero(np.diff(np.signbit(part_N))) / 2 / (end_s - start_s)
    text = WORDS[min(WORDS, key=lambda hz: abs(hz - pitch_hz))]
    return Heard(text=text, start_s=start_s, end_s=end_s, avg_logprob=-0.2, no_speech_prob=0.05, compression_ratio=1.0)


def melody(seconds: float) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Tones of 0.8 to 2 s between pauses, some of many seconds; and what is sung when."""
    random = np.random.default_rng(3)
    wave_N, truth, at_s = np.zeros(round(seconds * RATE_HZ), np.float32), [], 0.5
    while at_s < seconds - 3:
        hz, length_s = int(random.choice(list(WORDS))), float(random.uniform(0.8, 2.0))
        span = slice(round(at_s * RATE_HZ), round((at_s + length_s) * RATE_HZ))
        wave_N[span] = 0.3 * np.sin(2 * np.pi * hz * np.arange(span.stop - span.start) / RATE_HZ)
        truth.append((WORDS[hz], at_s, at_s + length_s))
        at_s += length_s + float(random.choice([0.6, 0.9, 1.5, 12.0], p=[0.4, 0.3, 0.25, 0.05]))
    return wave_N, truth


@pytest.fixture
def project(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lib").mkdir()
    params: dict[str, Any] = {
        "sources": {"library": {"root": "lib"}},
        "ingest": {"sample_rate_hz": RATE_HZ, "max_clip_s": 10.0},
        "models": {"root": str(checkpoints), "recogniser": "whisper.pt", "device": "cpu"},
        "lyrics": {},
        "transcribe": {"language": "ja", "temperatures": [0.0]},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def transcribe(project: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    from pipeline.models import asr

    PerfectPitch.longest_s = 0.0
    monkeypatch.setattr(asr, "load_recogniser", lambda *_, **__: PerfectPitch())
    for stage in ("ingest", "lyrics"):
        run_stage(stage, root=project)
    run_stage("transcribe", *flags, root=project)


def phrases_of(project: Path) -> list[dict[str, Any]]:
    folder = project / "shards"
    columns = {
        sample.key: decode_json(sample.members["asr.json"])["phrases"]
        for tar in sorted((folder / "transcribe/library").glob("*.tar"))
        for sample in ShardFile(tar)
    }
    clips = [
        decode_json(sample.members["json"])
        for tar in sorted((folder / "ingest/library").glob("*.tar"))
        for sample in ShardFile(tar)
    ]
    return join_phrases([(tuple(clip["span_s"]), columns.get(clip["key"], [])) for clip in clips])


def test_what_is_sung_is_found_where_it_is_sung(project: Path, monkeypatch: pytest.MonkeyPatch):
    wave_N, truth = melody(150.0)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch)
    found = phrases_of(project)
    assert [phrase["text"] for phrase in found] == [text for text, _, _ in truth]
    for phrase, (_, start_s, end_s) in zip(found, truth, strict=True):
        assert phrase["start_s"] == pytest.approx(start_s, abs=0.05)
        assert phrase["end_s"] == pytest.approx(end_s, abs=0.05)
        assert phrase["kana"].isalpha()
        assert 0 < phrase["confidence"] <= 1
    assert PerfectPitch.longest_s <= 30.0
    (line,) = read_jsonl(project / "shards/transcribe/library/heard.jsonl")
    sung_s = sum(end_s - start_s for _, start_s, end_s in truth)
    assert line["vocal_s"] == pytest.approx(sung_s, rel=0.15)
    assert line["phrases"] == len(truth)


def test_a_phrase_across_a_cut_is_marked(project: Path, monkeypatch: pytest.MonkeyPatch):
    wave_N = np.zeros(20 * RATE_HZ, np.float32)
    wave_N[9 * RATE_HZ : 11 * RATE_HZ] = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE_HZ) / RATE_HZ)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch)
    both = [
        decode_json(sample.members["asr.json"])["phrases"][0]
        for tar in (project / "shards/transcribe/library").glob("*.tar")
        for sample in ShardFile(tar)
    ]
    assert [phrase["is_cut"] for phrase in both] == [True, True]
    assert [round(phrase["start_s"]) for phrase in both] == [9, 0]


def test_a_recording_with_lyrics_is_not_heard_at_all(project: Path, monkeypatch: pytest.MonkeyPatch):
    wave_N, _ = melody(25.0)
    write_lyrics_flac(project / "lib/song.flac", wave_N, "[00:01.00]さくら\n[00:04.00]")
    transcribe(project, monkeypatch)
    drops = read_jsonl(project / "shards/transcribe/library/drops.jsonl")
    # The lyrics are sung in the first clip only; the others are not given to the recogniser either.
    assert [drop["reason"] for drop in drops] == ["has_lyrics"] * 3
    assert read_jsonl(project / "shards/transcribe/library/heard.jsonl") == []


def test_what_does_not_sound_is_never_given_to_the_recogniser(project: Path, monkeypatch: pytest.MonkeyPatch):
    wave_N = np.zeros(60 * RATE_HZ, np.float32)
    wave_N[: 3 * RATE_HZ] = melody(3.6)[0][: 3 * RATE_HZ]
    wave_N[::RATE_HZ] = 0.2  # clicks, so that no clip is dropped as silent
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch)
    (line,) = read_jsonl(project / "shards/transcribe/library/heard.jsonl")
    assert line["heard_s"] < 6
    assert len(phrases_of(project)) == line["phrases"] == 1


def test_a_second_pass_agrees_with_itself(project: Path, monkeypatch: pytest.MonkeyPatch):
    wave_N, truth = melody(40.0)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch, "--set", "transcribe.second_pass=sampled")
    assert [phrase["text"] for phrase in phrases_of(project)] == [text for text, _, _ in truth]


def test_the_mix_as_a_second_pass_needs_a_separator(project: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    soundfile.write(project / "lib/song.wav", melody(12.0)[0], RATE_HZ)
    with pytest.raises(SystemExit):
        transcribe(project, monkeypatch, "--set", "transcribe.second_pass=mix")
    assert "set models.separator too" in capsys.readouterr().err
