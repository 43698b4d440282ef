"""Are examples worth their columns? Train and measure several runs on the same targets: python -m train.compare.

In: section `compare` of params.yaml, packed shards of the strategies that it names, the base model. Each run is trained
by train.run, for as many steps as the others, and measured by train.evaluate on its test shards. Out:
runs/compare/NAME/ and runs/compare/NAME.test/ for each; runs/report/compare.md and compare.json, where every run, the
base model and the swapped captions stand against one run, paired by target. The same command goes on after a kill; what
was trained before with the same settings is only put in place again. With `engine.workers` above 1, that many runs are
made side by side. With --limit, only the first N samples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import pretty_json
from pipeline.data.storage import link_or_copy, write_bytes
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.local import EngineParams
from pipeline.engine.params import read_value, section
from pipeline.errors import ContractError, ParamsError
from train import checkpoint, evaluate, run
from train.inputs import Run, find_shards, read_run
from train.params import EvaluateParams, TrainParams

REPORT = "compare.md"
FIGURES = "compare.json"
BASE_ROW = "base model, zero-shot"
SWAPPED = "captions swapped"
SHARED_BY_ALL = ("steps", "batch_size", "accumulate", "max_target_frames")
"""Settings of `train` that no run may have for itself: else one is longer, or is measured on other codes."""

SWAPPED_SAYS = {
    "better": "Swapping the examples' captions costs: the model reads which caption belongs to which example.",
    "worse": "Swapping the examples' captions helps, which no reading of them explains.",
    "no difference shown": "Swapping the examples' captions shows no difference: nothing tells that the model reads "
    "which caption belongs to which example.",
}
"""What swapped captions say, by the verdict on the run whose captions stand right."""

Column = dict[str, float | None]
"""Nats per code of each target, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run of section `compare`."""

    strategy: str
    """Whose packed shards it is trained and measured on."""
    train: dict[str, Any] = field(default_factory=dict[str, Any])
    """What differs from section `train`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareParams:
    """Section `compare` of params.yaml."""

    against: str
    """The run that all others are compared with."""
    runs: dict[str, ComparedRun]
    """By name, in the order of the table."""

    def __post_init__(self) -> None:
        if self.against not in self.runs:
            raise ParamsError(f"compare.against: {self.against!r} is not among compare.runs: {', '.join(self.runs)}")
        for name, compared in self.runs.items():
            own = [setting for setting in SHARED_BY_ALL if setting in compared.train]
            if own:
                raise ParamsError(
                    f"compare.runs.{name}.train.{own[0]}: must be the same for all runs; set train.{own[0]}"
                )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.compare")
    parser.add_argument("--run", action="append", help="make this run alone, and no table; may be repeated")
    run_main(body, parser, argv)


def body(args: argparse.Namespace) -> None:
    """Train and measure what is not yet there, then write the table."""
    raw, layout = read_params(args), Layout(args.root)
    params = read_compare(raw)
    unknown = [name for name in args.run or () if name not in params.runs]
    if unknown:
        raise ParamsError(f"--run {unknown[0]}: not among compare.runs: {', '.join(params.runs)}")
    workers = section(raw, "engine", EngineParams).workers if "engine" in raw else 1
    for name, compared in params.runs.items():
        _check(raw, layout, name, compared)
    if args.dry_run:
        print(f"would compare {', '.join(params.runs)} with {params.against}, into {layout.runs / 'report' / REPORT}")
        return
    if args.run or workers == 1:
        for name in args.run or params.runs:
            print(f"compare: {name}", file=sys.stderr)
            _train_and_measure(args, layout, name, params.runs[name])
    else:
        command = [sys.executable, "-m", "train.compare", *common_flags(args)]
        side_by_side([[*command, "--run", name] for name in params.runs], workers)
    if args.run:
        return
    trained = {name: read_run(layout.run(f"compare/{name}")) for name in params.runs}
    scores = {name: read_scores(layout.run(f"compare/{name}.test")) for name in params.runs}
    figures = compare(trained, scores, params.against, section(raw, "evaluate", EvaluateParams))
    text = report(figures, params)
    write_bytes(layout.runs / "report" / FIGURES, pretty_json(figures))
    write_bytes(layout.runs / "report" / REPORT, text.encode())
    print(text)


