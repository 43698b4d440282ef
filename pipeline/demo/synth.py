"""A small synthesiser: notes in, an excerpt of a recording out; deterministic from its seed.

A note reads one period of a band-limited waveform (a wavetable) at its pitch, shaped by an envelope; sounds that die
away fade from a bright table to a dark one. Then come noise of breath, bow or hammer, a room and a noise floor.

Shapes: N samples, C channels, P parts, V voices of an ensemble, H harmonics, J notes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

TABLE_BITS = 12
MAX_HARMONICS = 96
NOISE_FLOOR_DBFS = -66.0
MAX_PEAK = 0.92

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What is played, arrays `[J]`."""

    onset_s: NDArray[np.float64]
    length_s: NDArray[np.float64]
    midi: NDArray[np.int64]
    part: NDArray[np.int64]
    velocity: NDArray[np.float64]
    """0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timbre:
    """How an instrument sounds."""

    tilt_db: float
    """Fall of the harmonics per octave."""
    even_db: float = 0.0
    """Extra fall of the even harmonics: a stopped pipe, a clarinet."""
    partials: tuple[float, ...] = ()
    """Levels of the first harmonics, as an organ's stops; instead of the tilt."""
    formants: tuple[tuple[float, float, float], ...] = ()
    """Resonances of the body or mouth: centre in Hz, level in dB, width in Hz."""
    dark_db: float = 0.0
    """Extra tilt of the dark table that a decaying note fades to."""
    attack_s: float = 0.02
    decay_s: float = 0.0
    """Time constant of the decay at middle C; 0 for a sound that is held."""
    release_s: float = 0.08
    vibrato_cents: float = 0.0
    num_voices: int = 1
    detune_cents: float = 0.0
    noise: float = 0.0
    """Level of breath, bow or hammer noise beside the tone."""
    noise_hz: tuple[float, float] = (500.0, 5000.0)


TIMBRES = {
    "church organ": Timbre(
        tilt_db=0, partials=(0.8, 1.0, 0.25, 0.7, 0.05, 0.2, 0, 0.35), attack_s=0.05, release_s=0.15,
        num_voices=2, detune_cents=3, noise=0.01, noise_hz=(1500, 6000),
    ),
    "choir": Timbre(
        # Formants of a sung "ah" (Peterson and Barney 1952: 730, 1090, 2440 Hz for men).
        tilt_db=9, formants=((730, 14, 120), (1090, 11, 140), (2440, 6, 250), (3400, 4, 300)), attack_s=0.12,
        release_s=0.2, vibrato_cents=18, num_voices=4, detune_cents=12, noise=0.012, noise_hz=(400, 4000),
    ),
    "brass ensemble": Timbre(
        tilt_db=5, formants=((1200, 8, 600),), attack_s=0.05, release_s=0.1, vibrato_cents=4, num_voices=2,
        detune_cents=5, noise=0.006,
    ),
    "string quartet": Timbre(
        tilt_db=5, formants=((480, 5, 160), (1100, 4, 300), (2800, 6, 700)), attack_s=0.06, release_s=0.12,
        vibrato_cents=12, num_voices=2, detune_cents=4, noise=0.012, noise_hz=(1500, 7000),
    ),
    "piano": Timbre(
        tilt_db=5, dark_db=8, attack_s=0.003, decay_s=1.1, release_s=0.12, num_voices=2, detune_cents=1.5,
        noise=0.05, noise_hz=(80, 900),
    ),
    "harpsichord": Timbre(
        tilt_db=1.5, dark_db=5, attack_s=0.001, decay_s=0.9, release_s=0.06, noise=0.04, noise_hz=(1500, 7000),
    ),
    "acoustic guitar": Timbre(
        tilt_db=4, dark_db=9, formants=((110, 4, 40), (220, 5, 60)), attack_s=0.002, decay_s=0.55,
        release_s=0.1, noise=0.05, noise_hz=(800, 4000),
    ),
    "banjo": Timbre(
        tilt_db=2.5, dark_db=6, formants=((650, 6, 200), (1900, 6, 600)), attack_s=0.001, decay_s=0.2,
        release_s=0.05, noise=0.08, noise_hz=(1000, 5000),
    ),
    "harp": Timbre(tilt_db=8, dark_db=7, attack_s=0.003, decay_s=0.9, release_s=0.5, noise=0.02),
    "fiddle": Timbre(
        tilt_db=4.5, formants=((460, 6, 130), (900, 4, 250), (2700, 9, 600)), attack_s=0.035, release_s=0.07,
        vibrato_cents=14, noise=0.02, noise_hz=(2000, 8000),
    ),
    "cello": Timbre(
        tilt_db=6, formants=((230, 5, 70), (600, 4, 200), (1500, 3, 500)), attack_s=0.07, release_s=0.15,
        vibrato_cents=16, noise=0.012, noise_hz=(800, 4000),
    ),
    "flute": Timbre(tilt_db=14, attack_s=0.05, release_s=0.08, vibrato_cents=9, noise=0.06, noise_hz=(800, 6000)),
    "clarinet": Timbre(
        tilt_db=7, even_db=22, formants=((1500, 5, 500),), attack_s=0.03, release_s=0.06, vibrato_cents=2,
        noise=0.008, noise_hz=(1000, 5000),
    ),
    "accordion": Timbre(
        tilt_db=3.5, formants=((1400, 5, 600),), attack_s=0.025, release_s=0.05, num_voices=2, detune_cents=9,
        noise=0.006,
    ),
}  # fmt: skip
"""Every instrument by the name that captions use."""


