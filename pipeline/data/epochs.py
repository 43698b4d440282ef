"""Which sample comes when: pure functions of a plan, so that nothing needs to be remembered but a position.

An `exact` epoch holds every sample once, whatever the number of loader workers and ranks. `resampled` draws without end
and with replacement: for trainings that are counted in steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.random import default_rng  # by name: numpy loads it late, which would fall into the first sample's time
from numpy.typing import NDArray

from pipeline.errors import ContractError, ParamsError

Mode = Literal["exact", "resampled"]
Order = Literal["shuffled", "as_stored"]
DRAWS_PER_BLOCK = 4096
"""Resampled draws that are made at once."""
_RESAMPLED = 1
"""Keeps the random numbers of the two modes apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What decides the order of samples."""

    mode: Mode = "exact"
    """`exact`: epochs that hold every sample once; `resampled`: endless draws with replacement."""
    order: Order = "shuffled"
    """Of an exact epoch: another one in every epoch, or as the samples lie in their shards."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "resampled") or self.order not in ("shuffled", "as_stored"):
            raise ParamsError(
                f"a plan of mode {self.mode!r} and order {self.order!r}: choose exact or resampled, "
                "shuffled or as_stored"
            )
        if self.mode == "resampled" and self.order == "as_stored":
            raise ParamsError("mode resampled draws at random: it has no order as_stored; choose shuffled, or exact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One of the readers that share the samples between them: a loader worker of a rank."""

    rank: int = 0
    num_ranks: int = 1
    worker: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.num_ranks and 0 <= self.worker < self.num_workers):
            raise ParamsError(
                f"rank {self.rank} of {self.num_ranks}, worker {self.worker} of {self.num_workers}: each is counted "
                "from 0 and lies below its number"
            )

    @property
    def number(self) -> int:
        """Number among all seats; neighbours sit on different ranks, so that ranks share evenly."""
        return self.worker * self.num_ranks + self.rank

    @property
    def num_seats(self) -> int:
        """All loader workers of all ranks."""
        return self.num_ranks * self.num_workers

    def check_enough(self, count: int, what: str) -> None:
        """Refuse to leave a seat empty: its rank would end an epoch early, and the others wait for it for ever.

        Args:
            count: samples or shards to share.
            what: their name.

        Raises:
            ContractError: there are fewer than seats; with the numbers.
        """
        if count < self.num_seats:
            raise ContractError(
                f"{count} {what} for {self.num_workers} loader workers x {self.num_ranks} ranks would leave "
                f"{self.num_seats - count} of {self.num_seats} empty; use at most {count} in all, or pack with "
                f"--set pack.loader_workers={self.num_workers} --set pack.ranks={self.num_ranks}"
            )


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Order of the samples in one exact epoch; every sample once."""
    return default_rng([seed, epoch]).permutation(num_samples)


@lru_cache(maxsize=4)
def _resampled_block(seed: int, block: int, num_samples: int) -> NDArray[np.int64]:
    return default_rng([seed, block, _RESAMPLED]).integers(num_samples, size=DRAWS_PER_BLOCK)


def planned_sample(plan: Plan, position: int, num_samples: int) -> int:
    """Index of the sample at a position of the endless sequence that a plan stands for."""
    if plan.mode == "resampled":
        block, offset = divmod(position, DRAWS_PER_BLOCK)
        return int(_resampled_block(plan.seed, block, num_samples)[offset])
    epoch, offset = divmod(position, num_samples)
    return offset if plan.order == "as_stored" else int(epoch_order(plan.seed, epoch, num_samples)[offset])


def planned_shard(plan: Plan, seat: Seat, turn: int, num_shards: int) -> int:
    """Index of the shard that a seat reads at its turn, for readers that can only read whole shards.

    Args:
        plan: mode, order and seed.
        seat: who reads.
        turn: in an exact plan, epoch times `turns_per_epoch`, plus the turn within the epoch; else counted on.
        num_shards: all shards, at least one per seat in an exact plan.
    """
    if plan.mode == "resampled":
        # A sequence of its own for every seat: the same one would show each shard to all seats at once.
        return planned_sample(plan, turn * seat.num_seats + seat.number, num_shards)
    epoch, within = divmod(turn, turns_per_epoch(seat, num_shards))
    position = epoch * num_shards + within * seat.num_seats + seat.number
    return planned_sample(plan, position, num_shards)


def turns_per_epoch(seat: Seat, num_shards: int) -> int:
    """Shards that a seat reads in an exact epoch: equal numbers, or one more for the first seats."""
    return len(range(seat.number, num_shards, seat.num_seats))


def shuffle_stream(samples: Iterable[Any], buffer_samples: int, *, seed: str) -> Iterator[Any]:
    """Shuffle a stream through a buffer that fills as it is read, so that the first sample comes at once.

    Args:
        samples: the stream.
        buffer_samples: most samples held; 1 changes nothing.
        seed: of the choices.
    """
    draw = random.Random(seed)
    buffer: list[Any] = []
    source = iter(samples)
    for sample in source:
        buffer.append(sample)
        # Two are taken in for each one handed out, until the buffer is full.
        if len(buffer) < buffer_samples and (more := next(source, None)) is not None:
            buffer.append(more)
        yield buffer.pop(draw.randrange(len(buffer))) if buffer_samples > 1 else buffer.pop()
    draw.shuffle(buffer)
    yield from buffer
