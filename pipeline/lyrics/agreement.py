"""How far two passes over one recording agree: two temperatures, two models, or the mix and the vocal stem.

What is sung both passes hear, spelt alike or nearly; what a decoder makes up differs from one pass to the other, or
lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from pipeline.data.records import Heard
from pipeline.lyrics.stock_phrases import letters

_LONG = 12
_HIRAGANA = {ord("ァ") + n: ord("ぁ") + n for n in range(ord("ヶ") - ord("ァ") + 1)}


UNHEARD = 0.5
"""Agreement where the other pass heard nothing: it may have missed what is there; other words in its place say more."""


def agreements(phrases: Sequence[Heard], others: Sequence[Heard], *, tolerance_s: float = 1.0) -> list[float]:
    """Say of each phrase how much of it a second pass heard at the same time.

    The second pass may divide the words otherwise, so a phrase is held against all that is near it, and only the
    letters that match in order count. Hiragana and katakana are the same.

    Args:
        phrases: of the pass that is judged, in order of time.
        others: of the other pass, in order of time.
        tolerance_s: how far the times of the passes may differ.

    Returns:
        0 to 1 for each of `phrases`: 1 where every letter was heard twice, 0 where other words were; at least `UNHEARD`
        where the other pass is silent for half of the phrase's time.
    """
    plain = [_plain(other["text"]) for other in others]
    found: list[float] = []
    first = 0
    for phrase in phrases:
        start_s, end_s = phrase["start_s"], phrase["end_s"]
        while first < len(others) and others[first]["end_s"] + tolerance_s < start_s:
            first += 1
        near: list[str] = []
        heard_s = 0.0
        for n in range(first, len(others)):
            if others[n]["start_s"] > end_s + tolerance_s:
                break
            near.append(plain[n])
            heard_s += max(0.0, min(end_s, others[n]["end_s"]) - max(start_s, others[n]["start_s"]))
        share = _share_heard(_plain(phrase["text"]), near)
        found.append(share if 2 * heard_s > end_s - start_s else max(share, UNHEARD))
    return found


def _plain(text: str) -> str:
    return letters(text).translate(_HIRAGANA)


def _share_heard(text: str, near: Sequence[str]) -> float:
    """The share of a text's letters found again, in order, in the words near it or in the best single phrase."""
    if not text or not near:
        return 0.0
    # A whole neighbourhood holds any short text's letters somewhere: half a phrase's worth of others is let pass.
    return max(_similarity(text, other) for other in {*near, "".join(near)})


def _similarity(text: str, other: str) -> float:
    matcher = SequenceMatcher(None, text, other, autojunk=False)
    # Single letters match by chance, so in longer texts only blocks of two or more count.
    least = 1 if len(text) < _LONG else 2
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= least]
    if not blocks:
        return 0.0
    matched = sum(block.size for block in blocks)
    # Letters of the other pass between the matches are read there and not here: they count against it.
    between = blocks[-1].b + blocks[-1].size - blocks[0].b - matched
    return matched / (len(text) + between)
