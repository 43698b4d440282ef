"""Pack: self-contained training shards, all that a trainer needs and nothing to look up.

In:    shards/{ingest,describe,lyrics,transcribe,encode,embed}/*, shards/split, shards/retrieve/<strategy>/*.
Out:   shards/pack/<strategy>/{train,val,test}-NNNNNN.tar: `json`, `target.npy`, `examples.npy`, `clap.npy` per target.
Drops: missing_column (no codes, no embedding or no examples: dropped by an earlier stage).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.provenance import file_digest, folder_digest, read_manifest
from pipeline.data.records import Caption, ClipJson, Drop, Reason, all_captions
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
from pipeline.data.splits import SPLITS, read_splits
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.project import Project, open_project
from pipeline.errors import ContractError, ParamsError
from pipeline.retrieval.audit import find_leak

COLUMNS = ("ingest", "describe", "lyrics", "transcribe", "encode", "embed")
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
    """What the text encoder reads; may name {caption}, {tempo_bpm}, {key}, {mode}."""
    num_train_shards: int = 4
    """Train shards: at least the number of a trainer's loader workers times its processes."""
    seed: int = 0
    """Of the order of samples and of the caption used."""

    def __post_init__(self) -> None:
        if min(self.num_examples, self.num_train_shards, self.max_example_frames, self.max_target_frames) < 1:
            raise ParamsError("pack: num_examples, num_train_shards and the frame limits must be at least 1")
        try:
            self.prompt_template.format(caption="", tempo_bpm="", key="", mode="")
        except (KeyError, IndexError, ValueError) as error:
            raise ParamsError(
                f"pack.prompt_template: cannot be filled ({error}); names: caption, tempo_bpm, key, mode"
            ) from None


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
                self._files[path] = ShardFile(path)
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
        best_first = decode_json(members["examples.json"])["examples"][: params.num_examples]
        ranked = best_first[::-1]  # nearest last
        leak = find_leak([(key, [e["key"] for e in ranked])], split=self.splits.split, group=self.splits.group)
        if leak:
            raise ContractError(
                f"pack: leak: {leak}; run `python -m stages.split` and `python -m stages.retrieve` again"
            )
        target = self._choose(key, members, params.max_target_frames)
        examples = [self._choose(e["key"], self.clips.members(e["key"]), params.max_example_frames) for e in ranked]
        value = {
            "key": key,
            "corpus": target.clip["corpus"],
            "split": split,
            "groups": target.clip["groups"] | {"joined": self.splits.group[key]},
            "captions": target.captions,
            "caption_index": target.caption_index,
            "prompt": target.prompt,
            "lyrics": _lyrics(members),
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
        return Sample(
            key,
            {
                "json": encode_json(value),
                "target.npy": encode_npy(target.codes_KT),
                "examples.npy": encode_npy(np.concatenate([example.codes_KT for example in examples], axis=1)),
                "clap.npy": encode_npy(np.stack([target.clap_2D, *(example.clap_2D for example in examples)])),
            },
        )

    def _choose(self, key: str, members: Mapping[str, bytes | memoryview], max_frames: int) -> Chosen:
        captions = all_captions(members)
        caption_index = _draw(self.params.seed, key) % len(captions)
        attributes: dict[str, Any] = decode_json(members["describe.json"])["attributes"]
        words = {name: attributes.get(name) or "unknown" for name in ("tempo_bpm", "key", "mode")}
        prompt = self.params.prompt_template.format(caption=captions[caption_index]["text"], **words)
        vectors = decode_npz(members["clap.npz"])
        clap_2D = np.stack([vectors["text"][caption_index], vectors["audio"]])
        codes_KT = decode_npy(members["codes.npy"])[:, :max_frames]
        return Chosen(decode_json(members["json"]), codes_KT, captions, caption_index, prompt, attributes, clap_2D)


def _lyrics(members: Mapping[str, bytes | memoryview]) -> list[Any]:
    known = next((members[name] for name in ("lyrics.json", "asr.json") if name in members), None)
    return decode_json(known)["phrases"] if known is not None else []


def _draw(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "little")


def pack_tasks(split: Mapping[str, str], params: PackParams) -> list[Task]:
    """Deal the keys of each split out to shards, in an order drawn from the seed.

    Raises:
        ContractError: fewer train samples than train shards, so that a loader worker would have nothing to read.
    """
    tasks: list[Task] = []
    for name in SPLITS:
        keys = sorted((key for key, at in split.items() if at == name), key=lambda key: (_draw(params.seed, key), key))
        num_shards = params.num_train_shards if name == "train" else min(1, len(keys))
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
    split_file = layout.split() / "split.json"
    stamp = {"codec": _codec_stamp([layout.column("encode", corpus) for corpus in corpora])}
    stamp["strategy"] = read_manifest(retrieved[f"retrieve/{corpora[0]}"])["params"]
    split = read_splits(split_file).split
    keys = list(split)[: project.limit]
    out = layout.pack(strategy)
    project.run(
        Job(
            stage=f"pack {strategy}",
            modules=["stages.pack"],
            out=out,
            work=layout.work_of(out),
            tasks=pack_tasks({key: split[key] for key in keys}, params),
            make_step=partial(PackStep, params, list(folders.values()), split_file, stamp),
            params=asdict(params),
            parents={"split": file_digest(split_file)} | {name: folder_digest(path) for name, path in folders.items()},
            models=stamp,
            packages=("numpy",),
        )
    )


def _codec_stamp(folders: Sequence[Path]) -> dict[str, Any]:
    stamps = [read_manifest(folder)["models"]["codec"] for folder in folders]
    other = next((n for n, stamp in enumerate(stamps) if stamp != stamps[0]), None)
    if other is not None:
        raise ContractError(f"{folders[other]}: encoded by another codec than {folders[0]}; run stages.encode on both")
    return stamps[0]


def run(args: argparse.Namespace) -> None:
    """Pack the strategy that the flags name."""
    pack_strategy(open_project(args), args.strategy)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.pack")
    parser.add_argument("--strategy", required=True, help="whose examples to pack")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.pack import main

    main()
