"""The claim of the whole project in small: a model learns to read captions and examples from its context.

Every episode draws a new table of captions to motifs, shows two rows of it, and asks for one of them: only the
examples hold the answer, and only the captions tell which one. A model that copies without reading captions still
comes down to ln 2 / 12 = 0.058 nats (one choice among 12 codes), so the swapped captions decide.

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
        samples.append(
            packed_sample(key, target_KT=motifs[asked], examples_KT=list(motifs), prompts=prompts, codec=codec)
        )
    return samples


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Train and evaluate through the commands that users type."""
    root: Path = make_project(
        tmp_path_factory.mktemp("mechanism"),
        train={
            "method": "full",
            "steps": 500,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "num_examples": 2,
            "log_every_steps": 100,
            "checkpoint_every_steps": 250,
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
    run.main(["--root", str(root), "--shards", str(root / "shards" / "train"), "--name", "motifs"])
    evaluate.main(["--root", str(root), "--shards", str(root / "shards" / "test"), "--run", "motifs"])
    return json.loads((root / "runs" / "evaluate" / "motifs" / "metrics.json").read_text())


def test_training_episodes_are_distinct() -> None:
    samples = motif_episodes(NUM_TRAIN, seed=0)
    assert len({bytes(s.members["examples.npy"]) + bytes(s.members["target.npy"]) for s in samples}) == NUM_TRAIN


def test_held_out_motifs_are_read_from_the_context(metrics: dict) -> None:
    assert metrics["num_targets"] == NUM_TEST
    assert metrics["trained"]["with_examples"] <= 0.05


def test_captions_are_read(metrics: dict) -> None:
    assert metrics["trained"]["captions_swapped"] >= math.log(NUM_CODES)


def test_examples_are_read(metrics: dict) -> None:
    assert metrics["trained"]["examples_blanked"] >= math.log(NUM_CODES)


def test_the_untrained_model_knows_nothing_of_the_motifs(metrics: dict) -> None:
    assert metrics["base"]["with_examples"] >= 0.99 * math.log(NUM_CODES)


def test_differences_are_paired_and_have_intervals(metrics: dict) -> None:
    swapped = metrics["trained"]["minus_with_examples"]["captions_swapped"]
    assert swapped["num_pairs"] == NUM_TEST
    assert swapped["low"] < swapped["mean"] < swapped["high"]
    assert swapped["low"] > 1
