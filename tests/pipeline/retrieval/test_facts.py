from __future__ import annotations

import pytest

from pipeline.music.template import template_caption
from pipeline.retrieval.facts import facts_of_audio, facts_of_text, join_facts, say_fact, tempo_band


def plain(facts) -> dict[str, list[str]]:
    return {name: sorted(values) for name, values in facts.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A sad piano ballad in A minor", {"mood": ["sad"], "instrument": ["piano"], "mode": ["minor"]}),
        ("in the key of B flat major, 3/4", {"mode": ["major"], "metre": ["3/4"]}),
        ("Waltz time, 168 BPM", {"genre": ["waltz"], "metre": ["3/4"], "tempo": ["fast"]}),
        ("a slow shakuhachi, sparse", {"tempo": ["slow"], "instrument": ["shakuhachi"]}),
        ("slow but 130 beats per minute", {"tempo": ["fast"]}),
        ("starts slow, ends fast", {}),
        ("no drums, without guitar, just a bass guitar", {"instrument": ["bass"]}),
        ("electric guitars and violins", {"instrument": ["electric guitar", "violin"]}),
        ("a C major section, then C minor", {}),
        ("a major label artist", {}),
        ("popular tune from a rocket, pianola", {}),
        ("12/8, lo-fi hip hop", {"metre": ["12/8"], "genre": ["hip hop", "lo-fi"]}),
        ("", {}),
    ],
)
def test_a_text_tells(text: str, expected: dict[str, list[str]]):
    assert plain(facts_of_text(text)) == expected


def test_what_is_written_in_capitals_counts_too():
    assert facts_of_text("SLOW PIANO IN A MINOR KEY") == facts_of_text("slow piano in a minor key")


def test_template_captions_are_understood():
    attributes = {"tempo_bpm": 90.0, "tempo_confidence": 0.9, "tonic": "C#", "mode": "minor", "key_confidence": 0.9}
    found = [facts_of_text(template_caption(attributes, key=f"k{n}", seed=0)) for n in range(30)]
    told = [facts for facts in found if facts]
    assert len(told) > 20
    assert {tuple(values) for facts in told for values in facts.values()} <= {("minor",), ("moderate",)}


def test_measurements_count_where_they_are_sure():
    sure = {"tempo_bpm": 64.0, "tempo_confidence": 0.5, "mode": "major", "key_confidence": 0.7}
    assert plain(facts_of_audio(sure)) == {"tempo": ["slow"], "mode": ["major"]}
    assert plain(facts_of_audio(sure | {"tempo_confidence": 0.2, "key_confidence": None})) == {}
    assert plain(facts_of_audio({"tempo_bpm": None, "mode": None})) == {}


def test_the_first_source_is_believed():
    text, audio = facts_of_text("slow piano"), facts_of_audio({"tempo_bpm": 150, "tempo_confidence": 1.0})
    assert plain(join_facts([text, audio])) == {"tempo": ["slow"], "instrument": ["piano"]}
    assert plain(join_facts([audio, text])) == {"tempo": ["fast"], "instrument": ["piano"]}


def test_facts_are_said_so_that_they_are_read_again():
    for attribute, value in [
        ("mode", "minor"),
        ("metre", "3/4"),
        ("instrument", "piano"),
        ("genre", "jazz"),
        ("mood", "calm"),
    ]:
        assert plain(facts_of_text(say_fact(attribute, value)))[attribute] == [value]
    for band in ("slow", "moderate"):
        assert tempo_band(float(say_fact("tempo", band).split()[-2]) - 1) == band
