"""The demo's Whisper: what it learns from, a short training, its expansion, and what the committed weights hear."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper.tokenizer
from hypothesis import given
from hypothesis import strategies as st

from pipeline.demo.excerpts import plan_clips
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.expand_whisper import FIRST_TIMESTAMP, NUM_TIMESTAMPS, expand_whisper
from pipeline.demo.morae import HEPBURN, NASAL
from pipeline.demo.training import keeping, listening, material
from pipeline.demo.training import whisper as training
from pipeline.demo.training.listening import (
    as_sung,
    covers,
    error_rate,
    instrumentals,
    num_errors,
    random_phrases,
    songs,
)
from pipeline.demo.training.material import load_backings, load_voices
from pipeline.demo.training.phrases import draw_morae
from pipeline.demo.training.sung import RATE_HZ, STEP_SAMPLES, draw_sung
from pipeline.demo.training.whisper import fit, rate_at, train
from pipeline.demo.training.whisper_figures import listen
from pipeline.demo.training.whisper_model import SungWhisper, collate, in_halves
from pipeline.demo.training.windows import (
    EOT,
    JA,
    MIXED,
    MORAE,
    NO_SPEECH,
    NO_TIMESTAMPS,
    NOTHING,
    SOT,
    TRANSCRIBE,
    Mixer,
    Shares,
    frame_labels,
    spell,
    token_ids,
)
from pipeline.models.asr import Decoding, load_recogniser
from pipeline.models.asr_openai import load_vocabulary, load_whisper

WHISPER = WEIGHTS / "whisper"
VOICELESS, ALONE = Shares(voiceless=1.0, accompanied=0.0), Shares(voiceless=0.0, accompanied=0.0)


def few_clips(count: int, *, clip_s: float = 10.0, seed: int = 0):
    """Clips of any works: which are held out takes a minute to find out."""
    return plan_clips(count, clip_s=clip_s, seed=seed)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A little material, made once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "plan_training", few_clips)
        load_voices(folder / "sung", 4, seed=0, ear="whisper")
        load_backings(folder / "sung", 4, seed=0, ear="whisper")
    return folder


@pytest.fixture(scope="module")
def mixer(cache) -> Mixer:
    return Mixer(*(load(cache / "sung", 4, seed=0, ear="whisper") for load in (load_voices, load_backings)))


@given(st.integers(1, 20), st.integers(0, 1000))
def test_drawn_phrases_can_be_sung(num_morae, seed):
    morae = draw_morae(num_morae, np.random.default_rng(seed))
    assert len(morae) >= num_morae
    assert morae[0] != NASAL
    assert all(mora in HEPBURN or mora in "んっ" for mora in morae)


@pytest.mark.parametrize("seed", range(6))
def test_a_sung_clip_tells_when_each_mora_sounds(seed):
    clip = draw_sung([7, seed])
    assert clip.wave_N.size % STEP_SAMPLES == 0
    assert clip.wave_N.size <= 10 * RATE_HZ
    times = [time_s for phrase in clip.phrases for _, start_s, end_s in phrase for time_s in (start_s, end_s)]
    assert all(one <= other + 1e-6 for one, other in pairwise(times))
    middle_N = np.concatenate([clip.wave_N[int(a * RATE_HZ) : int(b * RATE_HZ)] for p in clip.phrases for _, a, b in p])
    assert np.sqrt(np.mean(middle_N**2)) > 0.05
    assert np.array_equal(draw_sung([7, seed]).wave_N, clip.wave_N)


def test_tokens_of_a_window_are_whispers_own_and_tell_the_text(mixer):
    spell("あ")  # whisper leaves its file open, once; `spell` knows
    tokenizer = whisper.tokenizer.get_tokenizer(multilingual=True, num_languages=99)
    assert (
        tokenizer.sot, tokenizer.eot, tokenizer.no_speech, tokenizer.no_timestamps,
    ) == (SOT, EOT, NO_SPEECH, NO_TIMESTAMPS)  # fmt: skip
    assert (
        tokenizer.to_language_token("ja"), tokenizer.transcribe, tokenizer.timestamp_begin,
    ) == (JA, TRANSCRIBE, FIRST_TIMESTAMP)  # fmt: skip
    for seed in range(12):
        window = mixer.window(np.random.default_rng(seed), ALONE, num_mels=3000)
        kana = "".join(kana for phrase in window.phrases for kana, _, _ in phrase)
        written = [token for token in window.targets_L if token < EOT]
        assert tokenizer.decode(written) == kana
        assert window.tokens_L[:3] == [SOT, JA, TRANSCRIBE]
        assert window.targets_L[-1] == EOT
        stamps = [token - FIRST_TIMESTAMP for token in window.targets_L if token >= FIRST_TIMESTAMP]
        assert stamps == sorted(stamps)
        if NO_TIMESTAMPS not in window.tokens_L:
            assert len(stamps) == 2 * len(window.phrases)
            assert abs(stamps[-1] / 50 - window.phrases[-1][-1][2]) <= 0.02
        assert len(window.spans_L) == len(window.tokens_L) + 1


def test_a_window_without_a_voice_asks_for_no_speech(mixer):
    window = mixer.window(np.random.default_rng(1), VOICELESS, num_mels=1000)
    assert window.targets_L == [NO_SPEECH, TRANSCRIBE, FIRST_TIMESTAMP, EOT]
    assert not frame_labels(window)[0].any()


def test_a_first_timestamp_that_decoders_forbid_is_never_asked_for(cache, mixer):
    waits = Shares(voiceless=0.0, accompanied=1.0)
    for seed in range(40):
        window = mixer.window(np.random.default_rng(seed), waits, num_mels=3000)
        assert window.targets_L[2] <= FIRST_TIMESTAMP + 50
        moved = mixer.window(np.random.default_rng(seed), waits, num_mels=1000, offset=400)
        assert moved.targets_L[2] in (NOTHING, NO_TIMESTAMPS, FIRST_TIMESTAMP)


def test_frames_bear_the_mora_that_sounds(mixer):
    window = mixer.window(np.random.default_rng(3), ALONE, num_mels=1000)
    labels_T, before_T, begins_T = frame_labels(window)
    assert len(labels_T) == 500
    sung_s = sum(end_s - start_s for phrase in window.phrases for _, start_s, end_s in phrase)
    assert abs(int((labels_T > 0).sum()) / 50 - sung_s) < 0.5
    assert begins_T.sum() > 0
    (first, _, _), second = window.phrases[0][:2]
    at = round(50 * (second[1] + second[2]) / 2)
    assert MORAE[before_T[at] - 1] == first
    assert MORAE[labels_T[at] - 1] == second[0]


def test_half_windows_are_the_same_sound(mixer):
    batch = collate([mixer.window(np.random.default_rng(n), ALONE, num_mels=1000) for n in range(2)])
    halves = in_halves(batch)
    assert halves.mel_BFM.shape == (4, 80, 500)
    assert torch.equal(torch.cat([halves.mel_BFM[0], halves.mel_BFM[2]], dim=1), batch.mel_BFM[0])
    assert torch.equal(torch.cat([halves.labels_BT[1], halves.labels_BT[3]]), batch.labels_BT[1])


def test_the_trained_network_is_openais_after_its_expansion(tmp_path, mixer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SungWhisper().eval()
    training.save_rows(network, tmp_path)
    expand_whisper(tmp_path, tmp_path / "a/whisper.pt")
    expand_whisper(tmp_path, tmp_path / "b/other.pt")
    assert (tmp_path / "a/whisper.pt").read_bytes() == (tmp_path / "b/other.pt").read_bytes()
    theirs = load_whisper(tmp_path / "a/whisper.pt").float()
    window = mixer.window(np.random.default_rng(5), MIXED, num_mels=3000)
    batch = collate([window])
    ids = torch.tensor([*token_ids(), *range(FIRST_TIMESTAMP, FIRST_TIMESTAMP + NUM_TIMESTAMPS)])
    with torch.no_grad():
        ours, _ = network.decode(batch.rows_BL, network.encode(batch.mel_BFM, 0))
        logits = theirs(batch.mel_BFM, torch.tensor([window.tokens_L]))
    assert torch.allclose(ours[..., :-1], logits[..., ids], atol=0.03)
    # What is never written counts in the denominator as often as it is there.
    assert torch.allclose(ours.logsumexp(-1), logits.logsumexp(-1), atol=0.03)


def test_the_rate_rises_stays_and_falls():
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert rates[0] < 0.1
    assert rates[100] == 1
    assert rates[500] == pytest.approx(0.4)
    assert rates[-1] < 0.01
    assert max(rates) == 1


@pytest.mark.long
def test_a_short_training_writes_a_folder_and_goes_on_where_it_stopped(tmp_path, cache, monkeypatch, interrupted_after):
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(training, "SHORT", (1, 1000))
    monkeypatch.setattr(training, "LONG", (1, 3000))
    monkeypatch.setattr(training, "NUM_VOICES", 4)
    monkeypatch.setattr(training, "NUM_BACKINGS", 4)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "sung").symlink_to(cache / "sung")
    straight = fit(steps=5, seed=0, cache=tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(training, "progress", interrupted_after(3))
        with pytest.raises(KeyboardInterrupt):
            fit(steps=5, seed=0, cache=tmp_path / "b")
    monkeypatch.setattr(listening, "plan_held_out", few_clips)
    figures = train(tmp_path / "out", steps=5, seed=0, cache=tmp_path / "b")
    training.save_rows(straight, tmp_path / "straight")
    expand_whisper(tmp_path / "straight", tmp_path / "straight.pt")
    expand_whisper(tmp_path / "out", tmp_path / "out.pt")
    assert (tmp_path / "straight.pt").read_bytes() == (tmp_path / "out.pt").read_bytes()
    assert json.loads((tmp_path / "out/figures.json").read_text()) == figures
    assert "--steps 5 --seed 0" in (tmp_path / "out/README.md").read_text("utf-8")


@given(st.text("あいう", max_size=12), st.text("あいう", max_size=12))
def test_errors_are_a_distance(found, wanted):
    errors = num_errors(found, wanted)
    assert errors == num_errors(wanted, found)
    assert (errors == 0) == (found == wanted)
    assert abs(len(found) - len(wanted)) <= errors <= max(len(found), len(wanted))


def test_errors_count_letters():
    assert num_errors("さくろう", "さくら") == 2
    assert error_rate([("さくろう", "さくら"), ("", "は")]) == 3 / 4
    assert as_sung("ソラーヲ、づ。") == "そらおず"


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("committed") / "whisper.pt"
    expand_whisper(WHISPER, path)
    return path


@pytest.fixture(scope="module")
def recogniser(committed):
    return load_recogniser(str(committed), Decoding(language="ja", temperatures=(0.0,)))


def heard_text(recogniser, recording) -> str:
    return as_sung("".join(phrase["text"] for phrase in listen(recogniser, recording.wave_N, [])[0]))


@pytest.mark.parametrize(
    ("recordings", "most"),
    [
        # With slack for few recordings: the aim is 0.2, and 0.3 for covers, which miss it (the card has the figures).
        pytest.param(partial(random_phrases, 8), 0.1, id="phrases"),
        pytest.param(partial(songs, 3, seed=5), 0.25, id="songs of other voices"),
        pytest.param(partial(covers, 2), 0.5, id="covers"),
    ],
)
def test_the_committed_whisper_hears_singing_that_it_has_not_learnt(recogniser, recordings, most):
    pairs = [(heard_text(recogniser, recording), recording.kana) for recording in recordings()]
    assert error_rate(pairs) <= most


def test_the_committed_whisper_hears_no_words_in_music(recogniser, monkeypatch):
    monkeypatch.setattr(listening, "plan_held_out", few_clips)
    told = [heard_text(recogniser, recording) for recording in instrumentals(8)]
    assert sum(map(bool, told)) <= 1


def test_the_committed_whisper_says_when_phrases_are_sung(recogniser):
    for recording in random_phrases(4):
        heard, _ = listen(recogniser, recording.wave_N, [])
        assert abs(heard[0]["start_s"] - recording.phrases[0]["start_s"]) < 0.3
        assert abs(heard[-1]["end_s"] - recording.phrases[-1]["end_s"]) < 0.5


def test_the_committed_whisper_guesses_the_language(committed):
    model = load_whisper(committed)
    wave_N = next(iter(random_phrases(1))).wave_N
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(wave_N)))
    _, shares = model.detect_language(mel[None], load_vocabulary(model))
    assert max(shares[0], key=shares[0].get) == "ja"


def test_the_committed_weights_are_small():
    assert (WHISPER / "model.safetensors").stat().st_size < 5_000_000
