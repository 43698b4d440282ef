"""Examples for a prompt that somebody types: the very code that ranks them for targets in training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import ParamsError
from pipeline.retrieval.facts import facts_of_text
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Float32, Pool, stack_unit
from pipeline.retrieval.strategies import STRATEGIES, PickParams

NEEDS_AUDIO = frozenset({"oracle"})
"""Strategies that look at the target's own audio: upper bounds, of no use for a prompt."""


@dataclass(frozen=True, slots=True)
class Example:
    """A clip that would stand before the prompt."""

    key: str
    score: float
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy found for a prompt."""

    query: str
    strategy: str
    params: dict[str, Any]
    examples: list[Example]
    """Best first."""
    rule: str
    """What holds for all examples, in words; empty where the strategy has no rules or fell back."""
    fallback: str
    """Strategy that stepped in, and why; empty if none did."""

    def table(self) -> str:
        """Write the examples as lines for a terminal."""
        width = max((len(example.key) for example in self.examples), default=0)
        lines = [
            f"{n:3d}  {example.score:6.3f}  {example.key:{width}}  {_shorten(example.caption)}"
            for n, example in enumerate(self.examples, 1)
        ]
        notes = [f"rule: {self.rule}"] * bool(self.rule) + [f"fell back: {self.fallback}"] * bool(self.fallback)
        return "\n".join([f"{self.strategy}: {self.query}", *lines, *notes])


def check_prompt(text: str, strategy: str) -> None:
    """Refuse what cannot be answered, before models are loaded.

    Raises:
        ParamsError: an empty prompt, or a strategy that needs the target's audio.
    """
    if not text.strip():
        raise ParamsError("--query: is empty; write what the music should be, such as 'slow shakuhachi, sparse'")
    if strategy in NEEDS_AUDIO:
        raise ParamsError(f"--query: strategy {strategy} looks at the target's own audio, which a prompt does not have")


def answer_prompt(text: str, query_D: Float32, *, pool: Pool, strategy: str, params: PickParams) -> Answer:
    """Pick examples for a prompt.

    Args:
        text: the prompt; `structured` reads its facts.
        query_D: embedding of the prompt by the embedder that made the pool's.
        pool: train clips, with texts.
        strategy: a name of `STRATEGIES`.
        params: as for the targets.

    Raises:
        ParamsError: as `check_prompt`.
    """
    check_prompt(text, strategy)
    # Through half floats, as the pool's and the targets' vectors have come.
    unit_D = stack_unit([query_D.astype(np.float16)], len(query_D))[0]
    # No audio: nothing is a near-duplicate of it. No group: no pool clip has an empty one.
    target = Target(f"prompt:{text}", "", unit_D, np.zeros_like(unit_D), facts_of_text(text))
    picks = STRATEGIES[strategy](pool, params)(target)
    return Answer(
        query=text,
        strategy=strategy,
        params=asdict(params),
        examples=[Example(pool.keys[row], round(score, 6), pool.captions[row]) for row, score in picks.ranked],
        rule=picks.rule.words() if picks.rule else "",
        fallback=f"{picks.fallback}: {picks.why}" if picks.fallback else "",
    )


def _shorten(text: str, num_letters: int = 80) -> str:
    words = " ".join(text.split())
    return words if len(words) <= num_letters else f"{words[: num_letters - 1]}…"
