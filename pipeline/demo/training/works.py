"""Which music the demo's models learn from, and which they are measured on: no work on both sides.

The demo's corpus holds out whole works for its test split. What any preset of the demo holds out is never learnt from;
and only that is measured on, in excerpts and renderings of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache

from pipeline.demo.corpus import NUM_WITHOUT_AUDIO, pick_eval_works
from pipeline.demo.excerpts import Clip, plan_clips
from pipeline.demo.score import Work

CLIP_S = 10.0
PRESET_CLIPS = (120, 400)
"""`demo.num_clips` of the presets demo and demo-full, whose seed is 0."""
TRAINING_SEED, HELD_OUT_SEED = 1000, 900
"""Far from any preset's; later excerpts take the numbers after them."""
CLIPS_PER_SEED = 40
"""Few enough for the works of every family; each seed plans that many in the families' shares."""


@cache
def held_out_works() -> frozenset[str]:
    """Names of the works that a preset of the demo keeps for its test split."""
    plans = (list(plan_clips(count + NUM_WITHOUT_AUDIO, clip_s=CLIP_S, seed=0)) for count in PRESET_CLIPS)
    return frozenset(name for clips in plans for name in pick_eval_works(clips))


def plan_training(num_clips: int, *, clip_s: float = CLIP_S, seed: int = 0) -> Iterator[Clip]:
    """Plan clips to learn from, of works that no preset's test split holds.

    Args:
        num_clips: how many; works come again with other excerpts, instruments and tempi.
        clip_s: length of each.
        seed: another seed gives other clips of the same works.
    """

    def is_free(work: Work) -> bool:
        return work.name not in held_out_works()

    return _plan(num_clips, clip_s=clip_s, first_seed=TRAINING_SEED * (seed + 1), may_use=is_free)


def plan_held_out(num_clips: int, *, clip_s: float = CLIP_S) -> Iterator[Clip]:
    """Plan clips to measure on, of held-out works only."""

    def is_held(work: Work) -> bool:
        return work.name in held_out_works()

    return _plan(num_clips, clip_s=clip_s, first_seed=HELD_OUT_SEED, may_use=is_held)


def _plan(num_clips: int, *, clip_s: float, first_seed: int, may_use: Callable[[Work], bool]) -> Iterator[Clip]:
    for seed in itertools.count(first_seed):
        if num_clips <= 0:
            return
        yield from plan_clips(min(CLIPS_PER_SEED, num_clips), clip_s=clip_s, seed=seed, may_use=may_use)
        num_clips -= CLIPS_PER_SEED
