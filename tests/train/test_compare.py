"""Runs against one another: the same targets, paired, and words that follow the intervals."""

from __future__ import annotations

import json
import shutil
import sys
import time

import numpy as np
import pytest
import yaml

from pipeline.engine.params import read_value
from pipeline.errors import ContractError, ParamsError
from tests.conftest import REPOSITORY
from tests.train import toys
from train import checkpoint, compare, run
from train.inputs import Run
from train.params import EvaluateParams, TrainParams

RUNS = {
    "none": {"strategy": "near", "train": {"num_examples": 0}},
    "words": {"strategy": "near", "train": {"representation": "text", "cross_attention": "full"}},
    "far": {"strategy": "far"},
    "near": {"strategy": "near"},
}


@pytest.fixture
def packed(project):
    """The toy project with packed shards of two strategies, and a comparison of four runs of two steps."""
    for strategy, seed in (("near", 2), ("far", 3)):
        folder = project / "shards/pack" / strategy
        # The same targets; of one of them the other strategy knows nothing.
        targets = toys.random_samples(5, seed=9)[strategy == "far" :]
        splits = {"train": toys.random_samples(8, seed=seed), "val": toys.random_samples(2, seed=seed), "test": targets}
        for split, samples in splits.items():
            toys.write_pack(folder / split, split, samples)
            (folder / split / f"{split}-000000.tar").rename(folder / f"{split}-000000.tar")
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"] |= {"steps": 2, "num_examples": [0, 1, 2]}
    params["evaluate"] = {"num_examples": 2}
    params["compare"] = {"against": "near", "runs": RUNS}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return project


def compared(root, *more):
    compare.main(["--root", str(root), *more])
    return json.loads((root / "runs/report/compare.json").read_text())


def test_every_run_stands_in_the_table_over_the_same_targets(packed, capsys):
    figures = compared(packed)
    names = ["base model, zero-shot", *RUNS, "near, captions swapped"]
    table = (packed / "runs/report/compare.md").read_text()
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")][1:] == names
    assert set(figures["rows"]) == set(names)
    assert (figures["steps"], figures["num_targets"], figures["num_targets_left_out"]) == (2, 4, 1)
    lines = (packed / "runs/compare/near.test/per_key.jsonl").read_text().splitlines()
    near = {line["key"]: line["trained"] for line in map(json.loads, lines)}
    shared = sorted(near)[1:]
    row = figures["rows"]["near, captions swapped"]
    assert row["nll"] == pytest.approx(np.mean([near[key]["captions_swapped"] for key in shared]))
    differences = [near[key]["captions_swapped"] - near[key]["with_examples"] for key in shared]
    assert row["minus_against"]["mean"] == pytest.approx(np.mean(differences))
    assert row["minus_against"]["num_pairs"] == 4
    none = [json.loads(line) for line in (packed / "runs/compare/none.test/per_key.jsonl").read_text().splitlines()]
    zero_shot = {line["key"]: line for line in none}
    assert figures["rows"]["none"]["nll"] == pytest.approx(
        np.mean([zero_shot[key]["trained"]["without_examples"] for key in shared])
    )
    base = figures["rows"]["base model, zero-shot"]["nll"]
    assert base == pytest.approx(np.mean([zero_shot[key]["base"]["without_examples"] for key in shared]))
    assert table in capsys.readouterr().out


def test_what_was_trained_before_is_taken(packed, capsys):
    shards = packed / "shards/pack/near"
    tars = ["--shards", f"{shards}/train-*.tar", "--val", f"{shards}/val-*.tar"]
    run.main(["--root", str(packed), "--name", "near", *tars])
    first = compared(packed)
    assert "runs/compare/near: finished before" in capsys.readouterr().err
    assert compared(packed) == first
    assert "runs/compare/none.test: finished before" in capsys.readouterr().err
    assert checkpoint.list_checkpoints(packed / "runs/.work/near") == []
    assert (packed / "runs/near/adapter").is_dir()


@pytest.mark.long
def test_runs_side_by_side_give_the_same_table(packed, tmp_path_factory):
    other = shutil.copytree(packed, tmp_path_factory.mktemp("other") / "project", symlinks=True)
    first = compared(packed)
    path = other / "params.yaml"
    path.write_text(path.read_text() + "engine: {workers: 2}\n")
    assert compared(other) == first


def test_one_that_fails_stops_the_others():
    waits, fails = "import time; time.sleep(60)", "import sys; sys.exit(3)"
    started = time.monotonic()
    with pytest.raises(SystemExit) as left:
        compare.side_by_side([[sys.executable, "-c", code] for code in (waits, fails, waits)], 2)
    assert left.value.code == 3
    assert time.monotonic() - started < 30


def test_one_run_alone_makes_no_table(packed, capsys):
    compare.main(["--root", str(packed), "--run", "none"])
    assert (packed / "runs/compare/none.test/metrics.json").is_file()
    assert not (packed / "runs/compare/near").exists()
    assert not (packed / "runs/report").exists()
    with pytest.raises(SystemExit):
        compare.main(["--root", str(packed), "--run", "some"])
    assert "--run some: not among compare.runs" in capsys.readouterr().err


