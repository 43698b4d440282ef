"""Zero-shot guesses of genre and instrument for the clips of the pool that nobody tagged.

Made once, in the main process, and kept beside what `structured` picked by them: with their probability, so that
anybody can look at what was believed, and a check of the rules reads the very facts that the rules were made from.

R phrasings of a label, L labels, D embedding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.provenance import digest_of, pretty_json
from pipeline.data.storage import write_bytes
from pipeline.errors import ContractError
from pipeline.retrieval import store
from pipeline.retrieval.clips import read_texts
from pipeline.retrieval.facts import Facts
from pipeline.retrieval.index import Float32
from pipeline.retrieval.vectors import PoolSource, map_clips
from pipeline.retrieval.zero_shot import PHRASINGS, Guess, LabelSet, guess_labels, label_prompts, make_label_set

GUESSES_FILE = "guesses.json"
_VECTORS_FILE = "vectors.npy"
Embed = Callable[[Sequence[str]], Float32]
"""Gives the vectors [B, D] of some texts, by the embedder that embedded the pool."""
Guesses = Mapping[str, Mapping[str, Guess]]
"""Guesses by key and attribute, of the clips without tags."""


class Labels(NamedTuple):
    """Labels to choose from, and the scale of their embedder."""

    sets: Sequence[LabelSet]
    scale: float


def embed_labels(shelf: Path, stamp: Mapping[str, str], embed: Embed) -> list[LabelSet]:
    """Embed the labels of every attribute that zero-shot knows; once for an embedder, since a large one takes seconds.

    Args:
        shelf: scratch folder where the vectors are kept.
        stamp: names the embedder's weights.
        embed: asked only where nobody has yet.
    """
    prompts = {attribute: list(label_prompts(attribute).values()) for attribute in PHRASINGS}
    texts = [text for phrasings in prompts.values() for label in phrasings for text in label]

    def build(folder: Path) -> None:
        np.save(folder / _VECTORS_FILE, embed(texts).astype(np.float32))

    folder = store.build_once(shelf, digest_of([dict(stamp), texts])[:16], build)
    vectors_BD: Float32 = np.load(folder / _VECTORS_FILE)
    sets: list[LabelSet] = []
    for attribute, phrasings in prompts.items():
        num_phrasings = len(phrasings[0])
        own_BD, vectors_BD = np.split(vectors_BD, [len(phrasings) * num_phrasings])
        sets.append(make_label_set(attribute, own_BD.reshape(len(phrasings), num_phrasings, -1)))
    return sets


def guess_pool(source: PoolSource, load_labels: Callable[[], Labels]) -> dict[str, dict[str, Guess]]:
    """Guess what the clips of the pool are that have no tags.

    Args:
        source: shards with their texts.
        load_labels: asked only where there is such a clip.
    """
    mapped = map_clips(source)
    row_of = {key: row for row, key in enumerate(mapped.keys[: mapped.num_pool])}
    found = (read for _, *written in source.shards for read in read_texts(written))
    keys = sorted(key for key, text in found if key in row_of and not text.aspects)
    if not keys:
        return {}
    labels = load_labels()
    audio_BD = mapped.audio_XD[[row_of[key] for key in keys]]
    guesses: dict[str, dict[str, Guess]] = {key: {} for key in keys}
    for label_set in labels.sets:
        for key, guess in zip(keys, guess_labels(audio_BD, label_set, scale=labels.scale), strict=True):
            guesses[key][label_set.attribute] = guess
    return guesses


def sure_facts(guesses: Guesses) -> dict[str, Facts]:
    """What is believed of the guesses, by key."""
    return {
        key: {attribute: frozenset({guess.label}) for attribute, guess in own.items() if guess.is_sure}
        for key, own in guesses.items()
    }


def guesses_in_words(guesses: Guesses) -> str:
    """Say how many guesses are believed."""
    told = [
        f"{attribute} of {sum(own[attribute].is_sure for own in guesses.values())}"
        for attribute in PHRASINGS
        if guesses
    ]
    return f"of {len(guesses)} pool clips without tags, CLAP tells the {' and the '.join(told)}"


def write_guesses(path: Path, guesses: Guesses) -> None:
    """Write all guesses, believed or not, with their probability and their lead."""
    value = {
        key: {
            attribute: {
                "label": guess.label,
                "probability": round(guess.probability, 4),
                "margin": round(guess.margin, 4),
            }
            | {"sure": guess.is_sure}
            for attribute, guess in own.items()
        }
        for key, own in guesses.items()
    }
    write_bytes(path, pretty_json({"schema": 1, "guesses": value}))


def read_sure_facts(path: Path) -> dict[str, Facts]:
    """Read what was believed; nothing where no guesses were made.

    Raises:
        ContractError: not what `write_guesses` wrote.
    """
    if not path.is_file():
        return {}
    try:
        guesses: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_bytes())["guesses"]
        return {
            key: {attribute: frozenset({guess["label"]}) for attribute, guess in own.items() if guess["sure"]}
            for key, own in guesses.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); run `python -m stages.retrieve` again") from error
