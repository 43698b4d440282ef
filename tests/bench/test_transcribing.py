"""What surrounds the recogniser costs little beside it, and a second worker nearly doubles the speed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from pipeline.data.records import Heard
from pipeline.lyrics.clean import CleanParams, clean_phrases
from pipeline.lyrics.gates import GateParams, judge_phrases
from pipeline.lyrics.packs import Pack, cut_pack, make_packs, to_track_span
from pipeline.lyrics.vad import VadParams, vocal_spans
from pipeline.models.asr import Decoding, load_recogniser
from pipeline.models.base import Recogniser, SpeechDetector
from pipeline.models.vad import load_speech_detector
from pipeline.models.whisper_ct2 import convert_whisper

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
RATE_HZ = 16_000
SONG_S = 300.0
FIRST_SPECIAL = 50_257
DECODING = Decoding(language="ja", temperatures=(0.0,), max_tokens=100)
LINES = [
    "さくら さくら やよいの空は 見わたす限り", "かすみか雲か 匂いぞ出ずる", "いざや いざや 見にゆかん",
    "夕焼小焼の 赤とんぼ（×2）", "負われて見たのは いつの日か", "春高楼の 花の宴", "めぐる盃 かげさして",
    "ららら la la la",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of `base` shape in CTranslate2's format that never stops of itself and never places a time."""
    folder = tmp_path_factory.mktemp("base")
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=512, n_audio_head=8, n_audio_layer=6,
        n_vocab=51_865, n_text_ctx=448, n_text_state=512, n_text_head=8, n_text_layer=6,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Whisper(dims)
        torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
        # Words get logits around 0 with a spread of 20, the likeliest far above these.
        model.decoder.token_embedding.weight[FIRST_SPECIAL:] = 0.0
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, folder / "base.pt")
    convert_whisper(folder / "base.pt", folder / "base", quantisation="int8")
    return folder / "base"


def song(duration_s: float) -> np.ndarray:
    """Phrases of 4 s with rests of 1 s, and an interlude: a voice of harmonics over noise."""
    t_N = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    phase_N = 2 * np.pi * np.cumsum(220 * 2 ** (np.floor(t_N * 2) % 7 / 12)) / RATE_HZ
    voice_N = sum(np.sin(n * phase_N) / n for n in range(1, 12)) * (t_N % 5 < 4) * ((t_N % 60) < 45)
    return (0.1 * voice_N + np.random.default_rng(0).normal(size=t_N.size) * 0.003).astype(np.float32)


def scripted(pack: Pack) -> list[Heard]:
    """What a recogniser might write of a pack: a line for every span of singing."""
    offset_s = -pack.pieces[0].start_s
    scores = {"avg_logprob": -0.4, "no_speech_prob": 0.1, "compression_ratio": 1.4}
    return [
        Heard(text=LINES[n % len(LINES)], start_s=max(0.0, start_s + offset_s), end_s=end_s + offset_s, **scores)
        for n, (start_s, end_s) in enumerate(pack.spans_s)
    ]


def surround(
    wave_N: np.ndarray, detector: SpeechDetector | None, recognise: Callable[[Pack, np.ndarray], list[Heard]]
) -> tuple[int, float]:
    """All of a transcription around `recognise`, with a second vote on what sounds where there is a detector.

    Returns:
        How many phrases were kept, and the CPU seconds outside `recognise`.
    """
    start, inside_s = time.process_time(), 0.0
    vote = detector.speech_probabilities(wave_N) if detector else None
    spans_s = vocal_spans(wave_N, RATE_HZ, VadParams(vote="either" if detector else "energy"), second_vote=vote)
    heard: list[Heard] = []
    for pack in make_packs(spans_s):
        pack_N = cut_pack(pack, wave_N, RATE_HZ)
        before = time.process_time()
        phrases = recognise(pack, pack_N)
        inside_s += time.process_time() - before
        for phrase in phrases:
            start_s, end_s = to_track_span(pack, phrase["start_s"], phrase["end_s"])
            heard.append(Heard(**{**phrase, "start_s": start_s, "end_s": end_s}))
    judged = judge_phrases(heard, GateParams(), vocal_spans_s=spans_s, language="ja")
    kept, _ = clean_phrases(judged.kept, CleanParams())
    return len(kept), time.process_time() - start - inside_s


