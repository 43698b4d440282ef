"""Run by a Python of its own that has litdata: writes a tar's samples as litdata chunks, reads them, prints JSON.

PYTHON tests/bench/litdata_reading.py TAR FOLDER
"""

import io
import json
import sys
import tarfile
import time

import litdata
import numpy as np
from litdata.streaming.cache import Cache


def samples(tar_path):
    sample = {}
    with tarfile.open(tar_path) as tar:
        for info in tar:
            key, _, name = info.name.partition(".")
            if sample.get("key", key) != key:
                yield sample
                sample = {}
            data = tar.extractfile(info).read()
            sample["key"] = key
            sample[name.partition(".")[0]] = np.load(io.BytesIO(data)) if name.endswith("npy") else data.decode()
    yield sample


def read(folder, shuffle):
    """CPU seconds per sample, and milliseconds to the first one."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    num_samples, num_columns, first_ms = 0, 0, 0.0
    for sample in litdata.StreamingDataset(folder, shuffle=shuffle):
        first_ms = first_ms or 1000 * (time.perf_counter() - wall_s)
        json.loads(sample["json"])
        num_columns += sample["target"].shape[1] + sample["examples"].shape[1]
        num_samples += 1
    return {"cpu_s": (time.process_time() - cpu_s) / num_samples, "columns": num_columns, "first_ms": first_ms}


def main(tar_path, folder):
    cache = Cache(folder, chunk_bytes=1 << 26)
    for number, sample in enumerate(samples(tar_path)):
        cache[number] = sample
    cache.done()
    cache.merge()
    rounds = [(read(folder, False), read(folder, True)) for _ in range(3)]
    in_order, shuffled = (sorted(results, key=lambda r: r["cpu_s"])[1] for results in zip(*rounds, strict=True))
    first_ms = rounds[0][0]["first_ms"]
    print(
        json.dumps({"version": litdata.__version__, "in order": in_order, "shuffled": shuffled, "first_ms": first_ms})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
