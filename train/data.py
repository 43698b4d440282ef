"""Packed shards as batches: batch i is a function of (seed, i) alone, so that resuming costs nothing.

Shape letters: B batch, K codebooks, T frames, S columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npy
from pipeline.errors import ContractError
from pipeline.music.sequence import (
    IGNORED_LABEL,
    Budget,
    Columns,
    LossOn,
    build_sequence,
    cut_to_budget,
    pad_id,
)
from train.inputs import label_digest
from train.params import TrainParams


class CodecShape(NamedTuple):
    """What shards and model must agree on; the names of the codec stamp."""

    num_codebooks: int
    codebook_size: int
    frame_rate_hz: float
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class Episode:
    """A packed sample as training and evaluation use it."""

    key: str
    caption: str
    """The target's caption that the prompt was made from."""
    target_KT: NDArray[np.uint16]
    examples_KT: list[NDArray[np.uint16]]
    """In prompt order, nearest last."""
    prompts: list[str | None]
    """One per example, then the target's; None is the null prompt."""
    codec_sha256: str | None = None
    """Weights of the codec that made the codes; None where pack did not say."""
    embedder_sha256: str | None = None
    """Weights of the embedder that chose the examples; None where pack did not say."""


class PackedShards:
    """Random access to the episodes of packed tars, checked against the model's codec.

    Args:
        paths: local tars.
        codec: what the model reads.
        limit: only the first so many samples.

    Raises:
        ContractError: no sample at all, or a damaged tar.
    """

    def __init__(self, paths: Sequence[Path], codec: CodecShape, *, limit: int | None = None) -> None:
        self.shards = [ShardFile(path) for path in paths]
        self.codec = codec
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        total = int(self._ends[-1]) if len(paths) else 0
        self._len = total if limit is None else min(limit, total)
        if self._len == 0:
            names = ", ".join(map(str, paths)) or "no tar"
            raise ContractError(f"{names}: not one sample; `python -m stages.pack` makes them, its drops say why not")

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, i: int) -> Episode:
        shard = int(np.searchsorted(self._ends, i, side="right"))
        start = self._ends[shard - 1] if shard else 0
        where = self.shards[shard].path
        return read_episode(self.shards[shard][i - int(start)], self.codec, where=where)

    def check_train(self) -> None:
        """Refuse to train on what evaluation will be measured on: a folder of shards holds val and test too.

        Raises:
            ContractError: a shard says that its samples are not of the train split.
        """
        for shard in self.shards:
            split = decode_json(shard[0].members["json"]).get("split", "train") if len(shard) else "train"
            if split != "train":
                raise ContractError(
                    f"{shard.path}: holds the split {split}; train on train shards alone: "
                    f"--shards '{shard.path.parent}/train-*.tar'"
                )

    def check_codec(self, codec: str) -> None:
        """Refuse shards whose codes another codec made, even where all its sizes agree.

        Args:
            codec: label of the codec that is to decode them.

        Raises:
            ContractError: another one made them; where pack did not say which, nothing is known against it.
        """
        for shard in self.shards:
            made_by = read_episode(shard[0], self.codec, where=shard.path).codec_sha256 if len(shard) else None
            if made_by not in (None, label_digest(codec)):
                raise ContractError(
                    f"{shard.path}: codes of a codec with weights {made_by}, models.codec is {codec}; "
                    "set models.codec to the codec of stages.encode, or encode and pack again"
                )


def read_episode(sample: Sample, codec: CodecShape, *, where: Path) -> Episode:
    """Decode one packed sample.

    Args:
        sample: members `json`, `target.npy`, `examples.npy`.
        codec: what the model reads.
        where: the shard, for messages.

    Raises:
        ContractError: a member is missing or contradicts another, or another codec made the codes.
    """
    try:
        meta = decode_json(sample.members["json"])
        target_KT = decode_npy(sample.members["target.npy"])
        flat_KS = decode_npy(sample.members["examples.npy"])
        lengths = [int(example["num_frames"]) for example in meta["examples"]]
        caption = meta["captions"][meta["caption_index"]]["text"]
        prompts = [*(example["prompt"] for example in meta["examples"]), meta["prompt"]]
        stamp = tuple(meta["codec"][name] for name in CodecShape._fields)
        made_by = {
            "codec_sha256": meta["codec"].get("weights_sha256"),
            "embedder_sha256": (meta["strategy"].get("embedder") or {}).get("weights_sha256"),
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"{where}: {sample.key} is no packed sample ({error!r}); pack it again") from error
    if stamp != tuple(codec):
        raise ContractError(
            f"{where}: {sample.key} holds codes of another codec: "
            f"{dict(zip(CodecShape._fields, stamp, strict=True))}, the model reads {codec._asdict()}; "
            "encode with the codec of models.generator, or change the model"
        )
    frames = [target_KT.shape[-1], *lengths]
    misfit = flat_KS.shape[-1] != sum(lengths) or min(frames) < 1
    if misfit or _out_of_range(target_KT, codec) or _out_of_range(flat_KS, codec):
        raise ContractError(f"{where}: codes of {sample.key} do not fit its json; pack it again")
    examples_KT = np.split(flat_KS, np.cumsum(lengths)[:-1], axis=1) if lengths else []
    return Episode(sample.key, caption, target_KT, examples_KT, prompts, **made_by)