def test_dry_run_writes_nothing(packed, capsys):
    compare.main(["--root", str(packed), "--dry-run"])
    assert "would compare none, words, far, near with near" in capsys.readouterr().out
    assert not (packed / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("compare.against=nearest", "compare.against: 'nearest' is not among compare.runs: none, words, far, near"),
        ("compare.runs={}", "compare.runs: names no run"),
        ("compare.runs.far={strategy: far, train: {steps: 9}}", "compare.runs.far.train.steps: must be the same"),
        ("compare.runs.far={strategy: far, tarin: {}}", "compare.runs.far.tarin: no such setting"),
        ("compare.runs.far={strategy: far, train: {stepz: 9}}", "train.stepz: no such setting"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(packed, setting, message, capsys):
    with pytest.raises(SystemExit) as left:
        compared(packed, "--set", setting)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def scored(values, swapped=None):
    """Lines of per_key.jsonl: the base model always at 3."""
    conditions = ("with_examples", "without_examples", "captions_swapped")
    swapped = swapped or [None] * len(values)
    return [
        {
            "key": str(n),
            "base": dict.fromkeys(conditions, 3.0),
            "trained": dict(zip(conditions, (value, 9.0, other), strict=True)),
        }
        for n, (value, other) in enumerate(zip(values, swapped, strict=True))
    ]


def figures_of(tmp_path, **scores):
    runs = {name: Run(tmp_path, TrainParams(steps=7), "base@sha256:00", tmp_path) for name in scores}
    return compare.compare(runs, scores, "ours", EvaluateParams(bootstrap_draws=200))


def report_of(figures):
    runs = {name: {"strategy": "s"} for name in figures["rows"] if "," not in name}
    params = compare.read_compare({"compare": {"against": "ours", "runs": runs}})
    return compare.report(figures, params)


def test_an_interval_that_holds_zero_is_said_to_show_nothing(tmp_path):
    even, odd = [2.0, 2.2] * 20, [2.2, 2.0] * 20
    figures = figures_of(tmp_path, alike=scored(odd), ours=scored(even, swapped=odd))
    assert figures["rows"]["alike"]["verdict"] == "no difference shown"
    assert figures["rows"]["base model, zero-shot"]["verdict"] == "better"
    text = report_of(figures)
    assert "The interval holds zero, so no difference of `ours` is shown to: alike." in text
    assert "`ours` is better than: base model, zero-shot." in text
    assert "shows no difference: nothing tells that the model reads" in text
    assert "| alike | s | 2.1000 |" in text


def test_a_run_that_lost_is_said_to_be_worse(tmp_path):
    ours = [2.0, 2.1, 2.2]
    figures = figures_of(tmp_path, other=scored([1.0, 1.0, 1.1]), ours=scored(ours, swapped=[3.0, 3.1, 3.3]))
    text = report_of(figures)
    assert "`ours` is worse than: other." in text
    assert "holds zero" not in text
    assert "reads which caption belongs" in text
    figures = figures_of(tmp_path, ours=scored(ours, swapped=[1.0, 1.1, 1.3]))
    assert "no reading of them explains" in report_of(figures)


def test_runs_without_swapped_captions_or_base_have_no_such_row(tmp_path):
    inline = TrainParams(text_placement="inline", max_total_columns=5000)
    runs = {"ours": Run(tmp_path, inline, "base@sha256:00", tmp_path)}
    figures = compare.compare(runs, {"ours": scored([1.0, 2.0])}, "ours", EvaluateParams())
    assert list(figures["rows"]) == ["ours"]


def test_runs_without_a_common_target_are_refused(tmp_path):
    other = [line | {"key": f"x{line['key']}"} for line in scored([1.0])]
    with pytest.raises(ContractError, match="no test target has a figure in every run"):
        figures_of(tmp_path, other=other, ours=scored([1.0]))


def test_the_presets_compare_what_they_pack():
    for preset in REPOSITORY.glob("pipeline/presets/*.yaml"):
        params = yaml.safe_load(preset.read_text("utf-8"))
        found = compare.read_compare(params)
        assert {compared.strategy for compared in found.runs.values()} <= set(params["pack"]["strategies"])
        for one in found.runs.values():
            read_value({"num_examples": 2, **one.train}, TrainParams, "train")


def test_an_empty_section_is_refused():
    with pytest.raises(ParamsError, match="names no run"):
        compare.read_compare({})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (3, "compare.runs: must name runs"),
        ({"../b": {"strategy": "near"}, **RUNS}, "letters, digits"),
        ({**RUNS, "last": {"strategy": "absent"}}, "absent"),
        ({**RUNS, "last": {"strategy": "near", "train": {"lora_rnk": 4}}}, "lora_rnk"),
    ],
)
def test_what_the_last_run_would_stumble_over_is_refused_before_the_first(packed, changed, said, capsys):
    path = packed / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["compare"]["runs"] = changed
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--root", str(packed), "--dry-run"])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not (packed / "runs").exists()
