"""The classifier: keys learnt in some transpositions are heard in all, company changes nothing, damage is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import ContractError
from pipeline.models.classifier import (
    KEYS,
    ClassifierConfig,
    FactNetwork,
    load_classifier,
    semitone_filters,
)
from pipeline.models.networks import save_network

RATE_HZ = 16_000
CLIP_S = 1.0
INSTRUMENTS = ("bright", "dull")


def play_chord(tonic: int, *, is_minor: bool, instrument: str, rng: np.random.Generator) -> np.ndarray:
    """A triad over a bass, harmonics falling steeply or not at all, in a little noise."""
    time_N = np.arange(round(CLIP_S * RATE_HZ)) / RATE_HZ
    wave_N = rng.normal(0, 0.001, time_N.size)
    for step in (-12, 0, 3 if is_minor else 4, 7):
        base_hz = 440 * 2 ** ((60 + tonic + step - 69) / 12)
        for harmonic in range(1, 6):
            level = 0.03 * rng.uniform(0.7, 1.3) * (1.0 if instrument == "bright" else 3.0 ** (1 - harmonic))
            wave_N += level * np.sin(2 * np.pi * (base_hz * harmonic * time_N + rng.random()))
    return wave_N.astype(np.float32)


def build_network(width: int = 8) -> FactNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FactNetwork(ClassifierConfig(classes={"instrument": INSTRUMENTS}, width=width))


def draw(rng: np.random.Generator, tonics: range, count: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    tonic_B, minor_B = rng.choice(tonics, count), rng.integers(2, size=count)
    instrument_B = rng.integers(2, size=count)
    waves = [
        play_chord(int(tonic), is_minor=bool(minor), instrument=INSTRUMENTS[instrument], rng=rng)
        for tonic, minor, instrument in zip(tonic_B, minor_B, instrument_B, strict=True)
    ]
    return waves, 12 * minor_B + tonic_B, instrument_B


def learn(network: FactNetwork, *, num_steps: int) -> None:
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    waves, key_B, instrument_B = draw(rng, range(3, 9), 32)
    with torch.no_grad():
        spectra = network.listen(torch.from_numpy(np.stack(waves)))
    network.train()
    for _ in range(num_steps):
        named = network(spectra)
        loss = torch.nn.functional.nll_loss(named["key"], torch.from_numpy(key_B))
        loss = loss + torch.nn.functional.nll_loss(named["instrument"], torch.from_numpy(instrument_B))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("classifier")
    network = build_network()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learn(network, num_steps=40)
    save_network(network.half(), network.config, made)
    return made


def test_keys_learnt_in_half_of_all_transpositions_are_heard_in_the_others(folder):
    classifier = load_classifier(str(folder))
    waves, key_B, instrument_B = draw(np.random.default_rng(1), range(9, 12), 24)
    named = classifier.classify(waves)
    assert (named["mode"].argmax(axis=1) == key_B // 12).mean() >= 0.9
    assert (named["key"].argmax(axis=1) == key_B).mean() >= 0.8
    assert (named["instrument"].argmax(axis=1) == instrument_B).mean() >= 0.9


def test_probabilities_sum_to_one_and_a_mode_to_its_keys(folder):
    classifier = load_classifier(str(folder))
    assert classifier.sample_rate_hz == RATE_HZ
    assert classifier.classes == {"instrument": INSTRUMENTS, "key": KEYS, "mode": ("major", "minor")}
    rng = np.random.default_rng(2)
    noises = [rng.normal(0, 0.1, size).astype(np.float32) for size in (1, 700, 3 * RATE_HZ)]
    named = classifier.classify([*noises, np.zeros(RATE_HZ, np.float32)])
    for name, values in classifier.classes.items():
        assert named[name].shape == (4, len(values))
        assert np.abs(named[name].sum(axis=1) - 1).max() < 1e-5
    assert np.abs(named["key"].reshape(4, 2, 12).sum(axis=2) - named["mode"]).max() < 1e-5


def test_company_changes_nothing(folder):
    classifier = load_classifier(str(folder))
    waves, _, _ = draw(np.random.default_rng(3), range(12), 3)
    waves.append(waves[0][: RATE_HZ // 2])
    together = classifier.classify(waves)
    for index, wave_N in enumerate(waves):
        alone = classifier.classify([wave_N])
        assert all(np.array_equal(alone[name][0], together[name][index]) for name in together)
    assert classifier.classify([])["mode"].shape == (0, 2)


def test_half_precision_says_what_full_precision_says(folder, tmp_path):
    state = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors")
    waves, _, _ = draw(np.random.default_rng(4), range(12), 2)
    half, full = load_classifier(str(folder)), load_classifier(str(tmp_path))
    assert np.array_equal(half.classify(waves)["key"], full.classify(waves)["key"])
    assert half.stamp["weights_sha256"] != full.stamp["weights_sha256"]
    assert {"model", "weights_sha256", "versions", "sample_rate_hz"} <= half.stamp.keys()


def test_an_empty_wave_is_refused(folder):
    with pytest.raises(ValueError, match="without samples"):
        load_classifier(str(folder)).classify([np.zeros(0, np.float32)])


def test_damaged_checkpoints_are_refused(folder, tmp_path):
    with pytest.raises(ContractError, match="classifier: no folder"):
        load_classifier(str(tmp_path / "absent"))
    with pytest.raises(ContractError, match="does not load"):
        load_classifier(str(tmp_path))
    config = json.loads((folder / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 4}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ContractError, match="does not load"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize("midi", [48, 60, 69, 84, 100])
def test_a_tone_lights_its_own_semitone(midi: int):
    config = ClassifierConfig(classes={})
    size = config.semitone_window_samples
    tone_N = np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * np.arange(size) / RATE_HZ) * np.hanning(size)
    power_P = np.abs(np.fft.rfft(tone_N)) ** 2 @ semitone_filters(config).numpy()
    assert config.lowest_midi + power_P.argmax() == midi
    assert np.delete(power_P, midi - config.lowest_midi).max() < 0.6 * power_P.max()
