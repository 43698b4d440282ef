from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

DESCRIBE = """
import numpy as np
from pipeline.music.describe import describe_audio
wave = np.sin(np.arange(32000) / 8) * (np.arange(32000) % 8000 < 4000)
print(describe_audio(wave.astype(np.float32), 16000)["onset_rate_hz"] > 0)
"""


def test_two_processes_may_fill_an_empty_cache_at_once(tmp_path: Path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", DESCRIBE]
    both = [subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [b"True\n"] * 2
    # And whoever comes later reads what they left.
    later = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=False)
    assert (later.returncode, later.stdout) == (0, b"True\n")
