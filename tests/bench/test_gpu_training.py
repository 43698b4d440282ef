"""The script that measures training on a card: rehearsed on the CPU, held to its goals where there is a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import gpu_training


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_the_script_runs_on_a_cpu_and_says_that_it_is_a_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = gpu_training.main(["--rehearse", "--out", str(tmp_path)])
    with capsys.disabled():
        print("\n" + (tmp_path / "gpu_training.md").read_text("utf-8"))
    assert [row["name"] for row in rows] == [*gpu_training.MEMORY, *gpu_training.SPEED]
    assert not [row for row in rows if "failed" in row]
    assert all(row["columns"] == 300 for row in rows if row["name"] in gpu_training.MEMORY)
    content = json.loads((tmp_path / "gpu_training.json").read_bytes())
    assert "a rehearsal" in content["machine"]
    assert content["rows"] == rows


@pytest.mark.parametrize("row", gpu_training.MEMORY)
def test_on_a_card_the_longest_episode_has_3000_columns(row: str):
    params = gpu_training.memory_params(gpu_training.MEMORY[row], gpu_training.CARD)
    config = gpu_training.REHEARSAL.config("small")
    batch = gpu_training.longest(params, gpu_training.codec_shape(config))
    assert batch.num_columns == params.max_total_columns == 3000
    assert len(batch.prompts[0]) == 6


def test_a_row_that_fails_is_told_in_the_table_and_ends_no_other():
    failed = gpu_training.run_case("small QLoRA", rehearse=True, limit_s=0.01)
    assert "not done" in failed["failed"]
    assert "| small QLoRA | 10 GB | failed: not done" in gpu_training.as_table("a machine", [failed])


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_on_a_card_memory_keeps_to_goal_and_plan_and_ours_is_faster(tmp_path: Path):
    rows = {row["name"]: row for row in gpu_training.main(["--out", str(tmp_path)])}
    assert not [row for row in rows.values() if "failed" in row]
    for name in gpu_training.MEMORY:
        assert abs(rows[name]["difference"]) <= 0.10
        assert rows[name]["goal_gb"] is None or rows[name]["measured_gb"] <= rows[name]["goal_gb"]
    for name in ("three examples", "none to three"):
        ours, plain = rows[f"ours, {name}"], rows[f"plain script, {name}"]
        assert ours["data_wait"] <= 0.02
        assert ours["steps_per_s"] >= 1.8 * plain["steps_per_s"]
