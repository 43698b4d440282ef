"""The script that measures a card: rehearsed on the CPU, and its figures held to their goals where there is a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.codec import load_codec
from tests.bench import gpu_figures
from tests.bench.encoders import CLAPS, CODECS, build_codec, music

KNOWN = (*CODECS, *CLAPS)


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_the_script_runs_on_a_cpu_and_says_that_it_is_a_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "figures.json"
    rows = gpu_figures.main(["--device", "cpu", "--seconds", "20", "--out", str(out)])
    assert {(row.model, row.precision) for row in rows} == {(m, p) for m in KNOWN for p in gpu_figures.PRECISIONS}
    assert all(row.hours_per_hour > 0 and 0.5 < row.busy_share <= 1 and row.batch_used == 2 for row in rows)
    assert all(row.agreement > 0.999 for row in rows if row.precision == "fp32")
    content = json.loads(out.read_bytes())
    assert "a rehearsal" in content["machine"]
    assert len(content["figures"]) == len(rows)
    with capsys.disabled():
        print("\n" + "\n".join(gpu_figures.as_line(row) for row in rows))


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_on_a_card_the_model_is_busy_and_agrees_with_the_cpu(tmp_path: Path):
    rows = gpu_figures.main(["--device", "cuda", "--out", str(tmp_path / "figures.json")])
    for model in KNOWN:
        assert max(row.busy_share for row in rows if row.model == model) >= 0.9
    for row in rows:
        if row.precision == "fp32":
            assert row.agreement >= (0.9999 if row.model in CLAPS else 0.999)
        elif row.model in CLAPS:
            assert row.agreement >= 0.999


@pytest.mark.gpu
def test_on_a_card_that_is_full_the_batch_is_halved(tmp_path: Path):
    folder = build_codec(tmp_path, "encodec 32 kHz")
    sounds = [music(seed, 10.0, 32_000) for seed in range(64)]
    roomy = load_codec(str(folder), device="cuda", batch_size=4)
    expected = roomy.encode(sounds)
    codec = load_codec(str(folder), device="cuda", batch_size=64)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4 * 2**30 / total))
    try:
        found = codec.encode(sounds)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert codec.batch_size < 64
    equal = np.mean([np.mean(f_KT == e_KT) for f_KT, e_KT in zip(found, expected, strict=True)])
    assert equal >= 0.999
