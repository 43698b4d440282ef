"""Reading what lies there when a strategy has run: for its audit and its reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.layout import Layout
from pipeline.data.provenance import read_manifest
from pipeline.data.records import Reason
from pipeline.data.shards import INDEX_NAME, ShardFile, decode_json, decode_npz, load_index
from pipeline.data.splits import SPLIT_FILE
from pipeline.errors import ContractError
from pipeline.retrieval.audit import AuditClip, Leak, first_leak, group_ids


def finished_folders(layout: Layout, strategy: str, corpora: Sequence[str]) -> list[Path]:
    """Folders of a strategy that lie there, in the order of the corpora."""
    folders = (layout.retrieve(strategy, name) for name in corpora)
    return [folder for folder in folders if (folder / INDEX_NAME).is_file()]


def read_examples(folders: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read `examples.json` by target's key."""
    for folder in folders:
        for entry in load_index(folder):
            for sample in ShardFile(folder / entry.name).check():
                yield sample.key, decode_json(sample.members["examples.json"])


def keys_of(value: Mapping[str, Any]) -> list[str]:
    """Keys of a target's examples, best first."""
    return [example["key"] for example in value["examples"]]


def count_too_few(folders: Sequence[Path]) -> int:
    """Count the targets that were dropped for want of examples."""
    return sum(read_manifest(folder)["counts"]["dropped"].get(Reason.TOO_FEW_EXAMPLES, 0) for folder in folders)


class _Audio(NamedTuple):
    """Audio embeddings as embed wrote them, not as the index was built from them."""

    row_of: dict[str, int]
    audio_XD: NDArray[np.float16]

    def of(self, keys: Sequence[str]) -> NDArray[np.float16]:
        return self.audio_XD[[self.row_of[key] for key in keys]]


def audit_strategy(
    layout: Layout, strategy: str, corpora: Sequence[str], *, only: Sequence[str]
) -> tuple[int, Leak | None]:
    """Look for the first leak in what a strategy has written.

    Args:
        layout: where everything lies.
        strategy: its name.
        corpora: all that there are.
        only: those whose targets are looked at.

    Returns:
        Number of targets looked at, and the leak if there is one.

    Raises:
        ContractError: the strategy has not run: nothing to look at is not free of leaks.
    """
    folders = finished_folders(layout, strategy, only)
    if not folders:
        raise ContractError(
            f"{layout.retrieve(strategy, only[0])}: no examples here; run "
            f"`python -m stages.retrieve --strategy {strategy}` first"
        )
    clips = dict(_audit_clips(layout, corpora))
    audio = _read_audio(layout, corpora)
    num_targets = 0
    for folder in folders:
        examples = [(target, keys_of(value)) for target, value in read_examples([folder])]
        num_targets += len(examples)
        cosine: float = read_manifest(folder)["params"]["near_duplicate_cosine"]
        leak = first_leak(examples, clips, audio_of=audio.of, near_duplicate_cosine=cosine)
        if leak:
            return num_targets, leak
    return num_targets, None


def _audit_clips(layout: Layout, corpora: Sequence[str]) -> Iterator[tuple[str, AuditClip]]:
    content: dict[str, Any] = json.loads((layout.split() / SPLIT_FILE).read_bytes())
    for corpus in corpora:
        folder = layout.column("ingest", corpus)
        for entry in load_index(folder):
            for sample in ShardFile(folder / entry.name):
                yield sample.key, _audit_clip(sample.key, decode_json(sample.members["json"]), content)


def _audit_clip(key: str, clip: dict[str, Any], splits: dict[str, Any]) -> AuditClip:
    return AuditClip(
        splits["split"].get(key, "none"),
        splits["group"].get(key, key),
        group_ids(clip["groups"], splits.get("levels_left_out", {})),
        clip["fingerprint"],
        clip["acoustic_fingerprint"],
    )


def _read_audio(layout: Layout, corpora: Sequence[str]) -> _Audio:
    folders = [layout.column("embed", corpus) for corpus in corpora]
    entries = [(folder / entry.name, entry.keys) for folder in folders for entry in load_index(folder)]
    row_of = {key: row for row, key in enumerate(key for _, keys in entries for key in keys)}
    audio_XD: NDArray[np.float16] | None = None
    for path, _ in entries:
        for sample in ShardFile(path):
            audio_D = decode_npz(sample.members["clap.npz"])["audio"]
            if audio_XD is None:
                audio_XD = np.zeros((len(row_of), len(audio_D)), np.float16)
            audio_XD[row_of[sample.key]] = audio_D
    return _Audio(row_of, np.zeros((0, 0), np.float16) if audio_XD is None else audio_XD)
