"""Vocals come back as long, as loud and at the rate of the mix; demucs itself is tested where it is installed."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.errors import ContractError, ParamsError
from pipeline.models.separator import load_separator, separate_at

RATE_HZ = 16_000
SOURCES = ["drums", "bass", "other", "vocals"]


def tone(hz: float, duration_s: float = 2.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def centre(mix_CN: np.ndarray) -> np.ndarray:
    """A separator of our own: vocals are what both channels share; here, at 44.1 kHz."""
    shared_N = np.sign(mix_CN[0]) * np.minimum(np.abs(mix_CN[0]), np.abs(mix_CN[1])) * (mix_CN[0] * mix_CN[1] > 0)
    return np.stack([shared_N, shared_N])


def separate_centre(wave_CN: np.ndarray, rate_hz: int = RATE_HZ) -> np.ndarray:
    return separate_at(centre, wave_CN, rate_hz, model_rate_hz=44_100, num_channels=2)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("num_samples", [1, 777, 32_001])
def test_vocals_are_as_long_as_the_mix(rate_hz, num_samples):
    for wave in (tone(440)[:num_samples], np.stack([tone(440)[:num_samples]] * 3)):
        vocals_N = separate_centre(wave, rate_hz)
        assert vocals_N.shape == (min(num_samples, 32_000),)
        assert vocals_N.dtype == np.float32
    assert separate_centre(np.zeros((2, 0), np.float32)).shape == (0,)


def test_what_the_channels_share_comes_back_in_place_and_at_its_level():
    vocals_N = tone(440)
    mix_CN = np.stack([vocals_N, vocals_N])
    found_N = separate_centre(mix_CN)
    assert np.abs(found_N - vocals_N)[100:-100].max() < 0.01
    assert np.abs(separate_centre(np.stack([vocals_N, -vocals_N]))).max() < 0.01


def test_mono_is_given_to_every_channel():
    assert np.abs(separate_centre(tone(440)) - tone(440))[100:-100].max() < 0.01


def test_without_demucs_the_install_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ParamsError, match=r"demucs is not installed; `python -m pip install 'setlist\[separate\]'`"):
        load_separator(str(tmp_path))


def write_network(path, *, seed: int, sources: list[str] = SOURCES, **header: str) -> None:
    """A Demucs of toy size with random weights, in the form in which its authors publish theirs."""
    from demucs.htdemucs import HTDemucs

    sizes = {"channels": 8, "bottom_channels": 32, "t_layers": 1, "t_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HTDemucs(sources=sources, segment=Fraction(2), **sizes)
    segment = {"_type": "fraction", "numerator": 2, "denominator": 1}
    about = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]"}
    about["kwargs"] = json.dumps({"sources": sources, "segment": segment, **sizes})
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path, metadata={**about, **header})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("separator")
    write_network(made / "one.safetensors", seed=0)
    (made / "toy.yaml").write_text("models: ['one']\n", "utf-8")
    return made


def test_demucs_gives_vocals_of_the_mix(folder):
    mix_CN = np.stack([tone(440, 5.0), tone(660, 5.0)])
    separator = load_separator(str(folder))
    vocals_N = separator.separate(mix_CN, RATE_HZ)
    assert vocals_N.shape == (mix_CN.shape[1],)
    assert np.isfinite(vocals_N).all()
    assert vocals_N.any()
    assert load_separator(str(folder)).separate(mix_CN, RATE_HZ).tobytes() == vocals_N.tobytes()
    louder_N = separator.separate(2 * mix_CN, RATE_HZ)
    np.testing.assert_allclose(louder_N, 2 * vocals_N, atol=1e-4)
    assert np.abs(separator.separate(np.zeros(RATE_HZ, np.float32), RATE_HZ)).max() < 1e-3


def test_only_networks_that_count_for_vocals_run(folder, tmp_path):
    write_network(tmp_path / "drums.safetensors", seed=1)
    (tmp_path / "voice.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    bag = {"models": ["drums", "voice"], "weights": [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]}
    (tmp_path / "toy_ft.yaml").write_text(yaml.safe_dump(bag), "utf-8")
    tuned, plain = load_separator(str(tmp_path)), load_separator(str(folder))
    assert tuned.separate(tone(440), RATE_HZ).tobytes() == plain.separate(tone(440), RATE_HZ).tobytes()
    assert (tuned.stamp["model"], tuned.stamp["bag"]) == ("toy_ft", bag)
    assert tuned.stamp["weights_sha256"] != plain.stamp["weights_sha256"]


def test_loading_refuses_what_is_no_separator(folder, tmp_path):
    with pytest.raises(ContractError, match=r"is no folder with one \.yaml"):
        load_separator("/absent/htdemucs")
    hostile, voiceless, damaged = (tmp_path / name for name in ("hostile", "voiceless", "damaged"))
    for place in (hostile, voiceless, damaged):
        place.mkdir()
        (place / "toy.yaml").write_text("models: ['one']\nsegment: 1\n", "utf-8")
    write_network(hostile / "one.safetensors", seed=0, klass="subprocess.Popen")
    with pytest.raises(ContractError, match=r"one\.safetensors holds subprocess\.Popen"):
        load_separator(str(hostile))
    write_network(voiceless / "one.safetensors", seed=0, sources=["drums", "bass"])
    with pytest.raises(ContractError, match="gives drums, bass, but no vocals"):
        load_separator(str(voiceless))
    (damaged / "one.safetensors").write_bytes((folder / "one.safetensors").read_bytes()[:500])
    with pytest.raises(ContractError, match="does not load"):
        load_separator(str(damaged))
