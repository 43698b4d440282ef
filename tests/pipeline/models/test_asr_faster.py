"""faster-whisper answers as openai-whisper does; a converted Whisper is the one it was made from."""

from __future__ import annotations

import _ctypes
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper.tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.records import Heard
from pipeline.errors import ContractError, ParamsError
from pipeline.models import asr_faster
from pipeline.models.asr import MAX_TOKENS, Decoding, load_recogniser
from pipeline.models.base import weights_digest
from pipeline.models.whisper_ct2 import build_tokenizer, compare_whispers, convert_whisper
from tests.pipeline.models.test_asr import build_whisper, noise

GREEDY = Decoding(language="ja", temperatures=(0.0,))
HARD = [
    "さくら さくら やよいの空は 見わたす限り",
    "かすみか雲か 匂いぞ出ずる\nいざや、いざや！",
    "ﾗｰﾒﾝ〜ー「々」ヴァ ♪ la-la don't I'LL",
    "  two  blanks\n\n and 𠮷野家 ",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("whisper") / "toy.pt"
    build_whisper(path)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint):
    made = checkpoint.parent / "toy"
    convert_whisper(checkpoint, made)
    return made


@pytest.mark.parametrize(("quantisation", "tolerance"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.02)])
def test_a_converted_whisper_hears_the_same(checkpoint, tmp_path, quantisation, tolerance):
    convert_whisper(checkpoint, tmp_path / "made", quantisation=quantisation)
    agreement = compare_whispers(checkpoint, tmp_path / "made", noise(4.0))
    assert agreement.encoder_error < tolerance
    assert len(agreement.tokens) == MAX_TOKENS
    same = [a == b for a, b in zip(agreement.tokens, agreement.converted_tokens, strict=True)]
    # Rounding to 8 bits may turn a token that was nearly a draw, and all after it.
    assert all(same[:40] if quantisation == "int8" else same)


def test_the_vocabulary_is_whispers_own(folder):
    names = json.loads((folder / "vocabulary.json").read_text("utf-8"))
    encoding = whisper.tokenizer.get_tokenizer(True).encoding
    assert len(names) == encoding.n_vocab
    for name in ("<|endoftext|>", "<|ja|>", "<|nospeech|>", "<|notimestamps|>", "<|30.00|>"):
        assert names.index(name) == encoding.encode_single_token(name)


@pytest.fixture(scope="module")
def tokenizers():
    with warnings.catch_warnings():
        # whisper leaves its vocabularies' files to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        encodings = [whisper.tokenizer.get_tokenizer(is_multilingual).encoding for is_multilingual in (True, False)]
    return [(encoding, build_tokenizer(encoding)) for encoding in encodings]


@pytest.mark.parametrize("text", HARD)
def test_hard_text_gets_whispers_token_ids(tokenizers, text):
    for encoding, tokenizer in tokenizers:
        assert tokenizer.encode(text).ids == encoding.encode(text)
        assert tokenizer.decode(encoding.encode(text)) == text


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<")))
def test_any_text_gets_whispers_token_ids(tokenizers, text):
    for encoding, tokenizer in tokenizers:
        assert tokenizer.encode(text).ids == encoding.encode(text)


def test_both_whispers_answer_alike(checkpoint, folder):
    wave_N = noise(4.0)
    reference = load_recogniser(str(checkpoint), GREEDY).transcribe(wave_N)
    fast = load_recogniser(str(folder), GREEDY, compute_type="float32").transcribe(wave_N)
    assert len(fast) == len(reference) > 0
    for ours, theirs in zip(fast, reference, strict=True):
        assert ours.keys() == theirs.keys() == Heard.__annotations__.keys()
        assert (ours["text"], ours["start_s"], ours["end_s"]) == (theirs["text"], theirs["start_s"], theirs["end_s"])
        for score in ("avg_logprob", "no_speech_prob", "compression_ratio"):
            assert ours[score] == pytest.approx(theirs[score], abs=2e-3)


@pytest.mark.parametrize("max_tokens", [2, 20, 90, MAX_TOKENS + 1])
def test_both_whispers_stop_at_the_same_token(checkpoint, folder, max_tokens):
    decoding = Decoding(language="ja", temperatures=(0.0,), max_tokens=max_tokens)
    asked = Decoding(language="ja", temperatures=(0.0,), max_tokens=min(max_tokens, MAX_TOKENS))
    (reference,) = load_recogniser(str(checkpoint), asked).transcribe(noise(4.0))
    (fast,) = load_recogniser(str(folder), decoding, compute_type="float32").transcribe(noise(4.0))
    assert fast["text"] == reference["text"]


def test_what_is_sampled_depends_on_the_wave_alone(folder):
    unsure = Decoding(language="ja", temperatures=(0.0, 1.0), max_tokens=60, min_avg_logprob=0.0)
    one, other = noise(4.0), noise(3.0)
    first = load_recogniser(str(folder), unsure)
    alone = first.transcribe(one)
    assert alone != load_recogniser(str(folder), GREEDY).transcribe(one)
    first.transcribe(other)
    assert first.transcribe(one) == alone
    assert load_recogniser(str(folder), unsure).transcribe(one) == alone


