"""The sections of a song, as far as they are measured.

Where no voice sounds is intro, inst or outro. Lines that come back as a block are the chorus. All other singing is
verse with confidence 0: not known to be one, but neither known to be anything else.

Letters: T frames, D feature dimensions.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import Phrase
from pipeline.lyrics.kana import to_katakana

Kind = Literal["intro", "verse", "chorus", "inst", "outro"]
Span = tuple[float, float]

MEASURED = 1.0
ONLY_PHRASE_TIMES = 0.5
"""Confidence of a gap that only the phrases' times tell of: there may be singing that nobody wrote down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionParams:
    """Thresholds of `find_sections`."""

    min_gap_s: float = 4.0
    """Stretches without voice of at least this length are sections; shorter ones are pauses."""
    max_s_per_mora: float = 0.6
    """A line of a tag sounds at most this long per mora: in an LRC it lasts until the next one, whatever comes."""
    min_chorus_lines: int = 2
    """Lines of the shortest block that counts as a chorus when it comes back."""
    same_line_ratio: float = 0.8
    """Lines this alike (difflib's ratio) are the same: recognisers and singers vary."""
    max_chorus_share: float = 0.75
    """If more of the lines than this come back, nothing sets a chorus off, as in songs that are sung twice."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a song."""

    kind: Kind
    start_s: float | None
    end_s: float | None
    """Times within the recording; None where the lyrics have none."""
    phrases: tuple[Phrase, ...] = ()
    confidence: float = 0.0
    """0 to 1."""

    @property
    def duration_s(self) -> float:
        """Length; 0 where it is not known."""
        return 0.0 if self.start_s is None or self.end_s is None else self.end_s - self.start_s


class Stripe(NamedTuple):
    """Two stretches of a recording that sound alike: a line beside the diagonal of its self-similarity."""

    first_s: float
    second_s: float
    length_s: float
    similarity: float
    """Mean cosine, -1 to 1."""


def find_sections(
    phrases: Sequence[Phrase],
    *,
    vocal_spans_s: Sequence[Span] | None,
    duration_s: float,
    stripes: Sequence[Stripe] | None = None,
    params: SectionParams = SectionParams(),
) -> list[Section]:
    """Find the sections of a recording.

    Args:
        phrases: what is sung, in the order of singing; a change of `section` among them ends a section.
        vocal_spans_s: where voices sound, as measured; None leaves the phrases' own times to tell.
        duration_s: length of the recording.
        stripes: what sounds alike, by `find_stripes`; they raise or lower the confidence of a chorus.
        params: thresholds.

    Returns:
        Sections in order, from 0 to the end without holes. Where phrases have no times only intro, outro and what lies
        between are told apart in time, and the sections in between have none.
    """
    starts_s = [phrase["start_s"] for phrase in phrases if phrase["start_s"] is not None]
    timed = len(starts_s) == len(phrases)
    ordered = sorted(phrases, key=lambda phrase: phrase["start_s"] or 0.0) if timed else list(phrases)
    sung = [_sung_span(phrase, params, vocal_spans_s is not None) for phrase in ordered] if timed else []
    voice = _union([*(vocal_spans_s or ()), *sung], duration_s)
    if not timed and vocal_spans_s is None:
        voice = [(0.0, duration_s)]
    gaps = [gap for gap in _complement(voice, duration_s) if gap[1] - gap[0] >= params.min_gap_s]
    certainty = ONLY_PHRASE_TIMES if vocal_spans_s is None else MEASURED
    around = [Section(_gap_kind(gap, duration_s), *gap, confidence=certainty) for gap in gaps]
    if not timed:
        edges = [section for section in around if section.kind != "inst"]
        sung_sections = _sung_sections(ordered, [0] * len(ordered), stripes, params)
        return [s for s in edges if s.kind == "intro"] + sung_sections + [s for s in edges if s.kind == "outro"]
    stretches = [sum(gap[0] < (phrase["start_s"] or 0.0) for gap in gaps) for phrase in ordered]
    sung_sections = _sung_sections(ordered, stretches, stripes, params)
    return _tile(sung_sections, around, duration_s)


# --- voice ------------------------------------------------------------------------------------------------------------


