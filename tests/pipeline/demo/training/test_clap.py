"""The demo's CLAP: the committed one hears what captions say; its training goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.captions import Facts
from pipeline.demo.excerpts import OCTAVES
from pipeline.demo.expand import WEIGHTS, write_full
from pipeline.demo.synth import Notes, render
from pipeline.demo.training.clap import train
from pipeline.demo.training.clap_data import (
    CLAP_RATE_HZ,
    clap_mel,
    own_captions,
    stretch,
    training_features,
    vocabulary_texts,
)
from pipeline.demo.training.clap_figures import neighbour_shares, recalls, spread_figures
from pipeline.demo.training.clap_losses import TELL_APART, crowd_loss, match_loss, match_targets, unit
from pipeline.demo.training.clap_variants import draw_speeds, vary
from pipeline.demo.training.fact_labels import CLASSES, label_facts, pitch_class
from pipeline.demo.training.music import CODEC_RATE_HZ, level_pcm, write_chunk
from pipeline.models.clap import load_embedder
from pipeline.models.clap_prompt import embed_prompt
from pipeline.music.audio import resample

FACTS = Facts(
    form="reel", metre="4/4", tonic="D", mode="major", bpm=104, instrument="fiddle", texture="solo",
    register="high", dynamics="loud",
)  # fmt: skip
CLAP = WEIGHTS / "clap"
SOLOISTS = ("fiddle", "flute", "banjo", "accordion", "acoustic guitar", "harp", "clarinet", "cello")
"""Who plays tunes in the demo; the others it has heard in chords only."""


def play_scale(instrument: str, seed: int) -> np.ndarray:
    """A tune of two octaves up and down, four notes a second, as `ingest` would level it."""
    midi = np.resize(62 + 12 * OCTAVES.get(instrument, 0) + np.array([0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2]), 40)
    notes = Notes(
        onset_s=np.arange(40.0) * 0.25, length_s=np.full(40, 0.24), midi=midi, part=np.zeros(40, np.int64),
        velocity=np.full(40, 0.8),
    )  # fmt: skip
    wave_CN = render(notes, instrument, clip_s=10.0, rate_hz=2 * CODEC_RATE_HZ, rms_dbfs=-20.0, seed=seed)
    return level_pcm(resample(wave_CN.mean(axis=0), 2 * CODEC_RATE_HZ, CODEC_RATE_HZ))


@pytest.fixture(scope="module")
def tunes() -> dict[str, np.ndarray]:
    return {instrument: play_scale(instrument, seed=5) for instrument in SOLOISTS}


def test_a_caption_finds_the_instrument_that_it_names(tunes, tmp_path):
    write_full(CLAP, tmp_path / "clap")
    embedder = load_embedder(str(tmp_path / "clap"))
    waves = [resample(wave_N / np.float32(32768), CODEC_RATE_HZ, CLAP_RATE_HZ) for wave_N in tunes.values()]
    audio_BD = embedder.embed_audio(waves)
    texts = [f"someone is playing a fiddle reel on {instrument}. a lone melodic line." for instrument in SOLOISTS]
    cosine_BB = embedder.embed_text(texts) @ audio_BD.T
    assert recalls(cosine_BB, "found")["found_recall_at_1"] >= 0.7
    assert spread_figures(audio_BD, "audio")["audio_cosine_max"] < 0.98
    prompt_D = embed_prompt(tmp_path / "clap", texts[0])
    assert prompt_D is not None
    assert np.abs(prompt_D - embedder.embed_text(texts[:1])[0]).max() < 1e-5


def test_the_committed_folder_is_small_and_says_what_it_is_for(tmp_path):
    assert sum(path.stat().st_size for path in CLAP.iterdir()) < 5_000_000
    assert "demo only" in (CLAP / "README.md").read_text("utf-8")
    write_full(CLAP, tmp_path / "one")
    write_full(CLAP, tmp_path / "one")
    halves, full = load_embedder(str(CLAP)), load_embedder(str(tmp_path / "one"))
    assert halves.sample_rate_hz == full.sample_rate_hz == CLAP_RATE_HZ
    assert np.array_equal(halves.embed_text(["a sad chorale"]), full.embed_text(["a sad chorale"]))


def fill_cache(cache: Path, tunes: dict[str, np.ndarray], *, num_chunks: int) -> None:
    """Two tunes over and over stand for the clips that training would render; their facts differ."""
    chosen = {name: tunes[name] for name in ("fiddle", "cello")}
    features = [stretch(clap_mel(wave_N / np.float32(32768))) for wave_N in chosen.values()]
    (cache / "clap").mkdir(parents=True)
    for number in range(num_chunks):
        clips = [(wave_N, replace(FACTS, instrument=name)) for name, wave_N in chosen.items()] * 20
        write_chunk(cache / "music" / f"train-{number:03d}.npy", clips)
        np.save(cache / "clap" / f"train-{number:03d}.npy", np.stack(features * 20))
    held_out = [(wave_N, replace(FACTS, instrument=name)) for name, wave_N in tunes.items()]
    write_chunk(cache / "music" / "held-out-012.npy", [*held_out, *held_out[:4]])


def test_training_writes_a_checkpoint_that_loads_and_a_second_call_trains_no_more(tunes, tmp_path):
    fill_cache(tmp_path, tunes, num_chunks=3)
    figures = train(tmp_path / "one", steps=1, seed=1, cache=tmp_path)
    assert figures["num_clips"] == 12
    assert 0 <= figures["text_to_audio_recall_at_1"] <= 1
    card = (tmp_path / "one" / "README.md").read_text("utf-8")
    assert "1 steps of 96 clips" in card
    assert load_embedder(str(tmp_path / "one")).dim == 64
    train(tmp_path / "two", steps=1, seed=1, cache=tmp_path)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    features = np.load(tmp_path / "clap" / "train-000.npy")
    (tmp_path / "clap" / "train-000.npy").unlink()
    again, _ = training_features(40, tmp_path)
    assert np.array_equal(again, features)


def test_numbers_and_words_of_captions_stay_whole():
    from pipeline.demo.vocabulary import build_roberta_tokenizer

    tokenizer = build_roberta_tokenizer(vocabulary_texts())
    caption = own_captions([FACTS], seed=0)[0]
    assert tokenizer.decode(tokenizer(caption).input_ids, skip_special_tokens=True) == caption
    assert max(len(tokenizer(f" at {bpm} bpm").input_ids) for bpm in range(50, 160)) <= 6
    assert len(tokenizer(" fiddle harpsichord clarinet").input_ids) == 5


def test_losses_fall_when_pairs_match_and_different_clips_part():
    labels_BH = torch.from_numpy(label_facts([replace(FACTS, bpm=bpm, form=form) for bpm, form in
                                              ((60, "air"), (90, "reel"), (120, "jig"))]))  # fmt: skip
    targets = match_targets(labels_BH, TELL_APART)
    assert torch.allclose(targets.sum(dim=1), torch.ones(3))
    assert (targets.argmax(dim=1) == torch.arange(3)).all()
    apart, scale = torch.eye(3), torch.tensor(2.0)
    asked = {"labels_BH": labels_BH, "logit_scale": scale, "aim": TELL_APART}
    assert match_loss(apart, apart, **asked) < match_loss(apart, apart.roll(1, dims=0), **asked)
    assert crowd_loss(apart) == 0
    assert crowd_loss(unit(apart + 3)) > 0.01


def test_facts_become_classes_whatever_their_spelling():
    rows = label_facts([FACTS, replace(FACTS, tonic="C#", metre="5/8"), replace(FACTS, tonic="Db", bpm=40)])
    key, metre, tempo = (list(CLASSES).index(name) for name in ("key", "metre", "tempo"))
    assert rows[1, key] == rows[2, key] == 1
    assert CLASSES["metre"][rows[1, metre]] == "other"
    assert (CLASSES["tempo"][rows[0, tempo]], CLASSES["tempo"][rows[2, tempo]]) == ("104", "0")
    assert [pitch_class(tonic) for tonic in ("C", "Cb", "B#", "F#", "Gb")] == [0, 11, 0, 6, 6]


def test_recall_counts_own_matches_among_the_best():
    cosine_BB = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]], np.float32)
    figures = recalls(cosine_BB, "x")
    assert figures["x_recall_at_1"] == pytest.approx(1 / 3)
    assert figures["x_recall_at_5"] == 1
    assert figures["x_recall_at_1_over_chance"] == pytest.approx(1)
    assert figures["x_median_rank"] == 2


def test_neighbours_share_what_their_embedding_holds_and_the_rest_by_chance():
    rng = np.random.default_rng(0)
    facts = [replace(FACTS, mode=str(rng.choice(["major", "minor"])), instrument=str(rng.choice(["harp", "banjo"])))
             for _ in range(200)]  # fmt: skip
    is_harp = np.array([one.instrument == "harp" for one in facts])
    cosine_BB = (is_harp[:, None] == is_harp) + rng.uniform(0, 0.1, (200, 200))
    figures = neighbour_shares(cosine_BB.astype(np.float32), facts, seed=0)
    assert figures["neighbours_instrument"] == 1
    assert figures["neighbours_mode_low"] < figures["neighbours_mode_chance"] < figures["neighbours_mode_high"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), most=st.sampled_from([1.0, 1.28]))
def test_varied_clips_keep_their_shape_and_sound(seed: int, most: float):
    rng = np.random.default_rng(seed)
    mel_BTM = rng.normal(-30, 10, (3, 64, 16)).astype(np.float16)
    speed_B = draw_speeds(3, most, rng)
    assert (1 / most <= speed_B).all()
    assert (speed_B <= most).all()
    varied = vary(mel_BTM, speed_B, rng)
    assert varied.shape == (3, 1, 64, 16)
    assert abs(float(varied.mean()) - float(mel_BTM.astype(np.float32).mean())) < 3
