"""Retrieve: ranks in-context examples for every clip, or for a prompt that you type.

In:    shards/embed, shards/split/split.json; shards/ingest and shards/describe for what the captions tell.
Out:   shards/retrieve/<strategy>/<corpus>: `examples.json`, `{"caption_index", "examples": [{"key", "score"}...]}`,
       best first; caption_index is the caption that was searched with, and that the prompt will be made from.
       `structured` adds `rule`, in words, with `shared` and `varied`; or `fallback`, to which strategy and why.
       shards/retrieve/<strategy>/report.json: likeness, reuse, authors, corpora, fall-backs over all corpora;
       report.md: the same as a table; of `structured` also guesses.json: what CLAP makes of pool clips without tags.
       runs/retrieve/overlap.json: examples that strategies have in common, of all that lie in shards/retrieve;
       strategies.md: these strategies side by side.
Drops: too_few_examples (fewer allowed train clips than `retrieve.num_examples`).

Examples come from train only, never share a group with the target at any level, never are its near-duplicate. The
query is the target's caption, for that is all that is known at inference: `structured` too reads the target's facts
from that text alone. `oracle` looks at the target's audio; it is an upper bound and says so in manifest and report.
What was written is audited by code of its own; the first leak fails the stage. `--audit` audits what lies there;
`--facts shards/demo/corpus/demo_facts.csv` tells whether its strategies do what their names say.

    python -m stages.retrieve --query "slow shakuhachi, sparse" --strategy diverse -k 3
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import join_columns
from pipeline.data.provenance import check_parents, file_digest, folder_digest, pretty_json, read_manifest
from pipeline.data.records import Drop, Reason
from pipeline.data.shards import Sample, encode_json
from pipeline.data.splits import SPLIT_FILE, read_splits
from pipeline.data.storage import write_bytes
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, column_tasks, open_project
from pipeline.errors import ContractError, ParamsError

if TYPE_CHECKING:
    from pipeline.retrieval.facts import Facts
    from pipeline.retrieval.guesses import Guesses, Labels
    from pipeline.retrieval.strategies import PickParams, Picks
    from pipeline.retrieval.vectors import PoolSource

Strategy = Literal["random", "semantic", "diverse", "structured", "oracle"]
STRATEGIES: tuple[Strategy, ...] = ("random", "semantic", "diverse", "structured", "oracle")
READ_FACTS = frozenset({"structured"})
"""Strategies that read what captions, tags and describe tell."""
READ_TARGET_AUDIO = frozenset({"oracle"})
TEXT_COLUMNS = ("embed", "ingest", "describe")
QUERY_FILE = "query.json"


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
    zero_shot: bool = True
    """Whether CLAP guesses genre and instrument of the pool's clips that have no tags, for `structured`."""
    max_per_author: int = 0
    """Most examples whose captions have the same author; 0 for no limit. The nearest caption of MusicCaps is by the
    target's annotator in 85 % of cases: a limit keeps phrasing from passing for meaning."""
    other_authors_only: bool = False
    """Leave out clips whose caption is by the author of the target's, where both are known: as for a prompt, whose
    author wrote no caption of the pool."""
    seed: int = 0
    """Of `random`, and of the caption used where a clip has several."""
    max_drop_share: float = 0.5
    """Share of clips that may be left without examples before the stage fails."""

    def __post_init__(self) -> None:
        at_least("retrieve", self, 1, "num_examples", "num_candidates", "min_values")
        shares = ("max_drop_share", "mmr_lambda")
        at_least("retrieve", self, 0, "near_duplicate_cosine", "max_per_author", *shares)
        at_most("retrieve", self, 1, "near_duplicate_cosine", *shares)
        if not self.strategies:
            raise ParamsError(f"retrieve.strategies: is empty; there are: {', '.join(STRATEGIES)}")
        if not 0.0 <= self.text_weight <= 1.0:
            raise ParamsError(f"retrieve.text_weight: {self.text_weight}, must be from 0 to 1")


def pick_params(params: RetrieveParams) -> PickParams:
    """Take the settings that the strategies need."""
    from pipeline.retrieval.strategies import PickParams

    return PickParams(**{field.name: getattr(params, field.name) for field in fields(PickParams)})


