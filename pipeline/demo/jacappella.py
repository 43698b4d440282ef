"""Ten songs as jaCappella lays out its own: a folder per song, six voices, a mixture, three variants of the score.

None of it is jaCappella's: songs out of copyright (see `songs`), sung by our synthesiser. `.truth.jsonl` beside
`meta.csv` holds the phrases of every song, for measuring; sources skip hidden files.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from pipeline.demo.arrangement import BACKING, arrange
from pipeline.demo.morae import MELISMA, PROLONGED
from pipeline.demo.percussion import drum
from pipeline.demo.singing import TAIL_S, Note, Wave, sing
from pipeline.demo.songbook import Paper, Variant, length_s, perform, truth, usual_writing, write_lead
from pipeline.demo.songbook_score import write_score
from pipeline.demo.songs import SONGS, TRADITIONAL, Song
from pipeline.demo.voices import RANGES, Register, Voice, draw_voice
from pipeline.engine.progress import progress
from pipeline.errors import ParamsError

ENDINGS: dict[Variant, str] = {"default": "", "SVS": "_SVS", "romaji": "_romaji"}
TEST_LIST = "test_song_list_for_vocal_ensemble_separation.txt"
TEST_TITLES = ("hotarunohikari", "hiraitahiraita", "furusato")
TRUTH_NAME = ".truth.jsonl"
COLUMNS: tuple[str, ...] = (
    "title_in_en", "title_in_ja", "lyric_writer", "copyright_of_lyric_writer", "composer", "copyright_of_composer",
    "arranger_in_en", "arranger_in_ja", "subset", "voice_part", "singer_id", "gender", "first_lang",
)  # fmt: skip
REGISTERS: dict[str, Register] = {"soprano": "soprano", "alto": "alto", "tenor": "tenor", "bass": "bass"}
GAINS = {
    "lead_vocal": 1.0, "soprano": 0.4, "alto": 0.4, "tenor": 0.4, "bass": 0.6, "vocal_percussion": 0.6,
}  # fmt: skip
SUBTYPE = "ULAW"
"""8-bit mu-law at half the size of plain samples, for noise 37 dB below the voice."""
README = """\
Not the jaCappella corpus, and nothing of it: the demo of Setlist made these files in the same layout.
The songs are traditional or by authors who died more than 70 years ago; transcription, arrangement and voices are
the demo's own. The singers are a synthesiser. `.truth.jsonl` holds the true phrases and their times.
"""


def write_jacappella(folder: Path, *, num_songs: int = len(SONGS), seed: int, sample_rate_hz: int = 16_000) -> None:
    """Write the set.

    Args:
        folder: an empty folder.
        num_songs: how many of the ten.
        seed: decides voices and what varies in singing. The same arguments give the same bytes.
        sample_rate_hz: of all recordings.

    Raises:
        ParamsError: more songs than there are, or none.
    """
    if not 1 <= num_songs <= len(SONGS):
        raise ParamsError(f"demo: num_songs is {num_songs}; there are {len(SONGS)} songs")
    songs = SONGS[:num_songs]
    for number, song in progress(enumerate(songs), total=num_songs, desc="sing songs", unit="song"):
        paper = arrange(write_lead(song))
        place = folder / song.subset / song.title
        place.mkdir(parents=True)
        for variant, ending in ENDINGS.items():
            (place / f"{song.title}{ending}.musicxml").write_bytes(write_score(paper, variant))
        for part, wave_N in _mix(paper, seed=[seed, number], sample_rate_hz=sample_rate_hz).items():
            soundfile.write(place / f"{part}.wav", wave_N, sample_rate_hz, subtype=SUBTYPE)
    with (folder / "meta.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for number, song in enumerate(songs) for row in _rows(song, number))
    tests = "".join(f"{song.title}\n" for song in songs if song.title in TEST_TITLES)
    (folder / TEST_LIST).write_text(tests, "utf-8")
    (folder / "README.txt").write_text(README, "utf-8")
    lines = (json.dumps(_truth(song), ensure_ascii=False) for song in songs)
    (folder / TRUTH_NAME).write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _truth(song: Song) -> dict[str, object]:
    return {"title": song.title, "phrases": truth(song), "written": usual_writing(song)}


def lead_register(number: int) -> Register:
    """Women and men take turns in the lead; a man sings an octave below what is written."""
    return ("soprano", "tenor", "alto")[number % 3]


def _mix(paper: Paper, *, seed: list[int], sample_rate_hz: int) -> dict[str, Wave]:
    """Sing all parts, with the mixture as their sum."""
    num_samples = math.ceil((length_s(paper) + TAIL_S) * sample_rate_hz)
    waves = {"lead_vocal": sing_lead(paper, lead_register(seed[1]), seed=seed, sample_rate_hz=sample_rate_hz)}
    for number, part in enumerate(BACKING, 1):
        notes = perform(paper, part)
        if part == "vocal_percussion":
            strokes = [(note.sung, note.start_s) for note in notes]
            waves[part] = drum(strokes, num_samples=num_samples, seed=[*seed, number], sample_rate_hz=sample_rate_hz)
        else:
            voice = draw_voice([*seed, 10 + number], REGISTERS[part])
            sung = [Note(text=n.sung, midi=n.midi, start_s=n.start_s, end_s=n.end_s) for n in notes]
            waves[part] = sing(sung, voice=voice, seed=[*seed, number], sample_rate_hz=sample_rate_hz)[0]
    waves = {part: np.float32(GAINS[part]) * _fit(wave_N, num_samples) for part, wave_N in waves.items()}
    waves["mixture"] = np.sum(list(waves.values()), axis=0, dtype=np.float32)
    scale = np.float32(min(1.0, 0.9 / float(np.abs(waves["mixture"]).max())))
    return {part: wave_N * scale for part, wave_N in waves.items()}


def _fit(wave_N: Wave, num_samples: int) -> Wave:
    return np.pad(wave_N[:num_samples], (0, max(0, num_samples - len(wave_N))))


def lead_notes(paper: Paper, voice: Voice) -> list[Note]:
    """Notes of the lead in the octave that suits a voice."""
    sung = perform(paper)
    middle = float(np.average([note.midi for note in sung], weights=[note.end_s - note.start_s for note in sung]))
    shift = 12 * round((RANGES[voice.register][1] - middle) / 12)
    return [
        Note(
            text=PROLONGED if note.sung == MELISMA else note.sung,
            midi=note.midi + shift,
            start_s=note.start_s,
            end_s=note.end_s,
        )
        for note in sung
    ]


def sing_lead(paper: Paper, register: Register, *, seed: list[int], sample_rate_hz: int) -> Wave:
    """Sing the words of a song in a voice drawn by seed, `[N]`."""
    voice = draw_voice([*seed, 10], register)
    return sing(lead_notes(paper, voice), voice=voice, seed=[*seed, 0], sample_rate_hz=sample_rate_hz)[0]


def _rows(song: Song, number: int) -> Iterator[dict[str, str]]:
    for index, part in enumerate(("lead_vocal", *BACKING)):
        register = REGISTERS.get(part, lead_register(number) if part == "lead_vocal" else "bass")
        yield {
            "title_in_en": song.title,
            "title_in_ja": song.title_ja,
            "lyric_writer": _author(song.lyricist),
            "copyright_of_lyric_writer": "expired",
            "composer": _author(song.composer),
            "copyright_of_composer": "expired",
            "arranger_in_en": "Setlist demo",
            "arranger_in_ja": "Setlistのデモ",
            "subset": song.subset,
            "voice_part": part,
            "singer_id": f"synthesiser-{number:02d}-{index}",
            "gender": "female" if register in ("soprano", "alto") else "male",
            "first_lang": "none: a synthesiser",
        }


def _author(name: str) -> str:
    return "不詳" if name == TRADITIONAL else name
