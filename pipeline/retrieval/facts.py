"""What a text tells of a piece: genre, mood, mode, tempo band, metre and instrument, in words that can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Facts = Mapping[str, frozenset[str]]
"""Values by attribute; an attribute that nothing is known of is absent."""

ATTRIBUTES = ("genre", "mood", "mode", "tempo", "metre", "instrument")
"""In the order in which a rule names them."""

_SLOW_BPM, _FAST_BPM = 80.0, 112.0
_MIN_TEMPO_CONFIDENCE = 0.3
_MIN_KEY_CONFIDENCE = 0.6
"""As in template captions: below these a measurement is no fact."""

# value: further ways to write it. A longer wording wins over a shorter one within it: `bass guitar` is no guitar.
_INSTRUMENTS = {
    "accordion": "accordions accordian melodica concertina",
    "acoustic guitar": "acoustic_guitars nylon_guitar classical_guitar steel_guitar fingerpicked_guitar",
    "banjo": "banjos",
    "bass": "bass_guitar bassline bass_line double_bass upright_bass e-bass",
    "bells": "bell glockenspiel chimes tubular_bells",
    "brass": "brass_ensemble brass_section horns french_horn tuba",
    "cello": "cellos violoncello",
    "choir": "choirs chorus_of_voices choral a_cappella",
    "clarinet": "clarinets",
    "didgeridoo": "didgeridoos",
    "drums": "drum drumming drum_kit drumkit percussion percussions drum_machine kick_drum kick kick_hits snare "
    "hi-hat hi-hats hi_hats cymbals",
    "electric guitar": "electric_guitars e-guitar distorted_guitar guitar_solo",
    "female voice": "female_vocal female_vocals female_singer female_vocalist woman_singing female_voices",
    "flute": "flutes pan_flute piccolo recorder",
    "guitar": "guitars",
    "hand drums": "congas bongos tabla djembe hand_percussion",
    "harmonica": "harmonicas mouth_harp",
    "harp": "harps",
    "harpsichord": "harpsichords",
    "koto": "kotos",
    "male voice": "male_vocal male_vocals male_singer male_vocalist man_singing male_voices",
    "mandolin": "mandolins",
    "marimba": "vibraphone xylophone",
    "oboe": "oboes bassoon",
    "orchestra": "orchestral philharmonic_orchestra symphony_orchestra",
    "organ": "church_organ pipe_organ hammond_organ organs",
    "piano": "pianos e-piano electric_piano keyboard grand_piano",
    "saxophone": "saxophones sax",
    "shakuhachi": "bamboo_flute",
    "shamisen": "samisen",
    "sitar": "sitars",
    "strings": "string_section string_quartet string_ensemble orchestral_strings",
    "tambourine": "tambourines",
    "synthesizer": "synth synths synthesizers synthesiser synth_pad synth_lead",
    "taiko": "taikos taiko_drums",
    "trombone": "trombones",
    "trumpet": "trumpets",
    "ukulele": "ukuleles",
    "violin": "violins fiddle fiddles viola",
}
_GENRES = {
    "ambient": "ambient_music soundscape",
    "blues": "",
    "chamber music": "quartet_movement",
    "chorale": "baroque_church_music church_music hymn",
    "cinematic": "movie_soundtrack movie_music film_music film_score soundtrack",
    "classical": "classical_music classical_sonata sonata symphony orchestral_piece",
    "country": "country_music bluegrass",
    "disco": "",
    "dance": "dance_music club_music dance_song dance_rhythm",
    "dubstep": "drum_and_bass dnb",
    "electronic": "electro electronic_music edm electronica",
    "enka": "",
    "folk": "folk_song folk_music folk_dance_music irish_air fiddle_reel fiddle_jig fiddle_hornpipe fiddle_strathspey",
    "funk": "funky",
    "gospel": "devotional religious_music",
    "hip hop": "hip-hop hiphop rap trap",
    "house": "deep_house",
    "jazz": "jazzy swing bossa_nova",
    "j-pop": "jpop city_pop",
    "latin": "salsa reggaeton cumbia",
    "lo-fi": "lofi",
    "lullaby": "lullabies",
    "march": "marching_band",
    "meditation": "meditation_music meditative new_age",
    "metal": "heavy_metal",
    "min'yo": "minyo",
    "pop": "pop_song pop_music pop_ballad",
    "punk": "punk_rock",
    "r&b": "rnb soul soul_music",
    "ragtime": "ragtime_piece",
    "reggae": "dub",
    "rock": "rock_song rock_music",
    "techno": "trance",
    "waltz": "waltzes",
}
_MOODS = {
    "aggressive": "angry harsh intense",
    "calm": "calming peaceful relaxing relaxed soothing mellow tender easygoing gentle chill serene",
    "dark": "eerie haunting ominous sinister spooky scary suspenseful mysterious",
    "dreamy": "ethereal hypnotic psychedelic trippy atmospheric",
    "emotional": "heartfelt passionate poignant sentimental soulful",
    "energetic": "exciting enthusiastic powerful spirited vigorous vibrant",
    "epic": "dramatic",
    "happy": "bright cheerful fun joyful playful uplifting youthful positive friendly",
    "romantic": "sensual",
    "sad": "melancholic melancholy mournful wistful solemn",
}
_METRES = {
    "2/2": "cut_time",
    "2/4": "two_beats_in_a_bar",
    "3/4": "triple_metre triple_meter waltz_time waltz",
    "4/4": "common_time four-on-the-floor four_on_the_floor",
    "6/8": "compound_duple_time",
    "9/8": "compound_triple_time",
    "12/8": "compound_quadruple_time",
}
_TEMPOS = {
    "slow": "slowly slow-paced unhurried calm-paced largo adagio lento",
    "moderate": "medium_tempo medium_pace mid-tempo midtempo moderate_tempo moderately_paced walking-pace andante",
    "fast": "fast-paced rapid quick lively upbeat uptempo up-tempo brisk allegro presto",
}
_MODES = {mode: f"{mode}_key {mode}_scale {mode}_mode {mode}_chords" for mode in ("major", "minor")}
_TONIC = r"[a-g](?:[#♯♭b]|[ -](?:sharp|flat))?"
_NUMBER = re.compile(r"\b(\d{2,3})(?:\.\d+)? ?-?(?:bpm|beats (?:per|a) minute)", re.IGNORECASE)


def _pattern(words: Mapping[str, str]) -> tuple[re.Pattern[str], dict[str, str]]:
    values = {
        wording.replace("_", " "): value for value, others in words.items() for wording in (value, *others.split())
    }
    longest_first = "|".join(
        re.escape(wording) for wording in sorted(values, key=lambda wording: (-len(wording), wording))
    )
    return re.compile(rf"(?<![\w/])(?<!no )(?<!without )(?<!without any )(?:{longest_first})(?![\w/])"), values


_WORDS = {
    "genre": _pattern(_GENRES),
    "mood": _pattern(_MOODS),
    "tempo": _pattern(_TEMPOS),
    "metre": _pattern(_METRES),
    "instrument": _pattern(_INSTRUMENTS),
}
_KEY = re.compile(
    rf"\b(?:{_TONIC}[ -](major|minor)|(major|minor)[ -](?:key|scale|mode|chords?|tonality)"
    # The article is a tonic too: "a major label" is no key.
    r"|(?:in|in a|in the) (major|minor))\b(?! (?:label|hit|role|part|change|event))"
)
_SAID = {
    "genre": "{}",
    "mood": "{} in mood",
    "mode": "in a {} key",
    "metre": "in {}",
    "instrument": "with {}",
}
_TEMPO_SAID = {"slow": "slow, under 80 bpm", "moderate": "around 95 bpm", "fast": "fast, over 112 bpm"}


def facts_of_text(text: str) -> Facts:
    """Read from a text what it says of the piece; what it denies, or says in two ways, is not known.

    Args:
        text: a caption, a tag, or a prompt, in English.
    """
    lowered = text.lower()
    found = {attribute: _values(lowered, *_WORDS[attribute]) for attribute in _WORDS}
    found["mode"] = frozenset(mode for match in _KEY.findall(lowered) for mode in match if mode)
    if numbers := _NUMBER.findall(lowered):
        found["tempo"] = frozenset(tempo_band(float(number)) for number in numbers)
    # A piece may have two instruments, but not two modes: then one of them is meant for a part, or denied.
    single = {"mode", "tempo", "metre"}
    return {name: values for name, values in found.items() if values and (name not in single or len(values) == 1)}


def _values(lowered: str, pattern: re.Pattern[str], values: Mapping[str, str]) -> frozenset[str]:
    return frozenset(values[wording] for wording in pattern.findall(lowered))


def tempo_band(tempo_bpm: float) -> str:
    """Name the band of a tempo: slow, moderate or fast."""
    return "slow" if tempo_bpm < _SLOW_BPM else "moderate" if tempo_bpm < _FAST_BPM else "fast"


def facts_of_audio(attributes: Mapping[str, Any]) -> Facts:
    """Take over what was measured with confidence; for clips of the pool only, whose audio is known at inference.

    Args:
        attributes: as in `describe.json`.
    """
    found: dict[str, frozenset[str]] = {}
    tempo_bpm, mode = attributes.get("tempo_bpm"), attributes.get("mode")
    if tempo_bpm and (attributes.get("tempo_confidence") or 0.0) >= _MIN_TEMPO_CONFIDENCE:
        found["tempo"] = frozenset({tempo_band(tempo_bpm)})
    if mode and (attributes.get("key_confidence") or 0.0) >= _MIN_KEY_CONFIDENCE:
        found["mode"] = frozenset({mode})
    return found


def join_facts(sources: Iterable[Facts]) -> Facts:
    """Put facts together; for each attribute the first source that knows it is believed."""
    joined: dict[str, frozenset[str]] = {}
    for facts in sources:
        joined = {**facts, **joined}
    return joined


def say_fact(attribute: str, value: str) -> str:
    """Write a fact as it stands in a rule, such as "in a minor key"."""
    return _TEMPO_SAID[value] if attribute == "tempo" else _SAID[attribute].format(value)
