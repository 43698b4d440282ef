"""The demo's corpus: public-domain scores from music21, rendered by our synthesiser, laid out as MusicCaps is.

Files: `musiccaps-public.csv` with MusicCaps' columns and quirks, `audio/{ytid}.wav`, and `demo_facts.csv`, the truth
about each row, for measuring. As on users' disks, a few rows have no audio.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.demo.captions import STYLES, Facts, list_aspects, write_caption
from pipeline.demo.excerpts import Clip, perform, plan_clips
from pipeline.demo.score import Work
from pipeline.demo.synth import render
from pipeline.engine.progress import progress
from pipeline.errors import ParamsError

RATE_HZ = 32_000
NUM_WITHOUT_AUDIO = 2
EVAL_SHARE = 0.25
CSV_NAME, FACTS_NAME = "musiccaps-public.csv", "demo_facts.csv"
COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval",
)  # fmt: skip
FACTS_COLUMNS = (
    "ytid", "work", "start_q", "form", "bpm", "tonic", "mode", "metre", "instrument", "texture", "register", "dynamics",
    "has_audio",
)  # fmt: skip


LABELS = {
    "church organ": "/m/013y1f", "choir": "/m/0l14jd", "brass ensemble": "/m/01kcd", "string quartet": "/m/02qmj0d",
    "piano": "/m/05r5c", "harpsichord": "/m/03q5t", "acoustic guitar": "/m/042v_gx", "banjo": "/m/018j2",
    "harp": "/m/03m5k", "fiddle": "/m/07y_7", "cello": "/m/01xqw", "flute": "/m/0l14j_", "clarinet": "/m/01wy6",
    "accordion": "/m/0mkg",
}  # fmt: skip
"""AudioSet's class of each instrument."""
MUSIC_LABEL, FOLK_LABEL, CLASSICAL_LABEL = "/m/04rlf", "/m/02w4v", "/m/0ggq0m"
LEVELS_DBFS = {"soft": -25.0, "moderate": -20.0, "loud": -16.5}


def build_corpus(folder: Path, *, num_clips: int, clip_s: float, seed: int) -> None:
    """Write the corpus.

    Args:
        folder: an empty folder.
        num_clips: clips with audio; two more rows have none.
        clip_s: length of each clip.
        seed: decides works, excerpts, instruments, tempi, words. The same arguments give the same bytes.

    Raises:
        ParamsError: a count or length out of range, or more clips than music21's scores yield.
    """
    if num_clips < 1 or clip_s < 1:
        raise ParamsError(f"demo: num_clips is {num_clips} and clip_s {clip_s}; both must be at least 1")
    total = num_clips + NUM_WITHOUT_AUDIO
    clips = list(progress(plan_clips(total, clip_s=clip_s, seed=seed), total=total, desc="read scores", unit="clip"))
    ytids = make_ytids(clips)
    order = np.argsort(np.array(ytids))
    clips, ytids = [clips[index] for index in order], [ytids[index] for index in order]
    held = pick_eval_works(clips)
    train = [index for index, clip in enumerate(clips) if clip.score.work.name not in held]
    silent = set(np.random.default_rng(seed).choice(train, NUM_WITHOUT_AUDIO, replace=False).tolist())
    (folder / "audio").mkdir()
    for index in progress(range(total), total=total, desc="render clips", unit="clip"):
        if index not in silent:
            _write_audio(folder / "audio" / f"{ytids[index]}.wav", clips[index], clip_s=clip_s)
    _write_table(folder / CSV_NAME, COLUMNS, _musiccaps_rows(clips, ytids, clip_s=clip_s, seed=seed))
    _write_table(folder / FACTS_NAME, FACTS_COLUMNS, _facts_rows(clips, ytids, silent))


def _write_audio(path: Path, clip: Clip, *, clip_s: float) -> None:
    rng = np.random.default_rng(clip.seed)
    level_dbfs = LEVELS_DBFS[clip.facts.dynamics] + rng.uniform(-1, 1)
    is_mono = rng.random() < 0.4
    wave_CN = render(
        perform(clip, rng),
        clip.facts.instrument,
        clip_s=clip_s,
        rate_hz=RATE_HZ,
        rms_dbfs=level_dbfs,
        seed=[*clip.seed, 1],
    )
    if is_mono:
        wave_CN = wave_CN.mean(axis=0, keepdims=True)
    pcm_NC: NDArray[np.int16] = np.round(wave_CN.T * 32767).astype(np.int16)
    soundfile.write(path, pcm_NC, RATE_HZ, subtype="PCM_16")


