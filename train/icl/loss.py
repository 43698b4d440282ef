"""Cross-entropy over codes.

Shape letters: B batch, K codebooks, S columns, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.music.sequence import IGNORED_LABEL
from train.data import Episode
from train.icl.batches import collate
from train.icl.model import IclModel


def mean_loss(logits_BKSV: Tensor, labels_BKS: Tensor, counts_K: Tensor | None = None) -> Tensor:
    """Mean over codebooks of the mean cross-entropy of each, in nats per code: transformers' own loss.

    Args:
        logits_BKSV: scores of the next column.
        labels_BKS: what the next column holds, IGNORED_LABEL where nothing counts.
        counts_K: codes to divide by, those of the whole batch where this is a part of it; None for the labels' own.
    """
    losses_BKS = code_losses(logits_BKSV, labels_BKS)
    counts_K = (labels_BKS != IGNORED_LABEL).sum(dim=(0, 2)) if counts_K is None else counts_K
    return (losses_BKS.sum(dim=(0, 2)) / counts_K).mean()


def episode_nll(logits_BKSV: Tensor, labels_BKS: Tensor) -> Tensor:
    """Mean negative log-likelihood of each episode's counted codes, [B], in nats per code."""
    counts_B = (labels_BKS != IGNORED_LABEL).sum(dim=(1, 2))
    return code_losses(logits_BKSV, labels_BKS).sum(dim=(1, 2)) / counts_B


def code_losses(logits_BKSV: Tensor, labels_BKS: Tensor) -> Tensor:
    """Cross-entropy of every code, [B, K, S], in float32; 0 where nothing counts."""
    flat = functional.cross_entropy(
        logits_BKSV.to(torch.float32).flatten(0, 2),
        labels_BKS.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="none",
    )
    return flat.view(labels_BKS.shape)


@torch.no_grad()
def mean_nll(model: IclModel, episodes: Sequence[Episode], *, batch_size: int) -> list[float]:
    """Mean negative log-likelihood of each episode's target codes, in nats per code, in the order given.

    Args:
        model: the model; dropout is turned off. Passes keep to its `max_batch_columns`, as in training.
        episodes: cut to their budgets.
        batch_size: episodes per forward pass.
    """
    model.train(on=False)
    values: list[float] = []
    for start in range(0, len(episodes), batch_size):
        some = episodes[start : start + batch_size]
        batch = collate(some, codebook_size=model.codec.codebook_size, form=model.params.form)
        found = [0.0] * len(some)
        for places, part in batch.parts(model.params.max_batch_columns):
            moved = part.to(model.device)
            nll_B = episode_nll(model.logits(moved), moved.labels_BKS).tolist()
            for place, nll in zip(places, nll_B, strict=True):
                found[place] = nll
        values += found
    return values
