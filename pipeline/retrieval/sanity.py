"""Do strategies do what their names say? Their examples against facts that none of them has seen.

Facts come from a table of the corpus itself, such as the demo's `demo_facts.csv`: what was played, not what a caption
or a measurement says of it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.draws import draw_caption
from pipeline.data.layout import Layout
from pipeline.data.provenance import pretty_json, read_manifest
from pipeline.data.shards import ShardFile, decode_json, load_index
from pipeline.data.storage import write_bytes
from pipeline.errors import ContractError, ParamsError
from pipeline.retrieval.clips import read_texts
from pipeline.retrieval.facts import Facts, join_facts, tempo_band
from pipeline.retrieval.finished import finished_folders, keys_of, read_examples
from pipeline.retrieval.guesses import GUESSES_FILE, read_sure_facts
from pipeline.retrieval.structured import Rule, obeys

COLUMNS = ("mode", "instrument", "bpm", "texture", "form")
"""Columns of the table that are compared, as far as it has them; bpm by band."""
_NUM_DRAWS = 2000
Known = Mapping[str, Mapping[str, str]]
"""Facts by key; a clip that nothing is known of is absent."""
Examples = Mapping[str, Mapping[str, Any]]
"""Content of `examples.json` by target's key."""


def compare(examples: Mapping[str, Examples], known: Known) -> dict[str, dict[str, Any]]:
    """Count the facts that examples share with their target, and that the examples of a target cover.

    Args:
        examples: by strategy; ratios are to `random`, where that is among them.
        known: what was played.

    Returns:
        By strategy: `targets`; `shared`, facts that an example has in common with its target, mean; `ratio` of that to
        random's with `low` and `high`, the 95 % bootstrap interval over targets; `covered`, different facts among the
        examples of a target, mean; `score`, mean likeness to the prompt as the strategy scores it.
    """
    targets = sorted(
        target
        for target in set.intersection(*(set(own) for own in examples.values()))
        if target in known and all(set(keys_of(own[target])) & known.keys() for own in examples.values())
    )
    shared = {name: _shared(own, targets, known) for name, own in examples.items()}
    return {
        name: {
            "targets": len(targets),
            "shared": _mean(shared[name]),
            **(_ratio(shared[name], shared["random"]) if "random" in shared and len(targets) else {}),
            "covered": _mean([_covered(own[target], known) for target in targets]),
            "score": _mean([e["score"] for target in targets for e in own[target]["examples"]]),
        }
        for name, own in examples.items()
    }


def _shared(own: Examples, targets: Sequence[str], known: Known) -> list[float]:
    def of_target(target: str) -> float:
        others = [known[key] for key in keys_of(own[target]) if key in known]
        return float(np.mean([len(known[target].items() & other.items()) for other in others]))

    return [of_target(target) for target in targets]


def _covered(value: Mapping[str, Any], known: Known) -> int:
    return len({item for key in keys_of(value) if key in known for item in known[key].items()})


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    one_B, other_B = np.array(one), np.array(other)
    draws = np.random.default_rng(0).integers(len(one_B), size=(_NUM_DRAWS, len(one_B)))
    ratios: NDArray[np.float64] = one_B[draws].mean(axis=1) / np.maximum(other_B[draws].mean(axis=1), 1e-9)
    low, high = np.quantile(ratios, [0.025, 0.975])
    values = {"ratio": one_B.mean() / max(other_B.mean(), 1e-9), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in values.items()}


def check_rules(examples: Examples, facts: Mapping[str, Facts], *, min_values: int) -> dict[str, Any]:
    """Check the sets of `structured` against the facts that it read, by code that did not make them.

    Args:
        examples: what `structured` picked.
        facts: of the examples, as retrieval reads them.
        min_values: `retrieve.min_values`.
    """
    ruled = {target: value for target, value in examples.items() if value.get("rule")}
    breaking = [
        target
        for target, value in sorted(ruled.items())
        if not obeys(
            Rule(value["shared"], value["varied"]), [facts[key] for key in keys_of(value)], min_values=min_values
        )
    ]
    return {
        "sets": len(ruled),
        "obeying": len(ruled) - len(breaking),
        "breaking": breaking[:5],
        "fallback_share": round(1 - len(ruled) / max(len(examples), 1), 4),
    }


