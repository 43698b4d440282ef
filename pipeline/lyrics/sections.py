"""The sections of a song, as far as they are measured.

Where no voice sounds is intro, inst or outro. Lines that come back as a block are the chorus. All other singing is
verse with confidence 0: not known to be one, but neither known to be anything else.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import groupby, pairwise
from typing import Literal, Protocol

from pipeline.data.records import Phrase
from pipeline.lyrics.gates import estimate_moras
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


class Alike(Protocol):
    """Two stretches of a recording that sound alike."""

    @property
    def first_s(self) -> float:
        """Start of the one."""
        ...

    @property
    def second_s(self) -> float:
        """Start of the other, after the first."""
        ...

    @property
    def length_s(self) -> float:
        """Length of both."""
        ...


def find_sections(
    phrases: Sequence[Phrase],
    *,
    vocal_spans_s: Sequence[Span] | None,
    duration_s: float,
    stripes: Sequence[Alike] | None = None,
    params: SectionParams = SectionParams(),
) -> list[Section]:
    """Find the sections of a recording.

    Args:
        phrases: what is sung, in the order of singing; a change of `section` among them ends a section.
        vocal_spans_s: where voices sound, as measured; None leaves the phrases' own times to tell.
        duration_s: length of the recording.
        stripes: what sounds alike, where that was measured; they raise or lower the confidence of a chorus.
        params: thresholds.

    Returns:
        Sections in order, from 0 to the end without holes. Where phrases have no times only intro, outro and what lies
        between are told apart in time, and the sections in between have none.
    """
    starts_s = [phrase["start_s"] for phrase in phrases if phrase["start_s"] is not None]
    timed = len(starts_s) == len(phrases)
    ordered = sorted(phrases, key=lambda phrase: phrase["start_s"] or 0.0) if timed else list(phrases)
    voice = _union(_voice_spans(ordered if timed else [], vocal_spans_s, params=params), duration_s)
    if not timed and vocal_spans_s is None:
        voice = [(0.0, duration_s)]
    gaps = [gap for gap in _complement(voice, duration_s) if gap[1] - gap[0] >= params.min_gap_s]
    certainty = ONLY_PHRASE_TIMES if vocal_spans_s is None else MEASURED
    around = [Section(_gap_kind(gap, duration_s), *gap, confidence=certainty) for gap in gaps]
    if not timed:
        edges = [section for section in around if section.kind != "inst"]
        sung_sections = _sung_sections(ordered, [0] * len(ordered), stripes=stripes, params=params)
        return [s for s in edges if s.kind == "intro"] + sung_sections + [s for s in edges if s.kind == "outro"]
    stretches = [sum(gap[0] < (phrase["start_s"] or 0.0) for gap in gaps) for phrase in ordered]
    sung_sections = _sung_sections(ordered, stretches, stripes=stripes, params=params)
    return _tile(sung_sections, around, duration_s)


# --- voice ------------------------------------------------------------------------------------------------------------


def _voice_spans(timed: Sequence[Phrase], vocal_spans_s: Sequence[Span] | None, *, params: SectionParams) -> list[Span]:
    """Where voices sound, as measured or else by the times of the phrases."""
    if vocal_spans_s is None:
        return [_sung_span(phrase, params) for phrase in timed]
    return [*vocal_spans_s, *map(_onset, timed)]


def _onset(phrase: Phrase) -> Span:
    """The first second of a phrase: somebody begins to sing there, whatever was measured."""
    start_s = phrase["start_s"] or 0.0
    return start_s, start_s + 1.0


def _sung_span(phrase: Phrase, params: SectionParams) -> Span:
    """When a phrase sounds by its own times; a tag's line ends where the next begins, whenever the singing did."""
    start_s, end_s = phrase["start_s"] or 0.0, phrase["end_s"]
    if end_s is not None and phrase["source"] != "tag":
        return start_s, end_s
    longest_s = max(1.0, params.max_s_per_mora * estimate_moras(phrase.get("kana") or phrase["text"]))
    return start_s, start_s + longest_s if end_s is None else min(end_s, start_s + longest_s)


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
    phrases: Sequence[Phrase], stretches: Sequence[int], *, stripes: Sequence[Alike] | None, params: SectionParams
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
    rated = partial(_with_confidence, choruses=choruses, num_times=len(blocks), stripes=stripes)
    return [rated(section) if section.kind == "chorus" else section for section in sections]


def _with_confidence(
    section: Section, choruses: Sequence[Section], *, num_times: int, stripes: Sequence[Alike] | None
) -> Section:
    confidence = 1 - 1 / num_times
    if stripes is not None:
        others = [other for other in choruses if other is not section]
        confidence = (confidence + any(_sound_alike(section, other, stripes) for other in others)) / 2
    return Section(section.kind, section.start_s, section.end_s, section.phrases, round(confidence, 3))


def _sound_alike(one: Section, other: Section, stripes: Sequence[Alike]) -> bool:
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
