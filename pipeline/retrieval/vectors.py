"""Reading the vectors of all clips, once, into files that every worker maps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import join_columns
from pipeline.data.draws import draw_caption
from pipeline.data.provenance import code_digest, digest_of, file_digest, folder_digest
from pipeline.data.shards import Sample, decode_npz, load_index
from pipeline.data.splits import SplitTable, read_splits
from pipeline.errors import ContractError
from pipeline.retrieval import store
from pipeline.retrieval.index import Float32, stack_unit


class ClipVectors(NamedTuple):
    """A clip's embeddings, float16: of the caption in use, and of the audio."""

    key: str
    caption_index: int
    text_D: NDArray[np.float16]
    audio_D: NDArray[np.float16]


def read_vectors(sample: Sample, seed: int) -> ClipVectors:
    """Read a sample of `embed`; the caption in use is drawn by seed and key."""
    vectors = decode_npz(sample.members["clap.npz"])
    caption_index = draw_caption(seed, sample.key, len(vectors["text"]))
    return ClipVectors(sample.key, caption_index, vectors["text"][caption_index], vectors["audio"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSource:
    """What a pool is made from, and where its files lie."""

    shards: Sequence[Sequence[Path]]
    """For each shard of each corpus its path in embed, and those in ingest and describe if texts are wanted."""
    split_file: Path
    shelf: Path
    """Scratch folder for the mapped files."""
    seed: int
    """Of the caption in use."""
    text_weight: float
    device: str = "cpu"
    """Where queries are multiplied with the pool."""

    def digest(self) -> str:
        """Digest of all that the mapped files depend on, whatever the order of the corpora."""
        folders = sorted({str(embed.parent): folder_digest(embed.parent) for embed, *_ in self.shards}.values())
        inputs = [folders, file_digest(self.split_file), self.seed, self.text_weight]
        return digest_of([code_digest("pipeline.retrieval.vectors"), inputs])[:16]


class MappedClips(NamedTuple):
    """Unit-length vectors of all clips, the train clips first, each of the two parts in key order."""

    keys: list[str]
    num_pool: int
    text_XD: Float32
    audio_XD: Float32
    mixed_MD: Float32


def map_clips(source: PoolSource) -> MappedClips:
    """Map the vectors of all clips, after writing them down if nobody has.

    Raises:
        ContractError: no clip is train.
    """
    splits = read_splits(source.split_file)
    folder = store.build_once(source.shelf, source.digest(), lambda part: _write(part, source, splits))
    keys: list[str] = json.loads((folder / store.KEYS_FILE).read_bytes())
    mixed_MD = store.map_vectors(folder, store.MIXED_FILE)
    text_XD, audio_XD = (store.map_vectors(folder, name) for name in (store.TEXT_FILE, store.AUDIO_FILE))
    return MappedClips(keys, len(mixed_MD), text_XD, audio_XD, mixed_MD)


def _write(folder: Path, source: PoolSource, splits: SplitTable) -> None:
    embeds = [embed for embed, *_ in source.shards]
    found = {key for place in {embed.parent for embed in embeds} for entry in load_index(place) for key in entry.keys}
    # Key order, so that nothing depends on the order of corpora and shards.
    keys = sorted(found, key=lambda key: (splits.split_of(key) != "train", key))
    num_pool = sum(splits.split_of(key) == "train" for key in keys)
    if not num_pool:
        raise ContractError("retrieve: no train clips to choose examples from; see shards/split/split.json")
    row_of = {key: row for row, key in enumerate(keys)}

    def vectors() -> Iterator[tuple[int, Float32, Float32]]:
        for embed in embeds:
            for sample in join_columns([embed]):
                clip = read_vectors(sample, source.seed)
                yield row_of[clip.key], *stack_unit([clip.text_D, clip.audio_D], 0)

    store.write_vectors(folder, keys, vectors(), num_pool=num_pool, text_weight=source.text_weight)
