"""Random singing to learn from: phrases, tunes, voices, accompaniments; the true time of every mora is known.

Shapes: N samples, C channels, J notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo import synth
from pipeline.demo.morae import GEMINATE, PROLONGED
from pipeline.demo.singing import Note, Timed, sing
from pipeline.demo.training.phrases import SAME_SOUND, draw_morae
from pipeline.demo.voices import RANGES, Register, draw_voice
from pipeline.music.loudness import normalise_loudness

RATE_HZ = 16_000
STEP_SAMPLES = 320
"""Clips are whole numbers of 20 ms long, the step of Whisper's timestamps and of the aligner's frames."""
TARGET_LUFS, CEILING_DBTP = -18.0, -1.0
"""As the demo's settings level every clip."""
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 1, 5, 7, 8))
LENGTHS, LENGTH_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0), (0.16, 0.56, 0.1, 0.15, 0.03)
"""Of notes in morae of the basic tempo."""
REGISTERS: tuple[Register, ...] = ("soprano", "alto", "tenor", "bass")

Wave = NDArray[np.float32]
Phrase = list[Timed]
"""Morae in hiragana as they sound, with start and end in seconds; a prolonged one is one."""


@dataclass(frozen=True, slots=True)
class SungClip:
    """A recording and what is sung in it; no phrases where nothing is."""

    wave_N: Wave
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """What all phrases of a clip share."""

    scale: tuple[int, ...]
    tonic: int
    middle: int
    """Degree of the scale in the middle of the voice."""
    mora_s: float


