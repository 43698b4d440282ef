"""Captions and aspect lists from the facts of a score excerpt, in the manner of MusicCaps' annotators."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a clip because its score and its rendering are known."""

    form: str
    metre: str
    tonic: str
    """As in `Bb` or `F#`."""
    mode: str
    """major or minor."""
    bpm: int
    """Beats a minute; a beat is a dotted quarter in 6/8 and a half in 2/2."""
    instrument: str
    texture: str
    """solo, homophonic or polyphonic."""
    register: str
    """low, middle or high: where most notes lie."""
    dynamics: str
    """soft, moderate or loud."""


FORMS = {
    "chorale": "chorale",
    "reel": "fiddle reel",
    "jig": "fiddle jig",
    "hornpipe": "fiddle hornpipe",
    "strathspey": "fiddle strathspey",
    "air": "Irish air",
    "quartet": "quartet movement",
    "rag": "ragtime piece",
    "sonata": "classical sonata",
}
GENRES = {
    "chorale": "baroque church music",
    "air": "folk song",
    "quartet": "chamber music",
    "rag": "ragtime",
    "sonata": "classical music",
}
MOODS = {
    ("major", "slow"): ("peaceful", "calm", "tender"),
    ("major", "medium"): ("warm", "friendly", "bright"),
    ("major", "fast"): ("cheerful", "lively", "joyful"),
    ("minor", "slow"): ("sad", "mournful", "solemn"),
    ("minor", "medium"): ("melancholic", "serious", "wistful"),
    ("minor", "fast"): ("restless", "stormy", "urgent"),
}
TEXTURES = {
    "solo": ("solo", "a single melody without accompaniment", "a lone melodic line"),
    "homophonic": ("chords", "the voices move together in chords", "block chords under a melody"),
    "polyphonic": ("counterpoint", "several independent voices interweave", "the parts answer each other"),
}
REGISTERS = {"low": "low register", "middle": "middle register", "high": "high register"}
DYNAMICS = {"soft": "quiet", "moderate": "mezzo forte", "loud": "loud"}
METRES = {
    "2/2": "cut time",
    "2/4": "two beats in a bar",
    "3/4": "triple metre",
    "4/4": "common time",
    "6/8": "compound duple time",
    "9/8": "compound triple time",
    "12/8": "compound quadruple time",
}
SCENES = {
    "chorale": "This could be heard in a church.",
    "air": "It could be playing in a documentary about the countryside.",
    "quartet": "It could be played in a concert hall.",
    "rag": "This would fit a silent film.",
    "sonata": "A student may be practicing this.",
}
DANCE_SCENE = "This song could be played at a village dance."

# One list per author_id: MusicCaps' annotators differ in length, case, terms and in what they listen to.
STYLES = {
    0: (
        "This song features {an_instrument} playing {a_form}. The tempo is {speed} at {bpm} beats per minute. "
        "{Texture}. The key is {key}. {voices} The mood of this song is {mood}. {scene}",
        "This is {a_mood} instrumental. {An_instrument} plays {a_form} in {metre}. {Texture}. The tempo is {speed}. "
        "The song is in the key of {key}. {scene}",
    ),
    1: (
        "{a_mood} {form} on {instrument}, {key}, about {bpm} bpm",
        "{instrument} playing {a_form} in {key}. {speed} tempo, {metre}. {texture}.",
    ),
    4: (
        "The live recording features {a_form} played on {instrument} in the {register}. {Texture}. It sounds {mood} "
        "and the tempo is {speed}. The recording is {dynamics}.",
        "The recording features {an_instrument} melody, in {key} and {metre}, that sounds {mood}. It is {a_form} at "
        "{bpm} bpm and {texture}.",
    ),
    5: (
        "{An_instrument} performs {a_form}. Time signature {signature}, {bpm} bpm, {key}. {Texture}.",
        "{A_form} in {signature} time, played by {instrument}. The piece is in {key}, at {bpm} bpm – a {speed} tempo.",
    ),
    6: (
        "someone is playing {a_form} on {instrument} in the {register}. the music sounds {mood} and is rather "
        "{dynamics}. {texture}. this may be playing at home.",
        "{an_instrument} is playing {a_mood} melody at a {speed} pace. {texture}. {scene}",
    ),
    9: (
        "{A_mood} piece of {genre} for {instrument}. {A_form} with {metre}, a {speed} pulse of {bpm} beats a minute "
        "and a tonal centre of {key}. {Texture}. The playing is {dynamics}, mostly in the {register}.",
        "Instrumental {genre}: {form} in {key}, {speed}, {dynamics}. {Texture}.",
    ),
}


