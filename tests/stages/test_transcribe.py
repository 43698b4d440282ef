"""Whole recordings are heard as streams, and what is heard comes back to the clips at the right times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.data.records import Heard
from pipeline.data.shards import Sample, ShardFile, decode_json, read_jsonl
from pipeline.lyrics.songs import join_phrases
from pipeline.music.audio import encode_flac
from stages import transcribe as stage
from tests.stages.conftest import run_stage, write_lyrics_flac

RATE_HZ = 16_000
# A word for every pitch: what a recogniser with perfect pitch would write down.
WORDS = {220: "はるが", 330: "きたきた", 440: "どこに", 550: "やまに", 660: "さとに"}


class PerfectPitch:
    """A recogniser that knows the tones above by their pitch; a port of ours, so it sees only what the stage gives."""

    sample_rate_hz = RATE_HZ
    longest_s = 0.0

    def __init__(self) -> None:
        self.peaks: list[float] = []

    def transcribe(self, wave_N: np.ndarray) -> list[Heard]:
        self.peaks.append(float(np.abs(wave_N).max()))
        PerfectPitch.longest_s = max(PerfectPitch.longest_s, len(wave_N) / RATE_HZ)
        sounds = np.abs(wave_N) > 0.01
        frames = sounds[: len(sounds) // 160 * 160].reshape(-1, 160).any(axis=1).astype(int)
        edges = np.flatnonzero(np.diff(frames, prepend=0, append=0)).reshape(-1, 2) / 100
        return [heard(wave_N, start_s, end_s) for start_s, end_s in edges if end_s - start_s > 0.3]


class MishearsOneWord(PerfectPitch):
    """What a warmer decoding may be like: one of the words it makes up."""

    def transcribe(self, wave_N: np.ndarray) -> list[Heard]:
        phrases = super().transcribe(wave_N)
        return [Heard(**{**phrase, "text": phrase["text"].replace("きたきた", "らりるれろ")}) for phrase in phrases]


class HalvingSeparator:
    """Takes a voice for half of every mix."""

    def separate(self, wave_N: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        return wave_N / 2


class LevelDetector:
    """Hears a voice in every tone, and speaks as often as silero's network: every 512 frames of 512 samples."""

    def stream_probabilities(self, blocks_N: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        rest_N = np.zeros(0, np.float32)
        for block_N in blocks_N:
            rest_N = np.concatenate([rest_N, block_N])
            while len(rest_N) >= 512 * 512:
                yield np.abs(rest_N[: 512 * 512]).reshape(-1, 512).max(axis=1) > 0.01
                rest_N = rest_N[512 * 512 :]
        yield np.abs(rest_N[: len(rest_N) // 512 * 512]).reshape(-1, 512).max(axis=1) > 0.01


class MeasuredTape(stage._Tape):
    longest_s = 0.0

    def append(self, **waves: np.ndarray) -> None:
        super().append(**waves)
        longest = max(len(wave_N) for wave_N in self.waves.values())
        MeasuredTape.longest_s = max(MeasuredTape.longest_s, longest / RATE_HZ)


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
        "transcribe": {"language": "ja", "temperatures": [0.0], "vad": {"vote": "energy"}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def perfect_pitch(*_: Any, **__: Any) -> PerfectPitch:
    return PerfectPitch()


def transcribe(
    project: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, load: Callable[..., PerfectPitch] = perfect_pitch
) -> None:
    from pipeline.models import asr

    PerfectPitch.longest_s = 0.0
    monkeypatch.setattr(asr, "load_recogniser", load)
    for name in ("ingest", "lyrics"):
        run_stage(name, root=project)
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


def test_what_a_warmer_second_pass_hears_otherwise_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch):
    def load(_: str, decoding: Any, **__: Any) -> PerfectPitch:
        return MishearsOneWord() if decoding.temperatures == (stage.SECOND_TEMPERATURE,) else PerfectPitch()

    wave_N, truth = melody(40.0)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch, "--set", "transcribe.second_pass=sampled", load=load)
    heard_twice = [text for text, _, _ in truth if text != "きたきた"]
    assert [phrase["text"] for phrase in phrases_of(project)] == heard_twice
    (line,) = read_jsonl(project / "shards/transcribe/library/heard.jsonl")
    assert 0 < len(heard_twice) < len(truth)
    assert line["refused"] == {"agreement": len(truth) - len(heard_twice)}
    assert line["phrases"] == len(heard_twice)


@pytest.fixture
def separator(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Flags with which the stage listens to a stem; the checkpoint is but a file to stamp."""
    from pipeline.models import separator

    monkeypatch.setattr(separator, "load_separator", lambda *_, **__: HalvingSeparator())
    return ("--set", "models.separator=whisper.pt")


def test_the_stem_is_heard_first_and_the_mix_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, separator: tuple[str, ...]
):
    ear = PerfectPitch()
    wave_N, truth = melody(75.0)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    flags = ("--set", "transcribe.second_pass=mix", "--set", "transcribe.vad.vote=either")
    transcribe(project, monkeypatch, *separator, *flags, load=lambda *_, **__: ear)
    found = phrases_of(project)
    assert [phrase["text"] for phrase in found] == [text for text, _, _ in truth]
    assert [phrase["start_s"] for phrase in found] == pytest.approx([start_s for _, start_s, _ in truth], abs=0.05)
    assert len(ear.peaks) >= 4
    assert ear.peaks[::2] == pytest.approx([0.15] * (len(ear.peaks) // 2), abs=0.01)
    assert ear.peaks[1::2] == pytest.approx([0.3] * (len(ear.peaks) // 2), abs=0.01)
    (line,) = read_jsonl(project / "shards/transcribe/library/heard.jsonl")
    assert line["refused"] == {}


def test_all_that_a_detector_says_of_a_long_block_counts(
    project: Path, monkeypatch: pytest.MonkeyPatch, separator: tuple[str, ...]
):
    from pipeline.models import vad

    monkeypatch.setattr(vad, "load_speech_detector", LevelDetector)
    wave_N, truth = melody(75.0)
    soundfile.write(project / "lib/song.wav", wave_N, RATE_HZ)
    transcribe(project, monkeypatch, *separator, "--set", "transcribe.vad.vote=silero")
    assert [phrase["text"] for phrase in phrases_of(project)] == [text for text, _, _ in truth]


def clips_of(wave_N: np.ndarray) -> list[Any]:
    """Clips of 10 s, of which only what listening needs is made; silent ones are left out, as by ingest."""
    clips: list[Any] = []
    for start_s in range(0, len(wave_N) // RATE_HZ, 10):
        part_N = wave_N[start_s * RATE_HZ : (start_s + 10) * RATE_HZ]
        if not np.any(part_N):
            continue
        facts = {"track": "long", "span_s": [start_s, start_s + len(part_N) / RATE_HZ], "audio": {"gain_db": 0.0}}
        clips.append((facts, Sample(f"long-{start_s}", {"flac": encode_flac(part_N, RATE_HZ)})))
    return clips


LATE = [(1, 2), (119, 400)]


@pytest.mark.parametrize(
    ("seconds", "sung_s", "hum", "has_stem"),
    [
        pytest.param(610, [(1, 2)], 1e-4, False, id="a long silence after a note"),
        pytest.param(610, [(1, 2), (605, 606)], 0.0, False, id="silent clips left out between two notes"),
        pytest.param(400, [(300, 301), (302, 303)], 1e-4, False, id="a long silence before the notes"),
        pytest.param(600, [(0, 600)], 1e-4, False, id="sound without a pause"),
        pytest.param(400, LATE, 1e-4, False, id="a note that waits for sound without a pause"),
        pytest.param(400, LATE, 1e-4, True, id="the same with a separator"),
    ],
)
def test_what_is_held_of_a_recording_is_bounded(
    monkeypatch: pytest.MonkeyPatch, seconds: int, sung_s: list[tuple[float, float]], hum: float, has_stem: bool
):
    from pipeline.models import asr, separator

    monkeypatch.setattr(asr, "load_recogniser", perfect_pitch)
    monkeypatch.setattr(separator, "load_separator", lambda *_, **__: HalvingSeparator())
    monkeypatch.setattr(stage, "_Tape", MeasuredTape)
    MeasuredTape.longest_s = 0.0
    tone_N = (0.3 * np.sin(2 * np.pi * 440 * np.arange(seconds * RATE_HZ) / RATE_HZ)).astype(np.float32)
    wave_N = np.float32(hum) * tone_N
    for start_s, end_s in sung_s:
        wave_N[start_s * RATE_HZ : end_s * RATE_HZ] = tone_N[start_s * RATE_HZ : end_s * RATE_HZ]
    models = stage.Models(recogniser="", compute_type=None, separator="any" if has_stem else None, device="cpu")
    found = stage.TranscribeStep(stage.TranscribeParams(), models)._listen(clips_of(wave_N))
    # A separator is given a minute at a time.
    assert 1 < MeasuredTape.longest_s <= (260 if has_stem else 200)
    assert {phrase["text"] for phrase in found.phrases} == {"どこに"}
    assert joined_spans(found.phrases) == [pytest.approx(span, abs=0.05) for span in sung_s]


def joined_spans(phrases: list[Heard]) -> list[tuple[float, float]]:
    """When something is heard, phrases that touch taken together; none overlap."""
    joined: list[tuple[float, float]] = []
    for phrase in phrases:
        start_s, end_s = phrase["start_s"], phrase["end_s"]
        if joined and start_s - joined[-1][1] < 0.05:
            assert start_s >= joined[-1][1] - 0.02
            start_s = joined.pop()[0]
        joined.append((start_s, end_s))
    return joined


def test_the_mix_as_a_second_pass_needs_a_separator(project: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    soundfile.write(project / "lib/song.wav", melody(12.0)[0], RATE_HZ)
    with pytest.raises(SystemExit):
        transcribe(project, monkeypatch, "--set", "transcribe.second_pass=mix")
    assert "set models.separator too" in capsys.readouterr().err
