"""Report: one table and two plots of what the examples brought.

In:    runs/evaluate/<strategy>/metrics.json and per_key.jsonl, runs/<strategy>/train_log.jsonl.
Out:   runs/report/: table.md, metrics.json (tracked by `dvc metrics`), loss.png and nll.png (`dvc plots`); what
       train.compare wrote there stays.
Drops: none.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.provenance import pretty_json
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import publish_files
from pipeline.engine.project import Project, open_project
from pipeline.errors import ContractError
from pipeline.models.places import ModelsParams

CONDITIONS = ("with_examples", "without_examples", "captions_swapped", "examples_blanked")
DEMO_CHECKPOINTS = "shards/demo/checkpoints"
DEMO_FACTS = "shards/demo/corpus/demo_facts.csv"
DEMO_NOTE = (
    "All models are the demo's: small, and trained on this synthesiser's music alone. These figures show that the "
    "chain measures what it says; they say nothing of other music."
)
CIRCULAR_NOTE = "CLAP score: circular, since the same CLAP chose the examples."


def read_json(path: Path) -> dict[str, Any]:
    """Read a result of an earlier stage.

    Raises:
        ContractError: it is not there.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); run `python -m train.evaluate` first") from error


def read_log(path: Path) -> list[tuple[int, float]]:
    """Read the training losses of a run: step and loss of each line that has both."""
    lines = map(json.loads, path.read_text("utf-8").splitlines()) if path.is_file() else ()
    return [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]


def table(metrics: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Write the results as a Markdown table, a row per strategy.

    Args:
        metrics: what train.evaluate measured, by strategy.
        notes: sentences below the table.
    """
    lines = [
        "# What the examples brought",
        "",
        "Negative log-likelihood of the real target codes, nats per code; lower is better. Differences are paired by "
        "target, with a 95 % bootstrap interval; above zero, the examples helped.",
        "",
        "| strategy | targets | base, with | trained, with | without | swapped | blanked | without - with "
        "| CLAP generated | real audio | shuffled captions |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, values in metrics.items():
        trained, clap = values["trained"], values.get("clap_score") or {}
        cells = [name, str(values["num_targets"]), _number(values["base"]["with_examples"])]
        cells += [_number(trained[condition]) for condition in CONDITIONS]
        cells.append(_interval(trained["minus_with_examples"]["without_examples"]))
        cells += [_number(clap.get(n)) for n in ("generated", "anchor_real_audio", "anchor_shuffled_captions")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return "-"
    return f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"


def loss_plot(logs: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Draw training loss over steps, a line per strategy.

    Returns:
        A PNG, the same bytes for the same numbers.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="training loss, nats per code", title="Training loss")
    for name, log in logs.items():
        axes.plot([step for step, _ in log], [loss for _, loss in log], label=name)
    axes.legend()
    return _png(figure)


def nll_plot(metrics: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draw what taking the examples away, or spoiling them, adds to the loss of the real targets.

    Points are means over targets of the paired differences, bars their 95 % bootstrap intervals; where a bar holds
    zero, nothing is shown.

    Returns:
        A PNG, the same bytes for the same numbers.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(ylabel="added loss, nats per code", title="Do the examples help? (above zero: yes)")
    for n, (name, values) in enumerate(metrics.items()):
        differences = values["trained"]["minus_with_examples"]
        there = [(i, differences[c]) for i, c in enumerate(CONDITIONS[1:]) if differences[c] is not None]
        axes.errorbar(
            [i + 0.12 * n for i, _ in there],
            [d["mean"] for _, d in there],
            yerr=[[d["mean"] - d["low"] for _, d in there], [d["high"] - d["mean"] for _, d in there]],
            fmt="o",
            capsize=4,
            label=name,
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(CONDITIONS) - 1), [condition.replace("_", " ") for condition in CONDITIONS[1:]])
    axes.legend(fontsize=8)
    return _png(figure)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    # Without the software entry, which names the version.
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    return out.getvalue()


def notes(project: Project, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know beside the figures."""
    models = project.section("models", ModelsParams)
    circular = any((values.get("clap_score") or {}).get("circular") is not False for values in metrics.values())
    return [DEMO_NOTE] * (models.root == DEMO_CHECKPOINTS) + [CIRCULAR_NOTE] * circular


def _sanity(project: Project) -> str:
    """Whether examples share the facts of their targets, where the demo's corpus tells them."""
    from pipeline.retrieval.sanity import check_strategies, sanity_table

    facts = project.layout.root / DEMO_FACTS
    if not facts.is_file():
        return ""
    found = check_strategies(project.layout, project.corpora(), facts)
    return f"\n## Do the strategies do what their names say?\n\n{sanity_table(found)}"


def run(args: argparse.Namespace) -> None:
    """Gather the evaluations of all strategies that the settings name."""
    project = open_project(args)
    runs = project.layout.runs
    strategies: list[str] = list(project.params.get("pack", {}).get("strategies") or [])
    metrics = {name: read_json(runs / "evaluate" / name / "metrics.json") for name in strategies}
    logs = {name: read_log(runs / name / "train_log.jsonl") for name in strategies}
    text = table(metrics, notes(project, metrics)) + _sanity(project)
    files = {
        "table.md": text.encode(),
        "metrics.json": pretty_json(metrics),
        "loss.png": loss_plot(logs),
        "nll.png": nll_plot(metrics),
    }
    out = runs / "report"
    # The folder is replaced as a whole, and train.compare keeps its table there too.
    files |= {path.name: path.read_bytes() for path in sorted(out.glob("compare.*"))}
    publish_files("report", out, work=project.layout.runs_work / "report", files=files, dry_run=project.dry_run)
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_main(run, build_parser(__doc__, prog="python -m stages.report"), argv)


if __name__ == "__main__":
    from stages.report import main

    main()
