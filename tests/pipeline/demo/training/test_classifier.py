"""The demo's classifier: the committed one names instrument and mode; its training goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.demo.captions import Facts
from pipeline.demo.excerpts import OCTAVES
from pipeline.demo.expand import WEIGHTS, write_full
from pipeline.demo.synth import Notes, render
from pipeline.demo.training.classifier import CLASSES, label, train, vary
from pipeline.demo.training.classifier_figures import accuracy_figures, balanced_accuracy
from pipeline.demo.training.music import CODEC_RATE_HZ, level_pcm, write_chunk
from pipeline.models.classifier import KEYS, load_classifier
from pipeline.music.audio import resample

FACTS = Facts(
    form="chorale", metre="4/4", tonic="D", mode="major", bpm=104, instrument="fiddle", texture="solo",
    register="high", dynamics="loud",
)  # fmt: skip
CLASSIFIER = WEIGHTS / "classifier"
SOLOISTS = ("fiddle", "flute", "banjo", "accordion", "acoustic guitar", "harp", "clarinet", "cello")
ENSEMBLES = ("church organ", "choir", "brass ensemble", "string quartet", "piano", "harpsichord")
"""Who plays tunes in the demo, and who plays chords: it has heard nobody do the other."""
CADENCE = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))
"""Tonic, subdominant, dominant, tonic: semitones over the tonic in major; minor lowers 4 and 9."""


def play_cadence(instrument: str, *, tonic: int, mode: str, seed: int) -> np.ndarray:
    """Chords of one second over a bass, as `ingest` would level them; 16-bit samples."""
    lowered = {4: 3, 9: 8} if mode == "minor" else {}
    midi, onset_s, part = [], [], []
    for second in range(10):
        chord = CADENCE[second % len(CADENCE)]
        for voice, step in enumerate((chord[0] - 12, *chord)):
            midi.append(62 + (tonic - 2) % 12 + lowered.get(step, step))
            onset_s.append(float(second))
            part.append(voice)
    notes = Notes(
        onset_s=np.array(onset_s), length_s=np.full(len(midi), 0.95), midi=np.array(midi), part=np.array(part),
        velocity=np.full(len(midi), 0.7),
    )  # fmt: skip
    wave_CN = render(notes, instrument, clip_s=10.0, rate_hz=2 * CODEC_RATE_HZ, rms_dbfs=-20.0, seed=seed)
    return level_pcm(resample(wave_CN.mean(axis=0), 2 * CODEC_RATE_HZ, CODEC_RATE_HZ))


def play_scale(instrument: str, *, seed: int) -> np.ndarray:
    """A tune alone, four notes a second; 16-bit samples."""
    midi = np.resize(62 + 12 * OCTAVES.get(instrument, 0) + np.array([0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2]), 40)
    notes = Notes(
        onset_s=np.arange(40.0) * 0.25, length_s=np.full(40, 0.24), midi=midi, part=np.zeros(40, np.int64),
        velocity=np.full(40, 0.8),
    )  # fmt: skip
    wave_CN = render(notes, instrument, clip_s=10.0, rate_hz=2 * CODEC_RATE_HZ, rms_dbfs=-20.0, seed=seed)
    return level_pcm(resample(wave_CN.mean(axis=0), 2 * CODEC_RATE_HZ, CODEC_RATE_HZ))


def test_the_committed_one_names_instruments_modes_and_textures():
    classifier = load_classifier(str(CLASSIFIER))

    def name(clips: list[np.ndarray], fact: str) -> list[str]:
        named = classifier.classify([wave_N.astype(np.float32) / 32768 for wave_N in clips])
        return [classifier.classes[fact][row] for row in named[fact].argmax(axis=1)]

    tunes = [play_scale(instrument, seed=3) for instrument in SOLOISTS]
    modes = ["major", "minor"] * 3
    chords = [play_cadence(one, tonic=2 * n, mode=modes[n], seed=n) for n, one in enumerate(ENSEMBLES)]
    guesses = [*name(tunes, "instrument"), *name(chords, "instrument")]
    assert sum(map(str.__eq__, guesses, (*SOLOISTS, *ENSEMBLES))) >= 11
    assert name(tunes, "texture").count("solo") >= 7
    assert name(chords, "texture").count("solo") <= 1
    assert sum(map(str.__eq__, name(chords, "mode"), modes)) >= 5


def test_the_committed_folder_is_small_and_says_what_it_is_for(tmp_path):
    assert sum(path.stat().st_size for path in CLASSIFIER.iterdir()) < 1_000_000
    assert "demo only" in (CLASSIFIER / "README.md").read_text("utf-8")
    write_full(WEIGHTS / "classifier", tmp_path)
    wave_N = np.sin(np.arange(CODEC_RATE_HZ) / 10).astype(np.float32)
    halves, full = load_classifier(str(CLASSIFIER)), load_classifier(str(tmp_path))
    assert np.array_equal(halves.classify([wave_N])["key"], full.classify([wave_N])["key"])


def fill_cache(cache: Path, *, num_chunks: int) -> None:
    """Two clips over and over stand for those that training would render."""
    clips = [
        (play_cadence(name, tonic=2, mode=mode, seed=1), replace(FACTS, instrument=name, mode=mode))
        for name, mode in (("fiddle", "major"), ("choir", "minor"))
    ]
    for number in range(num_chunks):
        write_chunk(cache / "music" / f"train-{number:03d}.npy", clips * 20)
    write_chunk(cache / "music" / "held-out-012.npy", clips * 6)


def test_training_writes_a_checkpoint_that_loads_and_a_second_call_trains_no_more(tmp_path):
    fill_cache(tmp_path, num_chunks=2)
    figures = train(tmp_path / "one", steps=1, seed=1, cache=tmp_path)
    assert figures["num_clips"] == 12
    assert {f"{name}_balanced" for name in (*CLASSES, "mode", "key")} <= figures.keys()
    train(tmp_path / "two", steps=1, seed=1, cache=tmp_path)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert "1 steps of 64 clips" in (tmp_path / "one" / "README.md").read_text("utf-8")


def test_a_transposed_clip_keeps_its_mode():
    labels = label([FACTS, replace(FACTS, tonic="A", mode="minor")])
    assert [KEYS[row] for row in labels["key"]] == ["2 major", "9 minor"]
    assert labels["mode"].tolist() == [0, 1]
    assert [CLASSES["texture"][row] for row in labels["texture"]] == ["solo", "solo"]


def test_varying_moves_semitones_by_what_it_was_told():
    semitone_BPT = np.zeros((2, 84, 5), np.float16)
    semitone_BPT[:, 40] = 2
    varied = vary(np.ones((2, 64, 9), np.float16), semitone_BPT, np.array([3, -2]), np.random.default_rng(0))
    assert [int(one.mean(dim=1).argmax()) for one in varied.semitone_BPT] == [43, 38]
    assert varied.mel_BMT.shape == (2, 64, 9)


def test_balanced_accuracy_weighs_all_values_alike():
    truth_B, guess_B = np.array([0] * 9 + [1]), np.zeros(10, np.int64)
    assert balanced_accuracy(guess_B, truth_B) == 0.5
    figures = accuracy_figures(guess_B, truth_B, name="mode", seed=0)
    assert figures["mode_accuracy"] == figures["mode_commonest"] == 0.9
    assert figures["mode_accuracy_low"] < 0.9 < figures["mode_accuracy_high"]
