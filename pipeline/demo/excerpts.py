"""Which excerpts of which works the demo plays, on what, how fast; and what is true of each."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.demo.captions import DYNAMICS, Facts
from pipeline.demo.score import Passage, Score, Work, cut_passage, find_key, find_texture, list_works, read_score
from pipeline.demo.synth import Notes
from pipeline.errors import ParamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How works of one kind are used."""

    share: float
    """Share of the clips."""
    clips_per_work: int
    bpm: tuple[int, int]
    """Slowest and fastest rendering, in beats a minute."""
    instruments: tuple[str, ...]


FAMILIES = {
    "sonata": Family(share=0.02, clips_per_work=3, bpm=(88, 144), instruments=("piano", "harpsichord", "harp")),
    "rag": Family(share=0.05, clips_per_work=12, bpm=(66, 104), instruments=("piano", "banjo", "harpsichord")),
    "quartet": Family(
        share=0.15, clips_per_work=4, bpm=(63, 138),
        instruments=("string quartet", "piano", "accordion", "church organ"),
    ),
    "air": Family(
        share=0.18, clips_per_work=2, bpm=(54, 112),
        instruments=("flute", "harp", "fiddle", "clarinet", "acoustic guitar", "cello"),
    ),
    "chorale": Family(
        share=0.32, clips_per_work=2, bpm=(60, 104),
        instruments=("church organ", "choir", "brass ensemble", "string quartet", "piano"),
    ),
    "fiddle": Family(
        share=0.28, clips_per_work=2, bpm=(76, 132),
        instruments=("fiddle", "flute", "banjo", "accordion", "acoustic guitar"),
    ),
}  # fmt: skip
"""From few works to many: what a family lacks, the next ones make up for."""
OCTAVES = {"cello": -2, "flute": 1, "acoustic guitar": -1, "banjo": -1}
"""Where an instrument reads a solo tune; ensembles play at pitch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One excerpt as it will be rendered and described."""

    score: Score
    start_q: float
    passage: Passage
    facts: Facts
    seed: tuple[int, int, int]
    """Corpus seed, hash of the work's name, number of the excerpt in it."""


def plan_clips(
    num_clips: int, *, clip_s: float, seed: int, may_use: Callable[[Work], bool] = lambda _work: True
) -> Iterator[Clip]:
    """Choose works and excerpts, family by family in fixed shares.

    Args:
        num_clips: how many.
        clip_s: length of each clip.
        seed: decides works, excerpts, instruments, tempi.
        may_use: tells which works may be played.

    Raises:
        ParamsError: more clips than music21's scores yield.
    """
    quotas = share_out(num_clips, {name: family.share for name, family in FAMILIES.items()})
    missing = 0
    for name in FAMILIES:
        missing += quotas[name]
        works = [work for work in list_works(name) if may_use(work)]
        for clip in _plan_family(name, works, wanted=missing, clip_s=clip_s, seed=seed):
            missing -= 1
            yield clip
    if missing:
        raise ParamsError(f"demo.num_clips: music21's scores yield {missing} excerpts too few; ask for fewer clips")


def share_out(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Cut a whole number into shares by largest remainder."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _plan_family(name: str, works: Sequence[Work], *, wanted: int, clip_s: float, seed: int) -> Iterator[Clip]:
    found = 0
    for index in np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(works)):
        if found >= wanted:
            return
        score = read_score(works[index])
        limit = min(FAMILIES[name].clips_per_work, wanted - found)
        for clip in _plan_work(score, FAMILIES[name], limit=limit, clip_s=clip_s, seed=seed) if score else ():
            found += 1
            yield clip


def _plan_work(score: Score, family: Family, *, limit: int, clip_s: float, seed: int) -> Iterator[Clip]:
    """Find excerpts of one work that share no moment and whose key is beyond doubt."""
    work_hash = zlib.crc32(score.work.name.encode())
    rng = np.random.default_rng([seed, work_hash])
    taken: list[tuple[float, float]] = []
    for start_q in rng.permutation(score.bar_q[:-1]).tolist():
        if len(taken) == limit:
            return
        bpm = int(rng.integers(family.bpm[0], family.bpm[1] + 1))
        instrument, dynamics = _pick(family.instruments, rng), _pick(tuple(DYNAMICS), rng)
        length_q = clip_s * bpm / 60 * score.beat_q
        if any(_overlap((start_q, length_q), other, period_q=score.length_q) for other in taken):
            continue
        passage = transpose(cut_passage(score, start_q, length_q=length_q), score, instrument)
        found = find_key(passage, score.sharps_at(start_q)) if is_busy(passage, length_q) else None
        if found is None:
            continue
        taken.append((start_q, length_q))
        facts = Facts(
            form=score.work.form,
            metre=score.metre,
            tonic=found[0],
            mode=found[1],
            bpm=bpm,
            instrument=instrument,
            texture=find_texture(score, passage),
            register=name_register(passage),
            dynamics=dynamics,
        )
        clip_seed = (seed, work_hash, len(taken))
        yield Clip(score=score, start_q=start_q, passage=passage, facts=facts, seed=clip_seed)


def _overlap(one: tuple[float, float], other: tuple[float, float], *, period_q: float) -> bool:
    """Tell whether two spans (start, length) share a moment of a piece that starts again after its end."""
    (start_q, length_q), (other_q, other_length_q) = one, other
    return (start_q - other_q) % period_q < other_length_q or (other_q - start_q) % period_q < length_q


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def transpose(passage: Passage, score: Score, instrument: str) -> Passage:
    """Move a solo tune into an instrument's octave."""
    octaves = OCTAVES.get(instrument, 0) if score.num_parts == 1 else 0
    midi = passage.midi + 12 * octaves
    return Passage(onset_q=passage.onset_q, length_q=passage.length_q, midi=midi, part=passage.part)


def is_busy(passage: Passage, length_q: float) -> bool:
    """Tell whether something starts at least every sixth of a passage, so that no clip is mostly rest."""
    edges = np.concatenate([[0.0], passage.onset_q, [length_q]])
    num_pitches = len(set(passage.midi.tolist()))
    return len(passage.midi) >= 8 and num_pitches >= 3 and float(np.diff(edges).max()) < length_q / 6


def name_register(passage: Passage) -> str:
    """Name where the notes lie by their mean pitch, weighted by length: below A3 is low, above A4 high."""
    mean_midi = float(np.average(passage.midi, weights=passage.length_q))
    return "low" if mean_midi < 57 else "high" if mean_midi > 69 else "middle"


def perform(clip: Clip, rng: np.random.Generator) -> Notes:
    """Play a passage as a person does: in tempo, the first beat of a bar accented, no two notes quite alike."""
    passage, score = clip.passage, clip.score
    second_q = 60 / (clip.facts.bpm * score.beat_q)
    place_q = (clip.start_q + passage.onset_q) % score.length_q
    on_bar = np.isclose(place_q[:, None], score.bar_q[None, :], atol=1e-3).any(axis=1)
    on_beat = np.isclose(passage.onset_q / score.beat_q, np.round(passage.onset_q / score.beat_q), atol=1e-3)
    count = len(passage.midi)
    velocity = 0.62 + 0.2 * on_bar + 0.1 * on_beat + rng.normal(0, 0.03, count)
    top = passage.part == 0
    return Notes(
        onset_s=np.maximum(0.0, passage.onset_q * second_q + rng.normal(0, 0.004, count)),
        length_s=passage.length_q * second_q * 0.95,
        midi=passage.midi,
        part=passage.part,
        velocity=np.clip(velocity + 0.08 * top, 0.2, 1.0),
    )
