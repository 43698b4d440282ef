"""Batches that fit into memory: one that does not is halved, and so are all after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from pipeline.errors import ContractError

T = TypeVar("T")
R = TypeVar("R")

# The CPU's allocator, and CUDA's libraries where they allocate by themselves, raise a plain RuntimeError.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|STATUS_ALLOC_FAILED")


class Batcher:
    """Cuts items into batches for one model.

    Args:
        batch_size: items of a batch; halved whenever the model has no memory for them, and never raised again.
        role: what the model is for, for the error's text.

    Raises:
        ContractError: there is no memory for a single item.
    """

    def __init__(self, batch_size: int, *, role: str) -> None:
        self.batch_size = batch_size
        self._role = role

    def run(self, compute: Callable[[Sequence[T]], R], items: Sequence[T]) -> Iterator[tuple[Sequence[T], R]]:
        """Put items through a model.

        Args:
            compute: what the model makes of a batch; the results must not depend on how items are batched.
            items: all of one size.

        Yields:
            Batches in order, each with its result.
        """
        start = 0
        while start < len(items):
            batch = items[start : start + self.batch_size]
            try:
                result = compute(batch)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise ContractError(
                        f"{self._role}: no memory for a single item at once; free memory, or set models.device to cpu"
                    ) from error
            else:
                yield batch, result
                start += len(batch)
                continue
            # Here, behind the except: until its end the error's traceback holds the tensors that took the memory.
            self.batch_size = len(batch) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)) is not None
