"""librosa, imported by one process at a time.

librosa compiles functions when it is imported, and numba keeps them in a cache beside the package. Two processes that
fill an empty cache at once leave halves of two compilations there, and from then on every process that reads it dies of
a segmentation fault (seen with librosa 0.11.0 and numba 0.68.1, two processes, `librosa.util.peak_pick`).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

USED = ("librosa.util", "librosa.core", "librosa.filters", "librosa.feature", "librosa.onset", "librosa.beat")
"""Submodules that we use; librosa would import them at first use, behind the lock's back."""


def import_librosa() -> Any:
    """Import librosa and the parts of it that we use, while no other process of this environment does.

    Returns:
        The package.
    """
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"setlist-{environment}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in USED:
            importlib.import_module(name)
        return importlib.import_module("librosa")
