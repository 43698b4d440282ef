"""Vectors written to files once, and mapped into memory by everybody who searches them.

X clips, M of them train, D embedding.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.data.shards import encode_json
from pipeline.data.storage import sync, write_bytes
from pipeline.retrieval.index import Float32, mix

AUDIO_FILE, TEXT_FILE, MIXED_FILE, KEYS_FILE = "audio.npy", "text.npy", "mixed.npy", "keys.json"
_ROWS_AT_ONCE = 4096


@contextmanager
def only_builder(folder: Path) -> Generator[None]:
    """Wait until nobody else makes files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_once(shelf: Path, name: str, build: Callable[[Path], None]) -> Path:
    """Make a folder unless it is there: by one process, while others that want it wait.

    Args:
        shelf: where it lies, with the ones that it replaces.
        name: digest of all that its content depends on.
        build: fills an empty folder.

    Returns:
        The folder, whole.
    """
    final = shelf / name
    if final.is_dir():
        return final
    with only_builder(shelf):
        if final.is_dir():
            return final
        for stale in shelf.iterdir():
            if stale.is_dir():  # of other inputs, or left by a kill; whoever still maps its files keeps them
                shutil.rmtree(stale)
        part = shelf / f".{name}.part"
        part.mkdir()
        build(part)
        for path in part.iterdir():
            sync(path)
        part.rename(final)
    return final


def write_vectors(
    folder: Path,
    keys: Sequence[str],
    vectors: Iterator[tuple[int, Float32, Float32]],
    *,
    num_pool: int,
    text_weight: float,
) -> None:
    """Write vectors as they come, so that no more than a few are ever in memory beside the files' pages.

    Args:
        folder: an empty one.
        keys: of all clips, those of the pool first.
        vectors: row, text and audio vector of each clip, of unit length, in any order.
        num_pool: M.
        text_weight: of the text in the pool's mixed vectors.

    Raises:
        ValueError: other vectors than keys.
    """
    text_XD = audio_XD = None
    num_seen = 0
    for row, text_D, audio_D in vectors:
        if text_XD is None or audio_XD is None:
            shape = (len(keys), len(text_D))
            text_XD, audio_XD = (_create(folder / name, shape) for name in (TEXT_FILE, AUDIO_FILE))
        text_XD[row], audio_XD[row] = text_D, audio_D
        num_seen += 1
    if text_XD is None or audio_XD is None or num_seen != len(keys):
        raise ValueError(f"{num_seen} vectors for {len(keys)} keys")
    mixed_MD = _create(folder / MIXED_FILE, (num_pool, text_XD.shape[1]))
    for start in range(0, num_pool, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, num_pool))
        mixed_MD[rows] = mix(text_XD[rows], audio_XD[rows], text_weight=text_weight)
    for array in (text_XD, audio_XD, mixed_MD):
        array.flush()
    write_bytes(folder / KEYS_FILE, encode_json(list(keys)))


def _create(path: Path, shape: tuple[int, int]) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def map_vectors(folder: Path, name: str) -> Float32:
    """Map one of the files; what is not touched takes no memory."""
    # A plain array over the same pages: a memmap is slower to index.
    return np.load(folder / name, mmap_mode="r").view(np.ndarray)
