"""Episodes as batches of columns: batch i is a function of (seed, i) alone, so that resuming costs nothing.

Shape letters: B batch, K codebooks, S columns, N examples, D embedding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.music.sequence import IGNORED_LABEL, PLAIN, Columns, Format, LossOn, build_sequence, num_columns, pad_id
from train.augment import draw_context
from train.data import Episode, Planned, key_random
from train.params import TrainParams

_DEALING = threading.Lock()
"""Several threads make batches of one pool: the first deals it out, the others wait for that."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Episodes as tensors, padded at the end to the longest."""

    keys: list[str]
    inputs_BKS: Tensor
    labels_BKS: Tensor
    segments_BS: Tensor
    prompts: list[list[str | None]]
    starts: list[list[int]]
    """Per episode and segment the column before which its states go, where they go among the columns."""
    clap_ND: list[Tensor]
    """Per episode the float32 CLAP vectors of its examples; no rows where they are not shown."""
    lengths: list[int]
    """Columns of each episode, padding not counted."""
    sizes: list[int]
    """The same with room for states among the columns: what counts against a budget."""
    counts_K: Tensor
    """Codes that the loss counts in each codebook; of the whole batch, in a part of it too."""

    @property
    def num_columns(self) -> int:
        """Columns of all episodes, padding not counted."""
        return sum(self.lengths)

    @property
    def num_codes(self) -> int:
        """Codes that the loss counts."""
        return int((self.labels_BKS != IGNORED_LABEL).sum())

    def to(self, device: torch.device) -> Batch:
        """Move the tensors."""
        return replace(
            self,
            inputs_BKS=self.inputs_BKS.to(device),
            labels_BKS=self.labels_BKS.to(device),
            segments_BS=self.segments_BS.to(device),
            clap_ND=[vectors.to(device) for vectors in self.clap_ND],
            counts_K=self.counts_K.to(device),
        )

    def split(self, max_columns: int) -> list[Batch]:
        """Parts of like lengths, each of at most so many columns with its padding; 0 for no limit.

        Their losses add up to that of the whole. An episode that is too long by itself is a part.
        """
        return [part for _, part in self.parts(max_columns)]

    def parts(self, max_columns: int) -> list[tuple[list[int], Batch]]:
        """The same, each with the places of its episodes in the whole."""
        if max_columns == 0:
            return [(list(range(len(self.keys))), self)]
        return [(places, self._part(places)) for places in split_by_columns(self.sizes, max_columns)]

    def _part(self, places: list[int]) -> Batch:
        longest = max(self.lengths[b] for b in places)
        return replace(
            self,
            keys=[self.keys[b] for b in places],
            inputs_BKS=self.inputs_BKS[places, :, :longest],
            labels_BKS=self.labels_BKS[places, :, :longest],
            segments_BS=self.segments_BS[places, :longest],
            prompts=[self.prompts[b] for b in places],
            starts=[self.starts[b] for b in places],
            clap_ND=[self.clap_ND[b] for b in places],
            lengths=[self.lengths[b] for b in places],
            sizes=[self.sizes[b] for b in places],
        )


