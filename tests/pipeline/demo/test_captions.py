from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.demo.captions import FORMS, STYLES, Facts, genre, grid_texts, key_name, list_aspects, write_caption

FACTS = Facts(
    form="air", metre="6/8", tonic="Bb", mode="minor", bpm=72, instrument="harp", texture="solo", register="high",
    dynamics="soft",
)  # fmt: skip


@pytest.mark.parametrize("author_id", list(STYLES))
@pytest.mark.parametrize("form", list(FORMS))
def test_every_author_describes_every_form_in_full_words(author_id, form):
    for seed in range(4):
        caption = write_caption(replace(FACTS, form=form), author_id, np.random.default_rng(seed))
        assert "{" not in caption
        assert "harp" in caption.lower() or genre(replace(FACTS, form=form)) in caption
        assert "Bb" not in caption


def test_authors_write_differently():
    captions = {write_caption(FACTS, author_id, np.random.default_rng(0)) for author_id in STYLES}
    assert len(captions) == len(STYLES)
    assert any(caption[0].islower() for caption in captions)


def test_key_is_written_out():
    assert key_name(FACTS) == "B flat minor"
    assert key_name(replace(FACTS, tonic="F#", mode="major")) == "F sharp major"
    assert key_name(replace(FACTS, tonic="C")) == "C minor"


def test_choir_is_never_said_to_have_no_voice():
    choir = replace(FACTS, instrument="choir", form="chorale")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert "no voices" not in write_caption(choir, 0, rng)
        assert "no voice" not in list_aspects(choir, rng)


def test_unusual_metre_is_named_by_its_numbers():
    captions = [write_caption(replace(FACTS, metre="3/8"), 9, np.random.default_rng(seed)) for seed in range(6)]
    assert any("3/8 time" in caption for caption in captions)


def test_grid_is_fixed_and_names_every_instrument():
    texts = list(grid_texts(("harp", "flute")))
    assert texts == list(grid_texts(("harp", "flute")))
    assert len(set(texts)) > 150
    assert any("harp" in text for text in texts)
    assert any("flute" in text for text in texts)
