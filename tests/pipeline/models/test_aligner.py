"""The aligner: windows change nothing, a learnt one finds sounds where they are, damaged checkpoints are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline.errors import ContractError
from pipeline.lyrics.align import spell
from pipeline.models import aligner as aligner_module
from pipeline.models.aligner import AlignerConfig, CtcAligner, load_aligner
from pipeline.models.networks import save_network

RATE_HZ = 16_000
FORMANTS_HZ = {"ア": (800, 1300), "イ": (300, 2300), "ウ": (350, 1100), "エ": (500, 1900), "オ": (450, 800)}
VOCABULARY = ("", *FORMANTS_HZ)


def build_network(width: int = 32) -> CtcAligner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CtcAligner(AlignerConfig(vocabulary=VOCABULARY, width=width, dilations=(1, 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("aligner")
    network = build_network()
    save_network(network, network.config, made)
    return made


def sung(rng: np.random.Generator, num_sounds: int) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Vowels of random length, pitch and level, as sums of harmonics below formant curves; rests between some."""
    parts, labels, now_s = [np.zeros(RATE_HZ // 4)], [], 0.25
    for name in rng.choice(list(FORMANTS_HZ), num_sounds):
        length_s, rest_s = rng.uniform(0.12, 0.5), rng.choice([0.06, 0.3])
        t_N = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
        harmonics_hz = rng.uniform(150, 400) * np.arange(1, 16)
        levels = sum(np.exp(-(((harmonics_hz - peak_hz) / 200) ** 2)) for peak_hz in FORMANTS_HZ[name])
        wave_N = (levels[:, None] * np.sin(2 * np.pi * harmonics_hz[:, None] * t_N)).sum(axis=0) * np.hanning(t_N.size)
        parts += [wave_N * rng.uniform(0.05, 0.2), np.zeros(round(rest_s * RATE_HZ))]
        labels.append((str(name), now_s, now_s + t_N.size / RATE_HZ))
        now_s += (t_N.size + parts[-1].size) / RATE_HZ
    wave_N = np.concatenate(parts)
    return (wave_N + rng.normal(size=wave_N.size) * 0.002).astype(np.float32), labels


def frame_targets(labels: list[tuple[str, float, float]], num_frames: int, frame_s: float) -> np.ndarray:
    target_T = np.zeros(num_frames, np.int64)
    for name, start_s, end_s in labels:
        target_T[round(start_s / frame_s) : round(end_s / frame_s)] = VOCABULARY.index(name)
    return target_T


def learn(network: CtcAligner, *, num_steps: int) -> None:
    rng, edge, frame_samples = np.random.default_rng(0), network.edge_samples, network.config.frame_samples
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(num_steps):
        wave_N, labels = sung(rng, 12)
        wave_N = wave_N[: wave_N.size // frame_samples * frame_samples]
        target_T = frame_targets(labels, wave_N.size // frame_samples, frame_samples / RATE_HZ)
        log_prob_TV = network(torch.from_numpy(np.pad(wave_N, edge))[None])[0]
        loss = torch.nn.functional.nll_loss(log_prob_TV, torch.from_numpy(target_T))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_a_learnt_aligner_finds_sounds_where_they_are(tmp_path):
    torch.set_num_threads(1)
    network = build_network()
    learn(network, num_steps=120)
    save_network(network, network.config, tmp_path)
    aligner = load_aligner(str(tmp_path))
    wave_N, labels = sung(np.random.default_rng(1), 40)
    tokens = spell([name for name, *_ in labels], {name: index for index, name in enumerate(VOCABULARY)})
    spans_L3 = aligner.align(wave_N, tokens)
    truth_L2 = np.array([times_s for _, *times_s in labels])
    assert np.median(np.abs(spans_L3[:, :2] - truth_L2)) < 0.04
    assert abs(np.median(spans_L3[:, :2] - truth_L2)) < 0.02  # neither early nor late
    wrong = aligner.align(wave_N, spell(["ア", "オ"] * 20, {name: index for index, name in enumerate(VOCABULARY)}))
    assert wrong[:, 2].mean() < 0.8 * spans_L3[:, 2].mean()


def test_posteriors_are_distributions_of_every_frame(folder):
    aligner = load_aligner(str(folder))
    assert (aligner.frame_s, aligner.sample_rate_hz, aligner.vocabulary) == (0.02, RATE_HZ, VOCABULARY)
    for num_samples, num_frames in ((0, 0), (1, 1), (320, 1), (321, 2), (16_000, 50)):
        log_prob_TV = aligner.log_posteriors(np.zeros(num_samples, np.float32))
        assert log_prob_TV.shape == (num_frames, len(VOCABULARY))
        np.testing.assert_allclose(np.exp(log_prob_TV).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("window_frames", [40, 333, 1500])
def test_a_long_recording_in_windows_is_as_in_one(folder, monkeypatch, window_frames):
    aligner = load_aligner(str(folder))
    wave_N, _ = sung(np.random.default_rng(2), 40)
    monkeypatch.setattr(aligner_module, "_WINDOW_FRAMES", 10**6)
    whole_TV = aligner.log_posteriors(wave_N)
    monkeypatch.setattr(aligner_module, "_WINDOW_FRAMES", window_frames)
    assert len(whole_TV) > window_frames or window_frames == 1500
    np.testing.assert_allclose(aligner.log_posteriors(wave_N), whole_TV, atol=1e-5)


def test_only_the_context_decides_a_frame(folder):
    aligner, context_frames = load_aligner(str(folder)), build_network().config.context_frames
    wave_N, _ = sung(np.random.default_rng(3), 20)
    loud_N = wave_N.copy()
    loud_N[: 100 * 320] += 0.5
    before_TV, after_TV = aligner.log_posteriors(wave_N), aligner.log_posteriors(loud_N)
    assert not np.allclose(before_TV[90:100], after_TV[90:100])
    np.testing.assert_allclose(before_TV[100 + context_frames :], after_TV[100 + context_frames :], atol=1e-5)


def test_a_wave_too_short_for_its_text_is_refused(folder):
    with pytest.raises(ValueError, match="5 tokens need 9 frames, and there are 3"):
        load_aligner(str(folder)).align(np.zeros(960, np.float32), [1] * 5)


def test_the_stamp_names_the_weights(folder):
    stamp = load_aligner(str(folder)).stamp
    assert stamp["model"] == folder.name
    assert len(stamp["weights_sha256"]) == 64


def test_loading_refuses_what_is_no_aligner(folder, tmp_path):
    with pytest.raises(ContractError, match="aligner: no folder"):
        load_aligner("/absent")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    damaged = {
        "empty": (None, None),
        "damaged": (config, weights[:100]),
        "wider": (config | {"width": 48}, weights),
        "foreign": ({"hidden_size": 32}, weights),
    }
    for name, (values, content) in damaged.items():
        place = tmp_path / name
        place.mkdir()
        if values is not None:
            (place / "config.json").write_text(json.dumps(values), "utf-8")
            (place / "model.safetensors").write_bytes(content)
        with pytest.raises(ContractError, match=f"aligner: .*{name} does not load") as caught:
            load_aligner(str(place))
        assert "\n" not in str(caught.value)
