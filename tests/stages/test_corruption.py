"""No damaged recording stops ingest, hangs it, or vanishes from the counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY
from tests.pipeline.music.test_audio import encoded_by_ffmpeg
from tests.stages.conftest import tune, write_lyrics_flac
from tests.stages.corruption import recordings

MAX_S = 10.0
FORMATS = {"a.wav": "WAV", "b.flac": "FLAC", "c.ogg": "OGG", "d.mp3": "MP3", "e.aiff": "AIFF"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording of every kind that users have."""
    folder = tmp_path_factory.mktemp("made")
    wave_N = tune(0, 4.0)
    for name, format in FORMATS.items():
        soundfile.write(folder / name, wave_N, 16000, format=format)
    wave_CN = np.stack([wave_N, wave_N])
    for name, container, codec in (
        ("f.m4a", "mp4", "aac"),
        ("g.webm", "matroska", "libopus"),
        ("h.aac", "adts", "aac"),
    ):
        rate_hz = 48_000 if codec == "libopus" else 44_100
        data = encoded_by_ffmpeg(wave_CN, container=container, codec=codec, layout="stereo", rate_hz=rate_hz)
        (folder / name).write_bytes(data)
    write_lyrics_flac(folder / "i.flac", wave_N, "さくら")
    return folder


def try_all(folder: Path, scratch: Path, *, ways: int, seed: int = 0) -> Counter[str]:
    """Ingest every recording of a folder in so many damaged forms; give the outcomes."""
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.stages.corruption", folder, scratch, ways, seed]
    done = subprocess.run(
        [*map(str, command)], check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1]}: {done.stderr[-2000:]}"
    tried = [line for line in lines if "outcome" in line]
    assert len(tried) == ways * len(list(recordings(folder)))
    slowest = max(tried, key=lambda line: line["seconds"])
    assert slowest["seconds"] < MAX_S, slowest
    return Counter(line["outcome"].split()[-1] for line in tried)


def test_damaged_recordings_are_clips_or_drops(made: Path, tmp_path: Path):
    outcomes = try_all(made, tmp_path / "scratch", ways=12)
    assert sum(outcomes.values()) == 9 * 12
    # The damage was real, and not total.
    assert outcomes["clips"] > 20
    assert len(outcomes) >= 4


def test_damaged_real_recordings_are_clips_or_drops(real_data: Path, tmp_path: Path):
    outcomes = try_all(real_data, tmp_path / "scratch", ways=3)
    assert outcomes["clips"] > 50
    assert sum(outcomes.values()) > 250


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(4))
def test_two_hundred_ways_of_damage_each(real_data: Path, tmp_path: Path, part: int):
    ways = int(os.environ.get("SETLIST_DAMAGES", "200")) // 4
    outcomes = try_all(real_data, tmp_path / "scratch", ways=ways, seed=1000 + part * ways)
    assert outcomes["clips"] > ways
    print(f"{sum(outcomes.values())} damaged files: {dict(outcomes.most_common())}")


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_two_hundred_ways_of_damage_of_our_own_recordings(made: Path, tmp_path: Path):
    assert sum(try_all(made, tmp_path / "scratch", ways=200, seed=5000).values()) == 9 * 200
