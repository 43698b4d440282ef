"""A small singer: kana and pitches in, a voice out; deterministic from its seed, and every mora's time is known.

Source and filter: a band-limited pulse train with vibrato, jitter and glides between notes, and breath beside it, go
through five resonances that move from vowel to vowel; the noise of consonants has a spectrum of its own. The filters
act on short overlapping frames, as fast as the transform allows.

Shapes: N samples, T frames, F bins of the spectrum, J notes, P points of a track, D formants, W samples of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.morae import Mora, split_morae
from pipeline.demo.voices import BANDWIDTHS_HZ, CONSONANTS, HIGH_FORMANTS_HZ, VOWELS, Consonant, Voice

HOP_S = 0.004
CHUNK_FRAMES = 2048
TAIL_S = 0.25
"""Silence after the last note."""
RMS_DBFS, MAX_PEAK = -20.0, 0.9
NOISE_FLOOR_DBFS = -72.0
STOP_SHARE, STOP_MAX_S = 0.4, 0.12
"""How much of a note a double consonant takes at its end."""
JOIN_S = 1e-3
"""Notes that are no further apart are sung in one breath."""

Wave = NDArray[np.float32]
Timed = tuple[str, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note to sing."""

    text: str
    """Morae in kana; `ー` prolongs the sound before."""
    midi: float
    start_s: float
    end_s: float