def read_compare(raw: Mapping[str, Any]) -> CompareParams:
    """Read section `compare`.

    Raises:
        ParamsError: an unknown key, or a run with a setting that all must share.
    """
    values = dict(raw.get("compare") or {})
    if not isinstance(values.get("runs") or {}, dict):
        raise ParamsError("compare.runs: must name runs, each with its strategy; see docs/train.md")
    runs = {
        name: read_value(value, ComparedRun, f"compare.runs.{name}")
        for name, value in dict(values.get("runs") or {}).items()
    }
    if not runs:
        raise ParamsError("compare.runs: names no run; see docs/train.md")
    return section(raw, "compare", CompareParams)


def _check(raw: Mapping[str, Any], layout: Layout, name: str, compared: ComparedRun) -> None:
    """Refuse before the first hour what the last run would stumble over: its name, its settings, its shards."""
    section({**raw, "train": {**(raw.get("train") or {}), **compared.train}}, "train", TrainParams)
    checkpoint.open_place(layout, f"compare/{name}", made_by=run.MADE_BY)
    shards = layout.pack(compared.strategy).resolve()
    find_shards([f"{shards}/train-*.tar"], layout.root)
    find_shards([f"{shards}/test-*.tar"], layout.root)


def _train_and_measure(args: argparse.Namespace, layout: Layout, name: str, compared: ComparedRun) -> None:
    common = common_flags(args)
    own = [part for key, value in compared.train.items() for part in ("--set", f"train.{key}={json.dumps(value)}")]
    shards = layout.pack(compared.strategy).resolve()
    lend_results(layout.run_work(compared.strategy), layout.run_work(f"compare/{name}"))
    tars = ["--shards", f"{shards}/train-*.tar", "--val", f"{shards}/val-*.tar"]
    run.main([*common, *own, *tars, "--name", f"compare/{name}"])
    measured = ["--run", f"compare/{name}", "--name", f"compare/{name}.test"]
    evaluate.main([*common, *measured, "--shards", f"{shards}/test-*.tar"])


def common_flags(args: argparse.Namespace) -> list[str]:
    """The flags that every command shares, as they were given."""
    flags = ["--root", str(args.root), *(part for value in args.set for part in ("--set", value))]
    flags += ["--params", str(args.params)] if args.params else []
    flags += ["--limit", str(args.limit)] if args.limit is not None else []
    return flags + ["--debug"] * args.debug


