"""No test of this folder may leave the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.fetching.loopback import loopback_only


@pytest.fixture(autouse=True)
def no_stranger() -> Iterator[None]:
    with loopback_only():
        yield
