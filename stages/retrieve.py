"""Retrieve: ranks in-context examples for every clip, or for a prompt that you type.

In:    shards/embed, shards/split/split.json; shards/ingest and shards/describe for what the captions tell.
Out:   shards/retrieve/<strategy>/<corpus>: `examples.json`, `{"caption_index", "examples": [{"key", "score"}...]}`,
       best first; caption_index is the caption that was searched with, and that the prompt will be made from.
       `structured` adds `rule`, in words, with `shared` and `varied`; or `fallback`, to which strategy and why.
       shards/retrieve/<strategy>/report.json: likeness, reuse, authors, corpora, fall-backs over all corpora.
       runs/retrieve/overlap.json: examples that strategies have in common, of all that lie in shards/retrieve.
Drops: too_few_examples (fewer allowed train clips than `retrieve.num_examples`).

Examples come from train only, never share a group with the target at any level, never are its near-duplicate. The
query is the target's caption, for that is all that is known at inference: `structured` too reads the target's facts
from that text alone. `oracle` looks at the target's audio; it is an upper bound and says so in manifest and report.

    python -m stages.retrieve --query "slow shakuhachi, sparse" --strategy diverse -k 3
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import join_columns
from pipeline.data.provenance import check_parents, file_digest, folder_digest, pretty_json, read_manifest
from pipeline.data.records import Drop, Reason
from pipeline.data.shards import INDEX_NAME, Sample, ShardFile, decode_json, encode_json, load_index
from pipeline.data.splits import SPLIT_FILE, read_splits
from pipeline.data.storage import write_bytes
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, column_tasks, open_project
from pipeline.errors import ContractError, ParamsError

if TYPE_CHECKING:
    from pipeline.retrieval.report import ClipTable
    from pipeline.retrieval.strategies import PickParams, Picks

Strategy = Literal["random", "semantic", "diverse", "structured", "oracle"]
STRATEGIES: tuple[Strategy, ...] = ("random", "semantic", "diverse", "structured", "oracle")
READ_FACTS = frozenset({"structured"})
"""Strategies that read what captions, tags and describe tell."""
READ_TARGET_AUDIO = frozenset({"oracle"})
REPORT_FILE, OVERLAP_FILE, QUERY_FILE = "report.json", "overlap.json", "query.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveParams:
    """Section `retrieve` of params.yaml."""

    strategies: tuple[Strategy, ...] = ("random", "semantic")
    """Strategies that `dvc repro` runs; `--strategy` runs one. `oracle` is an upper bound that cheats."""
    num_examples: int = 5
    """Examples ranked for every target; a trainer may read fewer."""
    near_duplicate_cosine: float = 0.98
    """Audio embeddings at least this close count as the same recording, and are never examples."""
    text_weight: float = 0.5
    """Weight of the candidates' captions against their audio in the likeness to a prompt: 1 is text only, 0 audio."""
    diverse_rule: Literal["mmr", "farthest_first"] = "mmr"
    """How `diverse` picks among its candidates: by maximal marginal relevance, or the one farthest from all picks."""
    mmr_lambda: float = 0.7
    """Weight of likeness to the prompt against unlikeness to the other picks: 1 is `semantic`, 0 farthest-first."""
    num_candidates: int = 64
    """Nearest clips among which `diverse` picks."""
    min_values: int = 2
    """Examples of a `structured` set that must differ in the attribute that changes; the further ones as far as
    the pool goes."""
    use_target_aspects: bool = False
    """Whether `structured` reads, beside the target's caption, the tags of its annotator: more targets find a set,
    by facts that nobody gives at inference."""
    max_per_author: int = 0
    """Most examples whose captions have the same author; 0 for no limit. The nearest caption of MusicCaps is by the
    target's annotator in 85 % of cases: a limit keeps phrasing from passing for meaning."""
    seed: int = 0
    """Of `random`, and of the caption used where a clip has several."""
    max_drop_share: float = 0.5
    """Share of clips that may be left without examples before the stage fails."""

    def __post_init__(self) -> None:
        at_least("retrieve", self, 1, "num_examples", "num_candidates", "min_values")
        shares = ("max_drop_share", "mmr_lambda")
        at_least("retrieve", self, 0, "near_duplicate_cosine", "max_per_author", *shares)
        at_most("retrieve", self, 1, *shares)
        if not self.strategies:
            raise ParamsError(f"retrieve.strategies: is empty; there are: {', '.join(STRATEGIES)}")
        if not 0.0 <= self.text_weight <= 1.0:
            raise ParamsError(f"retrieve.text_weight: {self.text_weight}, must be from 0 to 1")


