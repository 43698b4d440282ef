"""How singers differ, and what mouths do: formants of vowels, noise of consonants.

Formants of the vowels: means of Japanese men (Hirahara and Akahane-Yamada 2004, rounded); other voices scale them by
the length of their vocal tract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Register = Literal["soprano", "alto", "tenor", "bass"]

VOWELS = {
    "a": (740.0, 1200.0, 2450.0), "i": (300.0, 2250.0, 3050.0), "u": (340.0, 1300.0, 2250.0),
    "e": (490.0, 1900.0, 2550.0), "o": (480.0, 830.0, 2400.0), "N": (280.0, 1050.0, 2200.0),
}  # fmt: skip
"""First three formants in Hz; `N` is the syllable nasal."""
HIGH_FORMANTS_HZ = (3400.0, 4300.0)
BANDWIDTHS_HZ = (80.0, 95.0, 130.0, 190.0, 260.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consonant:
    """What is heard before a vowel; levels are relative to a full vowel."""

    length_s: float
    locus: tuple[float, float, float]
    """Formants that the vowel comes from, in Hz; a 0 takes the vowel's own."""
    closure_s: float = 0.0
    """Silence, or hum, before the release."""
    voice: float = 0.0
    """Level of the voice meanwhile."""
    burst: float = 0.0
    """Level of the noise at the release."""
    noise: float = 0.0
    """Level of the noise after it."""
    breath: float = 0.0
    """Level of the noise that goes through the vocal tract."""
    noise_hz: tuple[float, float] = (0.0, 1.0)
    """Centre of the noise and its width on either side in octaves."""


CONSONANTS = {
    "k": Consonant(length_s=0.075, locus=(300, 0, 0), closure_s=0.04, burst=0.55, breath=0.3, noise_hz=(1900, 0.6)),
    "t": Consonant(length_s=0.06, locus=(320, 1700, 2700), closure_s=0.04, burst=0.6, breath=0.2, noise_hz=(4200, 0.8)),
    "p": Consonant(length_s=0.06, locus=(300, 800, 2200), closure_s=0.045, burst=0.35, breath=0.2, noise_hz=(900, 1.2)),
    "g": Consonant(length_s=0.06, locus=(280, 0, 0), closure_s=0.035, voice=0.2, burst=0.35, noise_hz=(1900, 0.6)),
    "d": Consonant(length_s=0.055, locus=(280, 1700, 2700), closure_s=0.035, voice=0.2, burst=0.35,
                   noise_hz=(4000, 0.8)),
    "b": Consonant(length_s=0.055, locus=(280, 800, 2200), closure_s=0.04, voice=0.22, burst=0.18, noise_hz=(800, 1.2)),
    "s": Consonant(length_s=0.1, locus=(320, 1600, 2600), noise=0.42, noise_hz=(5800, 0.5)),
    "sh": Consonant(length_s=0.1, locus=(300, 1900, 2700), noise=0.45, noise_hz=(3500, 0.5)),
    "z": Consonant(length_s=0.085, locus=(300, 1600, 2600), closure_s=0.02, voice=0.3, noise=0.28,
                   noise_hz=(5600, 0.5)),
    "j": Consonant(length_s=0.085, locus=(290, 1950, 2700), closure_s=0.025, voice=0.28, burst=0.3, noise=0.3,
                   noise_hz=(3500, 0.5)),
    "ch": Consonant(length_s=0.095, locus=(300, 1950, 2700), closure_s=0.04, burst=0.55, noise=0.42,
                    noise_hz=(3600, 0.5)),
    "ts": Consonant(length_s=0.095, locus=(320, 1600, 2600), closure_s=0.04, burst=0.55, noise=0.4,
                    noise_hz=(5600, 0.5)),
    "h": Consonant(length_s=0.07, locus=(0, 0, 0), breath=0.8),
    "hy": Consonant(length_s=0.08, locus=(300, 2200, 3000), breath=0.3, noise=0.25, noise_hz=(3300, 0.4)),
    "f": Consonant(length_s=0.08, locus=(320, 1000, 2200), breath=0.35, noise=0.14, noise_hz=(1700, 1.5)),
    "m": Consonant(length_s=0.07, locus=(260, 900, 2100), voice=0.42),
    "n": Consonant(length_s=0.065, locus=(270, 1500, 2500), voice=0.42),
    "y": Consonant(length_s=0.075, locus=(280, 2200, 2900), voice=0.75),
    "w": Consonant(length_s=0.075, locus=(320, 750, 2200), voice=0.7),
    "r": Consonant(length_s=0.04, locus=(380, 1450, 2300), voice=0.28),
    "v": Consonant(length_s=0.07, locus=(290, 900, 2200), voice=0.4, noise=0.08, noise_hz=(2500, 1.2)),
}  # fmt: skip
"""By Hepburn's letters; what is not here is one of these followed by `y`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One singer."""

    register: Register
    tract_scale: float
    """Formants relative to those of `VOWELS`."""
    vibrato_cents: float
    vibrato_hz: float
    vibrato_delay_s: float
    """Into a note before vibrato is full."""
    jitter_cents: float
    portamento_s: float
    """Time that the pitch takes from note to note."""
    breath: float
    """Level of breath in the voice."""
    tilt_db: float
    """Fall of the source per octave, beyond that of the throat and lips."""
    consonants: float
    """How strong noise is."""
    slowness: float
    """How long consonants and glides take."""
    cents: float
    """How sharp they sing throughout."""


RANGES: dict[Register, tuple[tuple[float, float], int]] = {
    "soprano": ((1.14, 1.26), 71),
    "alto": ((1.08, 1.19), 66),
    "tenor": ((0.97, 1.07), 59),
    "bass": ((0.88, 0.97), 52),
}
"""Scale of the vocal tract, and the MIDI note in the middle of the voice."""


def draw_voice(seed: int | list[int], register: Register) -> Voice:
    """Draw a singer of a register; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    return Voice(
        register=register,
        tract_scale=float(rng.uniform(*RANGES[register][0])),
        vibrato_cents=float(rng.uniform(12, 55)),
        vibrato_hz=float(rng.uniform(4.8, 6.4)),
        vibrato_delay_s=float(rng.uniform(0.15, 0.45)),
        jitter_cents=float(rng.uniform(3, 9)),
        portamento_s=float(rng.uniform(0.04, 0.11)),
        breath=float(rng.uniform(0.02, 0.1)),
        tilt_db=float(rng.uniform(0.0, 4.0)),
        consonants=float(rng.uniform(0.75, 1.35)),
        slowness=float(rng.uniform(0.85, 1.25)),
        cents=float(rng.normal(0, 6)),
    )
