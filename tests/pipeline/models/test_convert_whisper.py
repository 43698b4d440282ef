"""Whisper as transformers reads it writes what openai-whisper's writes.

Shape letters: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import whisper
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from pipeline.errors import ContractError
from pipeline.models.asr_openai import load_vocabulary, load_whisper
from pipeline.models.convert import main
from tests.pipeline.models.test_asr import build_whisper, noise


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("whisper") / "toy.pt"
    build_whisper(path)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint):
    main(["whisper", str(checkpoint), str(checkpoint.parent / "made"), "--to", "transformers"])
    return checkpoint.parent / "made"


def test_logits_equal_those_of_openai_whisper(checkpoint, folder):
    original, converted = load_whisper(checkpoint), WhisperForConditionalGeneration.from_pretrained(folder)
    tokens = torch.tensor([[*load_vocabulary(original, language="ja", task="transcribe").sot_sequence, 50_364, 7, 99]])
    wave_N = noise(4.0)
    mel = whisper.log_mel_spectrogram(torch.from_numpy(whisper.pad_or_trim(wave_N)), original.dims.n_mels)[None]
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    features = extractor(wave_N, sampling_rate=16_000, return_tensors="pt").input_features
    np.testing.assert_allclose(features.numpy(), mel.numpy(), atol=1e-4)
    with torch.inference_mode():
        theirs_BLV = original(mel, tokens)
        ours_BLV = converted(input_features=features, decoder_input_ids=tokens).logits
    assert theirs_BLV.std() > 0.1
    np.testing.assert_allclose(ours_BLV.numpy(), theirs_BLV.numpy(), atol=1e-4)


def test_it_writes_the_same_tokens_greedily(checkpoint, folder):
    original, converted = load_whisper(checkpoint), WhisperForConditionalGeneration.from_pretrained(folder)
    mel = whisper.log_mel_spectrogram(torch.from_numpy(whisper.pad_or_trim(noise(4.0))), original.dims.n_mels)[None]
    options = whisper.DecodingOptions(language="ja", without_timestamps=True, fp16=False, sample_len=30)
    with torch.inference_mode():
        (theirs,) = original.decode(mel, options)
        (ours,) = converted.generate(mel, language="ja", task="transcribe", max_new_tokens=30, do_sample=False)
    assert len(theirs.tokens) > 5
    assert ours.tolist()[-len(theirs.tokens) :] == theirs.tokens


def test_the_vocabulary_comes_along(checkpoint, folder):
    encoding = load_vocabulary(load_whisper(checkpoint)).encoding
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == encoding.n_vocab
    for text in ("さくら さくら やよいの空は", "la-la don't I'LL"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == encoding.encode(text)
        assert tokenizer.decode(ids) == text


def test_the_command_still_makes_faster_whispers_folder(checkpoint, tmp_path, capsys):
    main(["whisper", str(checkpoint), str(tmp_path / "fast"), "--quantisation", "float32"])
    assert (tmp_path / "fast" / "model.bin").is_file()
    assert "encoder.conv1.weight -> model.bin\n" in capsys.readouterr().out


def test_converting_whisper_refuses_a_weight_too_many(checkpoint, tmp_path):
    from pipeline.models.convert_whisper import whisper_to_transformers

    package = torch.load(checkpoint, weights_only=True)
    package["model_state_dict"]["extra"] = torch.zeros(1)
    torch.save(package, tmp_path / "more.pt")
    with warnings.catch_warnings(), pytest.raises(ContractError, match="no Whisper checkpoint"):
        whisper_to_transformers(tmp_path / "more.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
