"""Mel features: those of transformers' extractor, for any sound of up to a window, whatever else is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ClapFeatureExtractor

from pipeline.models.clap_mel import MelFeatures

EXTRACTOR = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
# Other sizes throughout, as a preprocessor_config.json may have them.
OTHER = ClapFeatureExtractor(
    frequency_min=50, frequency_max=7_000, feature_size=40, sampling_rate=16_000, hop_length=200, fft_window_size=512,
    max_length_s=3, truncation="fusion", padding="pad",
)  # fmt: skip
TOLERANCE_DB = 1e-4


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def theirs(extractor, windows_N) -> np.ndarray:
    found = extractor(
        windows_N,
        sampling_rate=extractor.sampling_rate,
        truncation="rand_trunc",
        padding="repeatpad",
        return_tensors="np",
    )
    return found["input_features"]


def sound(kind: str, num_samples: int, seed: int) -> np.ndarray:
    random, t_N = np.random.default_rng(seed), np.arange(num_samples)
    waves = {
        "noise": lambda: 10 ** random.uniform(-5, 0) * random.standard_normal(num_samples),
        # A pure tone: all bands but one are as quiet as arithmetic allows, which single precision would show.
        "tone": lambda: np.sin(t_N * random.uniform(0.01, 1.5)),
        "clicks": lambda: (random.random(num_samples) < 1e-3) * random.uniform(-1, 1, num_samples),
        "constant": lambda: np.full(num_samples, 0.7),
        "silence": lambda: np.zeros(num_samples),
        "pcm": lambda: np.round(np.sin(t_N * 0.02) * 300) / 32768,
    }
    return waves[kind]().astype(np.float32)


KINDS = st.sampled_from(["noise", "tone", "clicks", "constant", "silence", "pcm"])


@pytest.mark.parametrize("extractor", [EXTRACTOR, OTHER], ids=["laion", "other"])
@given(kinds=st.lists(KINDS, min_size=1, max_size=3), share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_features_equal_those_of_transformers(extractor, kinds, share, seed):
    size = max(1, round(share * extractor.nb_max_samples))
    windows_N = [sound(kind, size if n else extractor.nb_max_samples, seed + n) for n, kind in enumerate(kinds)]
    found = MelFeatures(extractor, "cpu")(windows_N)
    expected = theirs(extractor, windows_N)
    assert (found.dtype, tuple(found.shape)) == (torch.float32, expected.shape)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=TOLERANCE_DB)


@pytest.mark.parametrize("num_samples", [1, 2, 480, 159_999, 160_000, 160_001, 240_000, 240_001, 479_999, 480_000])
def test_short_windows_repeat_as_in_training(num_samples):
    window_N = sound("noise", num_samples, 3)
    found = MelFeatures(EXTRACTOR, "cpu")([window_N])
    np.testing.assert_allclose(found.numpy(), theirs(EXTRACTOR, [window_N]), rtol=0, atol=TOLERANCE_DB)


def test_features_do_not_depend_on_their_company():
    features = MelFeatures(EXTRACTOR, "cpu")
    windows_N = [sound("noise", size, size) for size in (480_000, 100, 480_000, 77_777, 480_000)]
    alone = torch.cat([features([window_N]) for window_N in windows_N])
    np.testing.assert_array_equal(features(windows_N).numpy(), alone.numpy())


def test_windows_of_other_lengths_are_refused_not_cut_at_random():
    features = MelFeatures(EXTRACTOR, "cpu")
    for size in (0, 480_001):
        with pytest.raises(ValueError, match=f"1 to 480000 samples, not {size}"):
            features([np.zeros(size, np.float32)])
