"""Out of memory: the batch is halved, nothing is lost or computed twice into the result, and other errors are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ContractError
from pipeline.models.batching import Batcher


class Limited:
    """A model with memory for so many items, that fails as torch's own allocators do."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, items):
        self.sizes.append(len(items))
        if len(items) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [item * 2 for item in items]


@given(num_items=st.integers(0, 40), batch_size=st.integers(1, 16), most=st.integers(1, 16))
def test_every_item_comes_once_and_in_order_whatever_fits(num_items, batch_size, most):
    model, batcher = Limited(most), Batcher(batch_size, role="codec")
    items = list(range(num_items))
    found = list(batcher.run(model, items))
    assert [item for batch, _ in found for item in batch] == items
    assert [result for _, results in found for result in results] == [2 * item for item in items]
    assert all(len(batch) <= most for batch, _ in found)


def test_a_halved_batch_stays_halved():
    model, batcher = Limited(3), Batcher(16, role="codec")
    for _ in range(2):
        assert len([result for _, results in batcher.run(model, range(10)) for result in results]) == 10
    assert model.sizes == [10, 5, 2, 2, 2, 2, 2, *[2] * 5]
    assert batcher.batch_size == 2


def test_the_cpus_own_allocator_counts_as_out_of_memory():
    batcher = Batcher(4, role="codec")

    def greedy(items):
        # A real failure: no machine has 2**60 bytes.
        return torch.empty(2**60 if len(items) > 1 else 1, dtype=torch.uint8).numel()

    assert [result for _, result in batcher.run(greedy, range(3))] == [1, 1, 1]
    assert batcher.batch_size == 1


def test_what_the_failed_pass_held_is_free_before_the_next_one():
    held: list[int] = []

    class Big(np.ndarray):
        def __del__(self):
            held.remove(len(self))

    def hold(items):
        big = np.zeros(len(items)).view(Big)
        held.append(len(big))
        if len(items) > 1:
            assert held == [len(items)]
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert held == [1]
        return len(items)

    assert len(list(Batcher(4, role="codec").run(hold, range(4)))) == 4


def test_one_item_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(ContractError, match=r"embedder: no memory for a single item.*models\.device to cpu") as caught:
        list(Batcher(8, role="embedder").run(Limited(0), range(8)))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_of_a_model_are_its_own():
    batcher = Batcher(8, role="codec")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(batcher.run(lambda items: torch.ones(2, 3) @ torch.ones(2, 3), range(8)))
    assert batcher.batch_size == 8
