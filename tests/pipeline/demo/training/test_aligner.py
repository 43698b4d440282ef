"""The demo's aligner: what it learns from, a short training, and what the committed weights find."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline.demo.excerpts import plan_clips
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.training import aligner as training
from pipeline.demo.training import keeping
from pipeline.demo.training import material as material_module
from pipeline.demo.training.aligner import (
    BLANK,
    PROLONGED_ID,
    VOCABULARY,
    collate,
    draw_stretch,
    fit,
    frame_tokens,
    hear,
    train,
)
from pipeline.demo.training.aligner_figures import boundary_errors_ms
from pipeline.demo.training.listening import random_phrases, songs
from pipeline.demo.training.material import Material, load_voices, mel_power
from pipeline.models.aligner import AlignerConfig, CtcAligner, load_aligner


@pytest.fixture
def few_works(monkeypatch):
    """Which works are held out takes a minute to find out; a short training may learn from any."""
    monkeypatch.setattr(material_module, "plan_training", lambda count, seed: plan_clips(count, clip_s=10.0, seed=seed))


def material(*phrases: list[tuple[str, float, float]]) -> Material:
    rng = np.random.default_rng(0)
    return Material(rng.normal(-3, 1, (900, 80)).astype(np.float16), phrases)


def test_frames_bear_the_mora_that_sounds_and_equal_neighbours_are_parted():
    sung = [("さ", 0.0, 0.2), ("さ", 0.2, 0.3), ("く", 0.3, 0.4)]
    labels_T, text = frame_tokens(material(sung), 0, np.random.default_rng(1))
    sa, ku = VOCABULARY.index("サ"), VOCABULARY.index("ク")
    assert text == [sa, sa, ku]
    assert labels_T[:20].tolist() == [sa] * 9 + [BLANK] + [sa] * 5 + [ku] * 5
    assert not labels_T[20:].any()


def test_a_stretch_that_begins_later_keeps_what_mostly_lies_in_it():
    sung = [("あ", 0.0, 1.0), ("い", 1.0, 2.0)]
    labels_T, text = frame_tokens(material(sung), 20, np.random.default_rng(1))
    assert [VOCABULARY[token] for token in text] == ["ア", "イ"]
    assert labels_T[:81].tolist() == [text[0]] * 30 + [text[1]] * 50 + [BLANK]
    assert frame_tokens(material(sung), 40, np.random.default_rng(1))[1] == [VOCABULARY.index("イ")]


def test_lyrics_may_spell_a_sound_in_two_ways_and_prolong_it():
    sung = [("お", 0.0, 0.3), ("ず", 0.3, 1.3)]
    drawn = [frame_tokens(material(sung), 0, np.random.default_rng(seed))[1] for seed in range(200)]
    spelled = {VOCABULARY[text[0]] for text in drawn}
    assert spelled == {"オ", "ヲ"}
    assert {VOCABULARY[text[1]] for text in drawn} == {"ズ", "ヅ"}
    assert 0 < sum(PROLONGED_ID in text for text in drawn) < 40


def test_training_hears_what_the_loaded_model_hears():
    with torch.random.fork_rng(devices=[]):
        network = CtcAligner(AlignerConfig(vocabulary=VOCABULARY, width=16)).eval()
    wave_N = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    log_MF = (np.log(mel_power(wave_N, "aligner") + training.LOG_FLOOR) - training.LOG_CENTRE) / training.LOG_SCALE
    with torch.no_grad():
        ours = torch.log_softmax(hear(network, torch.from_numpy(log_MF)[None]), -1)
        theirs = network(torch.nn.functional.pad(torch.from_numpy(wave_N), (network.edge_samples,) * 2)[None])
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.long
def test_a_short_training_writes_a_folder_that_loads_and_goes_on_where_it_stopped(
    tmp_path, few_works, monkeypatch, interrupted_after
):
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "NUM_VOICES", 4)
    monkeypatch.setattr(training, "NUM_BACKINGS", 2)
    straight = fit(steps=4, seed=0, cache=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/sung").symlink_to(tmp_path / "a/sung")
    kept = torch.load(tmp_path / "a/checkpoint.pt", weights_only=True)
    assert kept["steps"] == 4
    with monkeypatch.context() as patch:
        patch.setattr(training, "progress", interrupted_after(3))
        with pytest.raises(KeyboardInterrupt):
            fit(steps=4, seed=0, cache=tmp_path / "b")
    figures = train(tmp_path / "out", steps=4, seed=0, cache=tmp_path / "b")
    resumed = load_aligner(str(tmp_path / "out"))
    wave_N = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    with torch.no_grad():
        edge = straight.edge_samples
        wanted = straight.eval()(torch.from_numpy(np.pad(wave_N, edge))[None])[0].numpy()
    assert np.allclose(resumed.log_posteriors(wave_N), wanted, atol=0.02)
    assert json.loads((tmp_path / "out/figures.json").read_text()) == figures
    assert "--steps 4 --seed 0" in (tmp_path / "out/README.md").read_text("utf-8")


def test_stretches_are_the_same_from_the_same_seed(tmp_path):
    voices = load_voices(tmp_path, 2, seed=0, ear="aligner")
    one, two = (collate([draw_stretch(voices, voices, np.random.default_rng(3))]) for _ in range(2))
    assert torch.equal(one.log_BMF, two.log_BMF)
    assert torch.equal(one.labels_BT, two.labels_BT)
    assert one.texts == two.texts


@pytest.fixture(scope="module")
def committed():
    return load_aligner(str(WEIGHTS / "aligner"))


def test_the_committed_aligner_finds_phrases_of_voices_that_it_does_not_know(committed):
    errors_ms = [error for recording in random_phrases(6) for error in boundary_errors_ms(committed, recording)]
    assert np.median(errors_ms) <= 80


def test_the_committed_aligner_finds_the_phrases_of_songs(committed):
    errors_ms = [error for recording in songs(2, seed=5) for error in boundary_errors_ms(committed, recording)]
    assert np.median(errors_ms) <= 80


def test_the_committed_weights_are_small():
    assert (WEIGHTS / "aligner/model.safetensors").stat().st_size < 2_500_000
