"""Converters: what becomes of every weight is printed, and none is left over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Config,
)

from pipeline.demo.vocabulary import build_t5_tokenizer
from pipeline.errors import ContractError
from pipeline.models.codec import load_codec
from pipeline.models.convert import main
from pipeline.models.convert_encodec import encodec_to_transformers
from pipeline.models.convert_musicgen import musicgen_to_audiocraft, musicgen_to_transformers
from pipeline.models.weights import read_pickle
from tests.pipeline.models.test_codec import build_codec, waves
from tests.pipeline.models.test_codec_formats import packages_state, save_audiocraft, save_released

TEXTS = ["a slow sad piano", "fast drums"]
CODEC = {
    "sampling_rate": 16_000, "target_bandwidths": [1.2], "upsampling_ratios": [8, 5, 4, 2], "num_filters": 4,
    "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64, "num_lstm_layers": 1, "use_causal_conv": False,
    "use_conv_shortcut": False,
}  # fmt: skip


def build_musicgen(folder: Path, *, texts: list[str], text_width: int = 48) -> None:
    """A MusicGen of random weights that are not all alike, with tokenizer, in transformers' format."""
    tokenizer = build_t5_tokenizer(texts)
    config = MusicgenConfig(
        text_encoder=T5Config(
            vocab_size=len(tokenizer), d_model=text_width, d_kv=12, d_ff=64, num_layers=1, num_heads=4
        ),
        audio_encoder=EncodecConfig(**CODEC),
        decoder=MusicgenDecoderConfig(
            vocab_size=64, num_codebooks=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
            pad_token_id=64, bos_token_id=64,
        ),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = MusicgenForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
        for layer in model.audio_encoder.quantizer.layers:
            torch.nn.init.normal_(layer.codebook.embed, std=0.1)
    model.generation_config = GenerationConfig(bos_token_id=64, pad_token_id=64, decoder_start_token_id=64)
    model.save_pretrained(folder)
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=16_000, padding_side="left")
    MusicgenProcessor(extractor, tokenizer).save_pretrained(folder)


def load_musicgen(folder: Path) -> Any:
    return MusicgenForConditionalGeneration.from_pretrained(folder).eval()


def same_weights(one: Any, other: Any) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("musicgen")
    build_musicgen(root / "transformers", texts=TEXTS)
    load_musicgen(root / "transformers").text_encoder.save_pretrained(root / "t5")
    build_t5_tokenizer(TEXTS).save_pretrained(root / "t5")
    musicgen_to_audiocraft(str(root / "transformers"), root / "audiocraft", text_encoder=str(root / "t5"))
    return {name: root / name for name in ("transformers", "t5", "audiocraft")}


def test_musicgen_there_and_back_is_the_same_to_the_bit(musicgen, tmp_path):
    conversion = musicgen_to_transformers(musicgen["audiocraft"], tmp_path / "back")
    same_weights(load_musicgen(tmp_path / "back"), load_musicgen(musicgen["transformers"]))
    assert conversion.mapped["linears.3.weight"] == "decoder.lm_heads.3.weight"
    names = "decoder.model.decoder.layers.1.encoder_attn.{q,k,v}_proj.weight"
    assert conversion.mapped["transformer.layers.1.cross_attention.in_proj_weight"] == names
    processor = MusicgenProcessor.from_pretrained(tmp_path / "back")
    assert processor.tokenizer.get_vocab() == build_t5_tokenizer(TEXTS).get_vocab()
    settings = load_musicgen(tmp_path / "back").generation_config
    assert (settings.guidance_scale, settings.decoder_start_token_id, settings.max_length) == (3.0, 64, 1500)


