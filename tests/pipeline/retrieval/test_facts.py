from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest

from pipeline.music.template import template_captions
from pipeline.retrieval.facts import (
    ATTRIBUTES,
    facts_of_audio,
    facts_of_text,
    join_facts,
    say_fact,
    tempo_band,
    values_of,
)


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
        ("an instrumental; no voices, no singer", {"voice": ["instrumental"]}),
        ("the voices move together in chords", {}),
        (
            "a male vocalist sings over claps, groovy",
            {"voice": ["vocal"], "instrument": ["male voice"], "mood": ["groovy"]},
        ),
        ("instrumental verse, then singing", {}),
        ("12/8, lo-fi hip hop", {"metre": ["12/8"], "genre": ["hip hop", "lo-fi"]}),
        ("", {}),
    ],
)
def test_a_text_tells(text: str, expected: dict[str, list[str]]):
    assert plain(facts_of_text(text)) == expected


def test_what_is_written_in_capitals_counts_too():
    assert facts_of_text("SLOW PIANO IN A MINOR KEY") == facts_of_text("slow piano in a minor key")


def test_template_captions_are_understood():
    attributes = {"tempo_bpm": 90.0, "tonic": "C#", "mode": "minor", "voice": "vocal", "sure": ["tempo_bpm", "key"]}
    found = [facts_of_text(template_captions(attributes, key=f"k{n}", seed=0)[0]) for n in range(30)]
    told = [facts for facts in found if facts]
    assert len(told) > 20
    assert {tuple(values) for facts in told for values in facts.values()} <= {("minor",), ("moderate",)}


def test_measurements_count_where_they_are_sure():
    measured = {"tempo_bpm": 64.0, "mode": "major", "voice": "instrumental"}
    every = plain(facts_of_audio(measured | {"sure": ["tempo_bpm", "key", "mode", "voice"]}))
    assert every == {"tempo": ["slow"], "mode": ["major"], "voice": ["instrumental"]}
    assert plain(facts_of_audio(measured | {"sure": ["mode"]})) == {"mode": ["major"]}
    assert plain(facts_of_audio(measured)) == {}
    assert plain(facts_of_audio({"tempo_bpm": None, "mode": None, "sure": []})) == {}


def test_a_band_is_that_of_the_tempo_as_written():
    assert [tempo_band(bpm) for bpm in (79.4, 79.6, 111.4, 111.6)] == ["slow", "moderate", "moderate", "fast"]


def test_the_first_source_is_believed():
    text, audio = facts_of_text("slow piano"), facts_of_audio({"tempo_bpm": 150, "sure": ["tempo_bpm"]})
    assert plain(join_facts([text, audio])) == {"tempo": ["slow"], "instrument": ["piano"]}
    assert plain(join_facts([audio, text])) == {"tempo": ["fast"], "instrument": ["piano"]}


def test_facts_are_said_so_that_they_are_read_again():
    assert set(ATTRIBUTES) - {"mode", "tempo"} == {name for name in ATTRIBUTES if values_of(name) and name != "tempo"}
    facts = [(name, value) for name in ATTRIBUTES if name != "tempo" for value in values_of(name)]
    assert len(facts) > 90
    for attribute, value in [*facts, ("mode", "major"), ("mode", "minor")]:
        assert plain(facts_of_text(say_fact(attribute, value)))[attribute] == [value]
    for band in ("slow", "moderate"):
        assert tempo_band(float(say_fact("tempo", band).split()[-2]) - 1) == band


def test_musiccaps_tells_enough_for_rules(real_data: Path):
    with (real_data / "musiccaps" / "musiccaps-public.csv").open(encoding="utf-8", newline="") as file:
        told = [
            (facts_of_text(row["caption"]), facts_of_text(", ".join(ast.literal_eval(row["aspect_list"]))))
            for row in csv.DictReader(file)
        ]
    assert len(told) == 5521
    known = {name: sum(name in join_facts(facts) for facts in told) / len(told) for name in ("genre", "instrument")}
    assert known["genre"] > 0.65
    assert known["instrument"] > 0.93
    assert sum(len(caption) >= 2 for caption, _ in told) > 0.85 * len(told)
