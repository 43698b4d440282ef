"""Encode and embed beside the bare models: what surrounds them costs little, bf16 and the features gain.

CPU time on one thread, in turns, medians: ratios within one run. Models of the published shapes with random weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor, EncodecModel

from pipeline.data.shards import write_shard
from pipeline.models.clap import load_embedder
from pipeline.models.clap_mel import MelFeatures
from pipeline.models.codec import load_codec
from pipeline.models.codec_precision import use_bf16
from stages.encode import EncodeParams, EncodeStep
from tests.bench.encoders import build_clap, build_codec, music, write_clips

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
CODEC_HZ, CLAP_HZ = 32_000, 48_000
CLIP_S = 10.0
NUM_CLIPS = 8
ENCODED_S = 5.0
BATCHES = (1, 4, 8)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_codec(tmp_path_factory.mktemp("codec"), "encodec 32 kHz")


def medians_s(contestants: dict[str, Callable[[], Any]], num_rounds: int) -> dict[str, float]:
    """CPU seconds of each, in turns, so that a busy moment meets all alike; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_rounds + 1):
        for name, call in contestants.items():
            start = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(its) for name, its in seconds.items()}


def test_encode_costs_at_most_a_twentieth_more_than_its_model(codec_folder: Path, tmp_path: Path):
    waves_N = [music(seed, ENCODED_S, CODEC_HZ) for seed in range(NUM_CLIPS)]
    task = write_clips(tmp_path / "000000.tar", waves_N, CODEC_HZ)
    bare: Any = EncodecModel.from_pretrained(codec_folder).eval()
    wave_B1N = torch.from_numpy(np.stack(waves_N))[:, None]

    def encode_bare(batch_size: int) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([bare.encode(part_B1N).audio_codes[0] for part_B1N in wave_B1N.split(batch_size)])

    step = EncodeStep(EncodeParams(), str(codec_folder), "cpu")
    contestants: dict[str, Callable[[], Any]] = {f"bare, batch {n}": lambda n=n: encode_bare(n) for n in BATCHES}
    contestants["stage"] = lambda: write_shard(tmp_path / "out.tar", step(task))
    cpu_s = medians_s(contestants, num_rounds=2)
    audio_s = NUM_CLIPS * ENCODED_S
    print()
    for name, seconds in cpu_s.items():
        print(f"encodec 32 kHz, fp32; {name}: {audio_s / seconds:.2f} s of audio per CPU second")
    ratio = cpu_s["stage"] / min(seconds for name, seconds in cpu_s.items() if name != "stage")
    print(f"encode: {ratio - 1:+.1%} over the bare model's best batch")
    # Goal: 5 %. What surrounds the model takes 0.5 % of its time; the rest is noise between passes of the model.
    assert ratio <= 1.10


def test_what_surrounds_the_codec(codec_folder: Path, tmp_path: Path):
    """The share itself, within one pass, where noise between passes does not reach it."""
    waves_N = [music(seed, ENCODED_S, CODEC_HZ) for seed in range(NUM_CLIPS)]
    task = write_clips(tmp_path / "000000.tar", waves_N, CODEC_HZ)
    step = EncodeStep(EncodeParams(), str(codec_folder), "cpu")
    inside_s = 0.0
    encode_batch = step.codec._encode_batch  # pyright: ignore

    def timed(waves_BN: Any) -> Any:
        nonlocal inside_s
        before = time.process_time()
        codes = encode_batch(waves_BN)
        inside_s += time.process_time() - before
        return codes

    step.codec._encode_batch = timed  # pyright: ignore
    start = time.process_time()
    write_shard(tmp_path / "out.tar", step(task))
    around_s = time.process_time() - start - inside_s
    print(f"\nencode: around the model {around_s / inside_s:.2%} of its time ({inside_s:.1f} CPU s)")
    assert around_s <= 0.05 * inside_s


def test_codec_in_bf16_against_fp32(codec_folder: Path):
    waves_N = [music(seed, 4.0, CODEC_HZ) for seed in range(4)]
    exact, lowered = (load_codec(str(codec_folder), batch_size=4) for _ in range(2))
    use_bf16(lowered, min_agreement=0.0)
    cpu_s = medians_s({"fp32": lambda: exact.encode(waves_N), "bf16": lambda: lowered.encode(waves_N)}, num_rounds=3)
    ratio = cpu_s["fp32"] / cpu_s["bf16"]
    print(f"\nencodec 32 kHz: bf16 {ratio:.2f} x fp32; agreement of codes {lowered.stamp['agreement']}, random weights")
    assert ratio > 1.0


def test_clap_in_bf16_against_fp32(tmp_path: Path):
    folder = build_clap(tmp_path, "clap HTSAT-tiny")
    waves_N = [music(seed, CLIP_S, CLAP_HZ) for seed in range(NUM_CLIPS)]
    exact, lowered = (load_embedder(str(folder), precision=precision) for precision in ("fp32", "bf16"))
    cpu_s = medians_s(
        {"fp32": lambda: exact.embed_audio(waves_N), "bf16": lambda: lowered.embed_audio(waves_N)}, num_rounds=3
    )
    ratio = cpu_s["fp32"] / cpu_s["bf16"]
    cosine = float((exact.embed_audio(waves_N) * lowered.embed_audio(waves_N)).sum(axis=1).min())
    print(
        f"\nclap HTSAT-tiny, features included: fp32 {NUM_CLIPS / cpu_s['fp32']:.1f}, bf16 "
        f"{NUM_CLIPS / cpu_s['bf16']:.1f} clips of 10 s per CPU second, {ratio:.2f} x; least cosine {cosine:.5f}"
    )
    assert cosine >= 0.999
    # Goal: 1.8, where the processor has bfloat16 products (AVX512-BF16, AMX).
    assert ratio > 1.8


def test_mel_features_against_transformers():
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    features = MelFeatures(extractor, "cpu")
    waves_N = [music(seed, CLIP_S, CLAP_HZ) for seed in range(4)]

    def theirs() -> Any:
        return extractor(
            waves_N, sampling_rate=CLAP_HZ, truncation="rand_trunc", padding="repeatpad", return_tensors="np"
        )["input_features"]

    cpu_s = medians_s({"ours": lambda: features(waves_N), "transformers": theirs}, num_rounds=5)
    ratio = cpu_s["transformers"] / cpu_s["ours"]
    apart_db = float(np.abs(features(waves_N).numpy() - theirs()).max())
    print(
        f"\nmel features: {4 / cpu_s['ours']:.0f} clips of 10 s per CPU second, {ratio:.1f} x transformers' extractor, "
        f"at most {apart_db:.1e} dB apart"
    )
    assert apart_db <= 1e-4
    # Goal: 1.5. 5 to 6 on a quiet machine, 2 where others crowd its cache.
    assert ratio > 1.5
