"""What a text tells of a piece: genre, mood, mode, tempo band, metre, instrument and voice, in words to compare."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Facts = Mapping[str, frozenset[str]]
"""Values by attribute; an attribute that nothing is known of is absent."""

ATTRIBUTES = ("genre", "mood", "mode", "tempo", "metre", "instrument", "voice")
"""In the order in which a rule names them."""

_SLOW_BPM, _FAST_BPM = 80.0, 112.0

# value: further ways to write it. A longer wording wins over a shorter one within it: `bass guitar` is no guitar.
_INSTRUMENTS = {
    "accordion": "accordions accordian melodica concertina",
    "acoustic guitar": "acoustic_guitars nylon_guitar classical_guitar steel_guitar fingerpicked_guitar",
    "banjo": "banjos",
    "bass": "bass_guitar bassline bass_line double_bass upright_bass e-bass",
    "bells": "bell glockenspiel chimes tubular_bells",
    "brass": "brass_ensemble brass_section horns french_horn tuba",
    "cello": "cellos violoncello",
    "choir": "choirs chorus_of_voices choral a_cappella acapella",
    "clarinet": "clarinets",
    "didgeridoo": "didgeridoos",
    "drums": "drum drumming drum_kit drumkit percussion percussions drum_machine kick_drum kick kick_hits snare "
    "hi-hat hi-hats hi_hats cymbals",
    "electric guitar": "electric_guitars e-guitar distorted_guitar guitar_solo",
    "female voice": "female_vocal female_vocals female_singer female_vocalist woman_singing female_voices",
    "flute": "flutes pan_flute piccolo recorder",
    "guitar": "guitars strumming",
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
    "shakers": "shaker maracas",
    "strings": "string_section string_quartet string_ensemble orchestral_strings",
    "tambourine": "tambourines",
    "synthesizer": "synth synths synthesizers synthesiser synth_pad synth_lead",
    "taiko": "taikos taiko_drums",
    "theremin": "",
    "timpani": "kettledrums",
    "trombone": "trombones",
    "trumpet": "trumpets",
    "turntable": "turntables scratching dj_mixer dj_scratching vinyl_scratching",
    "ukulele": "ukuleles",
    "violin": "violins fiddle fiddles viola",
}
_GENRES = {
    "ambient": "ambient_music soundscape",
    "blues": "",
    "children's music": "children's_song children’s_song kids_song nursery_rhyme",
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
    "flamenco": "",
    "folk": "folk_song folk_music folk_dance_music traditional_music traditional_song irish_air fiddle_reel "
    "fiddle_jig fiddle_hornpipe fiddle_strathspey",
    "funk": "funky",
    "gospel": "devotional religious_music",
    "hip hop": "hip-hop hiphop rap trap",
    "house": "deep_house",
    "indie": "alternative/indie alternative indie_rock indie_pop",
    "jazz": "jazzy swing bossa_nova",
    "j-pop": "jpop city_pop",
    "latin": "salsa reggaeton cumbia",
    "lo-fi": "lofi",
    "lullaby": "lullabies",
    "march": "marching_band",
    "meditation": "meditation_music meditative new_age",
    "metal": "heavy_metal",
    "min'yo": "minyo",
    "opera": "operatic aria",
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
    "calm": "tranquil meditational calming peaceful relaxing relaxed soothing mellow tender easygoing gentle chill "
    "serene",
    "dark": "eerie haunting ominous sinister spooky scary suspenseful mysterious mystical enigmatic",
    "dreamy": "ethereal hypnotic psychedelic trippy atmospheric",
    "emotional": "heartfelt passionate poignant sentimental soulful",
    "energetic": "exciting enthusiastic powerful spirited vigorous vibrant",
    "epic": "dramatic",
    "groovy": "danceable",
    "happy": "buoyant bouncy festive funny peppy perky vivacious bright cheerful fun joyful playful uplifting "
    "youthful positive friendly",
    "romantic": "sensual love_song",
    "sad": "grim nostalgic pensive melancholic melancholy mournful wistful solemn",
    "tense": "suspense tension restless",
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
_VOICES = {
    # Not "voices": in an instrumental piece they are its parts.
    "vocal": "vocals voice male_voices female_voices human_voices singer singers sing singing sings sung vocalist "
    "vocalists vocalisation vocalization rapper rappers rapping raps choir choirs a_cappella acapella chanting humming "
    "beatboxing narration",
    "instrumental": "instrumentals no_voices no_voice no_vocals no_vocal no_singer no_singers no_singing no_vocalist "
    "without_vocals without_voices without_voice without_singing without_a_voice without_any_vocals",
}
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
    "voice": _pattern(_VOICES),
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
_WORDED = {
    "tempo": {"slow": "slow, under 80 bpm", "moderate": "around 95 bpm", "fast": "fast, over 112 bpm"},
    "voice": {"vocal": "with a voice", "instrumental": "instrumental"},
}


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
    single = {"mode", "tempo", "metre", "voice"}
    return {name: values for name, values in found.items() if values and (name not in single or len(values) == 1)}


def _values(lowered: str, pattern: re.Pattern[str], values: Mapping[str, str]) -> frozenset[str]:
    return frozenset(values[wording] for wording in pattern.findall(lowered))


def tempo_band(tempo_bpm: float) -> str:
    """Name the band of a tempo, as it is written without decimals: slow, moderate or fast."""
    tempo_bpm = round(tempo_bpm)
    return "slow" if tempo_bpm < _SLOW_BPM else "moderate" if tempo_bpm < _FAST_BPM else "fast"


def facts_of_audio(attributes: Mapping[str, Any]) -> Facts:
    """Take over what was measured surely; for clips of the pool only, whose audio is known at inference.

    Args:
        attributes: as in `describe.json`; what counts is what its `sure` names.
    """
    sure = [name for name in ("tempo_bpm", "mode", "voice") if name in (attributes.get("sure") or ())]
    values = {name.removesuffix("_bpm"): attributes[name] for name in sure}
    return {name: frozenset({tempo_band(value) if name == "tempo" else str(value)}) for name, value in values.items()}


def join_facts(sources: Iterable[Facts]) -> Facts:
    """Put facts together; for each attribute the first source that knows it is believed."""
    joined: dict[str, frozenset[str]] = {}
    for facts in sources:
        joined = {**facts, **joined}
    return joined


def say_fact(attribute: str, value: str) -> str:
    """Write a fact as it stands in a rule, such as "in a minor key"."""
    spoken = _WORDED.get(attribute)
    return spoken[value] if spoken else _SAID[attribute].format(value)


def values_of(attribute: str) -> tuple[str, ...]:
    """All values of an attribute that texts are read for, in alphabetical order; none for mode, which has a grammar."""
    return tuple(sorted(set(_WORDS[attribute][1].values()))) if attribute in _WORDS else ()