def pick_params(params: RetrieveParams) -> PickParams:
    """Take the settings that the strategies need."""
    from pipeline.retrieval.strategies import PickParams

    return PickParams(**{field.name: getattr(params, field.name) for field in fields(PickParams)})


class RetrieveStep:
    """Rank examples for the clips of one shard; the pool is read once, from all train clips of all corpora."""

    def __init__(
        self, params: RetrieveParams, strategy: str, split_file: Path, pool_shards: Sequence[Sequence[Path]]
    ) -> None:
        from pipeline.retrieval import clips, strategies

        self.params, self.clips, self.splits = params, clips, read_splits(split_file)
        self.pool = clips.read_pool(pool_shards, self.splits, params.seed)
        self.pick = strategies.STRATEGIES[strategy](self.pool, pick_params(params))

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield ranked examples, or a drop, for every clip of a shard."""
        (embed, *written), limit = task.payload
        texts = dict(self.clips.read_texts(written)) if written else {}
        for sample in join_columns([embed], limit):
            clip = self.clips.read_vectors(sample, self.params.seed)
            facts = (
                texts[clip.key].prompt_facts(clip.caption_index, with_aspects=self.params.use_target_aspects)
                if texts
                else None
            )
            picks = self.pick(self.clips.make_target(clip, self.splits.group_of(clip.key), facts))
            if len(picks.ranked) < self.params.num_examples:
                yield Drop(clip.key, Reason.TOO_FEW_EXAMPLES, f"{len(picks.ranked)} allowed train clips")
            else:
                value = {"caption_index": clip.caption_index} | self._value(picks)
                yield Sample(clip.key, {"examples.json": encode_json(value)})

    def _value(self, picks: Picks) -> dict[str, Any]:
        value: dict[str, Any] = {
            "examples": [{"key": self.pool.keys[row], "score": round(score, 6)} for row, score in picks.ranked]
        }
        if picks.rule:
            value |= {"rule": picks.rule.words(), "shared": picks.rule.shared, "varied": picks.rule.varied}
        if picks.fallback:
            value |= {"rule": "", "fallback": {"to": picks.fallback, "why": picks.why}}
        return value


def _column_tasks(project: Project, corpus: str, columns: Sequence[str], limit: int | None = None) -> list[Task]:
    return column_tasks([project.layout.column(column, corpus) for column in columns], limit)


def _check_inputs(project: Project, columns: Sequence[str]) -> dict[str, str]:
    """Check that all inputs were made from what lies there now; gives their digests by name."""
    layout, corpora = project.layout, project.corpora()
    ingested = {name: folder_digest(layout.column("ingest", name)) for name in corpora}
    check_parents(layout.split() / SPLIT_FILE, ingested, stage="python -m stages.split")
    for column in columns:
        for name in corpora if column != "ingest" else ():
            folder = layout.column(column, name)
            check_parents(folder, {"ingest": ingested[name]}, stage=f"python -m stages.{column}")
    digests = {f"{c}/{name}": folder_digest(layout.column(c, name)) for c in columns for name in corpora}
    return {"split": file_digest(layout.split() / SPLIT_FILE)} | digests


def retrieve_corpus(project: Project, corpus: str, strategy: str) -> None:
    """Rank examples for all clips of one corpus."""
    params = project.section("retrieve", RetrieveParams)
    layout = project.layout
    reads_texts = strategy in READ_FACTS or params.max_per_author > 0
    columns = ("embed", "ingest", "describe") if reads_texts else ("embed",)
    pool_shards = [task.payload[0] for name in project.corpora() for task in _column_tasks(project, name, columns)]
    out = layout.retrieve(strategy, corpus)
    settings = lasting(params) | {"strategy": strategy}
    del settings["strategies"]
    project.run(
        Job(
            stage=f"retrieve {strategy}",
            modules=["stages.retrieve"],
            out=out,
            work=layout.work_of(out),
            tasks=_column_tasks(project, corpus, columns, project.limit),
            make_step=partial(RetrieveStep, params, strategy, layout.split() / SPLIT_FILE, pool_shards),
            params=settings,
            parents=_check_inputs(project, columns),
            packages=("faiss-cpu", "numpy"),
            models={"embedder": read_manifest(layout.column("embed", corpus))["models"]["embedder"]},
            notes={"uses_target_audio": strategy in READ_TARGET_AUDIO},
            max_drop_share=params.max_drop_share,
            may_be_empty=False,
        )
    )


# --- reports ---------------------------------------------------------------------------------------------------------


def _read_examples(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    shards = (ShardFile(folder / entry.name) for folder in folders for entry in load_index(folder))
    return {sample.key: decode_json(sample.members["examples.json"]) for shard in shards for sample in shard}


def _clip_table(project: Project, seed: int) -> ClipTable:
    """Read all clips: a report also looks at what their strategy did not."""
    from pipeline.retrieval import clips, report

    splits = read_splits(project.layout.split() / SPLIT_FILE)
    vectors: list[clips.ClipVectors] = []
    authors: list[str] = []
    corpora: list[str] = []
    for corpus in project.corpora():
        for task in _column_tasks(project, corpus, ("embed", "ingest", "describe")):
            embed, *written = task.payload[0]
            texts = dict(clips.read_texts(written))
            found = [clips.read_vectors(sample, seed) for sample in ShardFile(embed)]
            vectors += found
            authors += [texts[clip.key].captions[clip.caption_index].get("author", "") for clip in found]
            corpora += [corpus] * len(found)
    return report.ClipTable(
        keys=[clip.key for clip in vectors],
        text_XD=np.stack([clip.text_D for clip in vectors]),
        audio_XD=np.stack([clip.audio_D for clip in vectors]),
        authors=authors,
        corpora=corpora,
        is_pool=[splits.split_of(clip.key) == "train" for clip in vectors],
    )


def report_strategy(project: Project, strategy: str) -> None:
    """Write what a strategy picked over all corpora that lie there, and say it."""
    from pipeline.retrieval.report import report_lines, report_picks

    layout = project.layout
    folders = _folders(project, strategy)
    too_few = sum(read_manifest(folder)["counts"]["dropped"].get(Reason.TOO_FEW_EXAMPLES, 0) for folder in folders)
    table = _clip_table(project, project.section("retrieve", RetrieveParams).seed)
    report = report_picks(_read_examples(folders), table, strategy=strategy, num_too_few=too_few)
    write_bytes(layout.retrieve(strategy, REPORT_FILE), pretty_json(report))
    print("\n".join(f"retrieve {line}" for line in report_lines(report)))


def _folders(project: Project, strategy: str) -> list[Path]:
    folders = (project.layout.retrieve(strategy, name) for name in project.corpora())
    return [folder for folder in folders if (folder / INDEX_NAME).is_file()]


def report_overlap(project: Project) -> None:
    """Write which examples strategies have in common.

    Outside of shards/, since it tells of whatever lies there: a result of one strategy must not depend on another.
    """
    from pipeline.retrieval.report import overlap

    found = {name: _read_examples(folders) for name in STRATEGIES if (folders := _folders(project, name))}
    keys = {
        name: {target: [example["key"] for example in value["examples"]] for target, value in values.items()}
        for name, values in found.items()
    }
    shares = {one: {other: overlap(keys[one], keys[other]) for other in keys if other != one} for one in keys}
    write_bytes(project.layout.run("retrieve") / OVERLAP_FILE, pretty_json({"schema": 1, "overlap": shares}))
    for n, one in enumerate(keys):
        told = [f"{other} {100 * share:.0f} %" for other in list(keys)[n + 1 :] if (share := shares[one][other])]
        if told:
            print(f"retrieve {one}: examples in common with {', '.join(told)}")


# --- a prompt --------------------------------------------------------------------------------------------------------


def _embed_prompt(project: Project, text: str) -> NDArray[np.float32]:
    """Embed a prompt by the model that embedded the pool.

    Raises:
        ContractError: the settings name another model.
    """
    from pipeline.models.clap_prompt import embed_prompt

    # By name: no shard depends on these modules, so that a change in them must not make shards anew.
    places = importlib.import_module("pipeline.models.places")
    models = project.section("models", places.ModelsParams)
    source = places.place(models, project.layout.root, "embedder")
    stamp = places.checkpoint_stamp(source, models.embedder)
    for corpus in project.corpora():
        folder = project.layout.column("embed", corpus)
        if read_manifest(folder)["models"]["embedder"] != stamp:
            raise ContractError(f"{folder}: was embedded by another model than models.embedder; run stages.embed again")
    vector_D = embed_prompt(Path(source), text)
    if vector_D is not None:
        return vector_D
    clap = importlib.import_module("pipeline.models.clap")
    return clap.load_embedder(source, device=models.device).embed_text([text])[0]


def answer_query(project: Project, text: str, *, strategy: str, num_examples: int, out: Path) -> None:
    """Print the examples for a prompt, and write them as json."""
    from pipeline.retrieval.clips import read_pool
    from pipeline.retrieval.query import answer_prompt, check_prompt

    check_prompt(text, strategy)
    params = replace(project.section("retrieve", RetrieveParams), num_examples=num_examples)
    columns = ("embed", "ingest", "describe")
    _check_inputs(project, columns)
    shards = [task.payload[0] for name in project.corpora() for task in _column_tasks(project, name, columns)]
    pool = read_pool(shards, read_splits(project.layout.split() / SPLIT_FILE), params.seed)
    query_D = _embed_prompt(project, text)
    answer = answer_prompt(text, query_D, pool=pool, strategy=strategy, params=pick_params(params))
    write_bytes(out, pretty_json(asdict(answer)))
    print(answer.table())
    if len(answer.examples) < num_examples:
        print(f"only {len(answer.examples)} of {num_examples} examples: the pool has no more")


def run(args: argparse.Namespace) -> None:
    """Run the strategies and corpora that the flags and settings name, or answer a prompt."""
    project = open_project(args)
    params = project.section("retrieve", RetrieveParams)
    if args.query is not None:
        num_examples = params.num_examples if args.k is None else args.k
        out = args.out or project.layout.run("retrieve") / QUERY_FILE
        answer_query(project, args.query, strategy=args.strategy or "semantic", num_examples=num_examples, out=out)
        return
    if args.k is not None or args.out is not None:
        raise ParamsError("-k and --out: belong to --query; for all clips set retrieve.num_examples")
    for strategy in [args.strategy] if args.strategy else params.strategies:
        for corpus in project.corpora(args.corpus):
            retrieve_corpus(project, corpus, strategy)
        if not project.dry_run:
            report_strategy(project, strategy)
    if not project.dry_run:
        report_overlap(project)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.retrieve")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this one of retrieve.strategies")
    parser.add_argument("--corpus", help="only this one of `sources`")
    parser.add_argument("--query", metavar="TEXT", help="print examples for this prompt instead (by semantic)")
    parser.add_argument("-k", type=int, metavar="N", help="examples for --query (retrieve.num_examples)")
    parser.add_argument("--out", type=Path, help=f"where --query writes its json (ROOT/runs/retrieve/{QUERY_FILE})")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.retrieve import main

    main()
