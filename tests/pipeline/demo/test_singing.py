from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from pipeline.demo.percussion import drum
from pipeline.demo.singing import TAIL_S, Note, sing
from pipeline.demo.voices import RANGES, draw_voice

RATE_HZ = 16_000


def spaced(texts, *, midi=55.0, length_s=0.5, gap_s=0.2, start_s=0.0):
    step_s = length_s + gap_s
    return [
        Note(text=text, midi=midi, start_s=start_s + n * step_s, end_s=start_s + n * step_s + length_s)
        for n, text in enumerate(texts)
    ]


def perform(notes, *, register="tenor", seed=0, rate_hz=RATE_HZ):
    return sing(notes, voice=draw_voice(seed, register), seed=seed, sample_rate_hz=rate_hz)


def span(wave_N, start_s, end_s, rate_hz=RATE_HZ):
    return wave_N[round(start_s * rate_hz) : round(end_s * rate_hz)]


def rms(wave_N):
    return float(np.sqrt(np.mean(wave_N**2)))


def share_above(wave_N, hz, rate_hz=RATE_HZ):
    power = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N)))) ** 2
    return power[np.fft.rfftfreq(len(wave_N), 1 / rate_hz) > hz].sum() / power.sum()


def pitch_hz(wave_N, rate_hz=RATE_HZ):
    frame = wave_N - wave_N.mean()
    likeness = np.correlate(frame, frame, "full")[len(frame) - 1 :]
    low, high = rate_hz // 900, rate_hz // 60
    best = low + int(likeness[low:high].argmax())
    left, top, right = likeness[best - 1 : best + 2]
    return rate_hz / (best + 0.5 * (left - right) / (left - 2 * top + right))


def envelope(wave_N, rate_hz=RATE_HZ):
    """Smoothed log spectrum of the middle of a vowel."""
    middle = wave_N[len(wave_N) // 3 : 2 * len(wave_N) // 3]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), n=4096)) ** 2
    hz = np.fft.rfftfreq(4096, 1 / rate_hz)
    edges_hz = np.geomspace(180, 5000, 17)
    bands = [power[(hz >= low) & (hz < high)].mean() for low, high in itertools.pairwise(edges_hz)]
    level = np.log(np.array(bands) + 1e-9)
    return level - level.mean()


@pytest.mark.parametrize("register", list(RANGES))
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100])
def test_sings_in_tune_at_every_rate(register, rate_hz):
    middle = RANGES[register][1]
    notes = [
        Note(text="あ", midi=middle + step, start_s=0.6 * n, end_s=0.6 * (n + 1)) for n, step in enumerate((0, 4, -3))
    ]
    wave_N, morae = perform(notes, register=register, rate_hz=rate_hz)
    assert wave_N.dtype == np.float32
    assert abs(len(wave_N) - (1.8 + TAIL_S) * rate_hz) <= 1
    assert [mora for mora, _, _ in morae] == ["あ"] * 3
    for note in notes:
        # Over whole turns of the vibrato the pitch is the note's.
        found_hz = pitch_hz(span(wave_N, note.start_s + 0.2, note.end_s - 0.05, rate_hz), rate_hz)
        assert abs(12 * np.log2(found_hz / 440) + 69 - note.midi) < 0.5


@pytest.mark.parametrize("register", list(RANGES))
def test_vowels_of_unheard_singers_are_told_apart(register):
    middle = float(RANGES[register][1])
    heard: list[tuple[str, np.ndarray]] = []
    for seed in range(12):
        notes = spaced("あいうえお", midi=middle - 5 + seed % 8, length_s=0.4)
        wave_N, morae = perform(notes, register=register, seed=seed)
        heard += [(mora, envelope(span(wave_N, start_s, end_s))) for mora, start_s, end_s in morae]
    known, asked = heard[:30], heard[30:]
    means = {vowel: np.mean([shape for name, shape in known if name == vowel], axis=0) for vowel in "あいうえお"}
    right = [min(means, key=lambda v: float(((means[v] - shape) ** 2).sum())) == name for name, shape in asked]
    assert np.mean(right) >= 0.85


def test_vowels_last_until_their_end_and_rests_are_silent():
    notes = spaced(["あ", "い", "ん"], gap_s=0.3)
    wave_N, morae = perform(notes)
    for (_, start_s, end_s), after_s in zip(morae, (0.8, 1.6, 2.4), strict=True):
        assert rms(span(wave_N, start_s + 0.05, end_s - 0.05)) > 0.02
        assert rms(span(wave_N, end_s + 0.02, after_s - 0.06)) < 0.002


def test_consonants_hiss_burst_hum_or_close():
    texts = ["さ", "しゃ", "ち", "た", "ま", "ば", "ら", "は"]
    wave_N, morae = perform(spaced(texts))
    onset = {mora: span(wave_N, start_s + 0.01, start_s + 0.08) for mora, start_s, _ in morae}
    vowel = {mora: span(wave_N, start_s + 0.2, start_s + 0.4) for mora, start_s, _ in morae}
    assert share_above(onset["さ"], 4000) > 0.7
    assert share_above(onset["しゃ"], 2500) > 0.7
    assert share_above(onset["しゃ"], 5000) < share_above(onset["さ"], 5000) - 0.2
    for mora in ("さ", "しゃ", "た"):
        assert share_above(vowel[mora], 4000) < 0.1
    for mora in ("ま", "ば"):
        assert rms(onset[mora]) < 0.6 * rms(vowel[mora])
        assert share_above(onset[mora], 2500) < 0.1
    start_s = morae[3][1]
    closed, burst = span(wave_N, start_s + 0.005, start_s + 0.03), span(wave_N, start_s + 0.03, start_s + 0.06)
    assert rms(burst) > 5 * rms(closed)
    assert share_above(burst, 2500) > 0.6