def make_ytids(clips: Sequence[Clip]) -> list[str]:
    """Invent a YouTube id of 11 characters per clip, unique without regard to case.

    One starts with `-`, one with `_`: both upset careless readers.
    """
    ytids: list[str] = []
    for index, clip in enumerate(clips):
        salt = 0
        while not ytids or len(ytids) <= index:
            digest = hashlib.sha256(f"{clip.seed}{clip.score.work.name}{salt}".encode()).digest()
            ytid = {0: "-", 1: "_"}.get(index, "") + base64.urlsafe_b64encode(digest).decode()
            salt += 1
            if ytid[:11].lower() not in {seen.lower() for seen in ytids}:
                ytids.append(ytid[:11])
    return ytids


def pick_eval_works(clips: Sequence[Clip]) -> set[str]:
    """Hold out whole works until about a quarter of the clips, in every family alike, is held out."""
    counts: dict[tuple[str, int], list[str]] = {}
    for clip in clips:
        counts.setdefault((clip.facts.form, clip.seed[1]), []).append(clip.score.work.name)
    held: set[str] = set()
    seen = held_clips = 0
    for _, names in sorted(counts.items()):
        seen += len(names)
        if held_clips + len(names) / 2 < EVAL_SHARE * seen:
            held_clips += len(names)
            held.add(names[0])
    return held


def _musiccaps_rows(
    clips: Sequence[Clip], ytids: Sequence[str], *, clip_s: float, seed: int
) -> Iterator[dict[str, object]]:
    held = pick_eval_works(clips)
    broken = set(np.random.default_rng([seed, 2]).choice(len(clips), min(2, len(clips) // 4), replace=False).tolist())
    captions: set[str] = set()
    for index, (clip, ytid) in enumerate(zip(clips, ytids, strict=True)):
        rng = np.random.default_rng([*clip.seed, 3])
        author_id, caption = _unique_caption(clip.facts, captions, rng)
        if index in broken:
            caption = caption.replace(". ", ".\n", 1)
        start_s = 30 if rng.random() < 0.47 else 10 * int(rng.integers(0, 60))
        is_eval = clip.score.work.name in held
        labels = sorted([MUSIC_LABEL, LABELS[clip.facts.instrument], *_genre_labels(clip.score.work)])
        yield {
            "ytid": ytid,
            "start_s": start_s,
            "end_s": start_s + math.ceil(clip_s),
            "audioset_positive_labels": ",".join(labels),
            "aspect_list": repr(list_aspects(clip.facts, rng)),
            "caption": caption,
            "author_id": author_id,
            "is_balanced_subset": is_eval and rng.random() < 0.35,
            "is_audioset_eval": is_eval,
        }


def _unique_caption(facts: Facts, captions: set[str], rng: np.random.Generator) -> tuple[int, str]:
    """Write a caption that no earlier clip has, as MusicCaps has no two alike."""
    while True:
        author_id = int(rng.choice(list(STYLES)))
        caption = write_caption(facts, author_id, rng)
        if caption not in captions:
            captions.add(caption)
            return author_id, caption


def _genre_labels(work: Work) -> list[str]:
    if work.form in ("chorale", "quartet", "sonata"):
        return [CLASSICAL_LABEL]
    return [] if work.form == "rag" else [FOLK_LABEL]


def _facts_rows(clips: Sequence[Clip], ytids: Sequence[str], silent: set[int]) -> Iterator[dict[str, object]]:
    for index, (clip, ytid) in enumerate(zip(clips, ytids, strict=True)):
        has_audio = index not in silent
        source: dict[str, object] = {"ytid": ytid, "work": clip.score.work.name, "start_q": clip.start_q}
        yield source | asdict(clip.facts) | {"has_audio": has_audio}


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    """Write CRLF rows, quoted only where needed, as the published CSV is."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
