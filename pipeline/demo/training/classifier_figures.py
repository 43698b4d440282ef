"""How often the demo's classifier is right, measured through the project's own adapter on held-out works.

Shape letters: B clips, V classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.captions import Facts
from pipeline.demo.training.fact_labels import pitch_class
from pipeline.demo.training.music import Music
from pipeline.engine.progress import progress
from pipeline.models.classifier import Classifier

NUM_DRAWS = 1000
"""Of the bootstrap."""
TRUTH: dict[str, Callable[[Facts], str]] = {
    "mode": lambda facts: facts.mode,
    "instrument": lambda facts: facts.instrument,
    "texture": lambda facts: facts.texture,
    "key": lambda facts: f"{pitch_class(facts.tonic)} {facts.mode}",
}
CARD = """# Classifier of the demo's facts

A small convolutional network of our own that names a clip's instrument, texture, key and mode, to score music with. It
shares nothing with the demo's CLAP, which chooses examples. For the demo only: it knows 14 synthetic instruments and
nine kinds of scores.

- Architecture: `pipeline.models.classifier.FactNetwork`: log-mel and semitone spectra at 16 kHz, two stacks of
  convolutions, a head for each fact; evidence for the 24 keys is counted alike for each, and a mode's share is the sum
  over its twelve.
- Data: {clips} clips of 10 s of public-domain scores that come with music21, without the works that the demo's presets
  hold out for their test split; rendered by the demo's synthesiser at 32 kHz, levelled and resampled as `ingest` does.
- Training: {steps} steps of {batch} clips, seed {seed}; other starts, colours, noise floors and keys in every step.
  bfloat16 autocast; on another machine the weights will differ in part.
- It does not name the tempo: a head for its band was right for 55 % of the held-out clips, the commonest is for 56 %.
- It has heard each instrument with its own repertoire only: of chords or tunes on instruments that never play such in
  the demo (a tune on the church organ, a hymn on the flute) it names the wrong instrument about every second time.
- Command: `python -m pipeline.demo.training classifier --steps {steps} --seed {seed}`; about 5 minutes of one core.
- Weights are kept in half precision; the adapter computes in float32.

Figures, with these rounded weights, on other excerpts of held-out works: accuracy, the same with all values of a fact
weighing alike (`balanced`), the ends of its 95 % interval (bootstrap over clips), and the accuracy of naming the
commonest value. Times are of one CPU thread.

{figures}

Any use is allowed.
"""


def measure(classifier: Classifier, music: Music, *, seed: int) -> dict[str, float]:
    """Name the facts of held-out clips and compare with the truth.

    Args:
        classifier: at the clips' rate.
        music: clips of works that were not learnt from.
        seed: of the bootstrap.
    """
    began_s = time.process_time()
    bar = progress(range(len(music)), total=len(music), desc="held-out clips", unit="clip")
    named = [classifier.classify([music.wave(index)]) for index in bar]
    figures: dict[str, float] = {
        "num_clips": len(music),
        "ms_per_clip": 1000 * (time.process_time() - began_s) / len(music),
    }
    for name, value_of in TRUTH.items():
        values = classifier.classes[name]
        truth_B = np.array([values.index(value_of(facts)) for facts in music.facts])
        guess_B = np.array([int(one[name][0].argmax()) for one in named])
        figures |= accuracy_figures(guess_B, truth_B, name=name, seed=seed)
    return figures


def accuracy_figures(
    guess_B: NDArray[np.int64], truth_B: NDArray[np.int64], *, name: str, seed: int
) -> dict[str, float]:
    """Accuracy, its 95 % interval, balanced accuracy with its own, and what the commonest value alone would give."""
    draws = np.random.default_rng(seed).integers(len(truth_B), size=(NUM_DRAWS, len(truth_B)))
    plain = [float((guess_B[draw] == truth_B[draw]).mean()) for draw in draws]
    balanced = [balanced_accuracy(guess_B[draw], truth_B[draw]) for draw in draws]
    low, high = np.percentile(plain, [2.5, 97.5])
    balanced_low, balanced_high = np.percentile(balanced, [2.5, 97.5])
    return {
        f"{name}_accuracy": float((guess_B == truth_B).mean()),
        f"{name}_accuracy_low": float(low),
        f"{name}_accuracy_high": float(high),
        f"{name}_balanced": balanced_accuracy(guess_B, truth_B),
        f"{name}_balanced_low": float(balanced_low),
        f"{name}_balanced_high": float(balanced_high),
        f"{name}_commonest": float(np.bincount(truth_B).max() / len(truth_B)),
    }


def balanced_accuracy(guess_B: NDArray[np.int64], truth_B: NDArray[np.int64]) -> float:
    """Mean over the values that occur of how often each is named right."""
    return float(np.mean([(guess_B[truth_B == value] == value).mean() for value in np.unique(truth_B)]))
