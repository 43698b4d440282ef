"""The demo's checkpoints: complete, small, loaded by the calls that load the published ones, and better than chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    ClapModel,
    EncodecModel,
    MusicgenForConditionalGeneration,
)

from pipeline.demo.checkpoints import build_checkpoints
from pipeline.demo.excerpts import perform
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.synth import render
from pipeline.demo.training.works import held_out_works, plan_held_out, plan_training

CAPTION = "A fiddle reel in G major, played by a banjo at 104 beats per minute."
NAMES = ("encodec", "clap", "musicgen", "whisper", "aligner", "classifier")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    build_checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def codec(checkpoints):
    return EncodecModel.from_pretrained(checkpoints / "encodec").eval()


@pytest.fixture(scope="module")
def music():
    """Clips of works that no model has learnt from, 16 kHz, [B, N]."""
    waves = []
    for clip in plan_held_out(4):
        wave_CN = render(
            perform(clip, np.random.default_rng(clip.seed)), clip.facts.instrument, clip_s=4.0, rate_hz=16_000,
            rms_dbfs=-20.0, seed=[*clip.seed, 1],
        )  # fmt: skip
        waves.append(wave_CN.mean(axis=0))
    return np.stack(waves).astype(np.float32)


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_are_the_same_bytes_wherever_they_are_built(checkpoints, tmp_path):
    state = torch.random.get_rng_state()
    build_checkpoints(tmp_path / "elsewhere")
    assert torch.equal(torch.random.get_rng_state(), state)
    one, two = read_bytes(checkpoints), read_bytes(tmp_path / "elsewhere")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_committed_weights_are_small_and_tell_how_they_were_made():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 25_000_000
    assert {path.name for path in WEIGHTS.iterdir()} == set(NAMES)
    for name in NAMES:
        card = (WEIGHTS / name / "README.md").read_text("utf-8")
        assert f"python -m pipeline.demo.training {name}" in card, name
        assert "for the demo only" in " ".join(card.lower().split()), name
        assert json.loads((WEIGHTS / name / "figures.json").read_text("utf-8")), name


def test_no_work_is_learnt_from_and_measured_on():
    assert not {clip.score.work.name for clip in plan_training(40)} & held_out_works()
    assert {clip.score.work.name for clip in plan_held_out(40)} <= held_out_works()


def test_codes_of_music_vary_and_decode_to_sound(checkpoints, codec, music):
    config = codec.config
    assert (config.sampling_rate, config.hop_length, config.frame_rate) == (16_000, 320, 50)
    assert (config.num_quantizers, config.codebook_size) == (4, 256)
    assert AutoFeatureExtractor.from_pretrained(checkpoints / "encodec").sampling_rate == 16_000
    wave_BN = torch.from_numpy(music)
    with torch.no_grad():
        codes_BKT = codec.encode(wave_BN[:, None]).audio_codes[0]
        decoded_BN = codec.decode(codes_BKT[None], [None]).audio_values[:, 0]
    assert codes_BKT.shape == (4, 4, 200)
    assert decoded_BN.shape == wave_BN.shape
    assert 0.01 < float(decoded_BN.square().mean().sqrt()) < 0.5
    # More than the notes of four clips need, and never one code for all.
    assert all(len(codes_BKT[:, book].unique()) >= 64 for book in range(4))


def test_clap_tells_clips_and_captions_apart(checkpoints):
    model = ClapModel.from_pretrained(checkpoints / "clap").eval()
    processor = AutoProcessor.from_pretrained(checkpoints / "clap")
    assert processor.feature_extractor.frequency_min == 50
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "clap")
    assert len(tokenizer) == model.config.text_config.vocab_size
    assert tokenizer.decode(tokenizer(CAPTION).input_ids, skip_special_tokens=True) == CAPTION


# openai-whisper leaves its vocabulary file open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_whisper_loads_and_hears_no_speech_in_music(checkpoints, music):
    model = whisper.load_model(str(checkpoints / "whisper.pt"))
    assert model.is_multilingual
    result = model.transcribe(music[0], fp16=False, language="ja", condition_on_previous_text=False)
    assert result["text"].strip() == ""


def test_musicgen_generates_with_the_codec_beside_it(checkpoints, codec):
    model = MusicgenForConditionalGeneration.from_pretrained(checkpoints / "musicgen").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "musicgen")
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(CAPTION).input_ids)
    assert len(tokenizer) == model.config.text_encoder.vocab_size > 300
    assert "<unk>" not in pieces
    assert pieces[-1] == "</s>"
    for name, tensor in codec.state_dict().items():
        assert torch.equal(model.audio_encoder.state_dict()[name], tensor), name
    config = model.generation_config
    assert config.decoder_start_token_id == config.pad_token_id == config.bos_token_id == 256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wave = model.generate(**tokenizer([CAPTION, "a harp"], padding=True, return_tensors="pt"), max_new_tokens=12)
    assert wave.shape[:2] == (2, 1)
    assert np.isfinite(wave.numpy()).all()
