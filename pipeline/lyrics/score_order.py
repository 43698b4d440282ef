"""The order in which the bars of a score are sung: repeats, voltas, da capo, dal segno, coda and fine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

MAX_PLAYED_BARS = 10_000
"""Beyond this the marks do not end; the rest is left."""


@dataclass(slots=True, kw_only=True)
class BarMarks:
    """What a bar says of the way through the score; marks of all parts together."""

    repeat_start: bool = False
    repeat_times: int = 0
    """How often the stretch that ends with this bar is played; 0 where no repeat ends here."""
    endings: frozenset[int] = frozenset()
    """Passes on which this bar is played, under a volta bracket; empty elsewhere."""
    segno: bool = False
    coda: bool = False
    """The coda begins with this bar."""
    to_coda: bool = False
    """After the jump back, the coda follows this bar."""
    fine: bool = False
    jump: Literal["capo", "segno"] | None = None
    """After this bar, once, back to the beginning or to the segno."""
    jump_until: Literal["fine", "coda"] | None = None
    is_section: bool = False
    """A rehearsal mark stands at this bar, or a double bar line before it."""


class PlayedBar(NamedTuple):
    """One bar, once."""

    bar: int
    """Index of the written bar."""
    turn: int
    """The how-manieth time this bar is sung, from 1; under a volta bracket the pass of the stretch that it ends."""
    is_return: bool
    """Not the bar that is written next: back by a repeat or a jump, or on to the coda."""


def play_order(bars: Sequence[BarMarks]) -> tuple[list[PlayedBar], bool]:
    """Unfold the marks.

    After a jump back repeats are not taken again, and of voltas the last one is.

    Returns:
        The bars in the order of singing, and whether every mark could be followed.
    """
    walk = _Walk(bars)
    while walk.bar < len(bars) and len(walk.played) < MAX_PLAYED_BARS:
        walk.step()
    return walk.played, walk.is_clean and walk.bar >= len(bars)


class _Walk:
    def __init__(self, bars: Sequence[BarMarks]) -> None:
        self.bars = bars
        self.groups = _volta_groups(bars)
        self.played: list[PlayedBar] = []
        self.turns: Counter[int] = Counter()
        self.bar = 0
        self.loop_bar = 0
        self.loop_pass = 1
        self.jumped: BarMarks | None = None
        self.is_return = False
        self.is_clean = True

    def step(self) -> None:
        """Play the bar, or skip it as another pass's volta, and go on to the next."""
        at, marks = self.bar, self.bars[self.bar]
        if marks.repeat_start and at != self.loop_bar:
            self.loop_bar, self.loop_pass = at, 1
        if marks.endings and not self._sings_ending(at):
            if self._leaves_volta(at):
                self.loop_bar, self.loop_pass = at + 1, 1
            self.bar += 1
            return
        self.turns[at] += 1
        turn = max(self.turns[at], self.loop_pass) if marks.endings and self.jumped is None else self.turns[at]
        self.played.append(PlayedBar(at, turn, self.is_return))
        self.is_return = False
        self.bar = self._after(at, marks)

    def _sings_ending(self, at: int) -> bool:
        # A single bracket `1.` leaves the second ending without one.
        last = max(2, *self.groups[at])
        wanted = last if self.jumped is not None else min(self.loop_pass, last)
        return wanted in self.bars[at].endings

    def _leaves_volta(self, at: int) -> bool:
        return self.groups.get(at + 1) is not self.groups[at]

    def _after(self, at: int, marks: BarMarks) -> int:
        if self.jumped is None and marks.repeat_times:
            times = max(2, *self.groups[at]) if marks.endings else marks.repeat_times
            if self.loop_pass < times:
                self.loop_pass += 1
                return self._return_to(self.loop_bar)
            self.loop_bar, self.loop_pass = at + 1, 1
        elif marks.endings and self._leaves_volta(at):
            self.loop_bar, self.loop_pass = at + 1, 1
        return self._jumped_to(at, marks)

    def _jumped_to(self, at: int, marks: BarMarks) -> int:
        if self.jumped is not None:
            if marks.fine and self.jumped.jump_until != "coda":
                return len(self.bars)
            if marks.to_coda and self.jumped.jump_until != "fine":
                # The coda lies ahead, or the song would not end.
                return self._return_to_first([n for n in range(at + 1, len(self.bars)) if self.bars[n].coda], at + 1)
        elif marks.jump is not None:
            self.jumped = marks
            signs = [n for n, bar in enumerate(self.bars) if bar.segno]
            return self._return_to(0) if marks.jump == "capo" else self._return_to_first(signs, 0)
        return at + 1

    def _return_to_first(self, signs: Sequence[int], otherwise: int) -> int:
        self.is_clean = self.is_clean and bool(signs)
        return self._return_to(signs[0] if signs else otherwise)

    def _return_to(self, bar: int) -> int:
        self.is_return = True
        return bar


def _volta_groups(bars: Sequence[BarMarks]) -> dict[int, set[int]]:
    """For every bar under a bracket the passes of all brackets that follow one another there."""
    groups: dict[int, set[int]] = {}
    for n, marks in enumerate(bars):
        if marks.endings:
            # A bracket that begins again with pass 1 belongs to the next stretch.
            before = groups.get(n - 1)
            is_new = before is None or (1 in marks.endings and 1 not in bars[n - 1].endings)
            groups[n] = set[int]() if is_new or before is None else before
            groups[n] |= marks.endings
    return groups
