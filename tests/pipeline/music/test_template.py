"""Template captions say what was measured, in varied words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.music.describe import Attributes
from pipeline.music.template import template_caption

ATTRIBUTES = Attributes(
    tempo_bpm=128.2,
    tempo_confidence=0.6,
    key="F# minor",
    tonic="F#",
    mode="minor",
    key_confidence=0.8,
    loudness_range_lu=4.0,
    brightness_hz=1500.0,
    onset_rate_hz=5.0,
)


def captions(attributes, num: int = 60) -> list[str]:
    return [template_caption(attributes, key=f"demo_{index}", seed=0) for index in range(num)]


def test_caption_depends_on_key_and_seed_alone():
    assert captions(ATTRIBUTES) == captions(dict(ATTRIBUTES))
    assert len(set(captions(ATTRIBUTES))) > 40
    assert captions(ATTRIBUTES) != [template_caption(ATTRIBUTES, key=f"demo_{i}", seed=1) for i in range(60)]


def test_caption_says_what_was_measured():
    written = captions(ATTRIBUTES)
    assert all("minor" in caption for caption in written)
    assert any("F sharp minor" in caption for caption in written)
    assert any("128" in caption for caption in written)
    assert not any("slow" in caption or "bright" in caption or "major" in caption for caption in written)


def test_caption_leaves_out_what_is_unsure():
    unsure = {**ATTRIBUTES, "tempo_confidence": 0.25, "key_confidence": 0.55}
    assert not any("BPM" in caption or "beats" in caption or "minor" in caption for caption in captions(unsure))


def test_caption_of_nothing_known():
    assert set(captions({})) <= {"A piece.", "A track.", "A passage.", "A tune."}


maybe = st.one_of(st.none(), st.floats(0, 1e6))


@given(st.fixed_dictionaries({}, optional={name: maybe for name in ATTRIBUTES if name not in {"key", "tonic", "mode"}}))
def test_caption_is_one_clean_sentence(attributes):
    caption = template_caption({**attributes, "tonic": "A#", "mode": "major"}, key="a", seed=0)
    assert caption[0].isupper()
    assert caption.endswith(".")
    assert "  " not in caption
    assert not any(mark in caption for mark in ("None", "nan", ", ,", ",.", "{"))
