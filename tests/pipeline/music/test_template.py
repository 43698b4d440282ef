"""Template captions say what is surely known, in varied and grammatical words."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.music.describe import Attributes
from pipeline.music.template import template_captions
from pipeline.retrieval.facts import facts_of_text

ATTRIBUTES = Attributes(
    tempo_bpm=128.2,
    tempo_confidence=0.6,
    key="F# minor",
    tonic="F#",
    mode="minor",
    key_confidence=0.8,
    mode_confidence=0.9,
    voice="instrumental",
    voice_confidence=0.95,
    loudness_range_lu=4.0,
    brightness_hz=1500.0,
    onset_rate_hz=5.0,
    sure=["tempo_bpm", "key", "mode", "voice"],
)


def captions(attributes: Any, num: int = 60, seed: int = 0) -> list[str]:
    return [template_captions(attributes, key=f"demo_{index}", seed=seed)[0] for index in range(num)]


def without(*names: str) -> dict[str, Any]:
    return {**ATTRIBUTES, "sure": [name for name in ATTRIBUTES["sure"] if name not in names]}


def test_caption_depends_on_key_and_seed_alone():
    assert captions(ATTRIBUTES) == captions(dict(ATTRIBUTES))
    assert len(set(captions(ATTRIBUTES))) > 40
    assert captions(ATTRIBUTES) != captions(ATTRIBUTES, seed=1)


def test_caption_says_what_was_measured():
    written = captions(ATTRIBUTES)
    assert all("minor" in caption for caption in written)
    assert any("F sharp minor" in caption for caption in written)
    assert any("128" in caption for caption in written)
    assert all(facts_of_text(caption)["voice"] == {"instrumental"} for caption in written)
    assert not any("slow" in caption or "bright" in caption or "major" in caption for caption in written)


def test_caption_leaves_out_what_is_unsure():
    assert not any(re.search("BPM|beats|lively|upbeat|brisk", caption) for caption in captions(without("tempo_bpm")))
    assert not any("minor" in caption for caption in captions(without("key", "mode")))
    assert not any(re.search("instrumental|voice", caption) for caption in captions(without("voice")))
    assert captions({**ATTRIBUTES, "sure": None}) == captions(without("tempo_bpm", "key", "mode", "voice"))


def test_a_mode_may_be_sure_without_its_tonic():
    written = captions(without("key"))
    assert all("in a minor" in caption for caption in written)
    assert not any("F sharp" in caption for caption in written)


def test_keys_are_spelt_as_scores_spell_them():
    flat = captions({**ATTRIBUTES, "tonic": "G#", "mode": "major"})
    sharp = captions({**ATTRIBUTES, "tonic": "G#", "mode": "minor"})
    assert any("A flat major" in caption for caption in flat)
    assert any("G sharp minor" in caption for caption in sharp)


def test_caption_of_nothing_known():
    written = set(captions({}))
    assert {"A piece.", "You hear a tune."} <= written
    assert len(written) <= 16


def test_articles_agree():
    unhurried = captions({"tempo_bpm": 60.0, "sure": ["tempo_bpm"]}, 200)
    assert any(re.search(r"\ban unhurried\b", caption.lower()) for caption in unhurried)
    sung = captions({"voice": "vocal", "sure": ["voice"]}, 200)
    played = captions({"voice": "instrumental", "sure": ["voice"]}, 200)
    assert any("an instrumental" in caption.lower() for caption in played)
    for caption in unhurried + sung + played + captions(ATTRIBUTES, 200):
        assert not re.search(r"\b(a [aeiou]|an [^aeiou])", caption.lower()), caption


def test_several_captions_are_different_and_begin_alike():
    four = template_captions(ATTRIBUTES, key="a", seed=0, num_captions=4)
    assert len(set(four)) == 4
    assert four[:1] == template_captions(ATTRIBUTES, key="a", seed=0)
    assert four[:2] == template_captions(ATTRIBUTES, key="a", seed=0, num_captions=2)


def test_fewer_captions_come_where_there_is_little_to_say():
    many = template_captions({}, key="a", seed=0, num_captions=40)
    assert 4 < len(many) == len(set(many)) <= 16


maybe = st.one_of(
    st.none(), st.sampled_from([0.5, 3.5, 5.0, 12.0, 62.0, 79.6, 100.0, 120.0, 1000.0, 2000.0]), st.floats(0, 1e6)
)
MEASURED = ("tempo_bpm", "loudness_range_lu", "brightness_hz", "onset_rate_hz")


@given(
    numbers=st.fixed_dictionaries({}, optional=dict.fromkeys(MEASURED, maybe)),
    tonic=st.sampled_from(["C", "A#", None]),
    mode=st.sampled_from(["major", "minor", None]),
    voice=st.sampled_from(["vocal", "instrumental", None]),
    sure=st.lists(st.sampled_from(["tempo_bpm", "key", "mode", "voice"]), unique=True),
    key=st.text("abcdef", max_size=5),
)
def test_caption_is_one_clean_sentence_and_tells_nothing_else(numbers, tonic, mode, voice, sure, key):
    attributes = {**numbers, "tonic": tonic, "mode": mode, "voice": voice, "sure": sure}
    (caption,) = template_captions(attributes, key=key, seed=0)
    assert re.fullmatch(r"[A-Z][A-Za-z0-9, -]*[a-zA-Z0-9]\.", caption)
    assert "  " not in caption
    assert not re.search(r"None|nan|, ,|,,|\ba [aeiou]|\{", caption)
    told = facts_of_text(caption)
    assert told.keys() <= {"tempo", "mode", "voice"}
    assert told.get("mode", {mode}) == {mode}
    assert told.get("voice", {voice}) == {voice}
    assert "tempo" not in told or "tempo_bpm" in sure
