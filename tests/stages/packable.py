"""Column folders as the stages before pack leave them, of random codes and vectors: made in a moment, easy to spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.data.provenance import file_digest, folder_digest, pretty_json
from pipeline.data.shards import Sample, encode_json, encode_npy, encode_npz, write_folder_index, write_shard

CODEC = {"num_codebooks": 2, "codebook_size": 16, "frame_rate_hz": 50.0, "sample_rate_hz": 16000, "weights_sha256": "c"}
EMBEDDER = {"weights_sha256": "e", "dim": 4}
RETRIEVE = {"num_examples": 2, "near_duplicate_cosine": 0.98, "seed": 0, "strategy": "random"}


@dataclass
class Clip:
    """What a test says of a clip; everything else follows from its number."""

    key: str
    corpus: str = "musiccaps"
    split: str = "train"
    examples: Sequence[str] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    """Joined group in split.json; the key where nothing is said."""
    fingerprint: str = ""
    num_frames: int = 100
    lacks: Sequence[str] = ()
    """Columns that dropped it."""
    sounds_like: str = ""
    """Key of the clip whose CLAP vectors it has."""


def write_project(root: Path, clips: Sequence[Clip], **pack: Any) -> Path:
    """Write params.yaml, split.json and all columns of a project whose next step is pack."""
    corpora = sorted({clip.corpus for clip in clips})
    params = {
        "sources": {name: {"root": name} for name in corpora},
        "retrieve": {},
        "pack": {"num_examples": 2, "loader_workers": 1, **pack},
        "engine": {"workers": 1},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shards = root / "shards"
    for corpus in corpora:
        write_columns(shards, corpus, [clip for clip in clips if clip.corpus == corpus])
    ingested = {name: folder_digest(shards / "ingest" / name) for name in corpora}
    split = {
        "parents": ingested,
        "split": {clip.key: clip.split for clip in clips},
        "group": {clip.key: clip.group or clip.key for clip in clips},
        "levels_left_out": {},
    }
    (shards / "split").mkdir(parents=True, exist_ok=True)
    (shards / "split/split.json").write_bytes(pretty_json(split))
    for corpus in corpora:
        write_examples(shards, corpus, [clip for clip in clips if clip.corpus == corpus], corpora=corpora)
    return root


def write_columns(shards: Path, corpus: str, clips: Sequence[Clip]) -> None:
    """Write the columns of one corpus, from ingest to embed."""
    folder = shards / "ingest" / corpus
    write_folder(folder, [Sample(clip.key, {"json": encode_json(clip_json(clip))}) for clip in clips], {}, {})
    parents = {"ingest": folder_digest(folder)}
    columns = {
        "describe": {"describe.json": lambda _: encode_json({"attributes": {"tempo_bpm": 90}, "captions": []})},
        "lyrics": {},
        "transcribe": {},
        "encode": {"codes.npy": lambda clip: encode_npy(codes_of(clip))},
        "embed": {"clap.npz": lambda clip: encode_npz(**vectors_of(clip.sounds_like or clip.key))},
    }
    for stage, members in columns.items():
        kept = [clip for clip in clips if stage not in clip.lacks] if members else []
        samples = [Sample(clip.key, {name: make(clip) for name, make in members.items()}) for clip in kept]
        write_folder(shards / stage / corpus, samples, parents, {"codec": CODEC, "embedder": EMBEDDER})


def write_examples(shards: Path, corpus: str, clips: Sequence[Clip], *, corpora: Sequence[str]) -> None:
    """Write what retrieve says of one corpus."""
    parents = {f"embed/{name}": folder_digest(shards / "embed" / name) for name in corpora}
    parents["split"] = file_digest(shards / "split/split.json")
    samples = [
        Sample(clip.key, {"examples.json": encode_json(examples_json(clip))})
        for clip in clips
        if "retrieve" not in clip.lacks
    ]
    write_folder(shards / "retrieve/random" / corpus, samples, parents, {}, params=RETRIEVE)


def write_folder(
    folder: Path,
    samples: Sequence[Sample],
    parents: Mapping[str, str],
    models: Mapping[str, Any],
    *,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Write one tar with its index and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    write_folder_index(folder, [write_shard(folder / "000000.tar", samples)])
    manifest = {
        "schema": 1,
        "params": params or {},
        "parents": parents,
        "models": models,
        "licences": [],
        "counts": {"in": len(samples), "used": len(samples), "dropped": {}, "out": len(samples), "clips_dropped": {}},
    }
    (folder / "manifest.json").write_bytes(pretty_json(manifest))


def clip_json(clip: Clip) -> dict[str, Any]:
    """Member `json` of ingest, as far as pack reads it."""
    return {
        "key": clip.key,
        "corpus": clip.corpus,
        "licence": f"licence of {clip.corpus}",
        "captions": [{"text": f"caption of {clip.key}", "source": "human"}],
        "groups": dict(clip.groups),
        "fingerprint": clip.fingerprint or clip.key,
    }


def examples_json(clip: Clip) -> dict[str, Any]:
    """Member `examples.json`, nearest first."""
    ranked = [{"key": key, "score": round(0.9 - 0.1 * n, 3)} for n, key in enumerate(clip.examples)]
    return {"examples": ranked, "caption_index": 0}


def _random(key: str) -> np.random.Generator:
    return np.random.default_rng(list(key.encode()))


def codes_of(clip: Clip) -> np.ndarray:
    """Codes [2, T] that nobody else has."""
    return _random(clip.key).integers(0, 16, (2, clip.num_frames)).astype(np.uint16)


def vectors_of(key: str) -> dict[str, np.ndarray]:
    """CLAP vectors: one text, one audio."""
    text, audio = _random(key).normal(size=(2, 64))
    unit = [(vector / np.linalg.norm(vector)).astype(np.float16) for vector in (text, audio)]
    return {"text": unit[0][None], "audio": unit[1]}
