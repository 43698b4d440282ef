"""Pack: self-contained training shards, all that a trainer needs and nothing to look up.

In:    shards/{ingest,describe,lyrics,transcribe,encode,embed}/*, shards/split, shards/retrieve/<strategy>/*.
Out:   shards/pack/<strategy>/{train,val,test}-NNNNNN.tar: `json`, `target.npy`, `examples.npy`, `clap.npy` per target.
Drops: missing_column (no codes, no embedding or no examples: dropped by an earlier stage).
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.draws import draw, draw_caption
from pipeline.data.provenance import check_parents, file_digest, folder_digest, read_manifest
from pipeline.data.records import Caption, ClipJson, Drop, Reason, all_captions, known_phrases
from pipeline.data.shards import (
    Sample,
    ShardFile,
    decode_json,
    decode_npy,
    decode_npz,
    encode_json,
    encode_npy,
    load_index,
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
NEEDED = ("codes.npy", "clap.npz", "examples.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackParams:
    """Section `pack` of params.yaml."""

    num_examples: int = 3
    """Examples written with every target, the best ones of `retrieve`; a trainer may read fewer."""
    max_example_frames: int = 480
    """Longer examples are cut at this codec frame."""
    max_target_frames: int = 500
    """Longer targets are cut at this codec frame."""
    prompt_template: str = "{caption}"
    """What the text encoder reads; may name {caption}, {tempo_bpm}, {key}, {mode}, and {rule}: what holds for all
    examples, in words, for a target of `structured`; nothing for other strategies, fall-backs and the examples."""
    num_train_shards: int = 4
    """Train shards: at least the number of a trainer's loader workers times its processes."""
    seed: int = 0
    """Of the order of samples."""
    max_drop_share: float = 0.5
    """Share of clips that may lack codes, embedding or examples before the stage fails."""

    def __post_init__(self) -> None:
        names = ("num_examples", "num_train_shards", "max_example_frames", "max_target_frames")
        at_least("pack", self, 1, *names)
        at_least("pack", self, 0, "max_drop_share")
        at_most("pack", self, 1, "max_drop_share")
        check_template(self.prompt_template)


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


class Clips:
    """All columns of all clips, reached by key through memory maps."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._spots: dict[str, list[tuple[Path, int]]] = {}
        self._files: dict[Path, ShardFile] = {}
        for folder in folders:
            for entry in load_index(folder):
                for number, key in enumerate(entry.keys):
                    self._spots.setdefault(key, []).append((folder / entry.name, number))

    def members(self, key: str) -> dict[str, bytes | memoryview]:
        """All members of a clip, from all columns that have it."""
        found: dict[str, bytes | memoryview] = {}
        for path, number in self._spots[key]:
            if path not in self._files:
                self._files[path] = ShardFile(path).check()
            found |= self._files[path][number].members
        return found


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

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the packed sample, or a drop, for every target of a shard."""
        split, keys = task.payload
        for key in keys:
            members = self.clips.members(key)
            lacking = [name for name in NEEDED if name not in members]
            if lacking:
                yield Drop(key, Reason.MISSING_COLUMN, f"no {', '.join(lacking)}")
            else:
                yield self._sample(key, split, members)

    def _sample(self, key: str, split: str, members: Mapping[str, bytes | memoryview]) -> Sample:
        params = self.params
        retrieved = decode_json(members["examples.json"])
        ranked: list[dict[str, Any]] = retrieved["examples"][: params.num_examples][::-1]  # nearest last
        target = self._choose(key, members, params.max_target_frames, rule=retrieved.get("rule", ""))
        examples = [self._choose(e["key"], self.clips.members(e["key"]), params.max_example_frames) for e in ranked]
        self._check_leaks(key, [e["key"] for e in ranked], [target.clap_2D, *(e.clap_2D for e in examples)])
        if target.caption_index != retrieved["caption_index"]:
            raise ContractError(f"pack: {key}: examples were sought with another caption; run stages.retrieve again")
        value = self._json(split, target, ranked, examples)
        arrays = {
            "target.npy": target.codes_KT,
            "examples.npy": np.concatenate([example.codes_KT for example in examples], axis=1),
            "clap.npy": np.stack([target.clap_2D, *(example.clap_2D for example in examples)]),
        }
        return Sample(key, {"json": encode_json(value), **{name: encode_npy(a) for name, a in arrays.items()}})

    def _check_leaks(self, key: str, examples: Sequence[str], clap_22D: Sequence[NDArray[np.float16]]) -> None:
        """Look again, in another way than retrieval did, for examples that give their target away."""
        leak = find_leak([(key, examples)], split=self.splits.split, group=self.splits.group)
        cosine: float = self.stamp["strategy"]["near_duplicate_cosine"]
        near = find_near_duplicate(np.stack([pair_2D[1] for pair_2D in clap_22D]), near_duplicate_cosine=cosine)
        if leak is None and near is not None:
            leak = f"{key}: example {examples[near]} sounds like it"
        if leak:
            raise ContractError(
                f"pack: leak: {leak}; run `python -m stages.split` and `python -m stages.retrieve` again"
            )

    def _json(
        self, split: str, target: Chosen, ranked: Sequence[Mapping[str, Any]], examples: Sequence[Chosen]
    ) -> dict[str, Any]:
        key: str = target.clip["key"]
        return {
            "key": key,
            "corpus": target.clip["corpus"],
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


def pack_tasks(split: Mapping[str, str], params: PackParams) -> list[Task]:
    """Deal the keys of each split out to shards, in an order drawn from the seed.

    Raises:
        ContractError: fewer train samples than train shards, so that a loader worker would have nothing to read.
    """
    tasks: list[Task] = []
    for name in SPLITS:
        keys = sorted(
            (key for key, at in split.items() if at == name), key=lambda key: (draw(params.seed, "order", key), key)
        )
        # Val and test get their shard even if it stays empty: a missing file would look like a mistake.
        num_shards = params.num_train_shards if name == "train" else 1
        if name == "train" and len(keys) < num_shards:
            raise ContractError(
                f"pack: {len(keys)} train clips for {num_shards} shards would leave a reader empty; "
                f"--set pack.num_train_shards={max(len(keys), 1)}, or ingest more"
            )
        for n in range(num_shards):
            part = keys[n::num_shards]
            tasks.append(Task(f"{name}-{n:06d}", len(part), (name, part)))
    return tasks


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
    _same("params", list(retrieved.values()))
    picked = read_manifest(retrieved[f"retrieve/{corpora[0]}"])["params"]
    if picked["num_examples"] < params.num_examples:
        raise ParamsError(
            f"pack.num_examples: {params.num_examples}, but retrieve.num_examples ranked {picked['num_examples']}"
        )
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
            tasks=pack_tasks({key: split[key] for key in keys}, params),
            make_step=partial(PackStep, params, list(folders.values()), split_file, stamp),
            params=lasting(params) | {"strategy": picked},
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
