"""Writing what strategies picked: a report of each, and all that lie there side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.data.draws import draw_caption
from pipeline.data.layout import Layout
from pipeline.data.provenance import pretty_json
from pipeline.data.shards import load_index
from pipeline.data.storage import write_bytes
from pipeline.retrieval.clips import read_texts
from pipeline.retrieval.finished import count_too_few, finished_folders, keys_of, read_examples
from pipeline.retrieval.report import ClipTable, overlap, report_picks
from pipeline.retrieval.report_tables import comparison_table, report_lines, report_table
from pipeline.retrieval.vectors import MappedClips

REPORT_FILE, TABLE_FILE = "report.json", "report.md"
OVERLAP_FILE, COMPARISON_FILE = "overlap.json", "strategies.md"


def write_report(layout: Layout, strategy: str, corpora: Sequence[str], *, mapped: MappedClips, seed: int) -> list[str]:
    """Write what a strategy picked over all corpora that lie there.

    Args:
        layout: where everything lies.
        strategy: its name.
        corpora: all that there are.
        mapped: vectors of all clips.
        seed: of the caption in use.

    Returns:
        The same in a few lines.
    """
    folders = finished_folders(layout, strategy, corpora)
    table = clip_table(layout, corpora, mapped, seed)
    examples = dict(read_examples(folders))
    found = report_picks(examples, table, strategy=strategy, num_too_few=count_too_few(folders))
    write_bytes(layout.retrieve(strategy, REPORT_FILE), pretty_json(found))
    write_bytes(layout.retrieve(strategy, TABLE_FILE), report_table(found).encode())
    return report_lines(found)


def write_overlap(layout: Layout, strategies: Sequence[str], corpora: Sequence[str]) -> list[str]:
    """Write which examples strategies have in common.

    Outside of shards/, since it tells of whatever lies there: a result of one strategy must not depend on another.

    Args:
        layout: where everything lies.
        strategies: all that there may be.
        corpora: all that there are.

    Returns:
        The same, a line for each strategy that shares examples with a later one.
    """
    folders = {name: finished_folders(layout, name, corpora) for name in strategies}
    keys = {
        name: {target: keys_of(value) for target, value in read_examples(own)} for name, own in folders.items() if own
    }
    shares = {one: {other: overlap(keys[one], keys[other]) for other in keys if other != one} for one in keys}
    reports = {name: path for name in keys if (path := layout.retrieve(name, REPORT_FILE)).is_file()}
    side_by_side = {name: json.loads(path.read_bytes()) for name, path in reports.items()}
    out = layout.run("retrieve")
    write_bytes(out / OVERLAP_FILE, pretty_json({"schema": 1, "overlap": shares}))
    write_bytes(out / COMPARISON_FILE, comparison_table(side_by_side, shares).encode())
    lines: list[str] = []
    for n, one in enumerate(keys):
        told = [f"{other} {100 * share:.0f} %" for other in list(keys)[n + 1 :] if (share := shares[one][other])]
        lines += [f"{one}: examples in common with {', '.join(told)}"] * bool(told)
    return lines


def clip_table(layout: Layout, corpora: Sequence[str], mapped: MappedClips, seed: int) -> ClipTable:
    """All clips, with author and corpus: a report also looks at what its strategy did not.

    Args:
        layout: where everything lies.
        corpora: all that there are.
        mapped: vectors of all clips.
        seed: of the caption in use.
    """
    authors, corpus_of = dict.fromkeys(mapped.keys, ""), dict.fromkeys(mapped.keys, "")
    for corpus in corpora:
        ingest, describe = layout.column("ingest", corpus), layout.column("describe", corpus)
        for entry in load_index(ingest):
            for key, text in read_texts([ingest / entry.name, describe / entry.name]):
                authors[key] = text.author(draw_caption(seed, key, len(text.captions)))
                corpus_of[key] = corpus
    return ClipTable(
        keys=mapped.keys,
        text_XD=mapped.text_XD,
        audio_XD=mapped.audio_XD,
        authors=[authors[key] for key in mapped.keys],
        corpora=[corpus_of[key] for key in mapped.keys],
        is_pool=[row < mapped.num_pool for row in range(len(mapped.keys))],
    )
