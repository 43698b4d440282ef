"""Pack: self-contained training shards, all that a trainer needs and nothing to look up.

In:    shards/{ingest,describe,lyrics,transcribe,encode,embed}/*, shards/split, shards/retrieve/<strategy>/*.
Out:   shards/pack/<strategy>/{train,val,test}-NNNNNN.tar: `json`, `target.npy`, `examples.npy`, `clap.npy` per target.
Drops: missing_column (no codes, no embedding or no examples: dropped by an earlier stage; or too few of its examples
       have them: for one that has not, the next one steps in).
"""

from __future__ import annotations

import argparse
import itertools
import json
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.draws import draw, draw_caption
from pipeline.data.packing import Clips, choose_num_shards, deal, fit_frames, shared_group
from pipeline.data.provenance import check_parents, file_digest, folder_digest, read_manifest
from pipeline.data.records import Caption, ClipJson, Drop, Reason, all_captions, known_phrases
from pipeline.data.shards import (
    Sample,
    decode_json,
    decode_npy,
    decode_npz,
    encode_json,
    encode_npy,
)
from pipeline.data.splits import SPLIT_FILE, SPLITS, read_splits
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, open_project
from pipeline.errors import ContractError, ParamsError
from pipeline.retrieval.audit import find_leak, find_near_duplicate

