"""The claim of the whole project in small: a model learns to read captions and examples from its context.

Every episode draws a new table of captions to motifs, shows two rows of it, and asks for one of them: only the
examples hold the answer, and only the captions tell which one. A model that copies without reading captions still
comes down to ln 2 / 12 = 0.058 nats (one choice among 12 codes), so the swapped captions decide. Formats that carry
what is needed must pass, those that cannot must fail: else the test would prove nothing.

The checkpoint's embeddings start at standard deviation 1: at transformers' 0.02 the sinusoids drown them, and the
model learns to copy long before it reads captions.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards import Sample
from tests.train.toys import WORDS, make_project, packed_sample, save_musicgen, stamp, write_pack
from train import evaluate, run

NUM_CODEBOOKS, NUM_CODES, NUM_FRAMES = 2, 8, 6
NUM_TRAIN, NUM_TEST = 20_000, 256
SHOWN_BY_CLAP = {"cross_attention": "full", "representation": "clap"}

CARRYING = {
    "default": {},
    "inline": {"text_placement": "inline", "steps": 2500},
    "separator-none": {"separator": "none", "steps": 1000},
    "separator-pad": {"separator": "pad", "steps": 1000},
    "separator-text": {"separator": "text", "steps": 1000},
    "full": {"cross_attention": "full", "steps": 1000},
    "both": {"representation": "both"},
    "clap": {**SHOWN_BY_CLAP, "steps": 1500},
    "inline-clap": {"text_placement": "inline", "representation": "clap", "steps": 2500},
    "nearest-first": {"order": "nearest_first"},
    "shuffled": {"order": "shuffled"},
    "loss-on-all": {"loss_on": "all"},
}
LACKING = {
    "full-without-segment-vectors": {"cross_attention": "full", "segment_vectors": "none"},
    "clap-without-segment-vectors": {**SHOWN_BY_CLAP, "segment_vectors": "none"},
    "text": {"cross_attention": "full", "representation": "text"},
    "no-examples": {"num_examples": 0},
    "one-codebook": {"example_codebooks": 1},
}
QUICK = ("default", "no-examples")


def one_hot(motif_KT: np.ndarray) -> np.ndarray:
    """A vector that tells a motif, as CLAP tells a sound."""
    return np.eye(NUM_CODES)[motif_KT].ravel() / math.sqrt(motif_KT.size)


def motif_episodes(number: int, *, seed: int) -> list[Sample]:
    random = np.random.default_rng(seed)
    codec = stamp(NUM_CODEBOOKS, NUM_CODES)
    samples = []
    for n in range(number):
        first, second = random.choice(len(WORDS), 2, replace=False)
        motifs = random.integers(0, NUM_CODES, (2, NUM_CODEBOOKS, NUM_FRAMES))
        asked = int(random.integers(2))
        prompts = [WORDS[first], WORDS[second], WORDS[(first, second)[asked]]]
        key = f"motif-{seed}-{n:05d}"
        clap = np.stack([[one_hot(motif)] * 2 for motif in (motifs[asked], *motifs)])
        samples.append(
            packed_sample(
                key, target_KT=motifs[asked], examples_KT=list(motifs), prompts=prompts, codec=codec, clap=clap
            )
        )
    return samples


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy generator, and motifs packed for training and test."""
    root = make_project(
        tmp_path_factory.mktemp("mechanism"),
        train={
            "method": "full",
            "steps": 500,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "num_examples": 2,
            "clap_dim": NUM_CODEBOOKS * NUM_FRAMES * NUM_CODES,
            "max_text_tokens": 8,
            "log_every_steps": 100,
            "checkpoint_every_steps": 500,
        },
        evaluate={"num_examples": 2, "batch_size": 64},
    )
    save_musicgen(
        root / "checkpoints" / "musicgen",
        num_codebooks=NUM_CODEBOOKS,
        codebook_size=NUM_CODES,
        width=64,
        layers=3,
        text_width=64,
    )
    write_pack(root / "shards" / "train", "train", motif_episodes(NUM_TRAIN, seed=0), per_shard=5000)
    write_pack(root / "shards" / "test", "test", motif_episodes(NUM_TEST, seed=1), per_shard=5000)
    return root


def figures(root: Path, name: str, settings: dict) -> dict:
    """Train and evaluate through the commands that users type."""
    own = [part for key, value in settings.items() for part in ("--set", f"train.{key}={value}")]
    run.main(["--root", str(root), "--shards", str(root / "shards" / "train"), "--name", name, *own])
    evaluate.main(["--root", str(root), "--shards", str(root / "shards" / "test"), "--run", name])
    return json.loads((root / "runs" / "evaluate" / name / "metrics.json").read_text())


def passes(metrics: dict) -> bool:
    """Whether held-out motifs are read from the context, by way of the captions."""
    nll = metrics["trained"]
    controls = [nll[name] for name in ("captions_swapped", "examples_blanked")]
    read = nll["with_examples"] <= 0.05
    return read and all(value is not None and value >= math.log(NUM_CODES) for value in controls)


def marked(names: dict) -> list:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", marked(CARRYING))
def test_a_format_that_carries_what_is_needed_learns_to_read_it(project: Path, name: str) -> None:
    metrics = figures(project, name, CARRYING[name])
    assert metrics["num_targets"] == NUM_TEST
    assert passes(metrics), metrics["trained"]


@pytest.mark.parametrize("name", marked(LACKING))
def test_a_format_that_cannot_carry_it_fails(project: Path, name: str) -> None:
    metrics = figures(project, name, LACKING[name])
    assert not passes(metrics)
    # A choice between two motifs costs ln 2 / 12 nats a code: what lacks captions or order cannot do better.
    assert metrics["trained"]["with_examples"] >= 0.9 * math.log(2) / (NUM_CODEBOOKS * NUM_FRAMES)


@pytest.fixture(scope="module")
def default(project: Path) -> dict:
    """The default's figures; published again where it was trained already."""
    return figures(project, "default", {})


def test_training_episodes_are_distinct() -> None:
    samples = motif_episodes(NUM_TRAIN, seed=0)
    assert len({bytes(s.members["examples.npy"]) + bytes(s.members["target.npy"]) for s in samples}) == NUM_TRAIN


def test_the_untrained_model_knows_nothing_of_the_motifs(default: dict) -> None:
    assert default["base"]["with_examples"] >= 0.99 * math.log(NUM_CODES)


def test_differences_are_paired_and_have_intervals(default: dict) -> None:
    swapped = default["trained"]["minus_with_examples"]["captions_swapped"]
    assert swapped["num_pairs"] == NUM_TEST
    assert swapped["low"] < swapped["mean"] < swapped["high"]
    assert swapped["low"] > 1