def draw_sung(seed: Sequence[int], *, max_s: float = 10.0) -> SungClip:
    """Draw a voice that sings some phrases, levelled as the demo levels clips.

    Args:
        seed: decides everything.
        max_s: longest.
    """
    rng = np.random.default_rng([*seed, 0])
    register = REGISTERS[rng.integers(len(REGISTERS))]
    notes, firsts = _draw_notes(
        _draw_style(register, rng),
        rng,
        lead_s=float(rng.uniform(0.02, 0.6)),
        end_s=float(rng.uniform(0.5, 0.93)) * max_s,
    )
    sung_N, timed = sing(notes, voice=draw_voice([*seed, 1], register), seed=[*seed, 2], sample_rate_hz=RATE_HZ)
    wanted = min(int(max_s * RATE_HZ), sung_N.size + round(max(0.0, float(rng.uniform(-0.2, 0.5))) * RATE_HZ))
    wave_N = np.zeros(wanted // STEP_SAMPLES * STEP_SAMPLES, np.float32)
    wave_N[: sung_N.size] = sung_N[: wave_N.size]
    return SungClip(level(wave_N), tuple(_phrases(timed, firsts)))


def level(wave_N: Wave) -> Wave:
    """Level a wave as the demo levels clips."""
    return normalise_loudness(wave_N, RATE_HZ, target_lufs=TARGET_LUFS, ceiling_dbtp=CEILING_DBTP).wave_N


def _draw_style(register: Register, rng: np.random.Generator) -> _Style:
    scale = SCALES[rng.integers(len(SCALES))]
    tonic = int(rng.integers(12))
    middle_midi = RANGES[register][1] + rng.normal(0, 2.5)
    middle = round((middle_midi - tonic) / 12 * len(scale))
    return _Style(
        scale=scale, tonic=tonic, middle=middle, mora_s=float(np.exp(rng.uniform(np.log(0.13), np.log(0.45))))
    )


def _midi(style: _Style, degree: int) -> int:
    octave, place = divmod(degree, len(style.scale))
    return style.tonic + 12 * octave + style.scale[place]


def _draw_notes(
    style: _Style, rng: np.random.Generator, *, lead_s: float, end_s: float
) -> tuple[list[Note], list[float]]:
    """Draw phrases one after another; returns all notes, and when each phrase begins."""
    notes: list[Note] = []
    firsts: list[float] = []
    at_s = lead_s
    while not notes or at_s < end_s:
        room = max(1, int((end_s - at_s) / style.mora_s / 1.2))
        wanted = int(min(rng.integers(2, 16), room))
        phrase = _draw_phrase(style, draw_morae(wanted, rng), rng, start_s=at_s)
        phrase = [note for note in phrase if note.end_s <= end_s + 0.6] or phrase[:1]
        firsts.append(at_s)
        notes += phrase
        # Some take no breath between lines.
        at_s = phrase[-1].end_s + (0.0 if rng.random() < 0.25 else float(rng.uniform(0.2, 1.1)))
    return notes, firsts


def _draw_phrase(style: _Style, morae: list[str], rng: np.random.Generator, *, start_s: float) -> list[Note]:
    """Put morae on notes of a random walk; the last is held."""
    texts = _share_out(morae, rng)
    degree = style.middle + int(rng.integers(-3, 4))
    at_s = start_s
    notes: list[Note] = []
    for number, text in enumerate(texts):
        length = float(rng.choice(LENGTHS, p=LENGTH_WEIGHTS)) * (1.0 if len(text) < 3 else 1.5)
        if number == len(texts) - 1:
            length = float(rng.uniform(1.6, 4.0))
        length_s = min(max(length * style.mora_s, 0.11), 2.5)
        notes.append(Note(text=text, midi=_midi(style, degree), start_s=at_s, end_s=at_s + length_s))
        at_s += length_s
        # Back to the middle the more, the farther away.
        pull = (style.middle - degree) / 6
        degree += round(float(np.clip(rng.normal(pull, 1.4), -4, 4)))
    return notes


def _share_out(morae: list[str], rng: np.random.Generator) -> list[str]:
    """Morae to notes: most have one, some two; a stop goes with the mora before; some are prolonged by a note."""
    texts: list[str] = []
    for mora in morae:
        joins = mora == GEMINATE or rng.random() < 0.08
        if texts and texts[-1] != PROLONGED and joins and not texts[-1].endswith(GEMINATE):
            texts[-1] += mora
            continue
        texts.append(mora)
        if rng.random() < 0.05:
            texts.append(PROLONGED)
    return texts


def _phrases(timed: Sequence[Timed], firsts: Sequence[float]) -> list[Phrase]:
    phrases: list[Phrase] = []
    starts = [*firsts, float("inf")]
    for kana, start_s, end_s in timed:
        if start_s >= starts[len(phrases)] - 1e-6:
            phrases.append([])
        if kana == PROLONGED and phrases[-1]:
            before, began_s, _ = phrases[-1][-1]
            phrases[-1][-1] = (before, began_s, end_s)
        else:
            phrases[-1].append((SAME_SOUND.get(kana, kana), start_s, end_s))
    return phrases


def draw_backing(seed: Sequence[int], *, length_s: float = 10.0) -> Wave:
    """Play chords and broken chords of a scale on a random instrument, levelled like a voice, `[N]`."""
    rng = np.random.default_rng([*seed, 3])
    scale, tonic, beat_s = SCALES[rng.integers(len(SCALES))], int(rng.integers(12)), float(rng.uniform(0.22, 0.8))
    is_broken = rng.random() < 0.4
    root, rows = 0, list[tuple[float, float, int, int]]()
    for number in range(int(length_s / beat_s) + 1):
        if number % 2 == 0 or rng.random() < 0.2:
            root = int(rng.integers(len(scale)))
        for part in range(3):
            if is_broken and part and (number + part) % 2:
                continue
            octave, place = divmod(root + 2 * part, len(scale))
            midi = tonic + 12 * (3 + octave + (part > 0) + int(rng.random() < 0.25)) + scale[place]
            rows.append((number * beat_s, 0.95 * beat_s * float(rng.choice([1.0, 1.0, 2.0])), midi, part))
    notes = synth.Notes(
        onset_s=np.array([row[0] for row in rows]),
        length_s=np.array([row[1] for row in rows]),
        midi=np.array([row[2] for row in rows]),
        part=np.array([row[3] for row in rows]),
        velocity=rng.uniform(0.5, 0.9, len(rows)),
    )
    instrument = list(synth.TIMBRES)[rng.integers(len(synth.TIMBRES))]
    wave_CN = synth.render(notes, instrument, clip_s=length_s, rate_hz=RATE_HZ, rms_dbfs=-20.0, seed=[*seed, 4])
    return level(wave_CN.mean(axis=0))
