"""Covers of our songs without a word of lyrics, as japanese-singing-voice lays out its own: mp3 and json in a tar.

Each is sung by another voice, in another key and tempo, over an accompaniment that begins alone. Ids, channels and
counts are invented. `.truth.jsonl` beside the folder `data` holds the true phrases; sources skip hidden files.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.records import Phrase
from pipeline.demo import synth
from pipeline.demo.arrangement import arrange
from pipeline.demo.jacappella import TRUTH_NAME, lead_notes, lead_register
from pipeline.demo.singing import Wave, sing
from pipeline.demo.songbook import Paper, Sung, length_s, perform, truth, usual_writing, write_lead
from pipeline.demo.songs import SONGS, Song
from pipeline.demo.voices import Register, draw_voice
from pipeline.engine.progress import progress
from pipeline.errors import ParamsError

TAR_NAME = "data/train-0000.tar"
ACCOMPANIMENTS = ("piano", "acoustic guitar", "harp", "accordion")
CATEGORIES = ("official", "cover", "cover", "diverse")
INTRO_BARS = 2
VOICE_GAIN, ROOM_S, MAX_PEAK = 1.6, 0.4, 0.97
FIRST_ORDER = (0, 7, 4, 9, 2, 0)
"""Songs of the first covers: two of them are of one song, as a user's set has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """How one recording differs from the song as written."""

    song: Song
    track_id: str
    semitones: int
    pace: float
    """Tempo relative to the song's."""
    intro_s: float
    """Accompaniment before the first bar."""
    instrument: str
    seed: list[int]


