"""What tests of trainings share: one thread, and somebody who interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def interrupted_after() -> Callable[[int], Callable[..., Iterator[int]]]:
    """Bars, in the place of `progress`, that a person interrupts after so many steps."""

    def make(most: int) -> Callable[..., Iterator[int]]:
        def bar(steps: range, **_: object) -> Iterator[int]:
            yield from steps[:most]
            raise KeyboardInterrupt

        return bar

    return make