def collate(
    episodes: Sequence[Episode], *, codebook_size: int, loss_on: LossOn = "target", form: Format = PLAIN
) -> Batch:
    """Build the columns of episodes that fit their budgets, and pad them.

    Padding comes last, where causal attention hides it from every column, and is never a label. It bears the
    target's segment, so that its own rows of the text mask are not empty.
    """
    built: list[Columns] = [
        build_sequence(e.examples_KT, e.target_KT, codebook_size=codebook_size, loss_on=loss_on, form=form)
        for e in episodes
    ]
    lengths = [columns.inputs_KS.shape[1] for columns in built]
    shape = (len(built), built[0].inputs_KS.shape[0], max(lengths))
    inputs_BKS = np.empty(shape, dtype=np.int64)
    counts_K = np.zeros(shape[1], dtype=np.int64)
    labels_BKS = np.full(shape, IGNORED_LABEL)
    segments_BS = np.empty((shape[0], shape[2]), dtype=np.int64)
    for b, (columns, size) in enumerate(zip(built, lengths, strict=True)):
        inputs_BKS[b, :, :size] = columns.inputs_KS
        inputs_BKS[b, :, size:] = pad_id(codebook_size)
        counts_K += columns.label_mask_KS.sum(axis=1)
        np.copyto(labels_BKS[b, :, :size], columns.columns_KS[:, 1:], where=columns.label_mask_KS[:, 1:])
        segments_BS[b] = columns.segments_S[-1]
        segments_BS[b, :size] = columns.segments_S[:-1]
    return Batch(
        keys=[e.key for e in episodes],
        inputs_BKS=torch.from_numpy(inputs_BKS),
        labels_BKS=torch.from_numpy(labels_BKS),
        segments_BS=torch.from_numpy(segments_BS),
        prompts=[e.prompts for e in episodes],
        starts=[columns.starts_N.tolist() for columns in built],
        clap_ND=[clap_vectors(e, form) for e in episodes],
        lengths=lengths,
        sizes=[size + form.state_columns * len(e.prompts) for e, size in zip(episodes, lengths, strict=True)],
        counts_K=torch.from_numpy(counts_K),
    )


def clap_vectors(episode: Episode, form: Format) -> Tensor:
    """CLAP vectors of an episode's examples, float32 [N, D]; no rows where they are not shown."""
    if episode.clap_ND is None or not form.shows_clap:
        return torch.zeros(0, 0)
    return torch.from_numpy(episode.clap_ND.astype(np.float32))


def train_batch(shards: Planned, i: int, params: TrainParams, *, codebook_size: int) -> Batch:
    """Batch i of the run: exact epochs, one after another; the same whatever was drawn before."""
    episodes = [draw_at(shards, position, params) for position in batch_positions(shards, i, params)]
    return collate(episodes, codebook_size=codebook_size, loss_on=params.loss_on, form=params.form)


def draw_at(shards: Planned, position: int, params: TrainParams) -> Episode:
    """The episode at a position of the endless sequence of epochs, as the batch shows it that it was drawn for."""
    return draw_context(shards.planned(position, params.seed), position // params.batch_size, params)


def batch_positions(shards: Planned, i: int, params: TrainParams) -> list[int]:
    """Positions in the sequence of epochs that batch i holds."""
    size, num_batches = params.batch_size, params.bucket_batches
    if num_batches == 1:
        return list(range(i * size, (i + 1) * size))
    pool, place = divmod(i, num_batches)
    first = pool * num_batches * size
    with _DEALING:
        dealt = _dealt(shards, pool, params)
    return [first + offset for offset in dealt[place]]


@lru_cache(maxsize=2)
def _dealt(shards: Planned, pool: int, params: TrainParams) -> list[list[int]]:
    size = params.batch_size * params.bucket_batches
    drawn = [draw_at(shards, pool * size + offset, params) for offset in range(size)]
    lengths = [
        num_columns([codes.shape[1] for codes in [*e.examples_KT, e.target_KT]], e.target_KT.shape[0], params.form)
        for e in drawn
    ]
    return deal_by_length(lengths, params.batch_size, key_random(params.seed, pool, "buckets"))


def deal_by_length(lengths: Sequence[int], batch_size: int, random: np.random.Generator) -> list[list[int]]:
    """Deal items out to batches of like lengths; the order of the batches is drawn.

    Args:
        lengths: of the items, a whole number of batches.
        batch_size: items of a batch.
        random: of the order.
    """
    sorted_items = sorted(range(len(lengths)), key=lambda item: (lengths[item], item))
    batches = [sorted_items[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    random.shuffle(batches)
    return batches


def split_by_columns(lengths: Sequence[int], max_columns: int) -> list[list[int]]:
    """Group items of like lengths so that each group, padded to its longest, has at most so many columns.

    Returns:
        Groups of item numbers, the longest items first; an item beyond the limit is a group of its own.
    """
    groups: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= max_columns:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
