"""Facts of a clip as classes: what a network may be asked of each clip beside its main task.

Shape letters: B clips, H facts.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.captions import DYNAMICS, FORMS, METRES, REGISTERS, TEXTURES, Facts
from pipeline.demo.synth import TIMBRES

PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
MODES = ("major", "minor")
TEMPO_EDGES_BPM = (60, 67, 73, 80, 88, 96, 104, 112, 122, 132)
"""80 and 112 part slow, medium and fast in the captions."""
CLASSES: dict[str, tuple[str, ...]] = {
    "instrument": tuple(TIMBRES),
    "form": tuple(FORMS),
    "metre": (*METRES, "other"),
    "mode": MODES,
    "key": tuple(f"{pitch_class} {mode}" for mode in MODES for pitch_class in range(12)),
    "texture": tuple(TEXTURES),
    "register": tuple(REGISTERS),
    "dynamics": tuple(DYNAMICS),
    "tempo": tuple(str(edge) for edge in (0, *TEMPO_EDGES_BPM)),
}
"""The values of each fact; a tempo's is the lower edge of its band."""


def pitch_class(tonic: str) -> int:
    """Semitones from C up to a tonic such as `Bb` or `F#`."""
    return (PITCH_CLASSES[tonic[0]] + tonic.count("#") - tonic.count("b")) % 12


def label_facts(facts: Sequence[Facts]) -> NDArray[np.int64]:
    """Index of each clip's value of each fact, in the order of `CLASSES` [B, H]."""
    return np.array([[CLASSES[name].index(_value(one, name)) for name in CLASSES] for one in facts], np.int64)


def _value(facts: Facts, name: str) -> str:
    if name == "key":
        return f"{pitch_class(facts.tonic)} {facts.mode}"
    if name == "tempo":
        return CLASSES["tempo"][bisect.bisect_right(TEMPO_EDGES_BPM, facts.bpm)]
    value = str(getattr(facts, name))
    return value if value in CLASSES[name] else "other"
