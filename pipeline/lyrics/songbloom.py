"""SongBloom's lyric format, from sections; and a check of such texts that shares no code with the writer.

`[verse] first sentence. second sentence , [inst] [inst] , [chorus] ...`: vocal sections are a tag and sentences parted
by periods, sections are parted by ` , `, and a tag without voice is repeated by its length (docs/lyric_format.md and
the examples of tencent-ailab/SongBloom). Commas belong to the format alone; so Japanese 、 。 「 」, which its own
cleaning leaves in the text, become spaces, periods, and nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from pipeline.data.records import Phrase
from pipeline.lyrics.sections import Section, Span

VOCAL_TAGS = ("verse", "chorus", "bridge")
SILENT_TAGS = ("intro", "inst", "outro")
PROMPT_S = 10.0
"""The model hears so much of its prompt audio."""
MIN_PROMPT_S = 3.0
"""Shorter prompts say nothing of a style."""
PROMPT_RATE_HZ = 48_000
_ROUNDING_S = 2e-3


@dataclass(frozen=True, slots=True)
class Model:
    """What a released model expects."""

    max_s: float
    """Longest song."""
    seconds_per_tag: float
    """How long one tag without voice lasts."""


MODELS = {"150s": Model(150.0, 1.0), "240s": Model(240.0, 5.0)}


def songbloom_lyrics(sections: Iterable[Section], *, seconds_per_tag: float) -> str:
    """Write sections as one line of text.

    Sections without voice that are shorter than half a tag are left out, and so are sung ones without words.

    Args:
        sections: of one song, in order.
        seconds_per_tag: see `Model`.

    Raises:
        ValueError: nothing is sung in any section.
    """
    parts: list[str] = []
    for kind, group in groupby(_told(sections), key=lambda section: (section.kind, section.phrases == ())):
        tag = f"[{kind[0]}]"
        if kind[0] in SILENT_TAGS:
            length_s = sum(section.duration_s for section in group)
            parts += [" ".join([tag] * math.floor(length_s / seconds_per_tag + 0.5))]
        else:
            parts += [f"{tag} {'. '.join(_sentences(section))}" for section in group]
    if not any(part.startswith(tuple(f"[{tag}]" for tag in VOCAL_TAGS)) for part in parts):
        raise ValueError("no section with words: the format needs one")
    return " , ".join(part for part in parts if part)


def _told(sections: Iterable[Section]) -> list[Section]:
    return [section for section in sections if section.kind in SILENT_TAGS or _sentences(section)]


def _sentences(section: Section) -> list[str]:
    pieces = [piece for phrase in section.phrases for piece in re.split(r"[.!?;:。．｡！？；：…\n\r]+", phrase["text"])]
    plain = [" ".join(_only_words(piece).split()) for piece in pieces]
    return [text for text in plain if any(letter.isalnum() for letter in text)]


def _only_words(text: str) -> str:
    text = re.sub(r"[「」『』｢｣《》〈〉“”\"]", "", text)
    return re.sub(r"[,、，､・･\[\](){}（）［］｛｝【】〔〕<>＜＞|｜]", " ", text)


# --- prompt and target -----------------------------------------------------------------------------------------------


class PromptCut(NamedTuple):
    """What of a recording the model hears as its prompt, and what it is to make; the two never share a sample."""

    prompt_s: Span
    target_s: Span


def cut_prompt(
    phrases: Sequence[Phrase], span_s: Span, *, max_target_s: float, min_target_s: float
) -> PromptCut | None:
    """Cut a prompt and a target from a recording.

    The target begins and ends between phrases. Of all places the prompt takes the one that leaves the longest target
    and holds the most singing, seconds of both counted alike; the latest of such.

    Args:
        phrases: what is sung, with times within the recording, in order.
        span_s: what there is of the recording.
        max_target_s: longest target, see `Model`.
        min_target_s: shortest; a recording that cannot spare `PROMPT_S` beside it has a shorter prompt.

    Returns:
        None if less than `MIN_PROMPT_S` would be left for the prompt, or no place leaves a target with a phrase.
    """
    start_s, end_s = span_s
    sung = _closed(phrases, end_s)
    longest_s = min(PROMPT_S, end_s - start_s - min_target_s)
    # A shorter prompt may find a place between phrases where a longer one does not.
    lengths_s = [longest_s - n for n in range(math.floor(longest_s - MIN_PROMPT_S) + 1)]
    cuts = (
        _best_cut(sung, span_s, prompt_s=length_s, max_s=max_target_s, min_s=min_target_s) for length_s in lengths_s
    )
    return next((cut for cut in cuts if cut is not None), None)


def _best_cut(sung: Sequence[Span], span_s: Span, *, prompt_s: float, max_s: float, min_s: float) -> PromptCut | None:
    start_s, end_s = span_s
    latest_s = end_s - prompt_s
    best: tuple[float, PromptCut] | None = None
    for place_s in [*(start_s + n for n in range(math.ceil(latest_s - start_s))), latest_s]:
        prompt = (place_s, place_s + prompt_s)
        sides = [_fit(side, sung, max_s) for side in ((start_s, prompt[0]), (prompt[1], end_s))]
        target = max(sides, key=lambda side: side[1] - side[0])
        has_words = any(target[0] - _ROUNDING_S <= a and b <= target[1] + _ROUNDING_S for a, b in sung)
        if target[1] - target[0] < min_s - _ROUNDING_S or not has_words:
            continue
        gain = target[1] - target[0] + sum(max(0.0, min(b, prompt[1]) - max(a, prompt[0])) for a, b in sung)
        if best is None or gain >= best[0] - _ROUNDING_S:
            best = (gain, PromptCut(prompt, target))
    return best and best[1]


def _closed(phrases: Sequence[Phrase], end_s: float) -> list[Span]:
    """Times of the phrases; one without an end lasts until the next."""
    starts_s = [phrase["start_s"] or 0.0 for phrase in phrases]
    following_s = [*starts_s, end_s][1:]
    ends_s = [phrase["end_s"] for phrase in phrases]
    pairs = zip(starts_s, ends_s, following_s, strict=True)
    return [(start, following if end is None else end) for start, end, following in pairs]


def _fit(side: Span, sung: Sequence[Span], max_s: float) -> Span:
    """The longest part of one side of the prompt that cuts no phrase; from its beginning, if it is too long."""
    start_s = _moved(side[0], sung, 1)
    return start_s, max(_moved(min(side[1], start_s + max_s), sung, 0), start_s)


def _moved(edge_s: float, sung: Sequence[Span], to: int) -> float:
    """Move an edge out of phrases that sound across it, to their begin (0) or end (1)."""
    while True:
        across = [span[to] for span in sung if span[0] + _ROUNDING_S < edge_s < span[1] - _ROUNDING_S]
        if not across:
            return edge_s
        edge_s = max(across) if to else min(across)


# --- the check -------------------------------------------------------------------------------------------------------

FORBIDDEN = "、。「」『』，．！？；：｡､"


def problems(text: str) -> list[str]:
    """Say what is wrong with a lyric text by SongBloom's rules; nothing for a good one.

    Args:
        text: the value of `lyrics` in a line of its jsonl.
    """
    found = [f"{letter!r} belongs to no part of the format" for letter in FORBIDDEN if letter in text]
    if text != " ".join(text.split()):
        found.append("spaces come in a row, at an edge, or as another letter")
    sections = text.split(" , ")
    tags = [_check_section(section, found) for section in sections]
    if not any(tag in VOCAL_TAGS for tag in tags):
        found.append("no vocal section")
    return found


def _check_section(section: str, found: list[str]) -> str:
    words = section.split(" ")
    tag = words[0][1:-1] if words[0][:1] + words[0][-1:] == "[]" else ""
    rest = words[1:]
    if tag in SILENT_TAGS:
        if any(word != words[0] for word in rest):
            found.append(f"more than its tag in a section without voice: {section!r}")
    elif tag in VOCAL_TAGS:
        _check_sentences(" ".join(rest), section, found)
    else:
        found.append(f"a section begins without a tag of the format: {section!r}")
    return tag


def _check_sentences(sentences: str, section: str, found: list[str]) -> None:
    for letter in "[],":
        if letter in sentences:
            found.append(f"{letter!r} inside the words of a section: {section!r}")
    for sentence in sentences.split("."):
        if not any(letter.isalnum() for letter in sentence):
            found.append(f"a sentence without words, or a period at the end of a section: {section!r}")
