"""Long waves: windows give the codes of one pass, and memory does not grow with the length."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel

from pipeline.models.codec import load_codec
from pipeline.models.codec_windows import (
    Context,
    cut_encoder,
    encode_in_windows,
    measure_context,
    right_context_frames,
)
from tests.pipeline.models.test_codec import HOP, RATE_HZ, build_codec

# The two kinds of encoder, with the strides and kernels of the published ones; 8, 5, 4, 4 makes 640 samples.
MUSICGEN = {"upsampling_ratios": [8, 5, 4, 4], "use_causal_conv": False, "use_conv_shortcut": False}
CAUSAL = {"upsampling_ratios": [8, 5, 4, 2], "use_causal_conv": True, "use_conv_shortcut": True}


def build_encoder(**changes):
    sizes = {"num_filters": 4, "hidden_size": 16, "num_lstm_layers": 2, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig(**sizes)).eval()
    return model.encoder, model.config.hop_length


ENCODERS = {"musicgen": build_encoder(**MUSICGEN), "causal": build_encoder(**CAUSAL)}


def noise(num_samples: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, num_samples)).astype(np.float32) * 0.3)


def test_context_of_the_published_encoders_follows_from_their_sizes():
    encoder, hop = ENCODERS["musicgen"]
    stages = cut_encoder(encoder)
    assert measure_context(stages.front, hop_samples=hop) == Context(1, 1)
    assert measure_context(stages.back) == Context(3, 3)
    assert right_context_frames(encoder, hop) == 4
    encoder, hop = ENCODERS["causal"]
    stages = cut_encoder(encoder)
    assert measure_context(stages.front, hop_samples=hop) == Context(2, 0)
    assert measure_context(stages.back) == Context(6, 0)
    assert right_context_frames(encoder, hop) == 0


@pytest.mark.parametrize("kind", ENCODERS)
def test_sound_beyond_the_right_context_changes_nothing_and_within_it_something(kind):
    encoder, hop = ENCODERS[kind]
    right = right_context_frames(encoder, hop)
    wave_11N = noise(40 * hop)
    changed_11N = wave_11N.clone()
    changed_11N[..., (20 + right) * hop :] += 0.3
    with torch.inference_mode():
        before_DT, after_DT = encoder(wave_11N)[0], encoder(changed_11N)[0]
    np.testing.assert_array_equal(before_DT[:, :20].numpy(), after_DT[:, :20].numpy())
    assert (before_DT[:, 20] != after_DT[:, 20]).any()


def test_sound_of_long_ago_still_changes_an_encoding():
    encoder, hop = build_encoder(**MUSICGEN)
    with torch.no_grad():  # a forget gate that stays open, as a trained one may
        for name, parameter in cut_encoder(encoder).lstm.lstm.named_parameters():
            if name.startswith("bias_ih"):
                parameter.chunk(4)[1].fill_(8.0)
    wave_11N = noise(200 * hop)
    with torch.inference_mode():
        whole_DT, tail_DT = encoder(wave_11N)[0], encoder(wave_11N[..., 50 * hop :])[0]
        joined = encode_in_windows(cut_encoder(encoder), wave_11N, hop_samples=hop, window_frames=50)
        joined_DT = torch.cat(list(joined), dim=-1)[0]
    # Cutting the left off loses what the LSTM remembers, 3 s later too; carrying its state does not.
    assert (whole_DT[:, -1] - tail_DT[:, -1]).abs().max() > 1e-2
    np.testing.assert_allclose(joined_DT.numpy(), whole_DT.numpy(), atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("sizes", [{"num_filters": 64, **MUSICGEN}, {"num_filters": 32, **CAUSAL}])
def test_latents_of_encoders_of_the_published_sizes_are_equal_to_the_bit(sizes):
    encoder, hop = build_encoder(hidden_size=128, **sizes)
    wave_11N = noise(600 * hop)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        whole_DT = encoder(wave_11N)[0]
        for window_frames in (250, 77):
            found = encode_in_windows(cut_encoder(encoder), wave_11N, hop_samples=hop, window_frames=window_frames)
            np.testing.assert_array_equal(torch.cat(list(found), dim=-1)[0].numpy(), whole_DT.numpy())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ENCODERS)
@given(num_frames=st.integers(1, 90), window_frames=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_windows_give_the_latents_of_one_pass(kind, num_frames, window_frames):
    encoder, hop = ENCODERS[kind]
    wave_11N = noise(num_frames * hop)
    with torch.inference_mode():
        found = list(encode_in_windows(cut_encoder(encoder), wave_11N, hop_samples=hop, window_frames=window_frames))
        whole_DT = encoder(wave_11N)[0]
    joined_DT = torch.cat(found, dim=-1)[0]
    assert joined_DT.shape == whole_DT.shape
    np.testing.assert_allclose(joined_DT.numpy(), whole_DT.numpy(), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_codes_of_long_waves_equal_those_of_one_pass(tmp_path, causal):
    build_codec(tmp_path, use_causal_conv=causal)
    random = np.random.default_rng(1)
    long = [random.normal(size=length).astype(np.float32) * 0.3 for length in (RATE_HZ * 21, RATE_HZ * 21, 7 * HOP)]
    one_pass = load_codec(str(tmp_path), window_s=1e6).encode(long)
    for window_s in (10.0, 3.3, 1.0):
        for ours_KT, whole_KT in zip(load_codec(str(tmp_path), window_s=window_s).encode(long), one_pass, strict=True):
            np.testing.assert_array_equal(ours_KT, whole_KT)


MEASURE = """
import resource, sys
import numpy as np, torch
from pipeline.models.codec import load_codec
torch.set_num_threads(1)
codec = load_codec(sys.argv[1], window_s=float(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wave_N = np.zeros(int(sys.argv[3]) * codec.sample_rate_hz, np.float32)
(codes_KT,) = codec.encode([wave_N])
print(codes_KT.shape[1], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_of_ten_minutes_is_that_of_a_window(tmp_path):
    build_codec(tmp_path, num_filters=8)

    command = [sys.executable, "-c", MEASURE, str(tmp_path), "10", "600"]
    frames, grown_mb = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(frames) == 600 * RATE_HZ // HOP
    # Ten minutes are 37 MB as a wave, in two copies; in one pass each array of the first layers would be 307 MB.
    assert float(grown_mb) < 200
