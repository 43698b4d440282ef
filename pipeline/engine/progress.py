"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str, unit: str) -> tqdm[Any]:
    """Wrap an iterable, or make a bar to `update()` by hand.

    Args:
        iterable: what to count; None for a bar moved by hand.
        total: number of units, None if unknown.
        desc: text before the bar.
        unit: what is counted, in the singular.
    """
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=f" {unit}",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=True,
    )
