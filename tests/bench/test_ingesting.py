"""Ingest: decoding beside torchcodec, loudness beside pyloudnorm, the whole stage beside its codecs, and its memory.

CPU time, interleaved in one process, medians. The asserts leave room for noise below the goals that they name.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyloudnorm
import pytest
import soundfile
import yaml

from pipeline.music.audio import encode_flac, resample
from pipeline.music.cutting import cut_windows
from pipeline.music.loudness import integrated_loudness
from pipeline.music.recording import decode_audio
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
RATE_HZ, CLIP_RATE_HZ = 44_100, 32_000
TUNE_S = 60
NUM_TUNES, NUM_FILES, NUM_COPIES = 4, 20, 8
INGEST = """
import resource, sys
from stages.ingest import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def tune(seed: int, seconds: int = TUNE_S, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Plucked chords panned about, clicks and noise: [2, N], work for a codec."""
    random = np.random.default_rng(seed)
    wave_CN = 0.003 * random.standard_normal((2, seconds * rate_hz))
    age_s = np.arange(rate_hz) / rate_hz
    for start in range(0, seconds * rate_hz, rate_hz // 2):
        stop = min(start + rate_hz, seconds * rate_hz)
        for pitch_hz in 55 * 2 ** (random.integers(0, 36, 4) / 12):
            note_N = sum(np.sin(2 * np.pi * pitch_hz * h * age_s + random.uniform(0, 6)) / h for h in range(1, 8))
            pan = random.uniform(0.2, 0.8)
            wave_CN[:, start:stop] += np.outer((pan, 1 - pan), (note_N * np.exp(-4 * age_s))[: stop - start])
        wave_CN[:, start:stop] += (random.standard_normal((2, rate_hz)) * np.exp(-60 * age_s))[:, : stop - start]
    return (0.5 * wave_CN / np.abs(wave_CN).max()).astype(np.float32)


def write_mp3(path: Path, wave_CN: np.ndarray) -> None:
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE_HZ, layout="stereo", bit_rate=192_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave_CN.T).reshape(1, -1), "flt", "stereo")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Different recordings of a minute each."""
    folder = tmp_path_factory.mktemp("recordings")
    tunes = [tune(seed) for seed in range(NUM_TUNES)]
    for number in range(NUM_FILES):
        wave_CN = np.roll(tunes[number % NUM_TUNES], number * RATE_HZ, axis=1)
        write_mp3(folder / f"{number:02d}.mp3", wave_CN)
    return folder


def medians_s(contestants: dict[str, Callable[[], Any]], *, num_rounds: int = 9) -> dict[str, float]:
    """CPU seconds of each, in turns, so that a busy moment meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_rounds + 1):
        for name, call in contestants.items():
            start = time.process_time()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(its) for name, its in seconds.items()}


def test_decoding_an_mp3_against_torchcodec(folder: Path):
    path = folder / "00.mp3"
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: decode_audio(path, sample_rate_hz=CLIP_RATE_HZ),
        "decoding alone": lambda: soundfile.read(path, dtype="float32"),
    }
    if importlib.util.find_spec("torchcodec"):
        import torch
        from torchcodec.decoders import AudioDecoder

        torch.set_num_threads(1)
        contestants["torchcodec"] = lambda: AudioDecoder(
            path, sample_rate=CLIP_RATE_HZ, num_channels=1
        ).get_all_samples()
    cpu_s = medians_s(contestants)
    print()
    for name, seconds in cpu_s.items():
        print(f"decode, mono, 32 kHz; {name}: {TUNE_S / seconds:,.0f} s per CPU second")
    alone = cpu_s["decoding alone"] / cpu_s["ours"]
    print(f"ours: {alone:.2f} x decoding alone")
    # Goals: 0.7 and 0.95.
    assert alone > 0.5
    if "torchcodec" in cpu_s:
        beside = cpu_s["torchcodec"] / cpu_s["ours"]
        print(f"ours: {beside:.2f} x torchcodec")
        assert beside > 0.8
    else:
        print("torchcodec: absent (pip install torchcodec, and FFmpeg's shared libraries, as of a system package)")


@pytest.mark.parametrize("seconds", [10, 60])
def test_loudness_against_pyloudnorm(seconds: int):
    wave_N = resample(tune(1, seconds).mean(axis=0), RATE_HZ, CLIP_RATE_HZ)
    meter = pyloudnorm.Meter(CLIP_RATE_HZ)
    cpu_s = medians_s(
        {
            "ours": lambda: integrated_loudness(wave_N, CLIP_RATE_HZ),
            "pyloudnorm": lambda: meter.integrated_loudness(wave_N),
        }
    )
    ratio = cpu_s["pyloudnorm"] / cpu_s["ours"]
    print(f"\nloudness of {seconds} s: {seconds / cpu_s['ours']:,.0f} s per CPU second, {ratio:.1f} x pyloudnorm")
    assert integrated_loudness(wave_N, CLIP_RATE_HZ) == pytest.approx(meter.integrated_loudness(wave_N), abs=0.01)
    # Goal: 2.
    assert ratio > 2


def write_project(root: Path, recordings: Path, **ingest: Any) -> Path:
    params = yaml.safe_load((REPOSITORY / "pipeline/presets/demo.yaml").read_text("utf-8"))
    params["sources"] = {"library": {"root": str(recordings)}}
    params["ingest"] |= {"sample_rate_hz": CLIP_RATE_HZ, "tracks_per_shard": 10} | ingest
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    return root


def ingest(root: Path, workers: int) -> int:
    """Run the stage in a process of its own; its peak of memory in bytes."""
    shutil.rmtree(root / "shards", ignore_errors=True)
    command = [sys.executable, "-c", INGEST, "--root", str(root), "--corpus", "library", "--workers", str(workers)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def code(folder: Path) -> None:
    """Decode every recording and encode its clips: what ingest cannot do without."""
    for path in sorted(folder.iterdir()):
        decoded = decode_audio(path, sample_rate_hz=CLIP_RATE_HZ)
        for window in cut_windows([decoded.wave_N], CLIP_RATE_HZ, max_clip_s=10.0, min_clip_s=2.0):
            encode_flac(window.wave_N, CLIP_RATE_HZ)


def test_ingest_costs_little_more_than_its_codecs(folder: Path, tmp_path: Path):
    from stages.ingest import main

    root = write_project(tmp_path / "project", folder)

    def whole_stage() -> None:
        shutil.rmtree(root / "shards", ignore_errors=True)
        main(["--root", str(root), "--corpus", "library", "--workers", "1"])

    cpu_s = medians_s({"codecs": lambda: code(folder), "ingest": whole_stage}, num_rounds=3)
    overhead = cpu_s["ingest"] / cpu_s["codecs"] - 1
    print(f"\ningest, one worker: {NUM_FILES * TUNE_S / cpu_s['ingest']:,.0f} s per CPU second")
    print(f"ingest over decoding and flac: {overhead:.0%}")
    # Goal: 25 %.
    assert overhead < 0.6


def test_two_workers_against_one(folder: Path, tmp_path: Path):
    many = tmp_path / "many"
    many.mkdir()
    for copy in range(NUM_COPIES):  # long enough for the start of two processes to count for little
        for path in folder.iterdir():
            os.link(path, many / f"{copy}-{path.name}")
    root = write_project(tmp_path / "project", many)
    wall_s: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]  # before our own
    for _ in range(3):
        for workers, seconds in wall_s.items():
            start = time.perf_counter()
            ingest(root, workers)
            seconds.append(time.perf_counter() - start)
    gain = min(wall_s[1]) / min(wall_s[2])
    hours = NUM_FILES * NUM_COPIES * TUNE_S / 3600
    print(f"\ningest of {hours:.1f} h: 2 workers {gain:.2f} x one, load {load:.1f}")
    # Goal: 1.8, on two free cores; what else runs takes its share.
    assert gain > 1.6 - 0.4 * max(load - 1, 0)


def test_ten_hours_need_less_than_300_mb(tmp_path: Path):
    (tmp_path / "long").mkdir()
    minute_N = resample(tune(0).mean(axis=0), RATE_HZ, 16_000)
    with soundfile.SoundFile(tmp_path / "long/ten-hours.flac", "w", 16_000, 1, compression_level=0.0) as sound:
        for _ in range(600):
            sound.write(minute_N)
    root = write_project(tmp_path / "project", tmp_path / "long", sample_rate_hz=16_000)
    start = time.perf_counter()
    num_bytes = ingest(root, 1)
    print(f"\ningest of ten hours in one file: {num_bytes / 1e6:.0f} MB, {time.perf_counter() - start:.0f} s")
    assert num_bytes < 300e6