def _sung_span(phrase: Phrase, params: SectionParams, voice_is_measured: bool) -> Span:
    """When a phrase sounds; the end of a tag's line is that of what follows, and measured by nobody."""
    start_s, end_s = phrase["start_s"] or 0.0, phrase["end_s"]
    if voice_is_measured:
        return start_s, start_s + 1.0  # somebody begins to sing here, whatever was heard
    line = _normal_line(phrase)
    # A kanji stands for two moras or so.
    longest_s = max(1.0, params.max_s_per_mora * (len(line) + sum("\u4e00" <= letter <= "\u9fff" for letter in line)))
    if end_s is None:
        return start_s, start_s + longest_s
    return start_s, min(end_s, start_s + longest_s) if phrase["source"] == "tag" else end_s


def _union(spans_s: Iterable[Span], duration_s: float) -> list[Span]:
    joined: list[Span] = []
    for start_s, end_s in sorted((max(start, 0.0), min(end, duration_s)) for start, end in spans_s):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        elif end_s > start_s:
            joined.append((start_s, end_s))
    return joined


def _complement(spans_s: Sequence[Span], duration_s: float) -> list[Span]:
    edges = [0.0, *(edge for span in spans_s for edge in span), duration_s]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]


def _gap_kind(gap: Span, duration_s: float) -> Kind:
    if gap == (0.0, duration_s):
        return "inst"
    return "intro" if gap[0] == 0 else "outro" if gap[1] == duration_s else "inst"


# --- singing ----------------------------------------------------------------------------------------------------------


def _sung_sections(
    phrases: Sequence[Phrase], stretches: Sequence[int], stripes: Sequence[Stripe] | None, params: SectionParams
) -> list[Section]:
    """Cut the phrases into chorus and verse; a section never goes across a gap or a boundary of the score's."""
    numbers = [phrase.get("section") for phrase in phrases]
    lines = _line_ids(phrases, params)
    # A score's sections may be as short as a line: where none holds a chorus, only gaps bound it.
    bounds = list(zip(stretches, numbers, strict=True))
    blocks = _chorus_blocks(lines, bounds, params) or _chorus_blocks(lines, stretches, params)
    chorus_of = {n: block for block, span in enumerate(blocks) for n in range(*span)}
    marks = [(bound, n in chorus_of) for n, bound in enumerate(bounds)]
    sections: list[Section] = []
    for (_, is_chorus), group in groupby(range(len(phrases)), key=lambda n: marks[n]):
        members = [phrases[n] for n in group]
        start_s, end_s = members[0]["start_s"], members[-1]["end_s"]
        sections.append(Section("chorus" if is_chorus else "verse", start_s, end_s, tuple(members)))
    choruses = [section for section in sections if section.kind == "chorus"]
    return [_with_confidence(s, choruses, len(blocks), stripes) if s.kind == "chorus" else s for s in sections]


def _with_confidence(
    section: Section, choruses: Sequence[Section], times: int, stripes: Sequence[Stripe] | None
) -> Section:
    confidence = 1 - 1 / times
    if stripes is not None:
        others = [other for other in choruses if other is not section]
        confidence = (confidence + any(_sound_alike(section, other, stripes) for other in others)) / 2
    return Section(section.kind, section.start_s, section.end_s, section.phrases, round(confidence, 3))


def _sound_alike(one: Section, other: Section, stripes: Sequence[Stripe]) -> bool:
    """Whether a stripe joins half of the shorter section with as much of the other."""
    needed_s = min(one.duration_s, other.duration_s) / 2
    pairs = [(a, b) for a, b in ((one, other), (other, one)) if (a.start_s or 0.0) <= (b.start_s or 0.0)]
    return needed_s > 0 and any(
        _overlap(a, stripe.first_s, stripe.length_s) >= needed_s
        and _overlap(b, stripe.second_s, stripe.length_s) >= needed_s
        for a, b in pairs
        for stripe in stripes
    )


def _overlap(section: Section, start_s: float, length_s: float) -> float:
    return min(section.end_s or 0.0, start_s + length_s) - max(section.start_s or 0.0, start_s)


def _normal_line(phrase: Phrase) -> str:
    text = unicodedata.normalize("NFKC", phrase.get("kana") or phrase["text"]).casefold()
    return "".join(letter for letter in to_katakana(text) if letter.isalnum())