def speed_word(bpm: int) -> str:
    """Name a tempo as listeners do."""
    return "slow" if bpm < 80 else "medium" if bpm < 112 else "fast"


def key_name(facts: Facts) -> str:
    """Write a key out, as in `B flat minor`."""
    accidental = {"b": " flat", "#": " sharp"}.get(facts.tonic[1:], "")
    return f"{facts.tonic[0]}{accidental} {facts.mode}"


def genre(facts: Facts) -> str:
    """Name the genre; what is not listed is dance music."""
    return GENRES.get(facts.form, "folk dance music")


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiouAEIOU' else 'a'} {text}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def write_caption(facts: Facts, author_id: int, rng: np.random.Generator) -> str:
    """Describe a clip in one author's manner.

    Args:
        facts: what is true of the clip; a caption says some of it and nothing else.
        author_id: a key of `STYLES`.
        rng: picks among an author's phrases.
    """
    speed = speed_word(facts.bpm)
    words = {
        "form": FORMS[facts.form],
        "genre": genre(facts),
        "instrument": facts.instrument,
        "key": key_name(facts),
        "mood": _pick(MOODS[facts.mode, speed], rng),
        "texture": _pick(TEXTURES[facts.texture][1:], rng),
        "speed": speed,
        "bpm": str(facts.bpm),
        "signature": facts.metre,
        "metre": METRES.get(facts.metre, f"{facts.metre} time"),
        "register": REGISTERS[facts.register],
        "dynamics": DYNAMICS[facts.dynamics],
        "voices": _voices(facts),
        "scene": SCENES.get(facts.form, DANCE_SCENE),
    }
    words |= {f"a_{name}": _with_article(words[name]) for name in ("form", "mood")}
    words["an_instrument"] = _with_article(facts.instrument)
    words |= {_capital(name): _capital(text) for name, text in words.items()}
    return _pick(STYLES[author_id], rng).format(**words)


def _voices(facts: Facts) -> str:
    if facts.instrument == "choir":
        return "The voices sing without words."
    return "There are no voices in this song."


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def list_aspects(facts: Facts, rng: np.random.Generator) -> list[str]:
    """List a clip's aspects as short phrases, in an order of the annotator's own."""
    speed = speed_word(facts.bpm)
    always = [facts.instrument, genre(facts), FORMS[facts.form], f"{speed} tempo"]
    sometimes = [
        f"{facts.bpm} bpm",
        key_name(facts),
        f"{facts.mode} key",
        _pick(MOODS[facts.mode, speed], rng),
        TEXTURES[facts.texture][0],
        REGISTERS[facts.register],
        METRES.get(facts.metre, f"{facts.metre} time"),
        f"{DYNAMICS[facts.dynamics]} dynamics",
        "instrumental",
        "no voice" if facts.instrument != "choir" else "singers' wordless vowels",
    ]
    chosen = always + [phrase for phrase in sometimes if rng.random() < 0.6]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def grid_texts(instruments: tuple[str, ...]) -> Iterator[str]:
    """Write captions over a fixed grid of facts: text for a vocabulary, without any corpus.

    Args:
        instruments: the names that captions may use.
    """
    rng = np.random.default_rng(0)
    keys = itertools.cycle(("C", "Eb", "F#", "G", "Bb", "A", "D", "C#", "Ab", "E", "F", "B"))
    metres, textures = itertools.cycle(METRES), itertools.cycle(TEXTURES)
    ranges = itertools.cycle(itertools.product(REGISTERS, DYNAMICS))
    tempos = itertools.cycle(range(52, 152, 3))
    for form, instrument, mode, author_id in itertools.product(FORMS, instruments, ("major", "minor"), STYLES):
        register, dynamics = next(ranges)
        facts = Facts(
            form=form, metre=next(metres), tonic=next(keys), mode=mode, bpm=next(tempos), instrument=instrument,
            texture=next(textures), register=register, dynamics=dynamics,
        )  # fmt: skip
        yield write_caption(facts, author_id, rng)