class RetrieveStep:
    """Rank examples for the clips of one shard, all at once; the pool is mapped, not copied."""

    def __init__(
        self, params: RetrieveParams, strategy: str, source: PoolSource, guessed: Mapping[str, Facts] | None = None
    ) -> None:
        from pipeline.retrieval import clips, strategies, vectors

        self.params, self.clips, self.vectors = params, clips, vectors
        self.splits = read_splits(source.split_file)
        self.pool = clips.open_pool(source, guessed)
        self.picker = strategies.STRATEGIES[strategy](self.pool, pick_params(params))

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield ranked examples, or a drop, for every clip of a shard."""
        (embed, *written), limit = task.payload
        texts = dict(self.clips.read_texts(written)) if written else {}
        found = [self.vectors.read_vectors(sample, self.params.seed) for sample in join_columns([embed], limit)]
        with_aspects = self.params.use_target_aspects
        targets = [
            self.clips.make_target(clip, self.splits.group_of(clip.key), texts.get(clip.key), with_aspects=with_aspects)
            for clip in found
        ]
        for clip, picks in zip(found, self.picker.many(targets), strict=True):
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


def _pool_source(project: Project, params: RetrieveParams, columns: Sequence[str]) -> PoolSource:
    from pipeline.retrieval.search import choose_product_device
    from pipeline.retrieval.vectors import PoolSource

    return PoolSource(
        shards=[task.payload[0] for name in project.corpora() for task in _column_tasks(project, name, columns)],
        split_file=project.layout.split() / SPLIT_FILE,
        shelf=project.layout.work / "pool",
        seed=params.seed,
        text_weight=params.text_weight,
        # The answers are the same on every device, so that nothing else need know it.
        device=choose_product_device(project.params.get("models", {}).get("device", "auto")),
    )


def retrieve_corpus(
    project: Project, corpus: str, strategy: str, *, guessed: Mapping[str, Facts] | None = None
) -> None:
    """Rank examples for all clips of one corpus.

    Args:
        project: where everything lies.
        corpus: whose clips are the targets.
        strategy: its name.
        guessed: what zero-shot tells of clips without tags, by key.
    """
    params = project.section("retrieve", RetrieveParams)
    layout = project.layout
    reads_texts = strategy in READ_FACTS or params.max_per_author > 0 or params.other_authors_only
    columns = TEXT_COLUMNS if reads_texts else ("embed",)
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
            make_step=partial(RetrieveStep, params, strategy, _pool_source(project, params, columns), guessed),
            params=settings,
            parents=_check_inputs(project, columns),
            packages=("numpy",),
            models={"embedder": read_manifest(layout.column("embed", corpus))["models"]["embedder"]},
            notes={"uses_target_audio": strategy in READ_TARGET_AUDIO},
            max_drop_share=params.max_drop_share,
            may_be_empty=False,
        )
    )


# --- what was written ------------------------------------------------------------------------------------------------


def audit(project: Project, strategy: str, corpora: Sequence[str]) -> None:
    """Look for leaks in what a strategy has written, by other code than that which wrote it.

    Raises:
        ContractError: the first leak: target, example and kind.
    """
    from pipeline.retrieval.finished import audit_strategy

    num_targets, leak = audit_strategy(project.layout, strategy, project.corpora(), only=corpora)
    if leak:
        raise ContractError(
            f"retrieve {strategy}: leak: {leak.words()}; run `python -m stages.split` and "
            f"`python -m stages.retrieve --strategy {strategy}` again"
        )
    print(f"retrieve {strategy}: no leak in the examples of {num_targets} targets")


def report_strategy(project: Project, strategy: str) -> None:
    """Write what a strategy picked over all corpora that lie there, and say it."""
    from pipeline.retrieval import reporting, vectors

    params = project.section("retrieve", RetrieveParams)
    mapped = vectors.map_clips(_pool_source(project, params, ("embed",)))
    lines = reporting.write_report(project.layout, strategy, project.corpora(), mapped=mapped, seed=params.seed)
    print("\n".join(f"retrieve {line}" for line in lines))


# --- a prompt --------------------------------------------------------------------------------------------------------


def _find_embedder(project: Project) -> tuple[str, dict[str, str]]:
    """Find the model that embedded the pool; gives where it lies, and its stamp.

    Raises:
        ContractError: the settings name another model.
    """
    # By name, here and below: what these modules do is told by the stamp, and a change in them makes no shards anew.
    places = importlib.import_module("pipeline.models.places")
    models = project.section("models", places.ModelsParams)
    source: str = places.place(models, project.layout.root, "embedder")
    if "/" not in source and not Path(source).exists():
        told = f"models.embedder: no folder {source} below models.root ({models.root}), nor here; fetch it, or mend"
        raise ContractError(f"{told} either; only a prompt needs it under --set retrieve.zero_shot=false")
    stamp: dict[str, str] = places.checkpoint_stamp(source, models.embedder)
    for corpus in project.corpora():
        folder = project.layout.column("embed", corpus)
        if read_manifest(folder)["models"]["embedder"] != stamp:
            raise ContractError(f"{folder}: was embedded by another model than models.embedder; run stages.embed again")
    return source, stamp


def _embed_texts(project: Project, source: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts [B, D], by the short way where there is one."""
    from pipeline.models.clap_prompt import embed_prompts

    vectors_BD = embed_prompts(Path(source), texts)
    if vectors_BD is not None:
        return vectors_BD
    clap = importlib.import_module("pipeline.models.clap")
    device = project.params.get("models", {}).get("device", "auto")
    return clap.load_embedder(source, device=device).embed_text(texts)