def test_what_surrounds_the_recogniser_costs_at_most_a_twentieth(base: Path):
    recogniser, detector, wave_N = load_recogniser(str(base), DECODING), load_speech_detector(), song(SONG_S)
    pass_s: list[float] = []

    def recognise(pack: Pack, pack_N: np.ndarray) -> list[Heard]:
        before = time.process_time()
        assert recogniser.transcribe(pack_N)
        pass_s.append(time.process_time() - before)
        return scripted(pack)

    num_kept, _ = surround(wave_N, None, recognise)
    assert num_kept > len(pass_s) >= 5
    # The best of three: what else runs on the machine only ever slows, and these are short.
    alone_s, with_vote_s = (
        min(surround(wave_N, vote, lambda pack, _: scripted(pack))[1] for _ in range(3)) for vote in (None, detector)
    )
    print(
        f"\nfaster-whisper, base, int8: {statistics.median(pass_s):.2f} CPU s per pack of at most 30 s and 100 tokens, "
        f"{sum(pass_s):.1f} CPU s for {SONG_S:.0f} s of song; around it {alone_s:.2f} CPU s "
        f"({alone_s / sum(pass_s):.1%}), with silero's vote on all of the song {with_vote_s:.2f} "
        f"({with_vote_s / sum(pass_s):.1%})"
    )
    assert alone_s <= 0.05 * sum(pass_s)
    # Silero alone takes 4 to 5 %, sung or not; it is off unless asked for.
    assert with_vote_s <= 0.08 * sum(pass_s)


_OWN: dict[str, Recogniser] = {}


def start_worker(folder: str, everyone_is_up: Barrier) -> None:
    _OWN["recogniser"] = load_recogniser(folder, DECODING)
    _OWN["recogniser"].transcribe(song(1.0))
    everyone_is_up.wait()


def work(index: int) -> float:
    """CPU seconds of a pack."""
    wave_N = song(31.0)[index : index + 30 * RATE_HZ]
    before = time.process_time()
    assert _OWN["recogniser"].transcribe(wave_N)
    return time.process_time() - before


def timed(pool: Pool, num_packs: int) -> tuple[float, float]:
    """Seconds until all of some packs are done, by the clock, and CPU seconds of one of them."""
    before = time.perf_counter()
    cpu_s = pool.map(work, range(num_packs), chunksize=1)
    return time.perf_counter() - before, statistics.mean(cpu_s)


def test_two_workers_nearly_double_the_speed(base: Path):
    context = get_context("spawn")
    others = psutil.cpu_percent(interval=2.0) / 100 * (os.cpu_count() or 1)
    everyone_is_up = context.Barrier(3)
    with context.Pool(2, start_worker, (str(base), everyone_is_up)) as pool:
        everyone_is_up.wait()
        # In turns, so that what else runs on the machine meets both alike.
        times = np.array([(*timed(pool, 1), *timed(pool, 2)) for _ in range(7)])
        pool.close()
        pool.join()
    clock_1, cpu_1, clock_2, cpu_2 = np.median(times, axis=0)
    by_clock, by_cpu = 2 * clock_1 / clock_2, 2 * cpu_1 / cpu_2
    print(
        f"\nfaster-whisper, base, int8: {1 / clock_1:.2f} packs of 30 s per second with one worker; "
        f"with two {by_clock:.2f} x, by their CPU seconds {by_cpu:.2f} x (others use {others:.1f} cores)"
    )
    if others > 0.2:
        pytest.skip(f"other programs use {others:.1f} cores: what two workers gain shows only on a quiet machine")
    # Goal: 1.8. The two share nothing of ours: less is what the cores share (memory, clock); 1.6 on those at hand.
    assert by_clock >= 1.4
