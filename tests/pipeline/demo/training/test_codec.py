from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecModel

from pipeline.demo.calibration import calibration_waves
from pipeline.demo.captions import Facts
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.expand_codec import write_encodec
from pipeline.demo.training import codec, codec_figures, codec_steps, keeping
from pipeline.demo.training.codec_data import SegmentSource, sing_randomly
from pipeline.demo.training.codec_figures import (
    FrameCodebook,
    SampleCodebook,
    codebook_use,
    codec_distance_db,
    pitch_kept,
)
from pipeline.demo.training.codec_figures import wave_distance_db as distance_db
from pipeline.demo.training.codec_quantiser import draw_num_books, quantise
from pipeline.demo.training.music import CODEC_RATE_HZ, Music, level_pcm, write_chunk
from pipeline.models.codec import load_codec
from pipeline.music.audio import resample
from pipeline.music.loudness import integrated_loudness

FACTS = Facts(
    form="reel", metre="4/4", tonic="D", mode="major", bpm=100, instrument="flute", texture="solo", register="high",
    dynamics="soft",
)  # fmt: skip


def tunes(count: int, *, clip_s: float = 2.0, seed: int = 5) -> list[np.ndarray]:
    waves_BN = calibration_waves(count, clip_s=clip_s, rate_hz=CODEC_RATE_HZ, seed=seed)
    return [level_pcm(wave_N).astype(np.float32) / 32768 for wave_N in waves_BN]


