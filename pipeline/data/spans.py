"""Where members lie in their tar, as `index.json` says it: a flat list of numbers for each member's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

ABSENT = -1


class Span(NamedTuple):
    """Where a member lies in its tar."""

    start_byte: int
    num_bytes: int
    crc32: int


Spans = dict[str, Span]
"""Of one sample, by the member's name."""
NO_SPAN = Span(ABSENT, ABSENT, 0)


def by_member(spans: Sequence[Spans]) -> dict[str, list[int]]:
    """Offset and size of sample 0, of sample 1, ... per member name; ABSENT where a sample lacks the member."""
    names = sorted({name for span in spans for name in span})
    return {name: [n for span in spans for n in span.get(name, NO_SPAN)[:2]] for name in names}


def checksums(spans: Sequence[Spans]) -> dict[str, str]:
    """CRC-32 of sample 0, of sample 1, ... per member name, as eight hex digits each."""
    names = sorted({name for span in spans for name in span})
    return {name: "".join(f"{span.get(name, NO_SPAN).crc32:08x}" for span in spans) for name in names}


def check_spans(members: Mapping[str, list[int]], *, num_samples: int, num_bytes: int) -> None:
    """Refuse numbers that no tar can have: whoever reads by them would read past its end, or nothing.

    Args:
        members: as `by_member` gives them.
        num_samples: in the tar.
        num_bytes: of the tar.

    Raises:
        ValueError: not two numbers per sample, or a member outside of the tar; also numbers that are none.
    """
    for name, flat in members.items():
        if len(flat) != 2 * num_samples:
            raise ValueError(f"{name}: {len(flat)} numbers for {num_samples} samples")
        numbers_S2 = np.array(flat, np.int64).reshape(-1, 2)
        if numbers_S2.sum(axis=1).max(initial=0) > num_bytes or numbers_S2.min(initial=ABSENT) < ABSENT:
            raise ValueError(f"{name}: lies outside of its tar of {num_bytes} bytes")
