"""Labels are found by the nearest prompt, and believed only where they lead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval.facts import facts_of_text
from pipeline.retrieval.zero_shot import (
    MIN_PROBABILITY,
    PHRASINGS,
    LabelSet,
    guess_labels,
    label_prompts,
    make_label_set,
)

AXES = LabelSet("genre", ("blues", "folk", "jazz"), np.eye(3, 8, dtype=np.float32))


def test_the_nearest_label_is_named():
    audio_ND = np.array([[0.1, 5, 0.1, 0, 0, 0, 0, 2], [1, 0, 0.2, 0, 0, 0, 0, 0]], np.float32)
    folk, blues = guess_labels(audio_ND, AXES, scale=20.0)
    assert (folk.label, blues.label) == ("folk", "blues")
    assert folk.is_sure
    assert blues.probability > 0.99
    assert blues.margin == pytest.approx(blues.probability, abs=0.01)


def test_a_tie_is_not_believed():
    audio_ND = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]], np.float32)
    two, none = guess_labels(audio_ND, AXES, scale=50.0)
    assert (two.label, two.margin) == ("blues", pytest.approx(0, abs=1e-6))
    assert none.probability == pytest.approx(1 / 3)
    assert not two.is_sure
    assert not none.is_sure


@pytest.mark.parametrize("attribute", PHRASINGS)
def test_prompts_mean_their_label(attribute: str):
    prompts = label_prompts(attribute)
    assert len(prompts) > 25
    for label, phrasings in prompts.items():
        assert len(set(phrasings)) == 3
        assert all(facts_of_text(text)[attribute] == {label} for text in phrasings)


def test_a_label_is_the_mean_of_its_phrasings():
    prompts = label_prompts("genre")
    rng = np.random.default_rng(0)
    meaning_LD = rng.normal(size=(len(prompts), 32))
    noisy_LRD = (meaning_LD[:, None] + 0.5 * rng.normal(size=(len(prompts), 3, 32))).astype(np.float32)
    labels = make_label_set("genre", noisy_LRD * np.float32(7))
    assert labels.labels == tuple(prompts)
    np.testing.assert_allclose(np.linalg.norm(labels.vectors_LD, axis=1), 1, rtol=1e-5)
    found = guess_labels(meaning_LD.astype(np.float32), labels, scale=30.0)
    assert [guess.label for guess in found] == list(prompts)


def test_vectors_of_another_model_or_count_are_refused():
    with pytest.raises(ValueError, match="do not suit"):
        guess_labels(np.ones((2, 5), np.float32), AXES, scale=1.0)
    with pytest.raises(ValueError, match="do not suit"):
        guess_labels(np.ones((2, 8), np.float32), LabelSet("genre", ("jazz",), AXES.vectors_LD[:1]), scale=1.0)
    with pytest.raises(ValueError, match="embeddings for"):
        make_label_set("genre", np.ones((2, 3, 8), np.float32))


@given(
    st.lists(st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8), min_size=1, max_size=5), st.floats(0.1, 100)
)
def test_probabilities_add_up(rows: list[list[float]], scale: float):
    for guess in guess_labels(np.array(rows, np.float32), AXES, scale=scale):
        assert 0 <= guess.margin <= guess.probability <= 1
        assert guess.probability >= 1 / 3 - 1e-9
        assert guess.probability >= MIN_PROBABILITY or not guess.is_sure
