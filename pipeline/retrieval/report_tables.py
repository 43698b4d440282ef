"""Reports of retrieval for people: lines for a terminal, tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = {
    "text_text": "prompt and example's caption",
    "text_audio": "prompt and example's audio",
    "audio_audio": "target's and example's audio",
}
ORACLE_NOTE = "uses the target's audio: an upper bound"


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Say a report in a few lines for a terminal."""
    name = f"{report['strategy']} ({ORACLE_NOTE})"
    name = name if report["uses_target_audio"] else report["strategy"]
    similarity = ", ".join(
        f"{kind} {values['mean']:.3f} ({values['p5']:.3f} to {values['p95']:.3f})"
        for kind, values in report["similarity"].items()
        if values
    )
    reuse, author, corpus = report["reuse"], report["same_author"], report["same_corpus"]
    lines = [
        f"{name}: {report['targets']} targets, {report['targets_without_enough']} without enough examples",
        f"{name}: likeness, mean (5 to 95 %): {similarity}",
        f"{name}: {reuse['used']} of {report['pool']} pool clips used, {reuse['most_used']} {reuse['most_used_times']} "
        f"times, Gini {reuse['gini']:.2f}",
    ]
    lines += [
        f"{name}: same {what} in {100 * same['rate']:.0f} % of {same['pairs']} pairs, by chance "
        f"{100 * same['chance']:.0f} %"
        for what, same in (("author", author), ("corpus", corpus))
        if same["pairs"]
    ]
    share = report["fallbacks"]["share"]
    told = "; ".join(f"{count} to {to}" for to, count in report["fallbacks"]["to"].items())
    return lines + [f"{name}: {100 * share:.0f} % of the targets fell back: {told}"] * bool(told)


def report_table(report: Mapping[str, Any]) -> str:
    """Write a report in Markdown."""
    reuse, fallbacks = report["reuse"], report["fallbacks"]
    note = f" ({ORACLE_NOTE})" if report["uses_target_audio"] else ""
    lines = [f"# Examples by {report['strategy']}{note}", "", "| what | figure |", "|---|---|"]
    rows = {
        "targets": report["targets"],
        "targets without enough examples": f"{report['targets_without_enough']} (`drops.jsonl` names them)",
        "clips in the pool, used": f"{reuse['used']} of {report['pool']}",
        "most used": f"{reuse['most_used']}, {reuse['most_used_times']} times",
        "Gini of use": _number(reuse["gini"]),
        "targets that fell back": _percent(fallbacks["share"]),
    }
    rows |= {f"fell back to {to}": times for to, times in fallbacks["to"].items()}
    rows |= {f"sets that vary the {name}": times for name, times in report["varied"].items()}
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "| likeness (cosine) | mean | 5 % | median | 95 % |", "|---|---|---|---|---|"]
    lines += [
        f"| {KINDS[kind]} | {' | '.join(_number(values.get(name)) for name in ('mean', 'p5', 'p50', 'p95'))} |"
        for kind, values in report["similarity"].items()
    ]
    lines += ["", "| the same | pairs | all examples | the nearest | by chance |", "|---|---|---|---|---|"]
    for what in ("author", "corpus"):
        same = report[f"same_{what}"]
        cells = (_percent(same.get(name)) for name in ("rate", "nearest_rate", "chance"))
        lines.append(f"| {what} | {same['pairs']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def comparison_table(
    reports: Mapping[str, Mapping[str, Any]], overlap: Mapping[str, Mapping[str, float | None]]
) -> str:
    """Write strategies side by side in Markdown.

    Args:
        reports: by strategy.
        overlap: share of examples in common, by two strategies.
    """
    heads = (
        *("targets", "without enough", "fell back", "text-text", "text-audio", "audio-audio", "pool used", "most used"),
        *("Gini", "same author", "nearest", "chance", "same corpus", "chance"),
    )
    lines = ["# Strategies side by side", "", _row("strategy", *heads), _row(*["---"] * (len(heads) + 1))]
    lines += [_row(name, *_comparison_cells(report)) for name, report in reports.items()]
    notes = [f"`{name}` {ORACLE_NOTE}." for name, report in reports.items() if report["uses_target_audio"]]
    lines += ["", *notes, "", "Examples in common, mean over the targets:", ""]
    lines += [_row("", *overlap), _row(*["---"] * (len(overlap) + 1))]
    lines += [
        _row(one, *("" if one == other else _percent(shares.get(other)) for other in overlap))
        for one, shares in overlap.items()
    ]
    return "\n".join([*lines, ""])


def _comparison_cells(report: Mapping[str, Any]) -> list[str]:
    reuse, author, corpus = report["reuse"], report["same_author"], report["same_corpus"]
    return [
        str(report["targets"]),
        str(report["targets_without_enough"]),
        _percent(report["fallbacks"]["share"]),
        *(_number(values.get("mean")) for values in report["similarity"].values()),
        _percent(reuse["used"] / report["pool"]),
        str(reuse["most_used_times"]),
        _number(reuse["gini"]),
        *(_percent(author.get(name)) for name in ("rate", "nearest_rate", "chance")),
        *(_percent(corpus.get(name)) for name in ("rate", "chance")),
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