def _load_labels(project: Project) -> Labels:
    from pipeline.models.clap_prompt import read_scale
    from pipeline.retrieval.guesses import Labels, embed_labels

    source, stamp = _find_embedder(project)
    folder = importlib.import_module("pipeline.models.base").find_checkpoint(source, role="embedder").path
    sets = embed_labels(project.layout.work / "labels", stamp, partial(_embed_texts, project, source))
    return Labels(sets, read_scale(folder))


def guess_untagged(project: Project, params: RetrieveParams, strategy: str) -> Guesses:
    """Guess genre and instrument of the pool's clips without tags, where a strategy reads facts."""
    from pipeline.retrieval.guesses import guess_pool, guesses_in_words

    if strategy not in READ_FACTS or not params.zero_shot:
        return {}
    guesses = guess_pool(_pool_source(project, params, TEXT_COLUMNS), partial(_load_labels, project))
    if guesses:
        print(f"retrieve {strategy}: {guesses_in_words(guesses)}")
    return guesses


def answer_query(project: Project, text: str, *, strategy: str, num_examples: int, out: Path) -> None:
    """Print the examples for a prompt, and write them as json."""
    from pipeline.retrieval.clips import open_pool
    from pipeline.retrieval.guesses import sure_facts
    from pipeline.retrieval.query import answer_prompt, check_prompt

    check_prompt(text, strategy)
    params = replace(project.section("retrieve", RetrieveParams), num_examples=num_examples)
    _check_inputs(project, TEXT_COLUMNS)
    guessed = sure_facts(guess_untagged(project, params, strategy))
    pool = open_pool(_pool_source(project, params, TEXT_COLUMNS), guessed)
    query_D = _embed_texts(project, _find_embedder(project)[0], [text])[0]
    answer = answer_prompt(text, query_D, pool=pool, strategy=strategy, params=pick_params(params))
    write_bytes(out, pretty_json(asdict(answer)))
    print(answer.table())
    if len(answer.examples) < num_examples:
        print(f"only {len(answer.examples)} of {num_examples} examples: the pool has no more")


def run_strategy(project: Project, strategy: str, corpora: Sequence[str]) -> None:
    """Rank by one strategy, look for leaks, and report."""
    from pipeline.retrieval.guesses import GUESSES_FILE, sure_facts, write_guesses

    params = project.section("retrieve", RetrieveParams)
    _check_inputs(project, TEXT_COLUMNS)  # the report names authors, and is not to fail when all else is done
    guesses = guess_untagged(project, params, strategy) if not project.dry_run else {}
    for corpus in corpora:
        retrieve_corpus(project, corpus, strategy, guessed=sure_facts(guesses))
    if project.dry_run:
        return
    if strategy in READ_FACTS:
        write_guesses(project.layout.retrieve(strategy, GUESSES_FILE), guesses)
    audit(project, strategy, corpora)
    report_strategy(project, strategy)


def run(args: argparse.Namespace) -> None:
    """Run the strategies and corpora that the flags and settings name, or answer a prompt."""
    from pipeline.retrieval.reporting import write_overlap

    project = open_project(args)
    params = project.section("retrieve", RetrieveParams)
    if args.query is not None:
        num_examples = params.num_examples if args.k is None else args.k
        out = args.out or project.layout.run("retrieve") / QUERY_FILE
        answer_query(project, args.query, strategy=args.strategy or "semantic", num_examples=num_examples, out=out)
        return
    if args.facts is not None:
        sanity = importlib.import_module("pipeline.retrieval.sanity")  # by name: it tells of examples, and makes none
        print(sanity.write_check(project.layout, project.corpora(), args.facts), end="")
        return
    if args.k is not None or args.out is not None:
        raise ParamsError("-k and --out: belong to --query; for all clips set retrieve.num_examples")
    corpora = project.corpora(args.corpus)
    strategies = [name for name in STRATEGIES if project.layout.shards.joinpath("retrieve", name).is_dir()]
    strategies = (args.audit and strategies) or params.strategies  # an audit is of what lies there
    for strategy in [args.strategy] if args.strategy else strategies:
        if args.audit:
            audit(project, strategy, corpora)
        else:
            run_strategy(project, strategy, corpora)
    if not project.dry_run and not args.audit:
        for line in write_overlap(project.layout, STRATEGIES, project.corpora()):
            print(f"retrieve {line}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.retrieve")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this one of retrieve.strategies")
    parser.add_argument("--corpus", help="only this one of `sources`")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--audit", action="store_true", help="only look for leaks in what lies there")
    only.add_argument("--facts", type=Path, metavar="CSV", help="only compare what lies there with a table of facts")
    only.add_argument("--query", metavar="TEXT", help="print examples for this prompt instead (by semantic)")
    parser.add_argument("-k", type=int, metavar="N", help="examples for --query (retrieve.num_examples)")
    parser.add_argument("--out", type=Path, help=f"where --query writes its json (ROOT/runs/retrieve/{QUERY_FILE})")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.retrieve import main

    main()