def _out_of_range(codes_KT: NDArray[Any], codec: CodecShape) -> bool:
    # A code beyond the codebook would be read as a pad or a separator, without an error.
    wrong_shape = codes_KT.ndim != 2 or codes_KT.shape[0] != codec.num_codebooks
    return wrong_shape or (codes_KT.size > 0 and int(codes_KT.max()) >= codec.codebook_size)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Order of the samples in one epoch; every sample once."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def sample_at(position: int, num_samples: int, seed: int) -> int:
    """Index of the sample at a position of the endless sequence of epochs."""
    epoch, offset = divmod(position, num_samples)
    return int(epoch_order(seed, epoch, num_samples)[offset])


def key_random(seed: int, step: int, key: str) -> np.random.Generator:
    """Random numbers that depend on seed, step and key, and on nothing else."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, step, int.from_bytes(digest, "big")])


def nearest_examples(episode: Episode, num_examples: int) -> Episode:
    """Keep the nearest examples, in prompt order; all where there are fewer."""
    first = max(0, len(episode.examples_KT) - num_examples)
    return replace(episode, examples_KT=episode.examples_KT[first:], prompts=episode.prompts[first:])


def null_episode(episode: Episode) -> Episode:
    """The target alone, without text: what guidance subtracts."""
    return replace(episode, examples_KT=[], prompts=[None])


def fit_episode(episode: Episode, budget: Budget) -> Episode:
    """Cut an episode to its budgets."""
    examples_KT, target_KT = cut_to_budget(episode.examples_KT, episode.target_KT, budget)
    kept = replace(episode, examples_KT=examples_KT, target_KT=target_KT)
    return replace(kept, prompts=episode.prompts[len(episode.examples_KT) - len(examples_KT) :])


def blank_examples(episode: Episode, codebook_size: int) -> Episode:
    """Replace all codes of the examples by the pad id."""
    blank = [np.full_like(codes, pad_id(codebook_size)) for codes in episode.examples_KT]
    return replace(episode, examples_KT=blank)


def swap_captions(episode: Episode) -> Episode | None:
    """Give each example the prompt of the next one, so that no prompt stands at its own audio.

    Returns:
        None where that changes nothing: fewer than two examples, or equal prompts.
    """
    *prompts, own = episode.prompts
    swapped = prompts[1:] + prompts[:1]
    return None if swapped == prompts else replace(episode, prompts=[*swapped, own])


@dataclass(frozen=True, slots=True)
class Batch:
    """Episodes as tensors, padded at the end to the longest."""

    keys: list[str]
    inputs_BKS: Tensor
    labels_BKS: Tensor
    segments_BS: Tensor
    prompts: list[list[str | None]]
    num_columns: int
    """Columns of all episodes, padding not counted."""
    num_codes: int
    """Codes that the loss counts."""

    def to(self, device: torch.device) -> Batch:
        """Move the tensors."""
        inputs, labels, segments = (x.to(device) for x in (self.inputs_BKS, self.labels_BKS, self.segments_BS))
        return replace(self, inputs_BKS=inputs, labels_BKS=labels, segments_BS=segments)


def collate(episodes: Sequence[Episode], *, codebook_size: int, loss_on: LossOn = "target") -> Batch:
    """Build the columns of episodes that fit their budgets, and pad them.

    Padding comes last, where causal attention hides it from every column, and is never a label. It bears the
    target's segment, so that its own rows of the text mask are not empty.
    """
    built: list[Columns] = [
        build_sequence(e.examples_KT, e.target_KT, codebook_size=codebook_size, loss_on=loss_on) for e in episodes
    ]
    longest = max(columns.inputs_KS.shape[1] for columns in built)
    shape = (len(built), built[0].inputs_KS.shape[0], longest)
    inputs_BKS = np.full(shape, pad_id(codebook_size))
    labels_BKS = np.full(shape, IGNORED_LABEL)
    segments_BS = np.empty((len(built), longest), dtype=np.int64)
    for b, columns in enumerate(built):
        size = columns.inputs_KS.shape[1]
        inputs_BKS[b, :, :size] = columns.inputs_KS
        labels_BKS[b, :, :size] = columns.labels_KS
        segments_BS[b] = columns.segments_S[-1]
        segments_BS[b, :size] = columns.segments_S[:-1]
    return Batch(
        keys=[e.key for e in episodes],
        inputs_BKS=torch.from_numpy(inputs_BKS),
        labels_BKS=torch.from_numpy(labels_BKS),
        segments_BS=torch.from_numpy(segments_BS),
        prompts=[e.prompts for e in episodes],
        num_columns=sum(columns.inputs_KS.shape[1] for columns in built),
        num_codes=sum(int(columns.label_mask_KS.sum()) for columns in built),
    )


def train_batch(shards: PackedShards, i: int, params: TrainParams, *, codebook_size: int) -> Batch:
    """Batch i of the run: exact epochs, one after another; the same whatever was drawn before."""
    positions = range(i * params.batch_size, (i + 1) * params.batch_size)
    episodes = [shards[sample_at(position, len(shards), params.seed)] for position in positions]
    drawn = [draw_context(episode, i, params) for episode in episodes]
    return collate(drawn, codebook_size=codebook_size, loss_on=params.loss_on)


def draw_context(episode: Episode, i: int, params: TrainParams) -> Episode:
    """Choose how much context an episode shows in batch i, and cut it to the budgets."""
    random = key_random(params.seed, i, episode.key)
    counts = (params.num_examples,) if isinstance(params.num_examples, int) else params.num_examples
    count = counts[int(random.integers(len(counts)))]
    if random.random() < params.null_share:
        return fit_episode(null_episode(episode), params.budget)
    return fit_episode(nearest_examples(episode, count), params.budget)
