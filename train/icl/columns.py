"""Columns as vectors, where some of them are no codes: states put before their segment, separators made of text.

transformers' decoder takes embeddings in place of ids, but gives every column the position of the first: it reads the
length off the wrong axis. `ColumnPositions` mends that.

Shape letters: B batch, K codebooks, S columns, R columns with the states among them, L states of one segment, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ColumnPositions(nn.Module):
    """Sinusoids for ids, as ever, and for embeddings, column by column.

    Args:
        sinusoids: transformers' own.
    """

    def __init__(self, sinusoids: nn.Module) -> None:
        super().__init__()
        self.sinusoids = sinusoids

    def forward(self, columns: Tensor, num_before: int = 0) -> Tensor:
        """Positions [S, D] of ids [B, K, S], or of what transformers hands on of embeddings, [B, S, 1]."""
        return self.sinusoids(columns.transpose(1, 2) if columns.is_floating_point() else columns, num_before)


def embed_codes(tables: Sequence[Any], ids_BKS: Tensor) -> Tensor:
    """What the decoder reads for ids, [B, S, D], as it would sum it up itself."""
    vectors: Tensor = sum(table(ids_BKS[:, k]) for k, table in enumerate(tables))  # pyright: ignore[reportAssignmentType]
    return vectors


def insert_states(
    vectors_BSD: Tensor, starts: Sequence[Sequence[int]], states: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor]:
    """Put the states of each segment before its first column.

    Args:
        vectors_BSD: columns, padded at the end.
        starts: per episode and segment a column; S is behind the last.
        states: per episode and segment its states [L, D].

    Returns:
        Columns [B, R, D], and places [B, S]: where among them the column after each of the old ones is predicted,
        which is the last state where states come between.
    """
    S = vectors_BSD.shape[1]
    rows: list[Tensor] = []
    places_BS = torch.arange(S, device=vectors_BSD.device).repeat(len(starts), 1)
    for b, (firsts, segments) in enumerate(zip(starts, states, strict=True)):
        pieces, before = [], 0
        for first, states_LD in zip(firsts, segments, strict=True):
            pieces += [vectors_BSD[b, before:first], states_LD.to(vectors_BSD.dtype)]
            # Column j predicts column j + 1: from the one before the first on, all move back.
            places_BS[b, first - 1 :] += len(states_LD)
            before = first
        rows.append(torch.cat([*pieces, vectors_BSD[b, before:]]))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), places_BS
