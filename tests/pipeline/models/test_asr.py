"""Whisper: phrases lie within the wave and repeat; what is no checkpoint is refused."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
import whisper
from whisper.model import ModelDimensions, Whisper

from pipeline.data.records import Heard
from pipeline.errors import ContractError, ParamsError
from pipeline.models.asr import Decoding, load_recogniser

RATE_HZ = 16_000


def build_whisper(path, *, n_vocab: int = 51_865) -> None:
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=16, n_audio_head=2, n_audio_layer=1,
        n_vocab=n_vocab, n_text_ctx=448, n_text_state=16, n_text_head=2, n_text_layer=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whisper(dims)
        torch.nn.init.normal_(model.decoder.positional_embedding, std=1.0)
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "toy.pt"
    build_whisper(path)
    return path


@pytest.fixture(scope="module")
def recogniser(checkpoint):
    torch.set_num_threads(1)
    return load_recogniser(str(checkpoint), Decoding(language="ja", max_tokens=40))


def noise(duration_s: float) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=round(duration_s * RATE_HZ)) * 0.2).astype(np.float32)


def test_recogniser_describes_itself(recogniser):
    assert recogniser.sample_rate_hz == RATE_HZ
    assert (recogniser.stamp["model"], recogniser.stamp["language"]) == ("toy.pt", "ja")
    assert len(recogniser.stamp["weights_sha256"]) == 64


def test_phrases_lie_within_the_wave_and_repeat(recogniser):
    wave_N = noise(4.0)
    before = torch.random.get_rng_state()
    phrases = recogniser.transcribe(wave_N)
    assert phrases  # random weights say something
    for phrase in phrases:
        assert phrase.keys() == Heard.__annotations__.keys()
        assert phrase["text"] == phrase["text"].strip() != ""
        assert 0 <= phrase["start_s"] <= phrase["end_s"] <= 4.0
        assert phrase["start_s"] < 4.0
        assert phrase["avg_logprob"] < 0 <= phrase["no_speech_prob"] <= 1
    # Unsure throughout, so that every temperature was sampled: seeded, and the caller's generator is as it was.
    assert recogniser.transcribe(wave_N) == phrases
    assert torch.equal(torch.random.get_rng_state(), before)


def test_transcribe_of_nothing_is_nothing(recogniser):
    assert recogniser.transcribe(np.zeros(0, np.float32)) == []


def test_fewer_tokens_make_shorter_phrases(checkpoint, recogniser):
    brief = load_recogniser(str(checkpoint), Decoding(language="ja", temperatures=(0.0,), max_tokens=5))
    assert sum(len(phrase["text"]) for phrase in brief.transcribe(noise(4.0))) < sum(
        len(phrase["text"]) for phrase in recogniser.transcribe(noise(4.0))
    )


def test_language_may_be_guessed(checkpoint):
    assert load_recogniser(str(checkpoint), Decoding(language=None)).stamp["language"] is None


def test_loading_refuses_languages_it_does_not_know(checkpoint, tmp_path):
    with pytest.raises(ParamsError, match="'klingon'"):
        load_recogniser(str(checkpoint), Decoding(language="klingon"))
    build_whisper(tmp_path / "english.pt", n_vocab=51_864)
    with pytest.raises(ParamsError, match="English only"):
        load_recogniser(str(tmp_path / "english.pt"), Decoding(language="ja"))
    assert load_recogniser(str(tmp_path / "english.pt"), Decoding(language="en")).stamp["language"] == "en"


class Pest:
    """What a hostile checkpoint holds: running this on load would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_loading_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": {}}, tmp_path / "dims.pt")
    torch.save({"dims": Pest(tmp_path / "owned")}, tmp_path / "hostile.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Pest(tmp_path / "owned")))
    for path in sorted(tmp_path.glob("*.pt")):
        with pytest.raises(ContractError, match="is no Whisper checkpoint") as caught:
            load_recogniser(str(path), Decoding(language=None))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_loading_says_what_is_missing():
    with pytest.raises(ContractError, match="no file /absent/whisper"):
        load_recogniser("/absent/whisper.pt", Decoding(language=None))


def test_a_named_model_comes_from_whispers_cache(checkpoint, tmp_path, monkeypatch):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(whisper._MODELS, "tiny", f"http://localhost:9/{digest}/tiny.pt")
    with pytest.raises(ContractError, match=r"tiny is not in .* and does not download"):
        load_recogniser("tiny", Decoding(language=None))
    (tmp_path / "whisper" / "tiny.pt").write_bytes(checkpoint.read_bytes())
    assert load_recogniser("tiny", Decoding(language=None)).stamp["model"] == "tiny"