def write_singing(folder: Path, *, num_tracks: int = 6, seed: int, sample_rate_hz: int = 22_050) -> None:
    """Write the set.

    Args:
        folder: an empty folder.
        num_tracks: recordings; from the seventh on, songs come again.
        seed: decides voices, keys, tempi and ids. The same arguments give the same bytes.
        sample_rate_hz: one of MPEG audio's rates.

    Raises:
        ParamsError: no tracks.
    """
    if num_tracks < 1:
        raise ParamsError(f"demo: num_tracks is {num_tracks}; it must be at least 1")
    covers = [_plan(number, seed) for number in range(num_tracks)]
    (folder / TAR_NAME).parent.mkdir(parents=True)
    lines: list[str] = []
    with tarfile.open(folder / TAR_NAME, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, cover in progress(enumerate(covers), total=num_tracks, desc="sing covers", unit="track"):
            wave_NC = _render(cover, lead_register(number + 1), sample_rate_hz)
            facts = _facts(cover, number, len(wave_NC) / sample_rate_hz)
            _add(archive, f"{cover.track_id}.json", json.dumps(facts, ensure_ascii=False).encode())
            _add(archive, f"{cover.track_id}.mp3", _mp3(wave_NC, sample_rate_hz))
            told = {"id": cover.track_id, "title": cover.song.title, "phrases": _phrases(cover)}
            told["written"] = usual_writing(cover.song)
            lines.append(json.dumps(told, ensure_ascii=False) + "\n")
    (folder / TRUTH_NAME).write_text("".join(lines), "utf-8")


def _plan(number: int, seed: int) -> Cover:
    rng = np.random.default_rng([seed, 1, number])
    song = SONGS[FIRST_ORDER[number] if number < len(FIRST_ORDER) else number % len(SONGS)]
    pace = float(rng.uniform(0.92, 1.15))
    bars = write_lead(song).bars
    digest = base64.urlsafe_b64encode(hashlib.sha256(f"{seed} {number}".encode()).digest()).decode()
    semitones = int(rng.choice([-3, -2, -1, 1, 2, 3]))
    intro_q = float(max(bar.length_q for bar in bars)) * INTRO_BARS
    return Cover(
        song=song,
        track_id=("--" if number == 0 else "") + digest[: 9 if number == 0 else 11],
        semitones=semitones,
        pace=pace,
        intro_s=intro_q * 60 / song.bpm / pace,
        instrument=ACCOMPANIMENTS[number % len(ACCOMPANIMENTS)],
        seed=[seed, 2, number],
    )


def _phrases(cover: Cover) -> list[Phrase]:
    def moved(at_s: float | None) -> float:
        return round(cover.intro_s + (at_s or 0.0) / cover.pace, 3)

    return [
        {**phrase, "start_s": moved(phrase["start_s"]), "end_s": moved(phrase["end_s"])} for phrase in truth(cover.song)
    ]


def _render(cover: Cover, register: Register, sample_rate_hz: int) -> NDArray[np.float32]:
    """Sing over the accompaniment, `[N, 2]`."""
    paper = arrange(write_lead(cover.song))
    voice = draw_voice(cover.seed, register)
    notes = [
        replace(
            note,
            midi=note.midi + cover.semitones,
            start_s=cover.intro_s + note.start_s / cover.pace,
            end_s=cover.intro_s + note.end_s / cover.pace,
        )
        for note in lead_notes(paper, voice)
    ]
    sung_N, _ = sing(notes, voice=voice, seed=[*cover.seed, 0], sample_rate_hz=sample_rate_hz)
    total_s = cover.intro_s + length_s(paper) / cover.pace + ROOM_S
    wave_CN = synth.render(
        _accompany(paper, cover),
        cover.instrument,
        clip_s=total_s,
        rate_hz=sample_rate_hz,
        rms_dbfs=-26.0,
        seed=[*cover.seed, 1],
    )
    held = min(len(sung_N), wave_CN.shape[1])
    wave_CN[:, :held] += np.float32(VOICE_GAIN) * sung_N[:held]
    return wave_CN.T * np.float32(min(1.0, MAX_PEAK / float(np.abs(wave_CN).max())))


def _accompany(paper: Paper, cover: Cover) -> synth.Notes:
    """Play the backing voices; their first bars come once before the song."""
    rows: list[tuple[float, float, int, int]] = []
    for index, part in enumerate(("alto", "tenor", "bass")):
        notes = perform(paper, part)
        rows += [_row(note, index, cover) for note in _intro(notes, cover)]
        rows += [_row(note, index, cover, after_s=cover.intro_s) for note in notes]
    rows.sort()
    return synth.Notes(
        onset_s=np.array([row[0] for row in rows]),
        length_s=np.array([row[1] for row in rows]),
        midi=np.array([row[2] for row in rows]),
        part=np.array([row[3] for row in rows]),
        velocity=np.full(len(rows), 0.7),
    )


def _intro(notes: Sequence[Sung], cover: Cover) -> list[Sung]:
    return [note for note in notes if note.end_s <= cover.intro_s * cover.pace + 1e-6]


def _row(note: Sung, part: int, cover: Cover, *, after_s: float = 0.0) -> tuple[float, float, int, int]:
    length_s = (note.end_s - note.start_s) / cover.pace
    return (after_s + note.start_s / cover.pace, length_s, note.midi + cover.semitones, part)


def _mp3(wave_NC: Wave, sample_rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, wave_NC, sample_rate_hz, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE",
        compression_level=0.5,
    )  # fmt: skip
    return buffer.getvalue()


def _facts(cover: Cover, number: int, duration_s: float) -> dict[str, object]:
    rng = np.random.default_rng([*cover.seed, 3])
    category = CATEGORIES[number % len(CATEGORIES)]
    ending = " (Official Video)" if category == "official" else " 歌ってみた"
    channel = number % 4
    return {
        "id": cover.track_id,
        "url": f"https://video.example/watch?v={cover.track_id}",
        "title": f"{cover.song.title_ja}{ending}",
        "channel_id": f"UCdemo{channel:018d}",
        "channel_title": f"デモの歌い手{channel}",
        "duration_sec": round(duration_s),
        "published": f"20{10 + number % 15}-0{1 + number % 9}-01T09:00:00Z",
        "view_count": int(rng.integers(100, 1_000_000)),
        "like_count": int(rng.integers(1, 1_000)),
        "category_id": "10",
        "source_playlist": None,
        "topic_categories": ["https://en.wikipedia.org/wiki/Music"],
        "language": "ja",
        "dataset_category": category,
        "dataset_genre": "children's song",
        "dataset_score": int(rng.integers(50, 100)),
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # A fresh TarInfo bears no clock and no owner.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
