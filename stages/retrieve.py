"""Retrieve: ranks in-context examples for every clip.

In:    shards/embed, shards/split/split.json.
Out:   shards/retrieve/<strategy>/<corpus>: `examples.json`, `{"caption_index", "examples": [{"key", "score"}...]}`,
       best first; caption_index is the caption that was searched with, and that the prompt will be made from.
Drops: too_few_examples (fewer allowed train clips than `retrieve.num_examples`).

Examples come from train only, never share a group with the target at any level, never are its near-duplicate. The
query is the target's caption, for that is all that is known at inference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.data.columns import join_columns
from pipeline.data.draws import draw_caption
from pipeline.data.provenance import check_parents, file_digest, folder_digest, read_manifest
from pipeline.data.records import Drop, Reason
from pipeline.data.shards import Sample, decode_npz, encode_json
from pipeline.data.splits import SPLIT_FILE, SplitTable, read_splits
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, column_tasks, open_project
from pipeline.errors import ContractError, ParamsError

if TYPE_CHECKING:
    from pipeline.retrieval.filters import Target
    from pipeline.retrieval.index import Pool
    from pipeline.retrieval.strategies import Picks

STRATEGIES = ("random", "semantic")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveParams:
    """Section `retrieve` of params.yaml."""

    strategies: tuple[Literal["random", "semantic"], ...] = STRATEGIES
    """Strategies that `dvc repro` runs; `--strategy` runs one."""
    num_examples: int = 5
    """Examples ranked for every target; a trainer may read fewer."""
    near_duplicate_cosine: float = 0.98
    """Audio embeddings at least this close count as the same recording, and are never examples."""
    text_weight: float = 0.5
    """Weight of the candidates' captions against their audio in `semantic`: 1 is text only, 0 audio only."""
    seed: int = 0
    """Of `random`, and of the caption used where a clip has several."""
    max_drop_share: float = 0.5
    """Share of clips that may be left without examples before the stage fails."""

    def __post_init__(self) -> None:
        at_least("retrieve", self, 1, "num_examples")
        at_least("retrieve", self, 0, "near_duplicate_cosine", "max_drop_share")
        at_most("retrieve", self, 1, "max_drop_share")
        if not self.strategies:
            raise ParamsError(f"retrieve.strategies: is empty; there are: {', '.join(STRATEGIES)}")
        if not 0.0 <= self.text_weight <= 1.0:
            raise ParamsError(f"retrieve.text_weight: {self.text_weight}, must be from 0 to 1")


class RetrieveStep:
    """Rank examples for the clips of one shard; the pool is read once, from all train clips of all corpora."""

    def __init__(self, params: RetrieveParams, strategy: str, split_file: Path, pool_shards: Sequence[Path]) -> None:
        self.params, self.splits = params, read_splits(split_file)
        self.pool = _read_pool(pool_shards, self.splits, params.seed)
        self.pick = _picker(self.pool, strategy, params)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield ranked examples, or a drop, for every clip of a shard."""
        paths, limit = task.payload
        for sample in join_columns(paths, limit):
            caption_index = _caption_index(sample, self.params.seed)
            picks = self.pick(_target(sample, self.splits.group_of(sample.key), caption_index))
            if len(picks) < self.params.num_examples:
                yield Drop(sample.key, Reason.TOO_FEW_EXAMPLES, f"{len(picks)} allowed train clips")
            else:
                examples = [{"key": self.pool.keys[row], "score": round(score, 6)} for row, score in picks]
                value = {"caption_index": caption_index, "examples": examples}
                yield Sample(sample.key, {"examples.json": encode_json(value)})


def _target(sample: Sample, group: str, caption_index: int) -> Target:
    from pipeline.retrieval.filters import Target
    from pipeline.retrieval.index import stack_unit

    vectors = decode_npz(sample.members["clap.npz"])
    query_D, audio_D = stack_unit([vectors["text"][caption_index], vectors["audio"]], 0)
    return Target(sample.key, group, query_D, audio_D)


def _caption_index(sample: Sample, seed: int) -> int:
    return draw_caption(seed, sample.key, len(decode_npz(sample.members["clap.npz"])["text"]))


def _read_pool(shards: Sequence[Path], splits: SplitTable, seed: int) -> Pool:
    from pipeline.retrieval.index import Pool, stack_unit

    train = {
        sample.key: sample
        for path in shards
        for sample in join_columns([path])
        if splits.split_of(sample.key) == "train"
    }
    # Key order, so that nothing depends on the order of corpora and shards.
    keys = sorted(train)
    if not keys:
        raise ContractError("retrieve: no train clips to choose examples from; see shards/split/split.json")
    vectors = [decode_npz(train[key].members["clap.npz"]) for key in keys]
    texts = [v["text"][_caption_index(train[key], seed)] for key, v in zip(keys, vectors, strict=True)]
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(splits.group_of(key), []).append(row)
    dim = len(vectors[0]["audio"])
    return Pool(keys, groups, stack_unit([v["audio"] for v in vectors], dim), stack_unit(texts, dim))


def _picker(pool: Pool, strategy: str, params: RetrieveParams) -> Callable[[Target], Picks]:
    from pipeline.retrieval.strategies import random_picker, semantic_picker

    common: dict[str, Any] = {
        "num_examples": params.num_examples,
        "near_duplicate_cosine": params.near_duplicate_cosine,
    }
    if strategy == "random":
        return random_picker(pool, **common, seed=params.seed)
    return semantic_picker(pool, **common, text_weight=params.text_weight)


def retrieve_corpus(project: Project, corpus: str, strategy: str) -> None:
    """Rank examples for all clips of one corpus."""
    params = project.section("retrieve", RetrieveParams)
    layout, corpora = project.layout, project.corpora()
    split_file = layout.split() / SPLIT_FILE
    embeds = {name: layout.column("embed", name) for name in corpora}
    pool_shards = [task.payload[0][0] for folder in embeds.values() for task in column_tasks([folder])]
    out = layout.retrieve(strategy, corpus)
    settings = lasting(params) | {"strategy": strategy}
    del settings["strategies"]
    ingested = {name: folder_digest(layout.column("ingest", name)) for name in corpora}
    check_parents(split_file, ingested, stage="python -m stages.split")
    for name in corpora:
        check_parents(embeds[name], {"ingest": ingested[name]}, stage="python -m stages.embed")
    project.run(
        Job(
            stage=f"retrieve {strategy}",
            modules=["stages.retrieve"],
            out=out,
            work=layout.work_of(out),
            tasks=column_tasks([embeds[corpus]], project.limit),
            make_step=partial(RetrieveStep, params, strategy, split_file, pool_shards),
            params=settings,
            parents={"split": file_digest(split_file)}
            | {f"embed/{name}": folder_digest(folder) for name, folder in embeds.items()},
            packages=("faiss-cpu", "numpy"),
            models={"embedder": read_manifest(embeds[corpus])["models"]["embedder"]},
            max_drop_share=params.max_drop_share,
            may_be_empty=False,
        )
    )


def run(args: argparse.Namespace) -> None:
    """Run the strategies and corpora that the flags and settings name."""
    project = open_project(args)
    strategies = [args.strategy] if args.strategy else project.section("retrieve", RetrieveParams).strategies
    for strategy in strategies:
        for corpus in project.corpora(args.corpus):
            retrieve_corpus(project, corpus, strategy)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.retrieve")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this one of retrieve.strategies")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.retrieve import main

    main()
