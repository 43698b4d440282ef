"""How well the demo's aligner finds phrases, on singing that it has not learnt from, and its card."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.records import Phrase
from pipeline.demo.training.keeping import write_card as write_files
from pipeline.demo.training.listening import Recording, covers, random_phrases, songs
from pipeline.demo.training.sung import RATE_HZ
from pipeline.lyrics.phrases import align_phrases
from pipeline.models.aligner import load_aligner
from pipeline.models.base import Aligner

COUNTS, QUICK_COUNTS = (60, 10, 6), (1, 1, 1)
"""Random phrases, songs, covers."""
CARD = """# Aligner of the demo

A small CTC network in Setlist's own form (`pipeline/models/aligner.py`): morae in katakana, a frame every 20 ms. It
knows one synthesiser's singing and nothing else; it is for the demo only.

- Data: random Japanese phrases sung by the demo's synthesiser (`pipeline/demo/singing.py`) in {voices} voices drawn at
  random, half of the stretches over accompaniments (random chords, and excerpts of the demo's training works), some
  with noise, levelled to -18 LUFS. None of the demo's songs.
- Loss: the mora of every frame, whose true time the synthesiser tells, and {ctc} times CTC.
- Steps: {steps} of AdamW, batches of {batch} stretches of {stretch_s} s, seed {seed}; minutes on one core.
- Command: `python -m pipeline.demo.training aligner --steps {steps} --seed {seed}`. The weights here are what one such
  run left, rounded to float16; another machine's run gives other last digits, so others of the same quality.
- Any use is allowed.

Figures, of the rounded weights through `load_aligner` and `align_phrases`; boundaries are starts and ends of phrases.

{figures}
"""


def measure(folder: Path, *, is_quick: bool = False) -> dict[str, float]:
    """Align random phrases, the ten songs and the covers; errors of phrases' boundaries in ms."""
    aligner = load_aligner(str(folder))
    num_phrases, num_songs, num_covers = QUICK_COUNTS if is_quick else COUNTS
    kinds: dict[str, Iterable[Recording]] = {
        "phrases": random_phrases(num_phrases), "songs": songs(num_songs), "covers": covers(num_covers),
    }  # fmt: skip
    figures: dict[str, float] = {}
    took_s = heard_s = 0.0
    for kind, recordings in kinds.items():
        errors_ms: list[float] = []
        for recording in recordings:
            began_s = time.perf_counter()
            errors_ms += boundary_errors_ms(aligner, recording)
            took_s, heard_s = took_s + time.perf_counter() - began_s, heard_s + recording.wave_N.size / RATE_HZ
        figures[f"{kind}: median boundary error, ms"] = round(float(np.median(errors_ms)), 1)
        figures[f"{kind}: 90th percentile, ms"] = round(float(np.percentile(errors_ms, 90)), 1)
    figures["seconds for a minute of sound, one core"] = round(60 * took_s / heard_s, 2)
    return figures


def boundary_errors_ms(aligner: Aligner, recording: Recording) -> list[float]:
    """How far off each phrase's start and end are."""
    untimed = [Phrase(text=p["text"], kana=p.get("kana", ""), start_s=None, end_s=None, source="tag")
               for p in recording.phrases]  # fmt: skip
    found = align_phrases(untimed, aligner.vocabulary, partial(aligner.align, recording.wave_N))
    pairs = [
        (one[edge], other[edge])
        for one, other in zip(found, recording.phrases, strict=True)
        for edge in ("start_s", "end_s")
    ]
    return [1000 * abs(float(one or 0.0) - float(other or 0.0)) for one, other in pairs]


def write_card(folder: Path, figures: dict[str, float], *, steps: int, seed: int) -> None:
    """Write the card and `figures.json`."""
    from pipeline.demo.training.aligner import BATCH, CTC_SHARE, NUM_VOICES, WINDOW_MELS

    facts = {
        "voices": NUM_VOICES, "ctc": CTC_SHARE, "steps": steps, "batch": BATCH, "stretch_s": WINDOW_MELS / 100,
        "seed": seed,
    }  # fmt: skip
    write_files(folder, CARD, facts, figures)