def check_strategies(layout: Layout, corpora: Sequence[str], table: Path) -> dict[str, Any]:
    """Compare all strategies that lie in shards/retrieve with a table of facts, and check the rules of `structured`.

    Args:
        layout: where everything lies.
        corpora: names.
        table: CSV whose first column names tracks as their corpus does.

    Raises:
        ContractError: no strategy has run.
        ParamsError: the table cannot be read, or knows no track of these corpora.
    """
    folders = {
        path.name: own
        for path in sorted((layout.shards / "retrieve").glob("*"))
        if (own := finished_folders(layout, path.name, corpora))
    }
    if not folders:
        raise ContractError(
            f"{layout.shards / 'retrieve'}: no examples to compare; run `python -m stages.retrieve` first"
        )
    examples = {name: dict(read_examples(own)) for name, own in folders.items()}
    known = read_known(layout, corpora, table)
    found: dict[str, Any] = {"schema": 1, "facts": list(COLUMNS), "strategies": compare(examples, known)}
    if "structured" in examples:
        params = read_manifest(folders["structured"][0])["params"]
        guessed = read_sure_facts(layout.retrieve("structured", GUESSES_FILE))
        facts = _pool_facts(layout, corpora, params["seed"], guessed=guessed)
        found["rules"] = check_rules(examples["structured"], facts, min_values=params["min_values"])
    return found


def write_check(layout: Layout, corpora: Sequence[str], table: Path) -> str:
    """Write what `check_strategies` finds as json and as a table; gives the table."""
    found = check_strategies(layout, corpora, table)
    out, told = layout.run("retrieve"), sanity_table(found)
    write_bytes(out / "facts.json", pretty_json(found))
    write_bytes(out / "facts.md", f"# Strategies and facts\n\n{told}".encode())
    return told


def read_known(layout: Layout, corpora: Sequence[str], table: Path) -> dict[str, dict[str, str]]:
    """Read a table of facts, by key of the clips; raises as `check_strategies`."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        by_track = {row[next(iter(row))]: _facts_of_row(row) for row in rows}
    except (OSError, ValueError) as error:
        raise ParamsError(f"--facts {table}: cannot be read ({error}); name a CSV with a header") from error
    found: dict[str, dict[str, str]] = {}
    for folder in (layout.column("ingest", corpus) for corpus in corpora):
        for entry in load_index(folder):
            for sample in ShardFile(folder / entry.name):
                facts = by_track.get(decode_json(sample.members["json"])["track"])
                found |= {sample.key: facts} if facts else {}
    if not found:
        raise ParamsError(
            f"--facts {table}: knows no track of {', '.join(corpora)}, or none of the columns {', '.join(COLUMNS)}"
        )
    return found


def _facts_of_row(row: Mapping[str, str]) -> dict[str, str]:
    told = {name: row[name] for name in COLUMNS if row.get(name)}
    return told | ({"bpm": tempo_band(float(told["bpm"]))} if "bpm" in told else {})


def _pool_facts(layout: Layout, corpora: Sequence[str], seed: int, *, guessed: Mapping[str, Facts]) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for corpus in corpora:
        ingest, describe = layout.column("ingest", corpus), layout.column("describe", corpus)
        for entry in load_index(ingest):
            for key, text in read_texts([ingest / entry.name, describe / entry.name]):
                told = text.pool_facts(draw_caption(seed, key, len(text.captions)))
                found[key] = join_facts([told, guessed.get(key, {})])
    return found


def sanity_table(found: Mapping[str, Any]) -> str:
    """Write the comparison in Markdown."""
    lines = [
        f"Facts compared: {', '.join(found['facts'])}; what was played, not what is written about it.",
        "",
        "| strategy | targets | facts shared with target | times random's (95 %) | different facts covered | score |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in found["strategies"].items():
        ratio = f"{own['ratio']:.2f} ({own['low']:.2f} to {own['high']:.2f})" if "ratio" in own else "-"
        cells = ["-" if own[what] is None else f"{own[what]:.2f}" for what in ("shared", "covered", "score")]
        lines.append(f"| {name} | {own['targets']} | {cells[0]} | {ratio} | {cells[1]} | {cells[2]} |")
    if rules := found.get("rules"):
        lines += ["", f"Sets of `structured` that obey their rule: {rules['obeying']} of {rules['sets']}; "]
        lines[-1] += f"{100 * rules['fallback_share']:.0f} % of the targets fell back."
    return "\n".join([*lines, ""])
