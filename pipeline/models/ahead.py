"""Work for a model, got ready before the model asks for it: decoding runs ahead in threads, results keep their order.

One worker owns the GPU; while its model computes a batch, threads decode the next clips and the caller writes what
came out of the last batch. Without threads the same functions run one after another, so that bytes are the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 8


def threads_ahead(device: str) -> int:
    """How many threads decode ahead of a model: none on a CPU, whose cores are the model's own."""
    if device != "cuda":
        return 0
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) - 1))


def map_ahead(compute: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """Compute results in threads, ahead of whoever takes them, in the order of the items.

    Args:
        compute: called in a thread; what it raises is raised here when its turn comes, after the results before it.
        items: taken in the caller's thread, at most `ahead` before the result that the caller waits for.
        threads: how many compute at once; with 0, each result is computed when it is asked for.
        ahead: results and items held at the most, beside the one asked for; what bounds memory.

    Yields:
        Results, one per item.
    """
    if not threads:
        yield from map(compute, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(compute, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # An error, or a caller who wants no more: what has not begun never does.
            for future in waiting:
                future.cancel()


def group_equal(
    items: Iterable[T], size_of: Callable[[T], int], *, batch_size: int, most_waiting: int
) -> Iterator[list[T]]:
    """Cut a stream into batches of items of one size, each as soon as it is full.

    Args:
        items: the stream; each item comes out once.
        size_of: what the items of a batch have in common.
        batch_size: items of a full batch.
        most_waiting: items that may wait for their like; beyond, the one that came first leaves with what it has.

    Yields:
        Batches of 1 to `batch_size` items, these in the order of the stream.
    """
    # A dict keeps the order in which sizes came up: its first group holds the item that waits longest.
    waiting: dict[int, list[T]] = {}
    num_waiting = 0
    for item in items:
        size = size_of(item)
        group = waiting.setdefault(size, [])
        group.append(item)
        num_waiting += 1
        full = size if len(group) == batch_size else None
        if full is None and num_waiting > most_waiting:
            full = next(iter(waiting))
        if full is not None:
            batch = waiting.pop(full)
            num_waiting -= len(batch)
            yield batch
    yield from waiting.values()


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Put items back into the order of their numbers, which are 0, 1, 2 ... in any order, each once."""
    held: dict[int, T] = {}
    number = 0
    for at, item in numbered:
        held[at] = item
        while number in held:
            yield held.pop(number)
            number += 1