def test_double_consonant_is_silent_before_its_release():
    notes = [Note(text="かっ", midi=55, start_s=0, end_s=0.5), Note(text="た", midi=55, start_s=0.5, end_s=1)]
    wave_N, morae = perform(notes)
    assert [mora for mora, _, _ in morae] == ["か", "っ", "た"]
    _, start_s, end_s = morae[1]
    assert end_s == 0.5
    assert 0.08 < end_s - start_s < 0.2
    assert rms(span(wave_N, start_s + 0.04, end_s)) < 0.05 * rms(span(wave_N, 0.15, start_s))


def test_double_consonant_on_a_note_of_its_own_prolongs_then_closes():
    notes = [
        Note(text=t, midi=55, start_s=0.4 * n, end_s=0.4 * (n + 1)) for n, t in enumerate(("べ", "っ", "ー", "た"))
    ]
    wave_N, morae = perform(notes)
    assert [mora for mora, _, _ in morae] == ["べ", "っ", "ー", "た"]
    assert rms(span(wave_N, 0.45, 0.6)) > 0.03
    assert rms(span(wave_N, 0.74, 0.8)) < 0.005
    assert rms(span(wave_N, 0.9, 1.1)) > 0.03


def test_prolonged_sound_keeps_its_vowel_over_the_new_note():
    notes = [Note(text="い", midi=55, start_s=0, end_s=0.5), Note(text="ー", midi=60, start_s=0.5, end_s=1)]
    wave_N, morae = perform(notes)
    assert [mora for mora, _, _ in morae] == ["い", "ー"]
    level = rms(span(wave_N, 0.2, 0.4))
    assert all(rms(span(wave_N, at_s, at_s + 0.02)) > 0.5 * level for at_s in np.arange(0.4, 0.6, 0.02))
    vowels_N, vowels = perform(spaced("あいうえお", midi=60))
    held = envelope(span(wave_N, 0.6, 0.95))
    away = {mora: float(((envelope(span(vowels_N, a_s, b_s)) - held) ** 2).sum()) for mora, a_s, b_s in vowels}
    assert min(away, key=lambda mora: away[mora]) == "い"


def test_morae_of_one_note_share_it():
    _, morae = perform([Note(text="ちょうきゃん", midi=55, start_s=1, end_s=2)])
    assert morae == [("ちょ", 1, 1.25), ("う", 1.25, 1.5), ("きゃ", 1.5, 1.75), ("ん", 1.75, 2)]


def test_same_seeds_give_same_samples_and_others_another_voice():
    notes = spaced(["さ", "く", "ら"], gap_s=0)
    wave_N, _ = perform(notes, seed=3)
    assert np.array_equal(wave_N, perform(notes, seed=3)[0])
    assert draw_voice(3, "alto") == draw_voice(3, "alto")
    assert draw_voice(3, "alto") != draw_voice(4, "alto")
    other_N, _ = sing(notes, voice=draw_voice(3, "tenor"), seed=4, sample_rate_hz=RATE_HZ)
    assert not np.array_equal(wave_N, other_N)


@pytest.mark.parametrize(
    "text", ["ヴぁ", "ぴゃ", "ディ", "ふぁ", "っ", "ー", "ひ", "ん", "ぢ", "づ", "を", "つぁ", "でゅ", "あぁ"]
)
def test_any_kana_sounds_however_short(text):
    notes = [Note(text=text, midi=70, start_s=0.05 * n, end_s=0.05 * n + 0.04) for n in range(6)]
    wave_N, _ = perform(notes, register="soprano")
    assert np.isfinite(wave_N).all()
    assert np.abs(wave_N).max() <= 0.92


def test_nothing_to_sing_is_refused():
    with pytest.raises(ValueError, match="nothing to sing"):
        perform([])


def test_drums_of_the_mouth_strike_at_their_times_low_and_high():
    strokes = [("ブン", 0.1), ("ツ", 0.5), ("カ", 0.9), ("ツ", 1.3)]
    wave_N = drum(strokes, num_samples=RATE_HZ * 14 // 10, seed=1, sample_rate_hz=RATE_HZ)
    assert np.array_equal(wave_N, drum(strokes, num_samples=len(wave_N), seed=1, sample_rate_hz=RATE_HZ))
    parts = [span(wave_N, start_s, start_s + 0.1) for _, start_s in strokes]
    for part, (_, start_s) in zip(parts, strokes, strict=True):
        assert rms(part) > 0.005
        assert rms(span(wave_N, start_s - 0.05, start_s)) < 1e-3
    assert share_above(parts[0], 500) < 0.2
    assert share_above(parts[1], 4000) > 0.8
    assert share_above(parts[2], 1500) > 0.3
    assert share_above(parts[2], 4000) < 0.5


@pytest.mark.bench
def test_sings_twenty_times_faster_than_real_time():
    notes = spaced("さくらさくらやよいのそらわ" * 5, gap_s=0, length_s=0.4)
    started_s = time.process_time()
    wave_N, _ = perform(notes)
    spent_s = time.process_time() - started_s
    print(f"{len(wave_N) / RATE_HZ / spent_s:.0f}x real time")
    assert len(wave_N) / RATE_HZ / spent_s > 20