@cache
def _wavetable(instrument: str, midi: int, *, rate_hz: int, is_dark: bool) -> Wave:
    """One period of a note, of unit power; harmonics beyond 45 % of the rate are absent."""
    timbre = TIMBRES[instrument]
    base_hz = midi_hz(midi)
    num_harmonics = int(max(1, min(MAX_HARMONICS, 0.45 * rate_hz // base_hz)))
    harmonic_H = np.arange(1, num_harmonics + 1)
    tilt_db = timbre.tilt_db + (timbre.dark_db if is_dark else 0.0)
    level_db = -tilt_db * np.log2(harmonic_H) - timbre.even_db * (harmonic_H % 2 == 0)
    for centre_hz, gain_db, width_hz in timbre.formants:
        level_db = level_db + gain_db * np.exp(-0.5 * ((harmonic_H * base_hz - centre_hz) / width_hz) ** 2)
    amplitude_H = 10 ** (level_db / 20)
    if timbre.partials:
        amplitude_H = np.zeros(num_harmonics)
        shown = min(num_harmonics, len(timbre.partials))
        amplitude_H[:shown] = timbre.partials[:shown]
    # Schroeder's phases (1970) keep the peak low for the given spectrum.
    phase_H = -np.pi * harmonic_H * (harmonic_H - 1) / num_harmonics
    spectrum = np.zeros(2 ** (TABLE_BITS - 1) + 1, dtype=np.complex128)
    spectrum[1 : num_harmonics + 1] = amplitude_H * np.exp(1j * phase_H)
    table = np.fft.irfft(spectrum, n=2**TABLE_BITS)
    return (table / np.sqrt(np.mean(table**2))).astype(np.float32)


def midi_hz(midi: float) -> float:
    """Frequency of a MIDI note number in equal temperament, A4 = 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def _envelope(timbre: Timbre, midi: int, *, held: int, num_samples: int, rate_hz: int) -> tuple[Wave, Wave]:
    """Return the level of a note over time and the share of its bright table, both `[N]`."""
    time_s = np.arange(num_samples, dtype=np.float32) / np.float32(rate_hz)
    level_N = np.minimum(time_s / np.float32(timbre.attack_s), np.float32(1.0))
    bright_N = np.ones(1, dtype=np.float32)
    if timbre.decay_s:
        # Low strings ring longer: the time constant halves in an octave and a half.
        decay_s = timbre.decay_s * 2.0 ** ((60 - midi) / 18)
        level_N *= np.exp(-time_s / np.float32(decay_s))
        bright_N = np.exp(-time_s / np.float32(0.3 * decay_s))
    release = num_samples - held
    level_N[held:] *= np.linspace(1.0, 0.0, release, dtype=np.float32) ** 2
    return level_N, bright_N


def _tone(instrument: str, midi: int, *, num_samples: int, rate_hz: int, rng: np.random.Generator) -> tuple[Wave, Wave]:
    """Return the bright and the dark wave of one note `[N]`, all voices together."""
    timbre = TIMBRES[instrument]
    num_voices = timbre.num_voices
    cents_V = timbre.detune_cents * np.linspace(-1, 1, num_voices) * (num_voices > 1) + rng.normal(0, 1.0, num_voices)
    step_V = (midi_hz(midi) * 2 ** (cents_V / 1200) / rate_hz * 2**32).astype(np.uint32)
    start_V = rng.integers(0, 2**32, num_voices, dtype=np.uint32)
    ramp_N = np.arange(num_samples, dtype=np.uint32)
    bright_N, dark_N = np.zeros(num_samples, dtype=np.float32), np.zeros(num_samples, dtype=np.float32)
    for step, start in zip(step_V, start_V, strict=True):
        phase_N = step * ramp_N + start  # wraps at one period
        if timbre.vibrato_cents:
            phase_N += _vibrato(timbre.vibrato_cents, midi, ramp_N=ramp_N, rate_hz=rate_hz, rng=rng)
        index_N = phase_N >> np.uint32(32 - TABLE_BITS)
        bright_N += _wavetable(instrument, midi, rate_hz=rate_hz, is_dark=False)[index_N]
        if timbre.decay_s:
            dark_N += _wavetable(instrument, midi, rate_hz=rate_hz, is_dark=True)[index_N]
    scale = np.float32(1 / np.sqrt(num_voices))
    return bright_N * scale, dark_N * scale


def _vibrato(
    cents: float, midi: int, *, ramp_N: NDArray[np.uint32], rate_hz: int, rng: np.random.Generator
) -> NDArray[np.uint32]:
    """Phase that vibrato adds, in 2^-32 periods; it swells in during the first 0.4 s."""
    speed_hz = rng.uniform(4.8, 6.0)
    periods = midi_hz(midi) * (2 ** (cents / 1200) - 1) / (2 * np.pi * speed_hz)
    time_s = ramp_N.astype(np.float32) / np.float32(rate_hz)
    swell = np.minimum(time_s / np.float32(0.4), np.float32(1.0)) ** 2
    turn = np.float32(2 * np.pi * speed_hz)
    offset = swell * np.sin(turn * time_s + np.float32(rng.uniform(0, 2 * np.pi))) * np.float32(periods * 2**32)
    return offset.astype(np.int64).astype(np.uint32)


def _fft_size(num_samples: int) -> int:
    """Smallest size of at least `num_samples` that transforms quickly: 2, 3 or 5 times a power of two."""
    return min(factor << max(0, math.ceil(math.log2(num_samples / factor))) for factor in (2, 3, 5))


def _band_noise(low_hz: float, high_hz: float, *, num_samples: int, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Noise of unit power between two frequencies, `[N]`."""
    size = _fft_size(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    spectrum *= ((hz / low_hz) ** 2 / (1 + (hz / low_hz) ** 2) / (1 + (hz / high_hz) ** 2)).astype(np.float32)
    noise_N = np.fft.irfft(spectrum, n=size)[:num_samples]
    return (noise_N / np.sqrt(np.mean(noise_N**2))).astype(np.float32)


def _play(notes: Notes, instrument: str, *, num_samples: int, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Play all notes without room, `[P, N]`."""
    timbre = TIMBRES[instrument]
    dry_PN = np.zeros((int(notes.part.max()) + 1, num_samples), dtype=np.float32)
    hiss_N = _band_noise(*timbre.noise_hz, num_samples=num_samples, rate_hz=rate_hz, rng=rng) if timbre.noise else None
    for index in range(len(notes.midi)):
        midi, velocity = int(notes.midi[index]), float(notes.velocity[index])
        start = max(0, int(notes.onset_s[index] * rate_hz))
        held = max(1, int(notes.length_s[index] * rate_hz))
        length = min(held + int(timbre.release_s * rate_hz), num_samples - start)
        if length <= 0:
            continue
        level_N, share_N = _envelope(timbre, midi, held=min(held, length), num_samples=length, rate_hz=rate_hz)
        bright_N, dark_N = _tone(instrument, midi, num_samples=length, rate_hz=rate_hz, rng=rng)
        wave_N = dark_N + share_N * velocity * (bright_N - dark_N) if timbre.decay_s else bright_N
        if hiss_N is not None:
            # A hammer or plectrum is heard for 30 ms, breath and bow as long as the note.
            burst_N = np.exp(-np.arange(length, dtype=np.float32) / (0.03 * rate_hz)) if timbre.decay_s else 1.0
            wave_N += timbre.noise * burst_N * hiss_N[start : start + length]
        dry_PN[notes.part[index], start : start + length] += np.float32(velocity) * level_N * wave_N
    return dry_PN


def _room(dry_PN: Wave, *, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Seat the parts from left to right in a room of 0.3 to 1.1 s reverberation, `[2, N]`."""
    num_parts, num_samples = dry_PN.shape
    angle_P = np.linspace(0.3, 0.7, num_parts) * np.pi / 2 if num_parts > 1 else np.full(1, np.pi / 4)
    seats_CP = np.stack([np.cos(angle_P), np.sin(angle_P)]).astype(np.float32)
    reverb_s, wet = rng.uniform(0.3, 1.1), rng.uniform(0.15, 0.4)
    time_s = np.arange(int(reverb_s * rate_hz), dtype=np.float32) / rate_hz
    echo_CN = rng.standard_normal((2, len(time_s)), dtype=np.float32) * np.exp(-6.9 * time_s / reverb_s)
    # Walls swallow the highs and a room has no direct current: smooth, then take differences 8 samples apart.
    echo_CN[:, 8:] = (echo_CN[:, 8:] + echo_CN[:, 7:-1] + echo_CN[:, 6:-2]) - echo_CN[:, :-8]
    echo_CN *= wet / np.sqrt((echo_CN**2).sum(axis=1, keepdims=True))
    size = _fft_size(num_samples + len(time_s))
    source = np.fft.rfft(dry_PN.sum(axis=0), n=size)
    wet_CN = np.fft.irfft(source * np.fft.rfft(echo_CN, n=size), n=size)[:, :num_samples]
    return (seats_CP @ dry_PN + wet_CN).astype(np.float32)


def render(
    notes: Notes, instrument: str, *, clip_s: float, rate_hz: int, rms_dbfs: float, seed: int | list[int]
) -> Wave:
    """Render notes as a stereo recording.

    Args:
        notes: what is played; notes beyond the clip are cut.
        instrument: a key of `TIMBRES`.
        clip_s: length of the recording.
        rate_hz: sampling rate.
        rms_dbfs: level over the whole clip; lower where the peaks would clip.
        seed: decides detuning, room and noise.

    Returns:
        wave_CN `[2, N]`, N = round(clip_s * rate_hz).
    """
    rng = np.random.default_rng(seed)
    num_samples = round(clip_s * rate_hz)
    dry_PN = _play(notes, instrument, num_samples=num_samples, rate_hz=rate_hz, rng=rng)
    wave_CN = _room(dry_PN, rate_hz=rate_hz, rng=rng)
    wave_CN -= wave_CN.mean(axis=1, keepdims=True)
    rms = float(np.sqrt(np.mean(wave_CN**2)))
    floor_CN = rng.standard_normal(wave_CN.shape, dtype=np.float32) * np.float32(10 ** (NOISE_FLOOR_DBFS / 20))
    wave_CN = wave_CN * np.float32(10 ** (rms_dbfs / 20) / rms) + floor_CN
    peak = float(np.abs(wave_CN).max())
    return wave_CN * np.float32(min(1.0, MAX_PEAK / peak))