def change(musicgen, folder: Path, *, settings=("", ""), **weights) -> Path:
    """audiocraft's folder with other settings, or other weights: None takes one out."""
    folder.mkdir()
    package = torch.load(musicgen["audiocraft"] / "state_dict.bin", weights_only=True)
    assert settings[0] in package["xp.cfg"]
    package["xp.cfg"] = package["xp.cfg"].replace(*settings)
    state = package["best_state"] | {name.replace("__", "."): tensor for name, tensor in weights.items()}
    package["best_state"] = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save(package, folder / "state_dict.bin")
    (folder / "compression_state_dict.bin").write_bytes(
        (musicgen["audiocraft"] / "compression_state_dict.bin").read_bytes()
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra__weight": torch.zeros(1)}, "does not know 1 weights .extra.weight"),
        ({"linears__2__weight": None}, "lacks 1 weights .lm_heads.2.weight"),
        ({"linears__2__weight": torch.zeros(3, 3)}, "has other sizes for 1 weights"),
        ({"condition_provider__conditioners__self_wav__output_proj__bias": torch.zeros(1)}, "does not know 1"),
        ({"condition_provider__conditioners__description__output_proj__bias": None}, "lacks 1 weights .bias"),
        ({"settings": ("positional_embedding: sin", "positional_embedding: rope")}, "positional_embedding rope"),
        ({"settings": ("norm_first: true", "norm_first: false")}, "knows True only"),
        ({"settings": ("- 1\n", "- 0\n")}, "only mono MusicGen"),
    ],
)
def test_converting_musicgen_leaves_no_weight_and_no_setting_over(musicgen, tmp_path, changes, said):
    source = change(musicgen, tmp_path / "changed", **changes)
    with pytest.raises(ContractError, match=said):
        musicgen_to_transformers(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_converting_musicgen_refuses_what_is_none(musicgen, tmp_path):
    with pytest.raises(ContractError, match="does not load as weights alone"):
        musicgen_to_transformers(tmp_path, tmp_path / "out")
    torch.save([1], tmp_path / "state_dict.bin")
    with pytest.raises(ContractError, match=r"it lacks xp\.cfg"):
        musicgen_to_transformers(tmp_path, tmp_path / "out")
    with pytest.raises(ContractError, match="exists already"):
        musicgen_to_transformers(musicgen["audiocraft"], tmp_path)
    build_musicgen(tmp_path / "wide", texts=TEXTS, text_width=32)
    narrow = load_musicgen(tmp_path / "wide").text_encoder
    narrow.save_pretrained(tmp_path / "t5")
    with pytest.raises(ContractError, match="no projection between them"):
        musicgen_to_transformers(musicgen["audiocraft"], tmp_path / "out", text_encoder=str(tmp_path / "t5"))


def test_converting_musicgen_refuses_one_without_projection(tmp_path):
    build_musicgen(tmp_path / "wide", texts=TEXTS, text_width=32)
    with pytest.raises(ContractError, match="as wide as its T5"):
        musicgen_to_audiocraft(str(tmp_path / "wide"), tmp_path / "out")


def test_encodec_of_both_packages_becomes_a_transformers_folder(tmp_path):
    build_codec(tmp_path / "own", sampling_rate=24_000, target_bandwidths=[1.8], use_causal_conv=True)
    expected_KT = load_codec(str(tmp_path / "own")).encode(waves(24_000))[0]
    state = packages_state(tmp_path / "own")
    for number, source in enumerate(
        (save_released(state, tmp_path / "encodec"), save_audiocraft(state, tmp_path / "musicgen"))
    ):
        conversion = encodec_to_transformers(source, tmp_path / f"out{number}")
        assert set(conversion.mapped.values()) == set(EncodecModel.from_pretrained(tmp_path / "own").state_dict())
        np.testing.assert_array_equal(load_codec(str(tmp_path / f"out{number}")).encode(waves(24_000))[0], expected_KT)
    with pytest.raises(ContractError, match="transformers' own"):
        encodec_to_transformers(tmp_path / "own", tmp_path / "again")


@pytest.mark.parametrize("kind", ["musicgen", "encodec", "clap", "whisper"])
def test_the_command_refuses_what_is_not_there_in_one_line(tmp_path, capsys, kind):
    with pytest.raises(SystemExit) as caught:
        main([kind, str(tmp_path / "nothing.pt"), str(tmp_path / "out")])
    assert caught.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "nothing" in said.err
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_became_of_every_weight_both_ways(musicgen, tmp_path, capsys):
    main(["musicgen", str(musicgen["transformers"]), str(tmp_path / "there"), "--text-encoder", str(musicgen["t5"])])
    there = capsys.readouterr().out
    assert "decoder.model.decoder.layers.0.fc1.weight -> transformer.layers.0.linear1.weight\n" in there
    assert "audio_encoder.decoder.layers.3.conv.bias -> compression: decoder.model.3.convtr.convtr.bias\n" in there
    assert "text_encoder.shared.weight: not needed there\n" in there
    assert "lets attention see zeroed padding" in there
    main(["musicgen", str(tmp_path / "there"), str(tmp_path / "back")])
    back = capsys.readouterr().out
    assert "transformer.layers.0.linear1.weight -> decoder.model.decoder.layers.0.fc1.weight\n" in back
    assert "0 not needed, none left over" in back
    same_weights(load_musicgen(tmp_path / "back"), load_musicgen(musicgen["transformers"]))


def test_the_command_converts_encodec(tmp_path, capsys):
    build_codec(tmp_path / "own", sampling_rate=24_000, target_bandwidths=[1.8], use_causal_conv=True)
    main(["encodec", str(save_released(packages_state(tmp_path / "own"), tmp_path)), str(tmp_path / "out")])
    assert "encoder.model.0.conv.conv.weight_g -> encoder.layers.0.conv.parametrizations" in capsys.readouterr().out
    assert load_codec(str(tmp_path / "out")).num_codebooks == 4


def test_help_of_the_command_answers_at_once_and_names_every_kind():
    code = "import sys, pipeline.models.convert as c; c.build_parser(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    command = [sys.executable, "-m", "pipeline.models.convert", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"\n{kind} " in printed for kind in ("musicgen", "encodec", "clap", "whisper"))


class Shell:
    """What nobody expects among weights."""


def test_numbers_beside_weights_are_read_and_objects_are_not(tmp_path):
    torch.save({"best": np.float64(0.5), "steps": np.int64(3), "weight": torch.ones(2)}, tmp_path / "fine.pt")
    assert read_pickle(tmp_path / "fine.pt", role="test")["best"] == 0.5
    torch.save({"weight": Shell()}, tmp_path / "object.pt")
    with pytest.raises(ContractError, match="without other objects"):
        read_pickle(tmp_path / "object.pt", role="test")