def _line_ids(phrases: Sequence[Phrase], params: SectionParams) -> list[int]:
    """Number the lines, the same number for lines that are alike."""
    known: dict[str, int] = {}
    for line in map(_normal_line, phrases):
        if line not in known:
            alike = (number for other, number in known.items() if _alike(line, other, params.same_line_ratio))
            known[line] = next(alike, len(known))
    return [known[_normal_line(phrase)] for phrase in phrases]


def _alike(line: str, other: str, ratio: float) -> bool:
    matcher = SequenceMatcher(None, line, other, autojunk=False)
    return matcher.real_quick_ratio() >= ratio and matcher.quick_ratio() >= ratio and matcher.ratio() >= ratio


def _chorus_blocks(lines: Sequence[int], bounds: Sequence[object], params: SectionParams) -> list[tuple[int, int]]:
    """Find the block of lines that comes back most often, the longest of such.

    Returns:
        Its places, (first line, line after the last), grown by lines that two of them share; none if no block comes
        back after something else, or if the whole song does.
    """
    best: list[tuple[int, int]] = []
    for size in range(params.min_chorus_lines, len(lines) // 2 + 1):
        places: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for n in range(len(lines) - size + 1):
            if bounds[n] == bounds[n + size - 1]:
                places[tuple(lines[n : n + size])].append((n, n + size))
        for spans in places.values():
            apart = _apart(spans, bounds)
            if len(apart) > 1 and (len(apart), size) >= (len(best), size if best else 0):
                best = apart
    grown = _grow(best, lines, bounds)
    num_inside = sum(end - start for start, end in grown)
    return grown if num_inside <= params.max_chorus_share * len(lines) else []


def _apart(spans: Sequence[tuple[int, int]], bounds: Sequence[object]) -> list[tuple[int, int]]:
    """Join places that follow each other at once: sung twice in a row is one chorus."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1] and bounds[start] == bounds[joined[-1][0]]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _grow(blocks: Sequence[tuple[int, int]], lines: Sequence[int], bounds: Sequence[object]) -> list[tuple[int, int]]:
    """Take in the lines before and after that two places have in common, up to the bounds."""
    grown = list(blocks)
    while True:
        before = {k: lines[s - 1] for k, (s, _) in enumerate(grown) if s > 0 and bounds[s - 1] == bounds[s]}
        after = {k: lines[e] for k, (_, e) in enumerate(grown) if e < len(lines) and bounds[e] == bounds[e - 1]}
        wider = [(start - _is_shared(before, k), end + _is_shared(after, k)) for k, (start, end) in enumerate(grown)]
        overlaps = any(first[1] > second[0] for first, second in pairwise(wider))
        if wider == grown or overlaps:
            return grown
        grown = wider


def _is_shared(neighbours: dict[int, int], block: int) -> bool:
    return block in neighbours and list(neighbours.values()).count(neighbours[block]) > 1


# --- in time ----------------------------------------------------------------------------------------------------------


def _tile(sung: Sequence[Section], gaps: Sequence[Section], duration_s: float) -> list[Section]:
    """Put singing and gaps in order, without holes; voices nobody wrote down are a verse without phrases."""
    ordered = sorted([*sung, *gaps], key=lambda section: section.start_s or 0.0)
    tiled: list[Section] = []
    at_s = 0.0
    for n, section in enumerate(ordered):
        is_gap = not section.phrases
        if is_gap and (section.start_s or 0.0) > at_s:
            tiled.append(Section("verse", at_s, section.start_s))
            at_s = section.start_s or 0.0
        following = ordered[n + 1].start_s if n + 1 < len(ordered) else duration_s
        end_s = section.end_s if is_gap else following
        assert end_s is not None  # noqa: S101 (all have times here)
        tiled.append(Section(section.kind, at_s, end_s, section.phrases, section.confidence))
        at_s = end_s
    if at_s < duration_s:
        tiled.append(Section("verse", at_s, duration_s))
    return tiled


def sections_in_span(sections: Iterable[Section], start_s: float, end_s: float) -> list[Section]:
    """Take what of the sections lies within a span, with the phrases that lie in it whole; times stay as they are.

    Sections without times are left out.
    """
    inside: list[Section] = []
    for section in sections:
        if section.start_s is None or section.end_s is None or section.start_s >= end_s or section.end_s <= start_s:
            continue
        whole = tuple(p for p in section.phrases if _is_inside(p, start_s, end_s))
        span = max(section.start_s, start_s), min(section.end_s, end_s)
        inside.append(Section(section.kind, *span, whole, section.confidence))
    return inside


def _is_inside(phrase: Phrase, start_s: float, end_s: float) -> bool:
    begin_s = phrase["start_s"] or 0.0
    slack_s = 2e-3  # times are rounded
    return start_s - slack_s <= begin_s < end_s and (phrase["end_s"] or begin_s) <= end_s + slack_s


# --- self-similarity --------------------------------------------------------------------------------------------------


def find_stripes(
    features_TD: NDArray[np.float32], *, frames_per_s: float, min_s: float = 6.0, min_similarity: float = 0.7
) -> list[Stripe]:
    """Find stretches of a recording that sound alike, best first.

    The stripes of the self-similarity matrix (Foote 1999; Goto 2003, RefraiD): for every lag the cosine of the
    features with those that lag behind, averaged over `min_s`, where it stays above a threshold. What holds all
    through the recording is taken off first, so that a drone is not alike to itself.

    Args:
        features_TD: such as chroma or an encoder's states; two frames a second are enough.
        frames_per_s: their rate.
        min_s: length of the shortest stripe, and shortest lag.
        min_similarity: mean cosine within a stripe.
    """
    window = max(round(min_s * frames_per_s), 1)
    centred_TD = features_TD - features_TD.mean(axis=0)
    norm_T = np.linalg.norm(centred_TD, axis=1)
    unit_TD = centred_TD / np.maximum(norm_T, 1e-9)[:, None]
    found: list[Stripe] = []
    for lag in range(window, len(unit_TD) - window + 1):
        cosine_T = np.einsum("td,td->t", unit_TD[:-lag], unit_TD[lag:])
        sums_T = np.concatenate([[0.0], np.cumsum(cosine_T)])
        alike_T = (sums_T[window:] - sums_T[:-window]) / window >= min_similarity
        for first, last in _runs(alike_T):
            # The mean reaches beyond what is alike: back to the first and last frame that are.
            alike = first + np.flatnonzero(cosine_T[first : min(last + window - 1, first + lag)] >= min_similarity)
            start, stop = int(alike[0]), int(alike[-1]) + 1
            similarity = float(cosine_T[start:stop].mean())
            stripe = Stripe(
                start / frames_per_s, (start + lag) / frames_per_s, (stop - start) / frames_per_s, similarity
            )
            found.append(stripe)
    return _strongest(found, slack_s=min_s / 2)


def chroma(wave_N: NDArray[np.float32], sample_rate_hz: int, *, frames_per_s: float = 2.0) -> NDArray[np.float32]:
    """Strength of the twelve pitch classes over time, as features for `find_stripes` [T, D].

    Magnitudes from 65 to 2,100 Hz, in windows of half a second; the root of them, so that no one note rules.
    """
    window, hop = round(0.5 * sample_rate_hz), round(sample_rate_hz / frames_per_s)
    frequency_F = np.fft.rfftfreq(window, 1 / sample_rate_hz)
    used_F = (frequency_F >= 65) & (frequency_F <= 2100)
    pitch_F = np.rint(12 * np.log2(frequency_F[used_F] / 440)).astype(int) % 12
    fold_FD = np.eye(12, dtype=np.float32)[pitch_F]
    padded_N = np.pad(wave_N, (0, window))
    rows = [padded_N[n : n + window] * np.hanning(window) for n in range(0, max(len(wave_N), 1), hop)]
    return np.stack([np.sqrt(np.abs(np.fft.rfft(row))[used_F] @ fold_FD) for row in rows]).astype(np.float32)


def _runs(is_on_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_on_T, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _strongest(stripes: Sequence[Stripe], *, slack_s: float) -> list[Stripe]:
    """Of stripes side by side, that is the same stretches at nearly the same lag, keep the strongest."""
    kept: list[Stripe] = []
    for stripe in sorted(stripes, key=lambda s: (-s.similarity * s.length_s, s)):
        lag_s = stripe.second_s - stripe.first_s
        beside = [
            other
            for other in kept
            if abs(other.second_s - other.first_s - lag_s) <= slack_s
            and min(other.first_s + other.length_s, stripe.first_s + stripe.length_s)
            > max(other.first_s, stripe.first_s)
        ]
        if not beside:
            kept.append(stripe)
    return kept
