"""Held-out singing for the demo's listeners: random phrases, the ten songs, their covers, music without a voice.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.data.records import Phrase
from pipeline.demo.covers import TAR_NAME, write_singing
from pipeline.demo.excerpts import perform
from pipeline.demo.jacappella import TRUTH_NAME, lead_register, sing_lead
from pipeline.demo.morae import PROLONGED, to_hiragana, to_katakana
from pipeline.demo.songbook import truth, write_lead
from pipeline.demo.songs import SONGS
from pipeline.demo.synth import render
from pipeline.demo.training.phrases import SAME_SOUND
from pipeline.demo.training.sung import RATE_HZ, Wave, draw_sung, level
from pipeline.demo.training.works import plan_held_out
from pipeline.music.audio import resample

HELD_OUT_SEED, DEMO_SEED = 900, 0
CLIP_S = 10.0
"""The demo's ingest cuts recordings into clips of this length, and levels each."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is heard, and what is sung in it."""

    name: str
    wave_N: Wave
    phrases: list[Phrase]

    @property
    def kana(self) -> str:
        """All that is sung, as it sounds."""
        return as_sung("".join(phrase.get("kana", "") for phrase in self.phrases))


def random_phrases(count: int) -> Iterator[Recording]:
    """Phrases and voices that no training draws, a cappella."""
    for number in range(count):
        clip = draw_sung([HELD_OUT_SEED, number])
        phrases = [
            Phrase(
                text="".join(kana for kana, _, _ in phrase),
                start_s=phrase[0][1],
                end_s=phrase[-1][2],
                source="score",
                kana=to_katakana("".join(kana for kana, _, _ in phrase)),
            )
            for phrase in clip.phrases
        ]
        yield Recording(f"phrases-{number}", clip.wave_N, phrases)


def songs(count: int = len(SONGS), *, seed: int = DEMO_SEED) -> Iterator[Recording]:
    """The lead voices of the demo's jaCappella-shaped set, each alone."""
    for number, song in enumerate(SONGS[:count]):
        wave_N = sing_lead(write_lead(song), lead_register(number), seed=[seed, number], sample_rate_hz=RATE_HZ)
        yield Recording(song.title, level_clips(wave_N), truth(song))


def covers(count: int = 6, *, seed: int = DEMO_SEED) -> Iterator[Recording]:
    """The demo's covers over their accompaniments, from their mp3 files."""
    with tempfile.TemporaryDirectory() as name:
        write_singing(Path(name), num_tracks=count, seed=seed)
        lines = (Path(name) / TRUTH_NAME).read_text("utf-8").splitlines()
        with tarfile.open(Path(name) / TAR_NAME) as archive:
            for facts in map(json.loads, lines):
                member = archive.extractfile(f"{facts['id']}.mp3")
                wave_NC, rate_hz = soundfile.read(io.BytesIO(member.read() if member else b""), dtype="float32")
                wave_N = resample(np.ascontiguousarray(wave_NC.mean(axis=1)), rate_hz, RATE_HZ)
                yield Recording(facts["title"], level_clips(wave_N), facts["phrases"])


def instrumentals(count: int) -> Iterator[Recording]:
    """Excerpts of held-out works, without a voice."""
    for clip in plan_held_out(count):
        notes = perform(clip, np.random.default_rng(clip.seed))
        wave_CN = render(
            notes, clip.facts.instrument, clip_s=CLIP_S, rate_hz=RATE_HZ, rms_dbfs=-20.0, seed=[*clip.seed, 1]
        )
        yield Recording(clip.facts.instrument, level(wave_CN.mean(axis=0)), [])


def level_clips(wave_N: Wave) -> Wave:
    """Level a recording clip by clip, as ingest does."""
    size = int(CLIP_S * RATE_HZ)
    return np.concatenate([level(wave_N[first : first + size]) for first in range(0, wave_N.size, size)])


def as_sung(text: str) -> str:
    """Kana of a text in hiragana; letters that sound alike are one, prolongation is none."""
    plain = "".join(letter for letter in to_hiragana(text) if "ぁ" <= letter <= "ゖ")
    return "".join(SAME_SOUND.get(letter, letter) for letter in plain.replace(PROLONGED, ""))


def num_errors(found: str, wanted: str) -> int:
    """Letters to insert, delete or replace (Levenshtein)."""
    row = np.arange(len(wanted) + 1)
    letters = np.array([ord(letter) for letter in wanted])
    for number, letter in enumerate(found, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # What an insertion carries over from the left, for all places at once.
        row = np.minimum.accumulate(np.concatenate([[number], best]) - np.arange(len(row))) + np.arange(len(row))
    return int(row[-1])


def error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Errors in all texts over the letters that are wanted.

    Args:
        pairs: found and wanted, as sung.
    """
    return sum(num_errors(found, wanted) for found, wanted in pairs) / max(1, sum(len(wanted) for _, wanted in pairs))
