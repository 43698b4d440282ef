from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MusicgenForConditionalGeneration

from pipeline.demo import captions
from pipeline.demo.calibration import calibration_waves
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.expand_codec import write_encodec, write_musicgen
from pipeline.demo.synth import TIMBRES
from pipeline.demo.training import keeping, musicgen
from pipeline.demo.training.music import CODEC_RATE_HZ, level_pcm, write_chunk
from pipeline.demo.training.musicgen_data import CaptionedCodes
from pipeline.demo.training.musicgen_figures import bootstrap_interval, held_losses, swap_captions, unigram_losses
from pipeline.models.codec import load_codec
from train.icl.adapter import make_trainable
from train.icl.model import load_model
from train.params import TrainParams

FACTS = captions.Facts(
    form="reel", metre="4/4", tonic="D", mode="major", bpm=100, instrument="flute", texture="solo", register="high",
    dynamics="soft",
)  # fmt: skip


def facts_of(instruments: list[str]) -> list[captions.Facts]:
    return [replace(FACTS, instrument=instrument) for instrument in instruments]


def random_codes(count: int, *, num_frames: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, num_frames)).astype(np.uint16)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A cache of few and short clips."""
    cache = tmp_path / "cache"
    instruments = list(TIMBRES)[:4]
    waves_BN = calibration_waves(4, clip_s=1.0, rate_hz=CODEC_RATE_HZ, seed=2)
    clips = [(level_pcm(wave_N), facts) for wave_N, facts in zip(waves_BN, facts_of(instruments), strict=True)]
    write_chunk(cache / "music/train-000.npy", clips)
    write_chunk(cache / "music/held-out-003.npy", clips[:3])
    for name, value in {"NUM_TRAINING_CLIPS": 4, "NUM_HELD_OUT_CLIPS": 3, "BATCH_SIZE": 2, "CLIP_FRAMES": 10}.items():
        monkeypatch.setattr(musicgen, name, value)
    return cache


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("committed") / "musicgen"
    write_musicgen(folder)
    return folder


def test_a_few_steps_write_weights_that_lora_can_adapt(tiny, tmp_path):
    out = tmp_path / "weights"
    figures = musicgen.train(out, steps=2, seed=1, cache=tiny)
    assert json.loads((out / "figures.json").read_text()) == figures
    assert "2 steps" in (out / "README.md").read_text()
    assert figures["loss, untrained, nats per code"] > math.log(256)
    write_musicgen(tmp_path / "musicgen", weights=out)
    params = TrainParams(precision="fp32")
    model = load_model(str(tmp_path / "musicgen"), params=params)
    assert model.codec == (4, 256, 50.0, 16_000)
    assert make_trainable(model, params)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    instruments = list(TIMBRES)[:4]
    clips = CaptionedCodes(random_codes(4), facts_of(instruments), codebook_size=256, seed=0)
    tokenizer = musicgen.build_t5_tokenizer(sorted(set(captions.grid_texts(tuple(instruments)))))
    monkeypatch.setattr(musicgen, "BATCH_SIZE", 2)

    def learn(name: str, learnt) -> dict[str, torch.Tensor]:
        model = musicgen.build_model(len(tokenizer), seed=0)
        keeper = keeping.Keeper(tmp_path / name)
        musicgen.learn(model, tokenizer, learnt, steps=3, seed=0, keeper=keeper)
        return model.state_dict()

    class Failing:
        def batch(self, step: int, batch_size: int):
            if step == 2:
                raise KeyboardInterrupt
            return clips.batch(step, batch_size)

    expected = learn("whole.pt", clips)
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn("stopped.pt", Failing())
    found = learn("stopped.pt", clips)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 99))
def test_every_clip_comes_once_before_any_comes_again(num_clips, batch_size, seed):
    codes_CKT = random_codes(num_clips, num_frames=1)
    codes_CKT[:, 0, 0] = np.arange(num_clips)
    clips = CaptionedCodes(codes_CKT, [FACTS] * num_clips, codebook_size=256, seed=seed)
    seen: list[int] = []
    for step in range(3 * num_clips):
        seen += clips.batch(step, batch_size).labels_BKS[:, 0, 0].tolist()
    for epoch in range(len(seen) // num_clips):
        assert sorted(seen[epoch * num_clips : (epoch + 1) * num_clips]) == list(range(num_clips))


def test_some_captions_are_left_out_and_most_others_name_the_instrument():
    clips = CaptionedCodes(random_codes(3, num_frames=4), [FACTS] * 3, codebook_size=256, seed=0)
    written = [caption for step in range(100) for caption in clips.batch(step, 4).captions]
    assert 0.05 < sum(caption is None for caption in written) / len(written) < 0.16
    told = [caption for caption in written if caption is not None]
    assert sum("flute" in caption.lower() for caption in told) > 0.8 * len(told)
    assert len(set(written)) > 20


@given(st.lists(st.sampled_from(["flute", "harp", "piano"]), min_size=2, max_size=12), st.integers(0, 9))
def test_a_swapped_caption_names_another_instrument(instruments, seed):
    facts = facts_of([*instruments, "flute", "harp"])
    swapped = swap_captions(facts, seed=seed)
    assert [facts[index].instrument != own.instrument for index, own in zip(swapped, facts, strict=True)] == [
        True
    ] * len(facts)


def test_unigram_loss_is_the_entropy_of_codes_that_occur_alike():
    codes_CKT = np.tile(np.arange(256, dtype=np.uint16), (2, 4, 8))
    assert unigram_losses(codes_CKT, codes_CKT, codebook_size=256) == pytest.approx([math.log(256)] * 4)


def test_the_interval_holds_the_mean():
    values_C = np.random.default_rng(0).normal(0.3, 0.1, 80)
    low, high = bootstrap_interval(values_C, seed=0)
    assert low < values_C.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 80**0.5, rel=0.25)


# The committed weights.


def test_committed_weights_are_small_and_carry_the_committed_codec(committed, tmp_path):
    assert (WEIGHTS / "musicgen/model.safetensors").stat().st_size <= 6_000_000
    write_encodec(tmp_path / "encodec")
    model = MusicgenForConditionalGeneration.from_pretrained(committed)
    codec = load_codec(str(tmp_path / "encodec"))
    (wave_N,) = calibration_waves(1, clip_s=1.0, rate_hz=CODEC_RATE_HZ, seed=3)
    codes_1KT = model.audio_encoder.encode(torch.from_numpy(wave_N)[None, None]).audio_codes[0].numpy()
    assert (codes_1KT[0] == codec.encode([wave_N])[0]).mean() > 0.99


def test_committed_generator_prefers_the_caption_with_the_right_instrument(committed, tmp_path):
    write_encodec(tmp_path / "encodec")
    codec = load_codec(str(tmp_path / "encodec"))
    instruments = list(TIMBRES)
    waves_BN = calibration_waves(len(instruments), clip_s=4.0, rate_hz=CODEC_RATE_HZ, seed=4)
    codes_CKT = np.stack(codec.encode([level_pcm(wave_N).astype(np.float32) / 32768 for wave_N in waves_BN]))
    clips = CaptionedCodes(codes_CKT, facts_of(instruments), codebook_size=256, seed=0)
    model = MusicgenForConditionalGeneration.from_pretrained(committed)
    tokenizer = load_model(str(committed), params=TrainParams(precision="fp32")).text._tokenizer
    right_CK = held_losses(model, tokenizer, clips, list(range(len(clips))))
    swapped_CK = held_losses(model, tokenizer, clips, swap_captions(clips.facts, seed=0))
    assert right_CK.mean() < swapped_CK.mean()
    assert right_CK.mean() < math.log(256)