def test_neither_whisper_drops_what_a_gate_should_count(tmp_path):
    build_whisper(tmp_path / "doubting.pt")
    saved = torch.load(tmp_path / "doubting.pt", weights_only=True)
    state = saved["model_state_dict"]
    no_speech = whisper.tokenizer.get_tokenizer(True).no_speech
    row = state["decoder.token_embedding.weight"][no_speech].mul_(8.0)
    state["decoder.ln.bias"] += row * (40 / row.square().sum())
    torch.save(saved, tmp_path / "doubting.pt")
    convert_whisper(tmp_path / "doubting.pt", tmp_path / "doubting")
    doubting = Decoding(language="ja", temperatures=(0.0,), max_tokens=30, min_avg_logprob=0.0)
    for name in ("doubting.pt", "doubting"):
        (phrase,) = load_recogniser(str(tmp_path / name), doubting).transcribe(noise(4.0))
        assert phrase["no_speech_prob"] > 0.6
        assert phrase["text"]


def test_a_fast_recogniser_describes_itself(folder):
    recogniser = load_recogniser(str(folder), GREEDY)
    assert recogniser.sample_rate_hz == 16_000
    assert recogniser.stamp["model"] == "toy"
    assert recogniser.stamp["compute_type"].startswith("int8")
    assert recogniser.stamp["weights_sha256"] == weights_digest(folder)
    assert {"ctranslate2", "faster-whisper"} <= recogniser.stamp["versions"].keys()
    assert recogniser.transcribe(np.zeros(0, np.float32)) == []


def test_times_lie_within_short_and_silent_waves(folder):
    recogniser = load_recogniser(str(folder), Decoding(language=None, temperatures=(0.0,), max_tokens=20))
    waves = (noise(0.1), noise(0.025), np.zeros(48_000, np.float32))
    heard = [(wave_N, phrase) for wave_N in waves for phrase in recogniser.transcribe(wave_N)]
    assert heard
    for wave_N, phrase in heard:
        assert 0 <= phrase["start_s"] <= phrase["end_s"] <= wave_N.size / 16_000


def test_an_english_whisper_is_converted_too(tmp_path):
    build_whisper(tmp_path / "english.pt", n_vocab=51_864)
    convert_whisper(tmp_path / "english.pt", tmp_path / "english", quantisation="float32")
    english = Decoding(language="en", temperatures=(0.0,), max_tokens=30)
    reference = load_recogniser(str(tmp_path / "english.pt"), english).transcribe(noise(4.0))
    fast = load_recogniser(str(tmp_path / "english"), english, compute_type="float32").transcribe(noise(4.0))
    assert [phrase["text"] for phrase in fast] == [phrase["text"] for phrase in reference]
    with pytest.raises(ParamsError, match="english knows English only"):
        load_recogniser(str(tmp_path / "english"), GREEDY)


def test_loading_refuses_settings_that_cannot_be(folder, checkpoint):
    with pytest.raises(ParamsError, match="'klingon'"):
        load_recogniser(str(folder), Decoding(language="klingon"))
    with pytest.raises(ParamsError, match=r"compute_type 'int3' does not run .* take one of .*int8"):
        load_recogniser(str(folder), GREEDY, compute_type="int3")
    with pytest.raises(ParamsError, match=r"compute_type 'int8' is for .* CTranslate2"):
        load_recogniser(str(checkpoint), GREEDY, compute_type="int8")


def test_a_gpu_without_its_library_is_refused_with_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(asr_faster, "_CUBLAS", "libabsent.so.12")
    with pytest.raises(ParamsError, match=r"no libabsent.* `python -m pip install nvidia-cublas-cu12`"):
        load_recogniser(str(folder), GREEDY, device="cuda")


def test_the_library_of_a_wheel_is_found(tmp_path, monkeypatch):
    wheel = tmp_path / "nvidia" / "cublas" / "lib"
    wheel.mkdir(parents=True)
    # Any library will do: what matters is where it lies.
    shutil.copy(_ctypes.__file__, wheel / "libthere.so.12")
    monkeypatch.setattr(asr_faster, "_CUBLAS", "libthere.so.12")
    monkeypatch.syspath_prepend(tmp_path)
    asr_faster._load_cublas()
    assert str(wheel / "libthere.so.12") in Path("/proc/self/maps").read_text()


def test_loading_says_what_is_missing_or_damaged(folder, tmp_path):
    with pytest.raises(ContractError, match=r"lacks model.bin, config.json, tokenizer.json"):
        load_recogniser(str(tmp_path), GREEDY)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(ContractError, match="does not load") as caught:
        load_recogniser(str(tmp_path), GREEDY)
    assert "\n" not in str(caught.value)
    with pytest.raises(ContractError, match="recogniser: setlist/absent is neither"):
        load_recogniser("setlist/absent", GREEDY)


def test_converting_twice_gives_the_same_files(checkpoint, folder, tmp_path):
    convert_whisper(checkpoint, tmp_path / "again")
    names = sorted(path.name for path in folder.iterdir())
    assert {"model.bin", "tokenizer.json", "vocabulary.json"} <= set(names)
    assert [(folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names] == [True] * 6


def test_converting_refuses_to_overwrite_and_what_is_no_whisper(checkpoint, folder, tmp_path):
    with pytest.raises(ContractError, match="exists already"):
        convert_whisper(checkpoint, folder)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ContractError, match="is no Whisper checkpoint"):
        convert_whisper(tmp_path / "text.pt", tmp_path / "made")
    assert not (tmp_path / "made").exists()
