from __future__ import annotations

import re
import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.lyrics.vad import (
    FRAMES_PER_S,
    ActivityStream,
    Span,
    VadParams,
    frame_levels,
    sounding_share,
    vocal_spans,
)
from pipeline.music.audio import resample

PARAMS = VadParams()
SHORT = VadParams(memory_s=4.0, lookahead_s=1.0)


def sing(
    *, seed: int, snr_db: float, sample_rate_hz: int = 16000, duration_s: int = 30
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Phrases of vibrato with vowels' overtones and closed consonants, pauses between, and a noise floor [N], [T]."""
    rng = np.random.default_rng(seed)
    wave_N = np.zeros(duration_s * sample_rate_hz)
    sung_T = np.zeros(duration_s * FRAMES_PER_S, np.bool_)
    now_s = 0.6
    while now_s < duration_s - 5:
        length_s = rng.uniform(1.0, 4.0)
        first = int(now_s * sample_rate_hz)
        time_N = np.arange(int(length_s * sample_rate_hz)) / sample_rate_hz
        pitch_N = rng.uniform(150, 500) * np.exp(0.03 * np.sin(2 * np.pi * 5.5 * time_N))
        phase_N = 2 * np.pi * np.cumsum(pitch_N) / sample_rate_hz
        voice_N = sum(np.sin(k * phase_N) / k**1.2 for k in range(1, 8)) * rng.uniform(0.3, 1)
        for at_s in np.arange(0.15, length_s - 0.1, 0.25):
            closed = slice(int(at_s * sample_rate_hz), int((at_s + rng.uniform(0.02, 0.1)) * sample_rate_hz))
            voice_N[closed] *= rng.choice([0.0, 0.1, 0.3])
        wave_N[first : first + time_N.size] += voice_N * np.minimum(1, np.minimum(time_N, length_s - time_N) / 0.04)
        sung_T[round(now_s * FRAMES_PER_S) : round((now_s + length_s) * FRAMES_PER_S)] = True
        now_s += length_s + rng.uniform(0.35, 2.5)
    wave_N *= 0.1 / np.sqrt(np.mean(wave_N[np.repeat(sung_T, sample_rate_hz // FRAMES_PER_S)] ** 2))
    noise_N = rng.standard_normal(wave_N.size) * 0.1 * 10 ** (-snr_db / 20)
    return (wave_N + noise_N).astype(np.float32), sung_T


def as_frames(spans_s: list[Span], num_frames: int) -> NDArray[np.bool_]:
    frames_T = np.zeros(num_frames, np.bool_)
    for start_s, end_s in spans_s:
        frames_T[round(start_s * FRAMES_PER_S) : round(end_s * FRAMES_PER_S)] = True
    return frames_T


def f1(found_T: NDArray[np.bool_], true_T: NDArray[np.bool_]) -> float:
    return float(2 * np.sum(found_T & true_T) / (np.sum(found_T) + np.sum(true_T)))


@pytest.mark.parametrize("snr_db", [60, 30, 20, 10, 5])
def test_singing_is_found_over_a_noise_floor(snr_db: float):
    for seed in range(3):
        wave_N, sung_T = sing(seed=seed, snr_db=snr_db)
        assert f1(as_frames(vocal_spans(wave_N, 16000, PARAMS), sung_T.size), sung_T) > 0.95


@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 44100, 48000])
def test_the_rate_does_not_matter(sample_rate_hz: int):
    wave_N, sung_T = sing(seed=1, snr_db=30, sample_rate_hz=sample_rate_hz // 100 * 100)
    spans_s = vocal_spans(wave_N, sample_rate_hz // 100 * 100, PARAMS)
    assert f1(as_frames(spans_s, sung_T.size), sung_T) > 0.95
    odd_s = vocal_spans(wave_N, sample_rate_hz, PARAMS)
    assert len(odd_s) == len(spans_s)


@pytest.mark.parametrize("gain_db", [-20, 0, 12])
def test_loudness_does_not_matter(gain_db: float):
    wave_N, sung_T = sing(seed=2, snr_db=40)
    spans_s = vocal_spans(wave_N * np.float32(10 ** (gain_db / 20)), 16000, PARAMS)
    assert f1(as_frames(spans_s, sung_T.size), sung_T) > 0.95


def test_a_floor_that_rises_is_followed():
    quiet_N, quiet_T = sing(seed=3, snr_db=50, duration_s=60)
    loud_N, loud_T = sing(seed=4, snr_db=15, duration_s=60)
    params = replace(PARAMS, memory_s=20.0)
    spans_s = vocal_spans(np.concatenate((quiet_N, loud_N)), 16000, params)
    true_T = np.concatenate((quiet_T, loud_T))
    assert f1(as_frames(spans_s, true_T.size), true_T) > 0.92


def test_singing_without_a_pause_is_one_span():
    wave_N, sung_T = sing(seed=5, snr_db=60, duration_s=40)
    without_N = wave_N[np.repeat(sung_T, 160)]
    spans_s = vocal_spans(without_N, 16000, PARAMS)
    assert sum(end_s - start_s for start_s, end_s in spans_s) > 0.95 * without_N.size / 16000


@pytest.mark.parametrize("block_s", [1, 7, 61, 150])
def test_a_sound_without_a_pause_is_told_minute_by_minute_in_spans_that_touch(block_s: int):
    wave_N = np.zeros(150 * 4000, np.float32)
    wave_N[4000 : 140 * 4000] = 0.3 * np.sin(2 * np.pi * 440 * np.arange(139 * 4000) / 4000)
    stream = ActivityStream(4000, PARAMS)
    spans_s: list[Span] = []
    for now_s in range(0, 150, block_s):
        spans_s += stream.push(wave_N[now_s * 4000 : (now_s + block_s) * 4000])
        until_s = min(now_s + block_s, 150) - PARAMS.lookahead_s
        assert max((end_s for _, end_s in spans_s), default=0.0) <= stream.told_s
        assert stream.told_s >= until_s - 61.0
    assert spans_s + stream.finish() == [(0.96, 60.96), (60.96, 120.96), (120.96, 140.04)]


@pytest.mark.parametrize("end_frame", [6090, 6100, 6103])
def test_the_rest_of_a_long_sound_is_no_click(end_frame: int):
    wave_N = np.zeros(70 * 4000, np.float32)
    wave_N[4000 : end_frame * 40] = 0.3 * np.sin(2 * np.pi * 440 * np.arange(end_frame * 40 - 4000) / 4000)
    spans_s = vocal_spans(wave_N, 4000, PARAMS)
    assert (spans_s[0][0], spans_s[-1][1]) == (0.96, end_frame / 100 + 0.04)
    assert all(a[1] == b[0] for a, b in pairwise(spans_s))


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 4000, 16000])
def test_silence_and_the_shortest_waves_have_no_spans(num_samples: int):
    assert vocal_spans(np.zeros(num_samples, np.float32), 16000, PARAMS) == []
    constant_N = np.full(num_samples, 0.3, np.float32)
    assert vocal_spans(constant_N, 16000, PARAMS) == []


def test_clicks_are_no_singing_and_short_gaps_are_closed():
    wave_N = np.zeros(16000 * 4, np.float32)
    tone_N = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000 * 4) / 16000).astype(np.float32)
    wave_N[800:1600] = tone_N[800:1600]
    wave_N[16000:24000] = tone_N[16000:24000]
    wave_N[26400:32000] = tone_N[26400:32000]
    assert vocal_spans(wave_N, 16000, PARAMS) == [(0.96, 2.04)]
    assert vocal_spans(wave_N, 16000, replace(PARAMS, hangover_s=0.1, pad_s=0.0)) == [(1.0, 1.5), (1.65, 2.0)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 30000), max_size=12),
    st.sampled_from([8000, 11025, 16000]),
    st.sampled_from(["energy", "silero", "both", "either"]),
)
def test_any_blocks_give_the_spans_of_the_whole(sizes: list[int], sample_rate_hz: int, vote: str):
    wave_N, _ = sing(seed=len(sizes), snr_db=20, sample_rate_hz=8000, duration_s=12)
    prob_T = np.random.default_rng(1).random(int(wave_N.size / sample_rate_hz / 0.032)).astype(np.float32)
    prob_T = np.convolve(prob_T, np.ones(9) / 9, "same") * 0.9
    params = replace(SHORT, vote=vote)
    stream = ActivityStream(sample_rate_hz, params)
    spans_s: list[Span] = []
    num_told = 0
    for begin, end in pairwise([0, *np.cumsum(sizes).tolist(), wave_N.size]):
        # The probabilities come at their own pace, now ahead of the samples and now behind.
        until = min(prob_T.size, round(end / sample_rate_hz / 0.032 * (0.5 + end % 2)))
        spans_s += stream.push(wave_N[begin : max(begin, end)], prob_T[num_told : max(num_told, until)])
        num_told = max(num_told, until)
    spans_s += stream.push(wave_N[:0], prob_T[num_told:])
    spans_s += stream.finish()
    if sum(sizes) <= wave_N.size:
        assert spans_s == vocal_spans(wave_N, sample_rate_hz, params, second_vote=prob_T)


