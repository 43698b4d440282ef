from __future__ import annotations

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

from pipeline.demo.calibration import calibration_waves
from pipeline.demo.checkpoints import build_checkpoints

CAPTION = "A fiddle reel in G major, played by a banjo at 104 beats per minute."


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    build_checkpoints(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def codec(checkpoints):
    return EncodecModel.from_pretrained(checkpoints / "encodec").eval()


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_are_the_same_bytes_wherever_they_are_built(checkpoints, tmp_path):
    state = torch.random.get_rng_state()
    build_checkpoints(tmp_path / "elsewhere", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    one, two = read_bytes(checkpoints), read_bytes(tmp_path / "elsewhere")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert sum(map(len, one.values())) < 12_000_000


def test_another_seed_gives_other_weights_and_the_same_vocabulary(checkpoints, tmp_path):
    build_checkpoints(tmp_path, seed=2)
    one, two = read_bytes(checkpoints), read_bytes(tmp_path)
    differ = {name for name in one if one[name] != two[name]}
    assert {name for name in differ if not name.endswith("README.md")} == {
        "encodec/model.safetensors", "clap/model.safetensors", "musicgen/model.safetensors", "whisper.pt",
    }  # fmt: skip


def test_every_folder_says_that_it_is_a_toy(checkpoints):
    for folder in (checkpoints, *(checkpoints / name for name in ("encodec", "clap", "musicgen"))):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "seeded random weights" in text
        assert "not that it sounds good" in text


def test_codec_has_the_promised_shape(checkpoints, codec):
    config = codec.config
    assert (config.sampling_rate, config.hop_length, config.frame_rate) == (16_000, 320, 50)
    assert (config.num_quantizers, config.codebook_size) == (4, 64)
    assert AutoFeatureExtractor.from_pretrained(checkpoints / "encodec").sampling_rate == 16_000


def test_codes_of_music_vary_and_decode_to_sound(codec):
    # Another seed than the one that the codebooks were measured with.
    waves_BN = torch.from_numpy(calibration_waves(6, clip_s=10.0, rate_hz=16_000, seed=99))
    with torch.no_grad():
        codes_BKT = codec.encode(waves_BN[:, None]).audio_codes[0]
        decoded = codec.decode(codes_BKT[None], [None]).audio_values
    assert codes_BKT.shape == (6, 4, 500)
    for codes_KT in codes_BKT:
        assert len(codes_KT[0].unique()) >= 32
    assert all(len(codes_BKT[:, book].unique()) >= 56 for book in range(4))
    changes = (codes_BKT[:, 0, 1:] != codes_BKT[:, 0, :-1]).float().mean()
    assert changes > 0.5
    assert 0.01 < decoded.square().mean().sqrt() < 0.5


def test_clap_tells_clips_and_captions_apart(checkpoints):
    model = ClapModel.from_pretrained(checkpoints / "clap").eval()
    processor = AutoProcessor.from_pretrained(checkpoints / "clap")
    assert processor.feature_extractor.frequency_min == 50
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "clap")
    assert len(tokenizer) == model.config.text_config.vocab_size == 800
    assert tokenizer.decode(tokenizer(CAPTION).input_ids, skip_special_tokens=True) == CAPTION
    waves_BN = calibration_waves(8, clip_s=10.0, rate_hz=48_000, seed=99)
    texts = [CAPTION, "A slow Irish air on the harp", "a sad chorale", "piano rag, loud"]
    inputs = processor(text=texts, audio=list(waves_BN), sampling_rate=48_000, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    for emb_BD in (output.audio_embeds, output.text_embeds):
        assert emb_BD.shape[1] == 64
        cosine = (emb_BD @ emb_BD.T)[~torch.eye(len(emb_BD), dtype=torch.bool)]
        assert cosine.max() < 0.98


# openai-whisper leaves its vocabulary file open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_whisper_loads_and_hears_no_speech(checkpoints):
    model = whisper.load_model(str(checkpoints / "whisper.pt"))
    assert model.is_multilingual
    wave_N = calibration_waves(1, clip_s=4.0, rate_hz=16_000, seed=99)[0]
    result = model.transcribe(wave_N, fp16=False, language="en")
    assert result["text"].strip() == ""
    assert all(segment["no_speech_prob"] > 0.6 for segment in result["segments"])


def test_musicgen_generates_with_the_codec_beside_it(checkpoints, codec):
    model = MusicgenForConditionalGeneration.from_pretrained(checkpoints / "musicgen").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "musicgen")
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(CAPTION).input_ids)
    assert len(tokenizer) == model.config.text_encoder.vocab_size > 300
    assert "<unk>" not in pieces
    assert pieces[-1] == "</s>"
    for name, tensor in codec.state_dict().items():
        assert torch.equal(model.audio_encoder.state_dict()[name], tensor), name
    embeddings = model.decoder.model.decoder.embed_tokens
    assert [tuple(item.weight.shape) for item in embeddings] == [(65, 64)] * 4
    assert all(0.9 < float(item.weight.detach().std()) < 1.1 for item in embeddings)
    config = model.generation_config
    assert config.decoder_start_token_id == config.pad_token_id == config.bos_token_id == 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wave = model.generate(**tokenizer([CAPTION, "a harp"], padding=True, return_tensors="pt"), max_new_tokens=12)
    assert wave.shape[:2] == (2, 1)
    assert np.isfinite(wave.numpy()).all()


def test_musicgen_text_encoder_reads_the_caption(checkpoints):
    model = MusicgenForConditionalGeneration.from_pretrained(checkpoints / "musicgen").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "musicgen")
    codes = torch.full((4, 1), 64)
    logits = []
    for caption in (CAPTION, "a slow chorale on the church organ"):
        with torch.no_grad():
            output = model(**tokenizer(caption, return_tensors="pt"), decoder_input_ids=codes)
        logits.append(output.logits)
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)
