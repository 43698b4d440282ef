"""Damage recordings in many ways and ingest them, in a process of its own: a decoder may take the process with it.

Run as a module: it prints one line of JSON for every damaged file before and after it was tried, so that the last line
tells on which file a crash or a hang happened.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.records import Drop, Line, Track
from pipeline.data.shards import Sample
from pipeline.engine.local import Task
from stages.ingest import IngestParams, IngestStep

AUDIO_ENDINGS = {".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus", ".aif", ".aiff", ".aac", ".webm"}


def corrupt(data: bytes, random: np.random.Generator) -> bytes:
    """Damage bytes in one of six ways, drawn at random: the places, too."""
    damaged = bytearray(data)
    start = int(random.integers(len(data)))
    length = int(random.integers(1, max(len(data) // 4, 2)))
    match int(random.integers(6)):
        case 0:  # cut off
            del damaged[start:]
        case 1:  # single bits anywhere
            for place in random.integers(len(data), size=int(random.integers(1, 100))):
                damaged[place] ^= 1 << int(random.integers(8))
        case 2:  # a hole of zeros
            damaged[start : start + length] = bytes(len(damaged[start : start + length]))
        case 3:  # a stretch from elsewhere in the file
            other = int(random.integers(len(data)))
            damaged[start : start + length] = data[other : other + length]
        case 4:  # a stretch missing
            del damaged[start : start + length]
        case _:  # noise in the header, where sizes and counts stand
            head = random.integers(min(len(data), 200), size=8)
            for place in head:
                damaged[place] = int(random.integers(256))
    return bytes(damaged)


def recordings(folder: Path) -> Iterator[Path]:
    """Name the recordings below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_ENDINGS and path.stat().st_size)


def ingest(path: Path) -> str:
    """Ingest one file, and say what became of it."""
    step = IngestStep(IngestParams(sample_rate_hz=16000), "library", path.parent)
    results = list(step(Task("000000", 1, [Track(id="it", path=path)])))
    samples = [result for result in results if isinstance(result, Sample)]
    drops = [result for result in results if isinstance(result, Drop) and result.clip is None]
    others = [result for result in results if isinstance(result, (Drop, Line))]
    assert len(samples) + len(others) == len(results)
    assert bool(samples) != bool(drops), "neither clips nor a drop, or both"
    return f"{len(samples)} clips" if samples else str(drops[0].reason)


def main() -> None:
    """Try files: folder, scratch folder, number of ways, first seed."""
    folder, scratch, ways, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for path in recordings(folder):
        data = path.read_bytes()
        for way in range(seed, seed + ways):
            damaged = scratch / f"damaged{path.suffix}"
            damaged.write_bytes(corrupt(data, np.random.default_rng([way, len(data)])))
            name = path.relative_to(folder).as_posix()
            print(json.dumps({"file": name, "way": way}), flush=True)
            begun_s = time.process_time()  # other work on the cores must not look like a hang
            outcome = ingest(damaged)
            seconds = round(time.process_time() - begun_s, 3)
            print(json.dumps({"file": name, "way": way, "outcome": outcome, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    from tests.stages.corruption import main

    main()