def test_spans_are_in_order_and_apart_and_told_in_time():
    wave_N, _ = sing(seed=6, snr_db=30, duration_s=40)
    stream = ActivityStream(16000, PARAMS)
    spans_s: list[Span] = []
    for second in range(40):
        spans_s += stream.push(wave_N[second * 16000 : (second + 1) * 16000])
        if spans_s:
            assert spans_s[-1][1] <= second + 1
    assert spans_s
    assert len(spans_s) >= sum(end_s < 28 for _, end_s in vocal_spans(wave_N, 16000, PARAMS))
    spans_s += stream.finish()
    assert all(a[1] < b[0] for a, b in pairwise(spans_s))


def test_a_stream_of_any_length_needs_the_same_memory():
    block_N, _ = sing(seed=7, snr_db=30, sample_rate_hz=4000, duration_s=30)

    def peak_bytes(num_blocks: int) -> int:
        stream = ActivityStream(4000, replace(PARAMS, vote="both"))
        tracemalloc.start()
        for _ in range(num_blocks):
            stream.push(block_N, np.ones(round(30 / 0.032), np.float32))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(80) < 1.2 * peak_bytes(10)


def test_the_second_vote_decides_as_it_is_told_to():
    wave_N, _ = sing(seed=8, snr_db=40)
    half_T = np.zeros(round(30 / 0.032), np.float32)
    half_T[: half_T.size // 2] = 0.9

    def share(vote: str) -> tuple[float, float]:
        frames_T = as_frames(vocal_spans(wave_N, 16000, replace(PARAMS, vote=vote), second_vote=half_T), 3000)
        return frames_T[:1500].mean(), frames_T[1500:].mean()

    energy = share("energy")
    assert share("silero") == pytest.approx((1.0, 0.0), abs=0.01)
    assert share("both") == pytest.approx((energy[0], 0.0), abs=0.03)
    assert share("either") == pytest.approx((1.0, energy[1]), abs=0.03)


def test_the_second_vote_may_be_asked_for_itself():
    wave_N, _ = sing(seed=9, snr_db=40, duration_s=10)

    def second_vote(heard_N: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
        assert (heard_N.size, sample_rate_hz) == (160000, 16000)
        return np.repeat(np.float32([0, 1]), 157)

    (span,) = vocal_spans(wave_N, 16000, replace(PARAMS, vote="silero"), second_vote=second_vote)
    assert span == pytest.approx((5.0, 10.0), abs=0.1)


def test_a_second_vote_that_is_asked_for_must_come():
    with pytest.raises(ValueError, match="second vote"):
        vocal_spans(np.zeros(16000, np.float32), 16000, replace(PARAMS, vote="both"))


def test_rates_too_low_are_refused():
    with pytest.raises(ValueError, match="2000 Hz"):
        vocal_spans(np.zeros(16000, np.float32), 2000, PARAMS)


@pytest.mark.parametrize(
    ("start_s", "end_s", "share"),
    [(0.0, 4.0, 0.5), (1.0, 2.0, 1.0), (5.0, 6.0, 0.0), (2.0, 2.0, 0.0), (2.5, 6.0, 1 / 7)],
)
def test_the_share_that_sounds_is_counted(start_s: float, end_s: float, share: float):
    assert sounding_share(start_s, end_s, [(1.0, 2.0), (2.0, 3.0)]) == pytest.approx(share)


def labelled(path: Path, num_frames: int) -> NDArray[np.bool_]:
    """Frames in which the label names a phoneme that is sung."""
    sung_T = np.zeros(num_frames, np.bool_)
    for row in path.read_text().splitlines():
        start, end, context = row.split(maxsplit=2)
        phoneme = re.search(r"-([A-Za-z]+)\+", context)
        if phoneme and phoneme[1] not in {"pau", "sil", "br"}:
            sung_T[int(start) // 100_000 : int(end) // 100_000] = True
    return sung_T


def test_real_singing_agrees_with_its_phoneme_labels(real_data: Path):
    from pipeline.models.vad import load_speech_detector

    stem = real_data / "nit-song070" / "nitech_jp_song070_f001_004"
    wave_N, rate_hz = soundfile.read(stem.with_suffix(".wav"), dtype="float32")
    sung_T = labelled(stem.with_suffix(".lab"), frame_levels(wave_N, rate_hz).size)
    detector = load_speech_detector()
    prob_T = detector.speech_probabilities(resample(wave_N, rate_hz, detector.sample_rate_hz))

    def f1_of(vote: str) -> float:
        params = replace(PARAMS, vote=vote, second_hop_s=detector.hop_s)
        return f1(as_frames(vocal_spans(wave_N, rate_hz, params, second_vote=prob_T), sung_T.size), sung_T)

    found = {vote: f1_of(vote) for vote in ("energy", "silero", "either")}
    print("\nF1 against the labels of SONG070: " + ", ".join(f"{vote} {share:.3f}" for vote, share in found.items()))
    assert found["energy"] > 0.95
    # A voice that the second vote does not know must not be lost by it.
    assert found["either"] > 0.95


def test_real_singing_without_a_pause_is_nearly_all_kept(real_data: Path):
    wave_N, rate_hz = soundfile.read(real_data / "vocadito" / "vocadito_10.wav", dtype="float32")
    spans_s = vocal_spans(wave_N, rate_hz, PARAMS)
    assert sounding_share(0.4, 8.8, spans_s) > 0.97
    assert spans_s[0][0] > 0.3


@pytest.mark.bench
def test_activity_is_found_five_hundred_times_faster_than_it_sounds():
    wave_N, _ = sing(seed=10, snr_db=30, sample_rate_hz=44100, duration_s=60)
    start_s = time.process_time()
    vocal_spans(wave_N, 44100, PARAMS)
    times_faster = 60 / (time.process_time() - start_s)
    print(f"\nvocal activity of 44.1 kHz: {times_faster:.0f} x real time")
    assert times_faster > 500
