"""Fit the model that tells voices from instruments, on the demo's training works and other voices than the demo's.

Prints the table for `pipeline/music/voice.py`: `python -m pipeline.demo.training.voice`, some minutes.
Instruments: excerpts as the corpus plays them, alone, in pairs, and with a drum kit of noise. Voices: songs of the
jaCappella-shaped set by part and mixture, covers with accompaniment, leads over the instruments and drums.
Left out: the synthetic choir, whose hundred vowels never move, and mouths that drum.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.optimize
import scipy.signal
import soundfile
from numpy.typing import NDArray

from pipeline.demo.corpus import RATE_HZ
from pipeline.demo.excerpts import perform
from pipeline.demo.jacappella import write_jacappella
from pipeline.demo.synth import Wave, render
from pipeline.demo.training.works import CLIP_S, plan_training
from pipeline.engine.progress import progress
from pipeline.music.audio import resample
from pipeline.music.spectrum import RATE_HZ as ANALYSIS_HZ
from pipeline.music.voice import voice_features

NUM_INSTRUMENTS = 200
SEED = 100
"""Far from the seeds of any preset: other voices, other excerpts."""
PENALTY = 1e-3


def instrument_clips(num_clips: int) -> Iterator[Wave]:
    """Play training works, without the choir."""
    for clip in plan_training(num_clips, seed=SEED):
        if clip.facts.instrument != "choir":
            notes, seed = perform(clip, np.random.default_rng(clip.seed)), [*clip.seed, 1]
            wave_CN = render(notes, clip.facts.instrument, clip_s=CLIP_S, rate_hz=RATE_HZ, rms_dbfs=-20.0, seed=seed)
            yield level(resample(wave_CN.mean(axis=0), RATE_HZ, ANALYSIS_HZ))


def singing_clips(folder: Path, parts: tuple[str, ...]) -> Iterator[Wave]:
    """Cut the songs of a jaCappella-shaped set into clips."""
    size = int(CLIP_S * ANALYSIS_HZ)
    for path in sorted(path for path in folder.rglob("*.wav") if path.stem in parts):
        samples, rate_hz = soundfile.read(path, dtype="float32")
        wave_N = resample(np.asarray(samples, np.float32), rate_hz, ANALYSIS_HZ)
        pieces = [wave_N[start : start + size] for start in range(0, len(wave_N) - size + 1, size)]
        yield from (level(piece_N) for piece_N in pieces if np.abs(piece_N).max() > 0.01)


def level(wave_N: Wave) -> Wave:
    """Bring to an RMS of -20 dBFS."""
    return (wave_N * (0.1 / max(float(np.sqrt(np.mean(np.square(wave_N)))), 1e-9))).astype(np.float32)


def drum_kit(rng: np.random.Generator, num_samples: int) -> Wave:
    """A steady beat of noise bursts and a falling kick."""
    out_N = np.zeros(num_samples + ANALYSIS_HZ)
    step = int(ANALYSIS_HZ * 60 / rng.uniform(70, 150) / 4)
    age_s = np.arange(ANALYSIS_HZ // 4) / ANALYSIS_HZ
    kick_N = np.sin(2 * np.pi * (50 * age_s + 8 * (1 - np.exp(-30 * age_s)))) * np.exp(-18 * age_s)
    bands = {"snare": (rng.uniform(150, 400), rng.uniform(3000, 7000), 0.06), "hat": (5000.0, 7800.0, 0.02)}
    for number, start in enumerate(range(0, num_samples, step)):
        strokes = ["hat"] * (number % 2 == 0) + ["snare"] * (number % 8 == 4)
        for name in strokes:
            low_hz, high_hz, decay_s = bands[name]
            band = scipy.signal.butter(2, [low_hz, high_hz], "band", fs=ANALYSIS_HZ, output="sos")
            burst_N = np.asarray(scipy.signal.sosfilt(band, rng.normal(size=age_s.size))) * np.exp(-age_s / decay_s)
            out_N[start : start + age_s.size] += 0.5 * burst_N
        if number % 8 == 0:
            out_N[start : start + age_s.size] += kick_N
    return level(out_N[:num_samples].astype(np.float32))


def mix_clips(rng: np.random.Generator, leads: list[Wave], others: list[Wave]) -> Iterator[Wave]:
    """Play every lead over another clip, every second one with drums."""
    for number, lead_N in enumerate(leads):
        mixed_N = lead_N + rng.uniform(0.25, 1.0) * others[int(rng.integers(len(others)))]
        if number % 2:
            mixed_N = mixed_N + rng.uniform(0.2, 1.0) * drum_kit(rng, mixed_N.size)
        yield level(mixed_N.astype(np.float32))


def fit(groups: list[tuple[bool, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Fit a logistic regression in which every group of clips counts alike within its class.

    Args:
        groups: (is it vocal, features [clips, features]).

    Returns:
        The bias, then the weights.
    """
    features = np.concatenate([group for _, group in groups])
    is_vocal = np.concatenate([np.full(len(group), vocal, float) for vocal, group in groups])
    num_alike = {vocal: sum(other == vocal for other, _ in groups) for vocal in (True, False)}
    weight = np.concatenate([np.full(len(group), 0.5 / len(group) / num_alike[vocal]) for vocal, group in groups])

    def loss(parameters: NDArray[np.float64]) -> float:
        logit = parameters[0] + features @ parameters[1:]
        return float(weight @ (np.logaddexp(0, logit) - is_vocal * logit) + PENALTY * (parameters[1:] ** 2).sum())

    return scipy.optimize.minimize(loss, np.zeros(features.shape[1] + 1)).x


def main() -> None:
    """Make the clips, fit, print the table."""
    rng = np.random.default_rng(SEED)
    clips = instrument_clips(NUM_INSTRUMENTS)
    played = list(progress(clips, total=NUM_INSTRUMENTS, desc="render instruments", unit="clip"))
    with TemporaryDirectory() as folder:
        write_jacappella(Path(folder), seed=SEED)
        leads = list(singing_clips(Path(folder), ("lead_vocal", "mixture")))
        backing = list(singing_clips(Path(folder), ("soprano", "alto", "tenor", "bass")))
    groups = {
        "played": (False, played),
        "played with others": (False, list(mix_clips(rng, played, played))),
        "sung": (True, leads),
        "backing": (True, backing),
        "sung over instruments": (True, list(mix_clips(rng, leads * 2, played))),
    }
    measured = [(vocal, np.array([voice_features(wave_N) for wave_N in waves])) for vocal, waves in groups.values()]
    bias, *weights = fit(measured).tolist()
    for name, (vocal, features) in zip(groups, measured, strict=True):
        right = ((bias + features @ np.array(weights) > 0) == vocal).mean()
        print(f"{name}: {right:.1%} of {len(features)} clips right")
    print(f"_BIAS = {bias:.2f}\n_WEIGHTS = ({', '.join(f'{weight:.2f}' for weight in weights)})")


if __name__ == "__main__":
    main()