@dataclass(slots=True)
class _Tracks:
    """Points in time between which the voice moves in straight lines."""

    formant_s: list[float] = field(default_factory=list[float])
    formants: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])
    voice: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    breath: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    noise: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    band_s: list[float] = field(default_factory=list[float])
    bands: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Spectrum of the noise from `band_s` on."""

    def shape(self, at_s: float, formants: tuple[float, float, float]) -> None:
        self.formant_s.append(at_s)
        self.formants.append(formants)


def sing(
    notes: Sequence[Note], *, voice: Voice, seed: int | list[int], sample_rate_hz: int
) -> tuple[Wave, list[Timed]]:
    """Sing notes.

    Args:
        notes: in order of time, one at a time.
        voice: who sings.
        seed: decides jitter, breath and small variations.
        sample_rate_hz: at least 8,000.

    Returns:
        wave_N `[N]` at -20 dBFS while it sings, with a short silence after the last note; and each mora in hiragana
        with its start and end in seconds.

    Raises:
        ValueError: a text that is no kana, or no notes.
    """
    if not notes:
        raise ValueError("nothing to sing")
    rng = np.random.default_rng(seed)
    num_samples = math.ceil((notes[-1].end_s + TAIL_S) * sample_rate_hz)
    morae = list(_time_morae(notes))
    tracks = _plan(morae, voice, rng)
    pitch_hz_N = _pitch(notes, voice, rng, num_samples=num_samples, sample_rate_hz=sample_rate_hz)
    time_N = np.arange(num_samples) / sample_rate_hz
    voiced_N = _follow(tracks.voice, time_N)
    hiss_N = rng.standard_normal(num_samples, dtype=np.float32)
    # Air at the glottis is as loud high up as low down; taking differences undoes the tilt that suits the pulses.
    air_N: Wave = np.diff(hiss_N, prepend=np.float32(0)).astype(np.float32)
    glottal_N = _pulses(pitch_hz_N, sample_rate_hz) + voice.breath * air_N
    throat_N: Wave = (voiced_N * glottal_N).astype(np.float32, copy=False)
    throat_N += _follow(tracks.breath, time_N) * air_N
    lips_N = np.roll(hiss_N, num_samples // 2) * _follow(tracks.noise, time_N)
    wave_N = _filter(
        tracks, voice, throat_N=throat_N, lips_N=lips_N, pitch_hz_N=pitch_hz_N, sample_rate_hz=sample_rate_hz
    )
    wave_N = _level(wave_N, voiced_N)
    wave_N += np.float32(10 ** (NOISE_FLOOR_DBFS / 20)) * np.roll(hiss_N, num_samples // 3)
    return wave_N, [(mora.kana, start_s, end_s) for mora, start_s, end_s in morae]


def _time_morae(notes: Sequence[Note]) -> Iterator[tuple[Mora, float, float]]:
    """Share each note out among its morae; a double consonant takes the end, the others equal parts."""
    for note in notes:
        morae = split_morae(note.text)
        length_s = note.end_s - note.start_s
        stop_s = min(STOP_MAX_S, STOP_SHARE * length_s)
        stops = [stop_s if mora.consonant == "Q" and len(morae) > 1 else 0.0 for mora in morae]
        part_s = (length_s - sum(stops)) / max(1, stops.count(0.0))
        at_s = note.start_s
        for mora, own_s in zip(morae, stops, strict=True):
            end_s = at_s + (own_s or part_s)
            yield mora, at_s, end_s
            at_s = end_s


def _plan(morae: Sequence[tuple[Mora, float, float]], voice: Voice, rng: np.random.Generator) -> _Tracks:
    """Lay down where the mouth is and how loud voice and noise are."""
    tracks = _Tracks()
    last_end_s, vowel, level = -1.0, "a", 1.0
    for number, (mora, start_s, end_s) in enumerate(morae):
        after_rest = start_s - last_end_s > JOIN_S
        stays = number + 1 < len(morae) and morae[number + 1][1] - end_s <= JOIN_S
        if mora.consonant == "Q":
            # On a note of its own the vowel goes on until the mouth closes.
            close_s = max(start_s, end_s - STOP_MAX_S)
            tracks.voice += [(close_s, level), (min(close_s + 0.02, end_s), 0.0), (end_s, 0.0)]
            last_end_s, level = end_s, 0.0
            continue
        if mora.vowel or mora.consonant == "N" or after_rest or not level:
            sound = mora.vowel or ("N" if mora.consonant == "N" else vowel)
            opens_s = _attack(tracks, mora, vowel=sound, span_s=(start_s, end_s), level=0.0 if after_rest else level,
                              voice=voice)  # fmt: skip
            level = float(rng.uniform(0.85, 1.1)) * (0.6 if sound == "N" else 1.0)
            vary = rng.normal(1.0, 0.02, 3)
            target = _scaled(VOWELS[sound], voice, (float(vary[0]), float(vary[1]), float(vary[2])))
            glide_s = min(0.045 * voice.slowness, 0.4 * (end_s - opens_s))
            tracks.shape(opens_s + glide_s, target)
            tracks.shape(max(end_s - 0.5 * glide_s, opens_s + glide_s), target)
            tracks.voice += [(opens_s + 0.5 * glide_s, level), (max(end_s - 0.03, opens_s + 0.5 * glide_s), level)]
            vowel = sound
        if not stays:
            tracks.voice += [(end_s - min(0.05, 0.3 * (end_s - start_s)), level), (end_s, 0.0)]
        last_end_s = end_s
    if not tracks.formants:
        tracks.shape(0.0, _scaled(VOWELS[vowel], voice))
    return tracks


def _attack(
    tracks: _Tracks, mora: Mora, *, vowel: str, span_s: tuple[float, float], level: float, voice: Voice
) -> float:
    """Lay down the consonant of a mora and return when its vowel opens; without one, a small dip."""
    start_s, end_s = span_s
    for name in _consonant_names(mora):
        sound = CONSONANTS[name]
        length_s = min(sound.length_s * voice.slowness, 0.4 * (end_s - start_s))
        pace = length_s / sound.length_s
        release_s, open_s = start_s + sound.closure_s * pace, start_s + length_s
        target = VOWELS[vowel]
        locus = tuple(own or other for own, other in zip(sound.locus, target, strict=True))
        tracks.shape(start_s + 0.3 * length_s, _scaled((locus[0], locus[1], locus[2]), voice))
        tracks.shape(open_s, _scaled((locus[0], locus[1], locus[2]), voice))
        tracks.voice += [(start_s, level), (start_s + 0.2 * length_s, sound.voice), (open_s, sound.voice)]
        _add_noise(tracks, sound, (start_s, release_s, open_s), voice)
        start_s, level = open_s, sound.voice
    if start_s == span_s[0]:
        tracks.voice += [(start_s, level), (start_s + 0.012, 0.75 * level)]
    return start_s


def _consonant_names(mora: Mora) -> list[str]:
    """Consonants of a mora in order: `ky` is k and y, and h before i is a palatal one."""
    name = mora.consonant
    if name in ("", "N"):
        return []
    if name == "h" and mora.vowel == "i":
        return ["hy"]
    return [name] if name in CONSONANTS else [name[:-1], "y"]


def _add_noise(tracks: _Tracks, sound: Consonant, times_s: tuple[float, float, float], voice: Voice) -> None:
    start_s, release_s, open_s = times_s
    if sound.burst or sound.noise:
        tracks.band_s.append(start_s)
        tracks.bands.append(sound.noise_hz)
        first = sound.burst or sound.noise
        rise_s = 0.001 if sound.burst else 0.3 * (open_s - release_s)
        noise = [(release_s, 0.0), (release_s + rise_s, first), (release_s + max(rise_s, 0.012), sound.noise)]
        tracks.noise += [(at_s, value * voice.consonants) for at_s, value in noise]
        tracks.noise += [(max(open_s, release_s + 0.013), sound.noise * voice.consonants), (open_s + 0.015, 0.0)]
    if sound.breath:
        tracks.breath += [(release_s, 0.0), (release_s + 0.006, sound.breath * voice.consonants)]
        tracks.breath += [(max(open_s, release_s + 0.007), sound.breath * voice.consonants), (open_s + 0.02, 0.0)]


def _scaled(
    formants: tuple[float, float, float], voice: Voice, vary: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[float, float, float]:
    first, second, third = (hz * voice.tract_scale * by for hz, by in zip(formants, vary, strict=True))
    return first, second, third


def _follow(points: Sequence[tuple[float, float]], time_N: NDArray[np.float64]) -> Wave:
    """Value of a track at each time; nothing before its first point and after its last."""
    if not points:
        return np.zeros(len(time_N), dtype=np.float32)
    table_P2 = np.array(points)
    # A point that comes early because a mora is very short must not turn time back.
    at_P = np.maximum.accumulate(table_P2[:, 0])
    return np.interp(time_N, at_P, table_P2[:, 1], left=0.0, right=0.0).astype(np.float32)


def _pitch(
    notes: Sequence[Note], voice: Voice, rng: np.random.Generator, *, num_samples: int, sample_rate_hz: int
) -> NDArray[np.float64]:
    """Pitch in Hz at every sample: notes joined by glides, vibrato that swells, drift and jitter."""
    step_s = HOP_S / 2
    time_T = np.arange(0, num_samples / sample_rate_hz + step_s, step_s)
    start_J = np.array([note.start_s for note in notes])
    # In a rest the voice already thinks of the next note.
    index_T = np.searchsorted(np.array([note.end_s for note in notes])[:-1], time_T, side="right")
    midi_T = np.array([note.midi for note in notes])[index_T]
    width = max(3, round(voice.portamento_s / step_s) | 1)
    kernel = np.hanning(width + 2)[1:-1]
    midi_T = np.convolve(np.pad(midi_T, width // 2, mode="edge"), kernel / kernel.sum(), mode="valid")
    age_T = np.maximum(0.0, time_T - start_J[index_T])
    swell_T = np.clip(age_T / voice.vibrato_delay_s - 0.4, 0.0, 1.0)
    speed_T = voice.vibrato_hz * (1 + 0.04 * _slow_noise(len(time_T), round(0.5 / step_s), rng))
    vibrato_T = voice.vibrato_cents * swell_T * np.sin(2 * np.pi * np.cumsum(speed_T) * step_s)
    drift_T = 5.0 * _slow_noise(len(time_T), round(0.6 / step_s), rng)
    jitter_T = voice.jitter_cents * _slow_noise(len(time_T), 3, rng)
    scoop_T = -40.0 * np.exp(-age_T / 0.04) * (rng.random(len(notes)) < 0.3)[index_T]
    cents_T = voice.cents + vibrato_T + drift_T + jitter_T + scoop_T
    hz_T = 440.0 * 2 ** ((midi_T + cents_T / 100 - 69) / 12)
    return np.interp(np.arange(num_samples) / sample_rate_hz, time_T, hz_T)


def _slow_noise(length: int, every: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of unit deviation that takes a new value every so many steps and moves straight between."""
    values = rng.standard_normal(length // every + 2)
    return np.interp(np.arange(length) / every, np.arange(len(values)), values)


def _pulses(pitch_hz_N: NDArray[np.float64], sample_rate_hz: int) -> Wave:
    """Pulse train of unit power: all harmonics below 47 % of the rate, alike, as a sum in closed form."""
    phase_N = np.mod(np.cumsum(pitch_hz_N) / sample_rate_hz, 1.0)
    num_N = np.floor(0.47 * sample_rate_hz / pitch_hz_N)
    below_N = np.sin(np.pi * phase_N)
    at_pulse = np.abs(below_N) < 1e-7
    below_N[at_pulse] = 1.0
    sum_N = np.sin((2 * num_N + 1) * np.pi * phase_N) / (2 * below_N) - 0.5
    sum_N[at_pulse] = num_N[at_pulse]
    return (sum_N * np.sqrt(2 / num_N)).astype(np.float32)


def _filter(
    tracks: _Tracks,
    voice: Voice,
    *,
    throat_N: Wave,
    lips_N: Wave,
    pitch_hz_N: NDArray[np.float64],
    sample_rate_hz: int,
) -> Wave:
    """Send voice and breath through the vocal tract and noise through its own bands, frame by frame."""
    hop = 2 ** round(math.log2(HOP_S * sample_rate_hz))
    window_W = np.hanning(4 * hop + 1)[:-1].astype(np.float32) / np.float32(2)
    size = 8 * hop
    num_frames = len(throat_N) // hop + 4
    frames = [_frames(wave_N, num_frames, hop) for wave_N in (throat_N, lips_N)]
    hz_F = np.fft.rfftfreq(size, 1 / sample_rate_hz).astype(np.float32)
    centre_T = (np.arange(num_frames) - 1) * hop / sample_rate_hz
    pitch_T = np.interp(centre_T * sample_rate_hz, np.arange(len(pitch_hz_N)), pitch_hz_N)
    out_TW = np.zeros((num_frames + 7, hop), dtype=np.float32)
    for first in range(0, num_frames, CHUNK_FRAMES):
        part = slice(first, min(num_frames, first + CHUNK_FRAMES))
        spectrum_TF = np.fft.rfft(frames[0][part] * window_W, n=size).astype(np.complex64)
        spectrum_TF *= _tract(tracks, voice, time_T=centre_T[part], hz_F=hz_F, pitch_T=pitch_T[part])
        noisy_T = np.flatnonzero(np.abs(frames[1][part]).max(axis=1))
        if len(noisy_T):
            noise_TF = np.fft.rfft(frames[1][part][noisy_T] * window_W, n=size)
            spectrum_TF[noisy_T] += noise_TF * _bands(tracks, centre_T[part][noisy_T], hz_F)
        chunk_TW = np.fft.irfft(spectrum_TF, n=size).astype(np.float32)
        for block in range(8):
            out_TW[first + block : part.stop + block] += chunk_TW[:, block * hop : (block + 1) * hop]
    return out_TW.ravel()[3 * hop : 3 * hop + len(throat_N)]


def _frames(wave_N: Wave, num_frames: int, hop: int) -> Wave:
    padded_N = np.pad(wave_N, (3 * hop, num_frames * hop + 4 * hop - len(wave_N)))
    return np.lib.stride_tricks.sliding_window_view(padded_N, 4 * hop)[::hop][:num_frames]


def _tract(
    tracks: _Tracks,
    voice: Voice,
    *,
    time_T: NDArray[np.float64],
    hz_F: NDArray[np.float32],
    pitch_T: NDArray[np.float64],
) -> NDArray[np.complex64]:
    """Response of the vocal tract at each frame, `[T, F]`: a cascade of resonances after a falling source."""
    at_P = np.maximum.accumulate(np.array(tracks.formant_s))
    shape_PD = np.array(tracks.formants)
    formants = [np.interp(time_T, at_P, shape_PD[:, number]) for number in range(3)]
    # Singers open the mouth until the first formant lies no lower than the note.
    formants[0] = np.maximum(formants[0], 1.05 * pitch_T)
    formants[1] = np.maximum(formants[1], 1.15 * formants[0])
    formants += [np.full(len(time_T), hz * voice.tract_scale) for hz in HIGH_FORMANTS_HZ]
    below_TF = np.ones((len(time_T), len(hz_F)), dtype=np.complex64)
    for centre_T, width_hz in zip(formants, BANDWIDTHS_HZ, strict=True):
        ratio_TF = hz_F[None, :] / centre_T[:, None].astype(np.float32)
        width_T = (width_hz / centre_T).astype(np.float32)
        below_TF *= 1 - ratio_TF**2 + 1j * ratio_TF * width_T[:, None]
    # Poles above the fifth lift what the cascade cuts off; lips and glottis together fall by 6 dB an octave.
    slope = 1.0 + voice.tilt_db / 6.02
    tilt_F = (1 + (hz_F / 250) ** 2) ** np.float32(-slope / 2) * (1 + (hz_F / 3000) ** 2)
    tilt_F *= hz_F / np.sqrt(hz_F**2 + 60**2)
    response_TF = tilt_F[None, :] / below_TF
    # Half of the difference in loudness between vowels is the singer's to make up for.
    power_T = np.sqrt(np.mean(np.abs(response_TF) ** 2, axis=1))
    return (response_TF / np.sqrt(power_T)[:, None]).astype(np.complex64)


def _bands(tracks: _Tracks, time_T: NDArray[np.float64], hz_F: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spectrum of the consonants' noise at each frame, `[T, F]`, of unit power over the whole band."""
    index_T = np.maximum(0, np.searchsorted(np.array(tracks.band_s) - 0.5 * HOP_S, time_T, side="right") - 1)
    octaves_F = np.log2(np.maximum(hz_F, 30.0))
    kinds = sorted(set(tracks.bands))
    shape_KF = np.stack([np.exp(-0.5 * ((octaves_F - math.log2(hz)) / width) ** 2) for hz, width in kinds])
    shape_KF /= np.sqrt(np.mean(shape_KF**2, axis=1, keepdims=True))
    kind_P = np.array([kinds.index(band) for band in tracks.bands])
    return shape_KF[kind_P[index_T]].astype(np.float32)


def _level(wave_N: Wave, voiced_N: Wave) -> Wave:
    """Bring what is sung to the wanted level, lower where a peak would clip."""
    heard = voiced_N > 0.5
    rms = float(np.sqrt(np.mean(wave_N[heard] ** 2))) if heard.any() else float(np.sqrt(np.mean(wave_N**2)))
    wave_N = wave_N * np.float32(10 ** (RMS_DBFS / 20) / max(rms, 1e-9))
    return wave_N * np.float32(min(1.0, MAX_PEAK / max(float(np.abs(wave_N).max()), 1e-9)))
