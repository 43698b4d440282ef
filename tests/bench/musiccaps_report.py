"""Strategies on the captions of MusicCaps: whose phrasing they follow, whom they use, what they have in common.

    python -m tests.bench.musiccaps_report musiccaps-public.csv --into docs/retrieve.md
    python -m tests.bench.musiccaps_report musiccaps-public.csv --clap CHECKPOINT_FOLDER --into docs/retrieve.md

Targets are the captions of the evaluation half, the pool those of the training half; there is no audio. Vectors are
TF-IDF's, or those of a CLAP's text tower.
"""

from __future__ import annotations

import argparse
import ast
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.retrieval.clips import ClipText
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Float32, Pool
from pipeline.retrieval.report import ClipTable, overlap, report_picks
from pipeline.retrieval.strategies import STRATEGIES, PickParams, Picks

NAMES = ("random", "semantic", "diverse", "structured")
VARIANTS: dict[str, dict[str, Any]] = {
    "no limit": {},
    "max_per_author 1": {"max_per_author": 1},
    "other_authors_only": {"other_authors_only": True},
}
HEADS = (
    *("strategy", "limit", "same author, of 5", "nearest", "chance", "pool used", "most used", "Gini", "cosine"),
    *("fell back", "as semantic"),
)


def read_rows(path: Path) -> tuple[list[dict[str, str]], int]:
    """Rows of MusicCaps' table, those of the training half first, and how many these are."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (row["is_audioset_eval"] == "True", row["ytid"]))
    return rows, sum(row["is_audioset_eval"] != "True" for row in rows)


def tfidf_vectors(texts: Sequence[str]) -> Float32:
    """Unit TF-IDF vectors [X, D], a dimension for each word that at least three texts have."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, min_df=3).fit_transform(texts).toarray().astype(np.float32)


def clap_vectors(texts: Sequence[str], folder: str) -> Float32:
    """Unit vectors [X, D] of a CLAP's text tower."""
    from pipeline.models.clap import load_embedder

    embedder = load_embedder(folder, device="cpu", batch_size=64)
    parts = [embedder.embed_text(list(texts[start : start + 64])) for start in range(0, len(texts), 64)]
    vectors_XD = np.concatenate(parts).astype(np.float32)
    return vectors_XD / np.linalg.norm(vectors_XD, axis=1, keepdims=True)


def build(rows: Sequence[dict[str, str]], num_pool: int, vectors_XD: Float32) -> tuple[Pool, list[Target], ClipTable]:
    """The pool, the targets, and what a report wants; where audio is asked for, the text stands in."""
    keys = [f"musiccaps-{n:04d}" for n in range(len(rows))]
    authors = [row["author_id"] for row in rows]
    texts = [
        ClipText([{"text": row["caption"], "source": "human"}], ast.literal_eval(row["aspect_list"]), {})
        for row in rows
    ]
    pool = Pool(
        keys[:num_pool],
        {},
        vectors_XD[:num_pool],
        vectors_XD[:num_pool],
        captions=[row["caption"] for row in rows[:num_pool]],
        authors=authors[:num_pool],
        facts=[text.pool_facts(0) for text in texts[:num_pool]],
        mixed_by_weight={1.0: vectors_XD[:num_pool]},
    )
    targets = [
        Target(
            keys[n],
            "",
            vectors_XD[n],
            vectors_XD[n],
            texts[n].prompt_facts(0, with_aspects=False),
            authors[n],
        )
        for n in range(num_pool, len(rows))
    ]
    table = ClipTable(
        keys=keys,
        text_XD=vectors_XD,
        audio_XD=np.zeros((len(rows), 1), np.float32),
        authors=authors,
        corpora=["musiccaps"] * len(rows),
        is_pool=[n < num_pool for n in range(len(rows))],
    )
    return pool, targets, table


def as_examples(picks: Picks, pool: Pool) -> dict[str, Any]:
    """What `examples.json` would say."""
    value: dict[str, Any] = {"examples": [{"key": pool.keys[row], "score": score} for row, score in picks.ranked]}
    return value | ({"fallback": {"to": picks.fallback, "why": picks.why}} if picks.fallback else {})


def report_rows(pool: Pool, targets: Sequence[Target], table: ClipTable) -> list[str]:
    """A line of the table for every strategy and limit."""
    lines: list[str] = []
    for variant, limits in VARIANTS.items():
        params = PickParams(text_weight=1.0, near_duplicate_cosine=2.0, **limits)
        semantic: dict[str, list[str]] = {}
        by_name: dict[str, str] = {}
        for name in sorted(NAMES, key=lambda name: name != "semantic"):
            picks = STRATEGIES[name](pool, params).many(targets)
            examples = {t.key: as_examples(p, pool) for t, p in zip(targets, picks, strict=True)}
            keys = {target: [e["key"] for e in value["examples"]] for target, value in examples.items()}
            semantic = semantic or keys
            report = report_picks(examples, table, strategy=name, num_too_few=0)
            author, reuse = report["same_author"], report["reuse"]
            cells = [
                name,
                variant,
                *(f"{100 * author[what]:.0f} %" for what in ("rate", "nearest_rate", "chance")),
                f"{100 * reuse['used'] / report['pool']:.0f} %",
                str(reuse["most_used_times"]),
                f"{reuse['gini']:.2f}",
                f"{report['similarity']['text_text']['mean']:.3f}",
                f"{100 * report['fallbacks']['share']:.0f} %" if name == "structured" else "-",
                f"{100 * (overlap(keys, semantic) or 0):.0f} %",
            ]
            by_name[name] = f"| {' | '.join(cells)} |"
        lines += [by_name[name] for name in NAMES]
    return lines


def write_into(path: Path, name: str, text: str) -> None:
    """Put a text between the two marks of its name in a page."""
    page = path.read_text("utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.split(begin)
    path.write_text(f"{before}{begin}{text}{end}{rest.split(end)[1]}", "utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.musiccaps_report", description=__doc__)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--clap", metavar="FOLDER", help="checkpoint of a CLAP; without it TF-IDF")
    parser.add_argument("--limit", type=int, help="only so many of either half")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="page with the marks <!-- tf-idf --> or <!-- clap -->"
    )
    args = parser.parse_args(argv)
    rows, num_pool = read_rows(args.csv)
    if args.limit:
        rows, num_pool = rows[: args.limit] + rows[num_pool : num_pool + args.limit], args.limit
    texts = [row["caption"] for row in rows]
    vectors_XD = clap_vectors(texts, args.clap) if args.clap else tfidf_vectors(texts)
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}", *report_rows(*build(rows, num_pool, vectors_XD))]
    text = "\n".join([*lines, ""])
    print(f"{len(rows) - num_pool} targets, {num_pool} clips in the pool\n{text}", end="")
    if args.into:
        write_into(args.into, "clap" if args.clap else "tf-idf", text)


if __name__ == "__main__":
    main()
