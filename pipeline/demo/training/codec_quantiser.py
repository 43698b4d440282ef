"""Training for transformers' residual quantiser, which only infers: codebooks as moving averages of what they code.

After van den Oord et al. 2017 (appendix A.1) and Zeghidour et al. 2021 (SoundStream: k-means start, dead codes,
quantiser dropout). The averages lie in the codebooks' own buffers, so a checkpoint of the model holds them.

Shape letters: B batch, K codebooks, M vectors, T frames, D latent, V codes of a book.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DECAY = 0.99
DEAD_USES = 0.3
"""A code that this many vectors a batch choose, on the average of the last hundred batches or fewer, is replaced."""
SMOOTHING = 1e-5


class Quantised(NamedTuple):
    """What training needs of the quantiser.

    Attributes:
        latent_BDT: quantised; its gradient goes straight through to the encoder.
        commitment: mean squared distance to the chosen codes, summed over books; pulls the encoder towards them.
        codes_BKT: chosen codes of all books.
    """

    latent_BDT: Tensor
    commitment: Tensor
    codes_BKT: Tensor


def quantise(quantizer: Any, latent_BDT: Tensor, num_books_B: Tensor) -> Quantised:
    """Quantise a batch and move the codebooks towards it.

    Args:
        quantizer: `EncodecModel.quantizer`.
        latent_BDT: the encoder's output, float32.
        num_books_B: how many of the books each item uses; later ones neither code it nor learn from it.
    """
    B, D, T = latent_BDT.shape
    residual_MD = latent_BDT.transpose(1, 2).reshape(B * T, D)
    num_books_M = num_books_B.repeat_interleave(T)
    total_MD = torch.zeros_like(residual_MD)
    commitment = torch.zeros(())
    codes: list[Tensor] = []
    for k, layer in enumerate(quantizer.layers):
        uses_M = num_books_M > k
        codes_M = layer.codebook.quantize(residual_MD.detach())
        picked_MD = layer.codebook.embed[codes_M]
        if uses_M.any():
            commitment = commitment + functional.mse_loss(residual_MD[uses_M], picked_MD[uses_M])
            _follow(layer.codebook, residual_MD.detach()[uses_M], codes_M[uses_M])
        total_MD = total_MD + picked_MD * uses_M[:, None]
        residual_MD = residual_MD - picked_MD
        codes.append(codes_M.view(B, T))
    total_BDT = total_MD.view(B, T, D).transpose(1, 2)
    return Quantised(latent_BDT + (total_BDT - latent_BDT).detach(), commitment, torch.stack(codes, dim=1))


@torch.no_grad()
def _follow(codebook: Any, vectors_MD: Tensor, codes_M: Tensor) -> None:
    """Move each code towards the mean of the vectors that chose it, and replace dead ones by vectors of the batch."""
    counts_V = torch.bincount(codes_M, minlength=codebook.codebook_size).float()
    sums_VD = torch.zeros_like(codebook.embed).index_add_(0, codes_M, vectors_MD)
    codebook.cluster_size.mul_(DECAY).add_(counts_V, alpha=1 - DECAY)
    codebook.embed_avg.mul_(DECAY).add_(sums_VD, alpha=1 - DECAY)
    dead_V = codebook.cluster_size < DEAD_USES
    if dead_V.any():
        drawn = torch.randint(len(vectors_MD), (int(dead_V.sum()),))
        # As if it had been chosen as often as most: time to gather vectors before it is judged again.
        uses = len(vectors_MD) / codebook.codebook_size
        codebook.cluster_size[dead_V] = uses
        codebook.embed_avg[dead_V] = vectors_MD[drawn] * uses
    codebook.embed.copy_(codebook.embed_avg / (codebook.cluster_size[:, None] + SMOOTHING))


def draw_num_books(batch_size: int, num_books: int, *, dropout: float) -> Tensor:
    """Quantiser dropout: that share of the items uses only the first one, two ... books, each number equally often."""
    fewer_B = torch.randint(1, num_books, (batch_size,))
    return torch.where(torch.rand(batch_size) < dropout, fewer_B, num_books)