def write_music(path: Path, waves: list[np.ndarray]) -> None:
    write_chunk(path, [((wave_N * 32767).astype(np.int16), FACTS) for wave_N in waves])


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A cache of few and short clips."""
    cache = tmp_path / "cache"
    write_music(cache / "music/train-000.npy", tunes(3, clip_s=6.0))
    write_music(cache / "music/held-out-002.npy", tunes(2, seed=6))
    for name, value in {
        "NUM_TRAINING_CLIPS": 3, "NUM_TRAINING_SONGS": 2, "NUM_HELD_OUT_CLIPS": 2, "NUM_HELD_OUT_SONGS": 1,
        "NUM_LEARNT_FOR_RIVALS": 3, "NUM_SONGS_FOR_RIVALS": 1, "NUM_SOLOS": 1,
        "NUM_MEASURED_CLIPS": 2,
    }.items():  # fmt: skip
        monkeypatch.setattr(codec, name, value)
    monkeypatch.setattr(codec_steps, "BATCH_SIZE", 2)
    monkeypatch.setattr(codec_steps, "KMEANS_BATCHES", 3)
    return cache


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("committed") / "encodec"
    write_encodec(folder)
    return load_codec(str(folder))


def test_a_few_steps_write_weights_that_the_chain_loads_with_card_and_figures(tiny, tmp_path):
    out = tmp_path / "weights"
    figures = codec.train(out, steps=3, seed=1, cache=tiny)
    assert json.loads((out / "figures.json").read_text()) == figures
    assert "3 steps" in (out / "README.md").read_text()
    assert "| perplexity, music, codebook 4 |" in (out / "README.md").read_text()
    write_encodec(tmp_path / "encodec", weights=out)
    loaded = load_codec(str(tmp_path / "encodec"))
    (codes_KT,) = loaded.encode([tunes(1)[0]])
    assert codes_KT.shape == (4, 100)
    assert loaded.decode(codes_KT).shape == (32_000,)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tiny, tmp_path, monkeypatch):
    source = SegmentSource(Music([tiny / "music/train-000.npy"]), np.stack([sing_randomly([0, 0], clip_s=2.0)]), seed=0)

    def learn(cache: Path, segments) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = EncodecModel(codec.codec_config())
        codec_steps.learn_codes(model, segments, steps=4, seed=0, keeper=keeping.Keeper(cache / "codes.pt"))
        codec_steps.learn_sound(model, segments, steps=4, seed=0, keeper=keeping.Keeper(cache / "sound.pt"))
        return model.state_dict()

    class Failing:
        def batch(self, step: int, batch_size: int):
            if step == 2:
                raise KeyboardInterrupt
            return source.batch(step, batch_size)

    expected = learn(tmp_path / "whole", source)
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped", Failing())
    assert torch.load(tmp_path / "stopped/codes.pt")["steps"] == 2
    found = learn(tmp_path / "stopped", source)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def small_quantizer(num_books: int = 2):
    config = codec.codec_config()
    config.codebook_size, config.target_bandwidths = 4, [0.1 * num_books]
    torch.manual_seed(0)
    quantizer = EncodecModel(config).quantizer
    for layer in quantizer.layers:
        layer.codebook.embed.copy_(torch.randn(4, 64))
        layer.codebook.embed_avg.copy_(layer.codebook.embed * 10)
        layer.codebook.cluster_size.fill_(10.0)
    return quantizer


def test_the_quantiser_hands_the_gradient_straight_to_the_encoder():
    latent_BDT = torch.randn(2, 64, 5, requires_grad=True)
    quantised = quantise(small_quantizer(), latent_BDT, torch.tensor([2, 2]))
    weights_BDT = torch.randn(2, 64, 5)
    (quantised.latent_BDT * weights_BDT).sum().backward()
    assert torch.allclose(latent_BDT.grad, weights_BDT)
    assert quantised.commitment > 0


def test_an_item_without_its_last_book_is_what_the_library_decodes_of_the_first():
    quantizer = small_quantizer()
    latent_BDT = torch.randn(2, 64, 5)
    first_book_1BT = quantizer.layers[0].encode(latent_BDT)[None]
    expected_BDT = quantizer.decode(first_book_1BT)
    quantised = quantise(quantizer, latent_BDT, torch.tensor([1, 2]))
    assert torch.allclose(quantised.latent_BDT[0], expected_BDT[0], atol=1e-5)
    assert not torch.allclose(quantised.latent_BDT[1], expected_BDT[1], atol=1e-2)


def test_codebooks_move_onto_what_they_code_and_dead_codes_come_back():
    quantizer = small_quantizer(num_books=1)
    centres_VD = 5 * torch.randn(4, 64)
    codebook = quantizer.layers[0].codebook
    # Far from everything: no vector ever chooses them.
    codebook.embed[2:] = 1000.0
    codebook.embed_avg[2:] = 1000.0
    codebook.cluster_size[2:] = 0.0
    commitments = [
        float(quantise(quantizer, near(centres_VD), torch.ones(8, dtype=torch.long)).commitment) for _ in range(400)
    ]
    assert codebook.embed.abs().max() < 100
    assert commitments[-1] < 0.5 * commitments[0]


def near(centres_VD: torch.Tensor) -> torch.Tensor:
    return (centres_VD[torch.randint(4, (8, 4))] + 0.01 * torch.randn(8, 4, 64)).transpose(1, 2)


@given(st.integers(1, 40), st.integers(2, 8), st.floats(0, 1))
def test_dropout_leaves_every_item_at_least_one_book_and_never_more_than_there_are(size, books, dropout):
    drawn_B = draw_num_books(size, books, dropout=dropout)
    assert drawn_B.shape == (size,)
    assert int(drawn_B.min()) >= 1
    assert int(drawn_B.max()) <= books


def test_no_dropout_uses_all_books():
    assert set(draw_num_books(50, 4, dropout=0.0).tolist()) == {4}
    assert set(draw_num_books(300, 4, dropout=1.0).tolist()) == {1, 2, 3}


def test_mel_distance_is_nothing_for_the_same_wave_and_the_gain_for_a_louder_one():
    rng = np.random.default_rng(0)
    noise_N = rng.standard_normal(16_000).astype(np.float32) * np.float32(0.05)
    assert distance_db(noise_N, noise_N) == 0
    assert distance_db(noise_N, noise_N * np.float32(2.0)) == pytest.approx(6.02, abs=0.05)
    (tune_N,) = tunes(1)
    assert distance_db(tune_N, tune_N + noise_N[0] * 0) < distance_db(tune_N, np.roll(tune_N, 4000))


def test_the_frame_codebook_comes_near_what_it_has_learnt():
    waves = tunes(3)
    frames = FrameCodebook(waves)
    assert frames.distance_db(waves) < 3
    assert distance_db(frames.sound(waves[0]), waves[0]) < 20
    assert frames.sound(waves[0]).shape == waves[0].shape


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 50))
def test_segments_are_the_same_for_the_same_step_and_never_clip(seed, step):
    source = SegmentSource(SharedMusic(), shared_songs(), seed=seed)
    batch_BN = source.batch(step, 4)
    assert batch_BN.shape == (4, 16_000)
    assert np.abs(batch_BN).max() <= 1.0
    assert np.array_equal(batch_BN, SegmentSource(SharedMusic(), shared_songs(), seed=seed).batch(step, 4))
    assert not np.array_equal(batch_BN, source.batch(step + 1, 4))


class SharedMusic:
    """Two tunes in memory."""

    waves = tunes(2)

    def __len__(self) -> int:
        return 2

    def wave(self, index: int, *, start: int = 0, length: int | None = None):
        return self.waves[index][start : None if length is None else start + length]


def shared_songs():
    return np.stack([sing_randomly([3, number], clip_s=2.0) for number in range(2)])


def test_random_songs_are_as_loud_as_ingest_makes_them():
    song_N = sing_randomly([7, 7], clip_s=5.0).astype(np.float32) / 32768
    assert song_N.size == 5 * CODEC_RATE_HZ
    assert integrated_loudness(song_N, CODEC_RATE_HZ) == pytest.approx(-18, abs=0.3)


# The committed weights.


def test_committed_weights_are_small_and_of_the_promised_shape(committed):
    assert (WEIGHTS / "encodec/model.safetensors").stat().st_size <= 3_500_000
    assert (committed.sample_rate_hz, committed.frame_rate_hz) == (16_000, 50)
    assert (committed.num_codebooks, committed.codebook_size) == (4, 256)


def test_committed_codec_is_nearer_to_tunes_than_silence_or_an_untrained_one(committed, tmp_path):
    waves = tunes(3, seed=11)
    torch.manual_seed(0)
    untrained = EncodecModel(codec.codec_config())
    codec_figures.start_untrained(untrained, tunes(14, seed=12))
    untrained.save_pretrained(tmp_path / "untrained")
    ours_db = codec_distance_db(committed, waves)
    assert ours_db < 0.6 * codec_distance_db(load_codec(str(tmp_path / "untrained")), waves)


def test_committed_codec_keeps_tunes_and_beats_k_means_of_samples(committed):
    waves = tunes(3, seed=11)
    assert pitch_kept(committed, waves) > 0.5
    rival = SampleCodebook(tunes(14, seed=12))
    rival_db = np.mean([distance_db(rival.sound(wave_N), wave_N) for wave_N in waves])
    assert codec_distance_db(committed, waves) < 0.8 * rival_db


def test_committed_codec_gives_the_same_codes_in_windows(committed, tmp_path):
    write_encodec(tmp_path / "encodec")
    (wave_N,) = tunes(1, clip_s=4.0)
    in_windows = load_codec(str(tmp_path / "encodec"), window_s=1.0).encode([wave_N])[0]
    assert (in_windows == committed.encode([wave_N])[0]).mean() > 0.999


class Lossless:
    """Hands the samples through, with a gain."""

    def __init__(self, gain: float) -> None:
        self.gain = np.float32(gain)

    def encode(self, waves_N):
        return [wave_N[None] for wave_N in waves_N]

    def decode(self, codes_KT):
        return codes_KT[0] * self.gain


def test_pitch_is_kept_where_nothing_is_lost_and_gone_in_silence():
    (wave_N,) = tunes(1)
    assert pitch_kept(Lossless(0.5), [wave_N]) == 1.0
    assert pitch_kept(Lossless(0.0), [wave_N]) == 0.0


@pytest.mark.bench
def test_figures_on_real_recordings(committed, real_data):
    waves = real_recordings(real_data)
    distance_db = codec_distance_db(committed, waves)
    print({"mel distance, real recordings, dB": distance_db})
    # The untrained codec's is 19.5; ours was 6.6.
    assert distance_db < 8
    print(codebook_use(committed, waves, kind="real"))


def real_recordings(folder: Path) -> list[np.ndarray]:
    """Music and singing, mono at 16 kHz, ten seconds of each."""
    waves: list[np.ndarray] = []
    for name in REAL_RECORDINGS:
        samples_NC, rate_hz = soundfile.read(folder / name, dtype="float32", always_2d=True)
        wave_N = resample(samples_NC.mean(axis=1), rate_hz, CODEC_RATE_HZ)[: 10 * CODEC_RATE_HZ]
        waves.append(level_pcm(wave_N).astype(np.float32) / 32768)
    return waves


REAL_RECORDINGS = (
    "audiocraft-assets/bach.mp3",
    "audiocraft-assets/electro_1.mp3",
    "audiomentations-demo/acoustic_guitar_0.wav",
    "librosa-data/Hungarian_Dance_number_5_-_Allegro_in_F_sharp_minor_(string_orchestra).hq.ogg",
    "librosa-data/Karissa_Hobbs_-_Lets_Go_Fishin.ogg",
    "librosa-data/Kevin_MacLeod_-_Vibe_Ace.ogg",
    "librosa-data/sorohanro_-_solo-trumpet-06.hq.ogg",
    "nit-song070/nitech_jp_song070_f001_004.wav",
    "spleeter-example/audio_example.mp3",
    "vocadito/vocadito_10.wav",
)