COLUMNS = ("ingest", "describe", "lyrics", "transcribe", "encode", "embed")
TEMPLATE_WORDS = ("caption", "rule", "tempo_bpm", "key", "mode")
NEEDED_OF_EXAMPLES = ("describe.json", "codes.npy", "clap.npz")
NEEDED = (*NEEDED_OF_EXAMPLES, "examples.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackParams:
    """Section `pack` of params.yaml."""

    strategies: tuple[str, ...] = ("random", "semantic")
    """What `dvc repro` packs, and trains on; of those in `retrieve.strategies`."""
    num_examples: int = 3
    """Examples written with every target, the best ones of `retrieve`; a trainer may read fewer."""
    max_example_frames: int = 480
    """Longer examples are cut at this codec frame."""
    max_target_frames: int = 500
    """Longer targets are cut at this codec frame."""
    prompt_template: str = "{caption}"
    """What the text encoder reads; may name {caption}, {tempo_bpm}, {key}, {mode}, and {rule}: what holds for all
    examples, in words, for a target of `structured`; nothing for other strategies, fall-backs and the examples."""
    max_total_frames: int = 3000
    """Target and examples together; beyond it the farthest examples are cut at a codec frame, or left out."""
    min_example_frames: int = 50
    """An example of which the total would leave fewer frames is left out; whole examples may be shorter."""
    loader_workers: int = 2
    """Loader workers of a process that reads the train shards one by one, as stock webdataset does."""
    ranks: int = 1
    """Processes of a training."""
    num_train_shards: int | None = None
    """Train shards, at least `loader_workers` times `ranks`; null: that number or a multiple of it, so that none holds
    more than 1,000 samples. Our own trainer reads any number of shards with any number of workers."""
    seed: int = 0
    """Of the order of samples."""
    max_drop_share: float = 0.5
    """Share of clips that may lack codes, embedding or examples before the stage fails."""

    def __post_init__(self) -> None:
        names = ("num_examples", "max_example_frames", "max_target_frames", "min_example_frames")
        at_least("pack", self, 1, *names, "loader_workers", "ranks")
        at_least("pack", self, 0, "max_drop_share")
        at_most("pack", self, 1, "max_drop_share")
        check_template(self.prompt_template)
        if self.max_target_frames > self.max_total_frames:
            raise ParamsError(
                f"pack.max_target_frames: {self.max_target_frames}, more than pack.max_total_frames "
                f"({self.max_total_frames}); lower the one or raise the other"
            )
        if self.num_train_shards is not None and self.num_train_shards < self.num_readers:
            raise ParamsError(
                f"pack.num_train_shards: {self.num_train_shards} for {self.loader_workers} loader workers x "
                f"{self.ranks} ranks would leave {self.num_readers - self.num_train_shards} of {self.num_readers} "
                "without a shard; raise it, set it to null, or lower pack.loader_workers"
            )

    @property
    def num_readers(self) -> int:
        """Readers that must each find a train shard."""
        return self.loader_workers * self.ranks


def check_template(template: str) -> None:
    """Refuse a prompt template that names anything but whole words of `TEMPLATE_WORDS`.

    Raises:
        ParamsError: says which part, and what may stand there.
    """
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ParamsError(f"pack.prompt_template: {error}; write braces around one of {TEMPLATE_WORDS}") from None
    wrong = next((field for field in fields if field[0] not in TEMPLATE_WORDS or field[1] or field[2]), None)
    if wrong is not None:
        raise ParamsError(
            f"pack.prompt_template: {{{wrong[0]}}} cannot be filled; there are: {', '.join(TEMPLATE_WORDS)}"
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """A clip as it stands in a prompt: its codes, the caption used, its embeddings."""

    clip: ClipJson
    codes_KT: NDArray[np.uint16]
    captions: list[Caption]
    caption_index: int
    prompt: str
    attributes: dict[str, Any]
    clap_2D: NDArray[np.float16]
    """Text embedding of the caption used, then audio embedding."""


class PackStep:
    """Write the samples of one packed shard."""

    def __init__(self, params: PackParams, folders: Sequence[Path], split_file: Path, stamp: Mapping[str, Any]) -> None:
        self.params, self.stamp = params, stamp
        self.clips = Clips(folders)
        self.splits = read_splits(split_file)
        self.levels_left_out: dict[str, int] = json.loads(split_file.read_bytes()).get("levels_left_out", {})

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the packed sample, or a drop, for every target of a shard."""
        split, keys = task.payload
        for key in keys:
            if lacking := self.clips.lacking(key, NEEDED):
                yield Drop(key, Reason.MISSING_COLUMN, f"no {', '.join(lacking)}")
                continue
            members = self.clips.members(key)
            examples = decode_json(members["examples.json"])["examples"]
            ranked = self._whole(key, examples)
            if len(ranked) < min(self.params.num_examples, len(examples)):
                told = f"only {len(ranked)} of its examples have {', '.join(NEEDED_OF_EXAMPLES)}"
                yield Drop(key, Reason.MISSING_COLUMN, told)
            else:
                yield self._sample(key, split, members, ranked[::-1])  # nearest last

    def _whole(self, key: str, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The best examples that no later stage has dropped, as many as are wanted, best first."""
        unknown = next((e["key"] for e in examples if self.clips.lacking(e["key"], ("json",))), None)
        if unknown is not None:
            raise ContractError(f"pack: {key}: example {unknown} is not in shards/ingest; run stages.retrieve again")
        whole = (e for e in examples if not self.clips.lacking(e["key"], NEEDED_OF_EXAMPLES))
        return list(itertools.islice(whole, self.params.num_examples))

    def _sample(
        self, key: str, split: str, members: Mapping[str, bytes | memoryview], ranked: Sequence[dict[str, Any]]
    ) -> Sample:
        params, retrieved = self.params, decode_json(members["examples.json"])
        target = self._choose(key, members, params.max_target_frames, rule=retrieved.get("rule", ""))
        examples = [self._choose(e["key"], self.clips.members(e["key"]), params.max_example_frames) for e in ranked]
        self._check_leaks(target, examples)
        if target.caption_index != retrieved["caption_index"]:
            raise ContractError(f"pack: {key}: examples were sought with another caption; run stages.retrieve again")
        # Checked before the cut: an example that leaks is a fault of the index, also where it is left out here.
        ranked, examples = self._fit(target, ranked, examples)
        value = self._json(split, target, ranked, examples)
        codes_KT = [example.codes_KT for example in examples] or [target.codes_KT[:, :0]]
        arrays = {
            "target.npy": target.codes_KT,
            "examples.npy": np.concatenate(codes_KT, axis=1),
            "clap.npy": np.stack([target.clap_2D, *(example.clap_2D for example in examples)]),
        }
        return Sample(key, {"json": encode_json(value), **{name: encode_npy(a) for name, a in arrays.items()}})

    def _fit(
        self, target: Chosen, ranked: Sequence[dict[str, Any]], examples: Sequence[Chosen]
    ) -> tuple[list[dict[str, Any]], list[Chosen]]:
        """Cut the examples to the frames that the target leaves."""
        frames = fit_frames(
            [example.codes_KT.shape[1] for example in examples],
            self.params.max_total_frames - target.codes_KT.shape[1],
            least_frames=self.params.min_example_frames,
        )
        kept = [
            (e, replace(example, codes_KT=example.codes_KT[:, :num_frames]))
            for e, example, num_frames in zip(ranked, examples, frames, strict=True)
            if num_frames
        ]
        return [e for e, _ in kept], [example for _, example in kept]

    def _check_leaks(self, target: Chosen, examples: Sequence[Chosen]) -> None:
        """Look again, in other ways than retrieval did, for examples that give their target away."""
        key, keys = target.clip["key"], [example.clip["key"] for example in examples]
        leak = find_leak([(key, keys)], split=self.splits.split, group=self.splits.group)
        leak = leak or next(filter(None, (self._kinship(target.clip, example.clip) for example in examples)), None)
        cosine: float = self.stamp["strategy"]["near_duplicate_cosine"]
        audio_BD = np.stack([clip.clap_2D[1] for clip in (target, *examples)])
        near = find_near_duplicate(audio_BD, near_duplicate_cosine=cosine)
        if leak is None and near is not None:
            leak = f"{key}: example {keys[near]} sounds like it"
        if leak:
            raise ContractError(
                f"pack: leak: {leak}; run `python -m stages.split` and `python -m stages.retrieve` again"
            )

    def _kinship(self, target: ClipJson, example: ClipJson) -> str | None:
        """Compare what ingest wrote into both clips: a split.json that lies does not hide a leak."""
        groups = [clip["groups"] | {"fingerprint": clip["fingerprint"]} for clip in (target, example)]
        shared = shared_group(*groups, left_out=self.levels_left_out)
        return f"{target['key']}: example {example['key']} has the same {shared}" if shared else None

    def _json(
        self, split: str, target: Chosen, ranked: Sequence[Mapping[str, Any]], examples: Sequence[Chosen]
    ) -> dict[str, Any]:
        key: str = target.clip["key"]
        return {
            "key": key,
            "corpus": target.clip["corpus"],
            "licence": target.clip.get("licence"),
            "split": split,
            "groups": target.clip["groups"] | {"joined": self.splits.group_of(key)},
            "captions": target.captions,
            "caption_index": target.caption_index,
            "prompt": target.prompt,
            "lyrics": known_phrases(self.clips.members(key)),
            "attributes": target.attributes,
            "codec": self.stamp["codec"],
            "strategy": self.stamp["strategy"],
            "examples": [
                {
                    "key": e["key"],
                    "caption": example.captions[example.caption_index]["text"],
                    "prompt": example.prompt,
                    "score": e["score"],
                    "start_frame": 0,
                    "num_frames": example.codes_KT.shape[1],
                }
                for e, example in zip(ranked, examples, strict=True)
            ],
        }

    def _choose(
        self, key: str, members: Mapping[str, bytes | memoryview], max_frames: int, *, rule: str = ""
    ) -> Chosen:
        captions = all_captions(members)
        caption_index = draw_caption(self.stamp["strategy"]["seed"], key, len(captions))
        attributes: dict[str, Any] = decode_json(members["describe.json"])["attributes"]
        words = {name: attributes.get(name) or "unknown" for name in ("tempo_bpm", "key", "mode")}
        text: str = captions[caption_index]["text"]
        template = self.params.prompt_template
        prompt = template.format(caption=text, rule=rule, **words)
        # "{caption} {rule}" leaves a blank where there is no rule; other prompts stay as they are.
        prompt = prompt.strip() if "{rule}" in template else prompt
        vectors = decode_npz(members["clap.npz"])
        clap_2D = np.stack([vectors["text"][caption_index], vectors["audio"]])
        codes_KT = decode_npy(members["codes.npy"])[:, :max_frames]
        return Chosen(decode_json(members["json"]), codes_KT, captions, caption_index, prompt, attributes, clap_2D)


def pack_tasks(split: Mapping[str, str], complete: Collection[str], params: PackParams) -> list[Task]:
    """Deal the keys of each split out to shards, in an order drawn from the seed.

    Args:
        split: split by key.
        complete: keys with all that a sample needs.
        params: number of shards, or of those who read them, and the seed.

    Raises:
        ContractError: fewer train samples than train shards, so that a loader worker would have nothing to read.
    """
    tasks: list[Task] = []
    for name in SPLITS:
        keys = sorted(
            (key for key, at in split.items() if at == name), key=lambda key: (draw(params.seed, "order", key), key)
        )
        # Val and test get their shard even if it stays empty: a missing file would look like a mistake.
        num_shards = _num_train_shards(sum(key in complete for key in keys), params) if name == "train" else 1
        for n, part in enumerate(deal(keys, num_shards, complete=complete)):
            tasks.append(Task(f"{name}-{n:06d}", len(part), (name, part)))
    return tasks


def _num_train_shards(num_samples: int, params: PackParams) -> int:
    num_shards = params.num_train_shards or choose_num_shards(num_samples, params.num_readers)
    if num_samples < num_shards:
        readers = f"{params.loader_workers} loader workers x {params.ranks} ranks"
        raise ContractError(
            f"pack: {num_samples} train samples for {num_shards} shards ({readers}) would leave a reader empty; "
            f"--set pack.num_train_shards={max(num_samples, 1)} with fewer pack.loader_workers, or ingest more"
        )
    return num_shards


def pack_strategy(project: Project, strategy: str) -> None:
    """Pack all splits with the examples of one strategy."""
    params = project.section("pack", PackParams)
    layout, corpora = project.layout, project.corpora()
    columns = {f"{column}/{corpus}": layout.column(column, corpus) for column in COLUMNS for corpus in corpora}
    retrieved = {f"retrieve/{corpus}": layout.retrieve(strategy, corpus) for corpus in corpora}
    folders = columns | retrieved
    split_file = layout.split() / SPLIT_FILE
    _check_parents(project, strategy, corpora)
    encoded, embedded = (read_manifest(layout.column(name, corpora[0]))["models"] for name in ("encode", "embed"))
    _same("models", [layout.column("encode", corpus) for corpus in corpora])
    _same("models", [layout.column("embed", corpus) for corpus in corpora])
    _same("params", list(retrieved.values()))
    picked = read_manifest(retrieved[f"retrieve/{corpora[0]}"])["params"]
    if picked["num_examples"] < params.num_examples:
        raise ParamsError(
            f"pack.num_examples: {params.num_examples}, but retrieve.num_examples ranked {picked['num_examples']}"
        )
    settings = lasting(params) | {"strategy": picked}
    # Which others are packed too changes nothing in these.
    del settings["strategies"]
    stamp = {"codec": encoded["codec"], "strategy": picked | {"embedder": embedded["embedder"]}}
    split = read_splits(split_file).split
    keys = list(split)[: project.limit]
    licences = [read_manifest(layout.column("ingest", corpus))["licences"] for corpus in corpora]
    out = layout.pack(strategy)
    project.run(
        Job(
            stage=f"pack {strategy}",
            modules=["stages.pack"],
            out=out,
            work=layout.work_of(out),
            tasks=pack_tasks({key: split[key] for key in keys}, Clips(list(folders.values())).complete(NEEDED), params),
            make_step=partial(PackStep, params, list(folders.values()), split_file, stamp),
            params=settings,
            parents={"split": file_digest(split_file)} | {name: folder_digest(path) for name, path in folders.items()},
            models={"codec": encoded["codec"], "embedder": embedded["embedder"]},
            packages=("numpy",),
            notes={"corpora": corpora, "licences": sorted({text for texts in licences for text in texts})},
            max_drop_share=params.max_drop_share,
            may_be_empty=False,
        )
    )


def _check_parents(project: Project, strategy: str, corpora: Sequence[str]) -> None:
    """Check that every input was made from what its own inputs are now."""
    layout = project.layout
    ingested = {corpus: folder_digest(layout.column("ingest", corpus)) for corpus in corpora}
    check_parents(layout.split() / SPLIT_FILE, ingested, stage="python -m stages.split")
    embeds = {f"embed/{corpus}": folder_digest(layout.column("embed", corpus)) for corpus in corpora}
    parents = embeds | {"split": file_digest(layout.split() / SPLIT_FILE)}
    for corpus in corpora:
        for column in COLUMNS[1:]:
            stage = f"python -m stages.{column}"
            check_parents(layout.column(column, corpus), {"ingest": ingested[corpus]}, stage=stage)
        stage = f"python -m stages.retrieve --strategy {strategy}"
        check_parents(layout.retrieve(strategy, corpus), parents, stage=stage)


def _same(entry: str, folders: Sequence[Path]) -> None:
    """Refuse folders whose manifests differ in an entry: codes of two codecs, examples by two rules."""
    values = [read_manifest(folder)[entry] for folder in folders]
    other = next((n for n, value in enumerate(values) if value != values[0]), None)
    if other is not None:
        raise ContractError(
            f"{folders[other]}: made with other {entry} than {folders[0]}; run its stage again for every corpus"
        )


def run(args: argparse.Namespace) -> None:
    """Pack the strategy that the flags name."""
    pack_strategy(open_project(args), args.strategy)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.pack")
    parser.add_argument("--strategy", required=True, help="whose examples to pack: a folder of shards/retrieve")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.pack import main

    main()
