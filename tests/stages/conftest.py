"""A tiny project: a MusicCaps of eight tones and a library with every kind of file, and the stages run over it."""

from __future__ import annotations

import csv
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import yaml

from pipeline.demo.checkpoints import build_checkpoints
from tests.conftest import REPOSITORY

RATE_HZ = 16000
STAGES = ("ingest", "split", "lyrics", "transcribe", "describe", "encode", "embed", "retrieve")
LRC = "[00:00.50]さくら さくら\n[00:02.00]やよいの そらは\n[00:04.50]みわたす かぎり"


def tune(seed: int, seconds: float = 3.0) -> np.ndarray:
    """A few plucked notes: every seed another tune."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = np.zeros(len(time_s))
    for start_s in np.arange(0, seconds, 0.25):
        age_s = np.maximum(time_s - start_s, 0)
        pitch_hz = 220 * 2 ** (random.integers(0, 24) / 12)
        wave += (time_s >= start_s) * np.exp(-6 * age_s) * np.sin(2 * np.pi * pitch_hz * age_s)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def write_lyrics_flac(path: Path, wave: np.ndarray, lyrics: str) -> None:
    with av.open(str(path), "w") as container:
        container.metadata.update(title="Sakura", artist="Somebody", lyrics=lyrics)
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray((wave[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_musiccaps(folder: Path) -> None:
    (folder / "audio").mkdir(parents=True)
    # MusicCaps' own columns, in its own order.
    columns = ["ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id"]
    with (folder / "musiccaps-public.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "is_balanced_subset", "is_audioset_eval"])
        for n in range(9):
            ytid = f"{'-_Aa'[n % 4]}bcdefghi{n:02d}"
            writer.writerow(
                [ytid, 30, 40, "/m/04rlf", "['plucked', 'fast']", f"A plucked tune, number {n}", n % 3, False, n > 6]
            )
            if n < 8:
                soundfile.write(folder / "audio" / f"{ytid}.wav", tune(n), RATE_HZ)


def write_library(folder: Path) -> None:
    folder.mkdir(parents=True)
    soundfile.write(folder / "long.wav", tune(20, 23.0), RATE_HZ)
    # The very samples of MusicCaps' number 3, in another container: libsndfile rounds floats otherwise for FLAC.
    soundfile.write(folder / "number3.wav", tune(3), RATE_HZ)
    soundfile.write(folder / "twin.flac", soundfile.read(folder / "number3.wav", dtype="int16")[0], RATE_HZ)
    (folder / "number3.wav").unlink()
    soundfile.write(folder / "again.mp3", 0.5 * tune(5), RATE_HZ)  # MusicCaps' number 5, through mp3 and quieter
    soundfile.write(folder / "silent.wav", np.zeros(3 * RATE_HZ), RATE_HZ)
    soundfile.write(folder / "short.wav", tune(21, 0.5), RATE_HZ)
    soundfile.write(folder / "half.wav", np.concatenate([tune(22, 10.0), np.zeros(4 * RATE_HZ)]), RATE_HZ)
    soundfile.write(folder / "broken.wav", np.full(3 * RATE_HZ, 9.0, np.float32), RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "text.flac", tune(23), RATE_HZ)
    (folder / "text.txt").write_text("a side file's words")
    write_lyrics_flac(folder / "sung.flac", tune(24, 6.0), LRC)
    write_lyrics_flac(folder / "plain.flac", tune(25, 6.0), "さくら\nさくら")
    (folder / "empty.mp3").touch()
    (folder / "notes.pdf").write_bytes(b"%PDF no audio")
    (folder / "liar.ogg").write_text("just words")
    whole = (folder / "twin.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 3])


def write_params(project: Path, **changes: dict[str, Any]) -> None:
    params: dict[str, Any] = yaml.safe_load((REPOSITORY / "pipeline/presets/demo.yaml").read_text("utf-8"))
    params["sources"] = {"musiccaps": {"root": "mine/musiccaps"}, "library": {"root": "mine/library"}}
    params["models"]["root"] = "checkpoints"
    params["ingest"] |= {"tracks_per_shard": 5, "max_drop_share": 0.9}
    params["split"] |= {"val_share": 0.1}
    params["retrieve"] |= {"num_examples": 3}
    params["pack"] |= {"num_train_shards": 2, "loader_workers": 1, "max_example_frames": 40, "max_target_frames": 60}
    params["engine"] |= {"workers": 1}
    for section, values in changes.items():
        params[section] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")


Run = Callable[..., None]


def run_stage(name: str, *flags: str, root: Path) -> None:
    """Run a stage inside this process, as its command line does."""
    importlib.import_module(f"stages.{name}").main(["--root", str(root), *flags])


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    build_checkpoints(folder)
    return folder


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    write_musiccaps(folder / "musiccaps")
    write_library(folder / "library")
    return folder


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, sources: Path, checkpoints: Path) -> Path:
    """A project in which every stage up to pack has run, once, with one worker."""
    project = tmp_path_factory.mktemp("project")
    (project / "mine").symlink_to(sources)
    (project / "checkpoints").symlink_to(checkpoints)
    write_params(project)
    for name in STAGES:
        run_stage(name, root=project)
    for strategy in ("random", "semantic"):
        run_stage("pack", "--strategy", strategy, root=project)
    return project


@pytest.fixture
def copy_of_chain(chain: Path, tmp_path: Path) -> Path:
    """A project of one's own, to break."""
    project = tmp_path / "copy"
    shutil.copytree(chain, project, symlinks=True)
    return project