def side_by_side(commands: Sequence[Sequence[str]], workers: int) -> None:
    """Run commands, at most `workers` at once; end as the first one that fails, once the others have stopped.

    Raises:
        SystemExit: with the exit code of a command that failed; it has said why.
    """
    waiting, running = list(commands), list[subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(subprocess.Popen(waiting.pop(0)))
            time.sleep(0.1)
            failed = next((process.returncode for process in running if process.poll()), 0)
            running = [process for process in running if process.returncode is None]
            if failed:
                sys.exit(failed if failed > 0 else 128 - failed)
    finally:
        # A training that is told to stop saves itself first.
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def lend_results(there: Path, here: Path) -> None:
    """Offer the finished results of one name to another: one with the same fingerprint need not be made twice."""
    for result in sorted(there.glob(f"*/{checkpoint.RESULT_FOLDER}")):
        target = here / result.parent.name / checkpoint.RESULT_FOLDER
        if checkpoint.FINGERPRINT.fullmatch(result.parent.name) and not target.is_dir():
            with checkpoint.whole_folder(target) as part:
                for path in sorted(path for path in result.rglob("*") if path.is_file()):
                    (part / path.relative_to(result)).parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(path, part / path.relative_to(result))


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Read what train.evaluate found for every target."""
    return [json.loads(line) for line in (folder / "per_key.jsonl").read_text("utf-8").splitlines()]


def compare(
    trained: Mapping[str, Run], scores: Mapping[str, Sequence[Mapping[str, Any]]], against: str, params: EvaluateParams
) -> dict[str, Any]:
    """Put every row beside one run, over the targets that all rows have.

    Args:
        trained: the runs, by name.
        scores: lines of per_key.jsonl, by name of the run.
        against: the run to compare with.
        params: seed and draws of the bootstrap.

    Raises:
        ContractError: no target has a figure in every row.
    """
    columns = _columns(trained, scores, against)
    keys = [key for key in columns[against] if all(column.get(key) is not None for column in columns.values())]
    if not keys:
        raise ContractError(
            "compare: no test target has a figure in every run; pack all strategies of section compare from one "
            "split.json (`python -m stages.pack`)"
        )
    values = {name: [column[key] for key in keys] for name, column in columns.items()}
    rows: dict[str, Any] = {}
    for name, own in values.items():
        difference = evaluate.paired_difference(own, values[against], params=params)
        rows[name] = {"nll": sum(value or 0.0 for value in own) / len(keys)}
        if name != against and difference is not None:
            rows[name] |= {"minus_against": difference, "verdict": verdict(difference["low"], difference["high"])}
    settings = trained[against].params
    return {
        "against": against,
        "steps": settings.steps,
        "episodes_per_step": settings.batch_size * settings.accumulate,
        "base": trained[against].base_label,
        "num_targets": len(keys),
        "num_targets_left_out": len({key for column in columns.values() for key in column}) - len(keys),
        "rows": rows,
    }


def _columns(
    trained: Mapping[str, Run], scores: Mapping[str, Sequence[Mapping[str, Any]]], against: str
) -> dict[str, Column]:
    """Figures of every row by target: the base model, the runs, the swapped captions."""
    columns: dict[str, Column] = {}
    for name, found in trained.items():
        # Inline text is new to the base model: it says nothing of what MusicGen can do.
        if BASE_ROW not in columns and found.params.text_placement == "cross":
            columns[BASE_ROW] = {line["key"]: line["base"]["without_examples"] for line in scores[name]}
    for name, found in trained.items():
        shown = "with_examples" if found.params.most_examples else "without_examples"
        columns[name] = {line["key"]: line["trained"][shown] for line in scores[name]}
    swapped = {line["key"]: line["trained"]["captions_swapped"] for line in scores[against]}
    if any(value is not None for value in swapped.values()):
        columns[f"{against}, {SWAPPED}"] = swapped
    return columns


def verdict(low: float, high: float) -> str:
    """What an interval of (row minus the run compared with) says of that run: better, worse, or nothing."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no difference shown"


def report(figures: Mapping[str, Any], params: CompareParams) -> str:
    """Write the comparison as Markdown; where an interval holds zero, it says so."""
    against, rows = figures["against"], figures["rows"]
    left_out = figures["num_targets_left_out"]
    lines = [
        "# Do examples help?",
        "",
        f"Negative log-likelihood of the real codes of {figures['num_targets']} held-out targets, nats per code; lower "
        f"is better. Every run had {figures['steps']} steps of {figures['episodes_per_step']} episodes. Differences "
        "are paired by target, with a 95 % bootstrap interval; it tells of other targets, not of other seeds."
        + (f" {left_out} targets lack a figure in some row and are left out." if left_out else ""),
        "",
        f"| run | trained on | nats per code | minus {against} (95 %) | {against} is |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        found = row.get("minus_against")
        interval = f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})" if found else ""
        cells = [name, _told(params.runs.get(name)), f"{row['nll']:.4f}", interval, row.get("verdict", "")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *conclusions(figures), ""])


def _told(compared: ComparedRun | None) -> str:
    if compared is None:
        return ""
    settings = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in compared.train.items())
    return f"{compared.strategy}; {settings}" if settings else compared.strategy


def conclusions(figures: Mapping[str, Any]) -> list[str]:
    """Say in words what the intervals allow to say."""
    against, rows = figures["against"], figures["rows"]
    by_verdict = {
        said: [name for name, row in rows.items() if row.get("verdict") == said and SWAPPED not in name]
        for said in ("better", "worse", "no difference shown")
    }
    lines = [f"- `{against}` is {said} than: {'; '.join(by_verdict[said])}." for said in ("better", "worse")]
    lines = [line for line, said in zip(lines, ("better", "worse"), strict=True) if by_verdict[said]]
    unclear = by_verdict["no difference shown"]
    if unclear:
        lines.append(f"- The interval holds zero, so no difference of `{against}` is shown to: {'; '.join(unclear)}.")
    swapped = rows.get(f"{against}, {SWAPPED}")
    if swapped:
        lines.append(f"- {SWAPPED_SAYS[swapped['verdict']]}")
    return lines


if __name__ == "__main__":
    from train.compare import main

    main()
