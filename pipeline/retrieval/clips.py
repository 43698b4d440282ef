"""Reading what retrieval knows of clips: their vectors, and where asked what is written about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import join_columns
from pipeline.data.draws import draw_caption
from pipeline.data.records import Caption, all_captions
from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npz
from pipeline.data.splits import SplitTable
from pipeline.errors import ContractError
from pipeline.retrieval.facts import Facts, facts_of_audio, facts_of_text, join_facts
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool, stack_unit


class ClipText(NamedTuple):
    """What is written about a clip, and what was measured of it."""

    captions: list[Caption]
    aspects: list[str]
    attributes: dict[str, Any]

    def pool_facts(self, caption_index: int) -> Facts:
        """All that is known of a clip of the pool: its caption is believed first, then its tags, then its audio."""
        tags = ", ".join(self.aspects)
        told = [facts_of_text(self.captions[caption_index]["text"]), facts_of_text(tags)]
        return join_facts([*told, facts_of_audio(self.attributes)])

    def prompt_facts(self, caption_index: int, *, with_aspects: bool) -> Facts:
        """What the prompt tells: the caption's text, never the target's audio.

        Args:
            caption_index: the caption that becomes the prompt.
            with_aspects: also read the tags that an annotator gave the target.
        """
        told = [facts_of_text(self.captions[caption_index]["text"])]
        return join_facts(told + [facts_of_text(", ".join(self.aspects))] * with_aspects)


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


def read_texts(paths: Sequence[Path]) -> Iterator[tuple[str, ClipText]]:
    """Read what is written about the clips of a shard.

    Args:
        paths: the shard of ingest and, if texts beyond it are wanted, the same one of describe.
    """
    # The shard of ingest holds the audio too: checking its digest would read all of it for a few lines of text.
    clips, *others = (ShardFile(path) for path in paths)
    described = {key: (other, n) for other in others for n, key in enumerate(other.check().keys)}
    for sample in clips:
        members = dict(sample.members)
        attributes: dict[str, Any] = {}
        if sample.key in described:
            column, n = described[sample.key]
            members |= column[n].members
            attributes = decode_json(members["describe.json"])["attributes"]
        aspects = decode_json(members["json"])["aspects"]
        yield sample.key, ClipText(all_captions(members), aspects, attributes)


def read_pool(shards: Sequence[Sequence[Path]], splits: SplitTable, seed: int) -> Pool:
    """Read all train clips of all corpora.

    Args:
        shards: for each shard its path in embed, and those in ingest and describe if texts are wanted.
        splits: which clips are train, and their groups.
        seed: of the caption in use.

    Raises:
        ContractError: no clip is train.
    """
    found: dict[str, ClipVectors] = {}
    texts: dict[str, ClipText] = {}
    for embed, *written in shards:
        is_train = {sample.key: sample for sample in join_columns([embed]) if splits.split_of(sample.key) == "train"}
        found |= {key: read_vectors(sample, seed) for key, sample in is_train.items()}
        texts |= {key: text for key, text in (read_texts(written) if written else ()) if key in is_train}
    # Key order, so that nothing depends on the order of corpora and shards.
    keys = sorted(found)
    if not keys:
        raise ContractError("retrieve: no train clips to choose examples from; see shards/split/split.json")
    clips = [found[key] for key in keys]
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(splits.group_of(key), []).append(row)
    dim = len(clips[0].audio_D)
    audio_MD, text_MD = stack_unit([clip.audio_D for clip in clips], dim), stack_unit([c.text_D for c in clips], dim)
    if not texts:
        return Pool(keys, groups, audio_MD, text_MD)
    used = [texts[clip.key].captions[clip.caption_index] for clip in clips]
    facts = [texts[clip.key].pool_facts(clip.caption_index) for clip in clips]
    return Pool(
        keys,
        groups,
        audio_MD,
        text_MD,
        captions=[caption["text"] for caption in used],
        authors=[caption.get("author", "") for caption in used],
        facts=facts,
    )


def make_target(clip: ClipVectors, group: str, facts: Facts | None = None) -> Target:
    """Make a target of a clip's vectors."""
    query_D, audio_D = stack_unit([clip.text_D, clip.audio_D], 0)
    return Target(clip.key, group, query_D, audio_D, facts or {})
