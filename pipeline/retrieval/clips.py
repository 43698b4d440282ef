"""The pool and the targets as they come from shards: vectors, groups, and where asked what is written about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.draws import draw_caption
from pipeline.data.records import Caption, all_captions
from pipeline.data.shards import ShardFile, decode_json
from pipeline.data.splits import SplitTable, read_splits
from pipeline.retrieval.facts import Facts, facts_of_audio, facts_of_text, join_facts
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool, stack_unit
from pipeline.retrieval.vectors import ClipVectors, PoolSource, map_clips


class ClipText(NamedTuple):
    """What is written about a clip, and what was measured of it."""

    captions: list[Caption]
    aspects: list[str]
    attributes: dict[str, Any]

    def author(self, caption_index: int) -> str:
        """Author of a caption, "" where it is not known."""
        return self.captions[caption_index].get("author", "")

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


def open_pool(source: PoolSource, guessed: Mapping[str, Facts] | None = None) -> Pool:
    """Open the pool of all train clips of all corpora.

    Args:
        source: where its shards lie.
        guessed: what was guessed of clips without tags, by key; believed where nothing else tells.

    Raises:
        ContractError: no clip is train.
    """
    clips = map_clips(source)
    splits = read_splits(source.split_file)
    keys = clips.keys[: clips.num_pool]
    vectors = clips.audio_XD[: clips.num_pool], clips.text_XD[: clips.num_pool]
    mixed = {source.text_weight: clips.mixed_MD}
    texts = _read_pool_texts(source, keys, guessed or {})
    return Pool(keys, group_rows(keys, splits), *vectors, *texts, mixed_by_weight=mixed, device=source.device)


def group_rows(keys: Sequence[str], splits: SplitTable) -> dict[str, list[int]]:
    """Rows of each joined group."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(splits.group_of(key), []).append(row)
    return groups


def _read_pool_texts(
    source: PoolSource, keys: Sequence[str], guessed: Mapping[str, Facts]
) -> tuple[list[str], list[str], list[Facts]]:
    """Captions, authors and facts of the pool, or three empty lists where the source names no texts."""
    row_of = {key: row for row, key in enumerate(keys)} if any(written for _, *written in source.shards) else {}
    captions, authors = [""] * len(row_of), [""] * len(row_of)
    facts: list[Facts] = [{}] * len(row_of)
    for _, *written in source.shards:
        for key, text in read_texts(written) if row_of else ():
            if key in row_of:
                row, used = row_of[key], draw_caption(source.seed, key, len(text.captions))
                captions[row], authors[row] = text.captions[used]["text"], text.author(used)
                facts[row] = join_facts([text.pool_facts(used), guessed.get(key, {})])
    return captions, authors, facts


def make_target(clip: ClipVectors, group: str, text: ClipText | None = None, *, with_aspects: bool = False) -> Target:
    """Make a target of a clip's vectors and, where they were read, its texts.

    Args:
        clip: its vectors, and the caption in use.
        group: its joined group.
        text: what is written about it.
        with_aspects: whether its facts come from its annotator's tags too.
    """
    query_D, audio_D = stack_unit([clip.text_D, clip.audio_D], 0)
    if text is None:
        return Target(clip.key, group, query_D, audio_D)
    facts = text.prompt_facts(clip.caption_index, with_aspects=with_aspects)
    return Target(clip.key, group, query_D, audio_D, facts, text.author(clip.caption_index))
