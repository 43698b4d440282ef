"""Repetition that a decoder fell into, told from repetition that is sung.

Songs repeat: ラララ, ぽっぽっぽ, a chorus. What tells a stuck decoder apart is not that a text comes again but how:
more often than anyone sings it, faster than anyone can, at times like a clock's, or where nothing sounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import pstdev
from typing import NamedTuple

from pipeline.lyrics.stock_phrases import letters


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParams:
    """Section `transcribe.gates.loops` of params.yaml."""

    max_syllables: int = 24
    """Most repeats of one letter within a phrase: アアアア."""
    max_short: int = 12
    """Most repeats of a unit of two or three letters: はいはい, ラララ counted as ラ."""
    max_words: int = 8
    """Most repeats of a unit of four to seven letters: ソーラン ソーラン."""
    max_lines: int = 4
    """Most repeats of a longer unit within a phrase."""
    max_same_lines: int = 3
    """Most times that the same lines come in immediate succession with a sign against them (see `looping_phrases`)."""
    max_plain_lines: int = 5
    """Most times without any sign against them, for lines that do not repeat within themselves as ラララ does."""
    clockwork_s: float = 0.04
    """Starts and lengths that vary less than this are a machine's; Whisper's own grid is 0.02 s."""
    max_sung_moras_per_s: float = 9.0
    """Nobody repeats faster."""
    min_sounding_share: float = 0.5
    """Repetition must sound for this share of its time."""
    num_believed: int = 2
    """Of a run too long to be believed, so many statements stay where they sound and can be sung."""
    max_uneven: float = 0.2
    """Deviation of the lengths of statements, as a share of their mean, up to which they are sung alike: of a run with
    no other sign against it `max_plain_lines` stay. A decoder stuck over other lines takes on their lengths."""


class Repeat(NamedTuple):
    """A unit that comes several times in immediate succession within a text."""

    num_letters: int
    """Of the unit."""
    times: int


class Line(NamedTuple):
    """What the loop rules look at in a phrase."""

    text: str
    start_s: float
    end_s: float
    moras_per_s: float
    sounding_share: float | None
    """None where nothing is known of vocal activity."""


def longest_repeat(text: str) -> Repeat:
    """Find the immediate repetition that covers most of a text, by its smallest unit."""
    plain = letters(text)
    best, covered = Repeat(len(plain), 1), 0
    for period in range(1, len(plain) // 2 + 1):
        run = 0
        for n in range(period, len(plain)):
            run = run + 1 if plain[n] == plain[n - period] else 0
            # At least one whole repeat, and more covered than by any smaller unit.
            if run >= period and run + period > covered:
                best, covered = Repeat(period, (run + period) // period), run + period
        if covered >= len(plain):
            break
    return best


def is_loop(line: Line, params: LoopParams) -> bool:
    """Whether a phrase repeats within itself as a stuck decoder does.

    Twice as many repeats pass where the time and the sound bear them out; half as many where nothing sounds.
    """
    unit, times = longest_repeat(line.text)
    limits = ((1, params.max_syllables), (3, params.max_short), (7, params.max_words))
    limit = next((limit for length, limit in limits if unit <= length), params.max_lines)
    if line.moras_per_s > params.max_sung_moras_per_s:
        limit //= 2
    elif line.sounding_share is not None:
        if line.sounding_share < params.min_sounding_share:
            limit //= 2
        elif line.sounding_share > 0.8 and line.moras_per_s >= 1 and unit <= 2:
            limit *= 2
    return times > max(limit, 2)


def looping_phrases(lines: Sequence[Line], params: LoopParams) -> set[int]:
    """Find phrases that repeat one another, singly or in blocks of up to four, as a stuck decoder does.

    Signs against a run: times like a clock's, less than half of it sounds, moras faster than can be sung or hardly any
    time at all. A chorus comes back after other lines, and by itself has none of these. Songs do end on one line ten
    times over, though, and a decoder is often stuck on a line that was sung: the first statements that sound stay.

    Returns:
        Positions of the phrases of such runs, but for those that stay.
    """
    plain = [letters(line.text) for line in lines]
    found: set[int] = set()
    believed: set[int] = set()
    runs = [(places, 1) for places in _same_lines(plain)]
    runs += [(list(range(start, end)), size) for size in range(2, 5) for start, end in _blocks(plain, size)]
    for places, size in runs:
        is_machine_like = _is_machine_like([lines[n] for n in places], size, params)
        is_scat = size == 1 and 2 * len(set(plain[places[0]])) <= len(plain[places[0]])
        limit = params.max_same_lines if is_machine_like else params.max_plain_lines
        is_sung_alike = not is_machine_like and _unevenness([lines[n] for n in places], size) <= params.max_uneven
        num_stay = params.max_plain_lines if is_sung_alike else params.num_believed
        if len(places) // size > limit and (is_machine_like or not is_scat):
            found.update(places)
            believed.update(_believed(lines, places, size, params)[: size * num_stay])
    return found - believed


def _same_lines(plain: Sequence[str]) -> list[list[int]]:
    """Places of the same line in succession; one other line in four may stand between."""
    places: dict[str, list[list[int]]] = {}
    for n, text in enumerate(plain):
        runs = places.setdefault(text, [[]])
        if runs[-1] and n - runs[-1][0] >= 1.25 * (len(runs[-1]) + 1):
            runs.append([])
        runs[-1].append(n)
    return [run for text, runs in places.items() if text for run in runs if len(run) > 1]


def _blocks(plain: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Stretches in which every line equals the one `size` before it, at least twice through."""
    blocks: list[tuple[int, int]] = []
    start = 0
    for n in range(size, len(plain) + 1):
        if n < len(plain) and plain[n] == plain[n - size]:
            continue
        # A block of one line over and over is a run of that line.
        if n - start >= 2 * size and len(set(plain[start : start + size])) > 1:
            blocks.append((start, n))
        start = n - size + 1
    return blocks


def _believed(lines: Sequence[Line], places: Sequence[int], size: int, params: LoopParams) -> list[int]:
    """Places of the statements of a run that sound and can be sung; none where nothing is known of the sound."""
    statements = [places[n : n + size] for n in range(0, len(places), size)]
    sung = [statement for statement in statements if all(_is_sung(lines[n], params) for n in statement)]
    return [n for statement in sung for n in statement]


def _is_sung(line: Line, params: LoopParams) -> bool:
    is_sounding = line.sounding_share is not None and line.sounding_share >= params.min_sounding_share
    return is_sounding and line.moras_per_s <= params.max_sung_moras_per_s


def _unevenness(run: Sequence[Line], size: int) -> float:
    """Deviation of the lengths of whole statements, as a share of their mean."""
    statements = [run[n : n + size] for n in range(0, len(run) - size + 1, size)]
    lengths_s = [sum(line.end_s - line.start_s for line in statement) for statement in statements]
    return pstdev(lengths_s) / max(sum(lengths_s) / len(lengths_s), 1e-3)


def _is_machine_like(run: Sequence[Line], size: int, params: LoopParams) -> bool:
    shares = [line.sounding_share for line in run if line.sounding_share is not None]
    if shares and sum(shares) / len(shares) < params.min_sounding_share:
        return True
    fast = sum(line.moras_per_s > params.max_sung_moras_per_s for line in run)
    if 2 * fast > len(run):
        return True
    steps_s = [b.start_s - a.start_s for a, b in pairwise(run[::size])]
    lengths_s = [line.end_s - line.start_s for line in run[::size]]
    return len(steps_s) >= 3 and max(pstdev(steps_s), pstdev(lengths_s)) < params.clockwork_s
