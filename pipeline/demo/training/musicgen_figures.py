"""Figures of a trained generator on works that it has not learnt from.

Shape letters: C clips, B batch, K codebooks, T frames, S columns, V codes of a book.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.demo.captions import Facts
from pipeline.demo.training.musicgen_data import CaptionedCodes, tokenise
from pipeline.music.sequence import IGNORED_LABEL

BATCH_SIZE = 8
NUM_DRAWS = 2000


def decode_captioned(model: Any, tokenizer: Any, inputs_BKS: Tensor, captions: Sequence[str | None]) -> Tensor:
    """Logits [B, K, S, V] of the columns that follow, each caption seen by its own clip.

    A left-out caption is zero states, as in training on episodes and in generation with guidance.
    """
    ids_BL, mask_BL, keep_B = tokenise(tokenizer, captions)
    states_BLD = model.text_encoder(ids_BL, mask_BL).last_hidden_state
    states_BLD = model.enc_to_dec_proj(states_BLD) if hasattr(model, "enc_to_dec_proj") else states_BLD
    B, K, S = inputs_BKS.shape
    out = model.decoder(
        inputs_BKS.reshape(B * K, S),
        encoder_hidden_states=states_BLD * keep_B[:, None, None],
        encoder_attention_mask=mask_BL,
        use_cache=False,
    )
    return out.logits.view(B, K, S, -1)


def code_losses(logits_BKSV: Tensor, labels_BKS: Tensor) -> Tensor:
    """Mean cross-entropy in nats per code of every clip and codebook, [B, K]."""
    flat = functional.cross_entropy(
        logits_BKSV.float().flatten(0, 2), labels_BKS.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    counts_BK = (labels_BKS != IGNORED_LABEL).sum(dim=2)
    return flat.view(labels_BKS.shape).sum(dim=2) / counts_BK


@torch.no_grad()
def held_losses(model: Any, tokenizer: Any, clips: CaptionedCodes, captions_from: Sequence[int]) -> NDArray[np.float64]:
    """Losses [C, K] of all clips, each with the caption of the clip that is named for it."""
    model.eval()
    losses: list[Tensor] = []
    for first in range(0, len(clips), BATCH_SIZE):
        chosen = range(first, min(first + BATCH_SIZE, len(clips)))
        batch = clips.fixed(chosen, captions_from=[captions_from[index] for index in chosen])
        logits_BKSV = decode_captioned(model, tokenizer, batch.inputs_BKS, batch.captions)
        losses.append(code_losses(logits_BKSV, batch.labels_BKS))
    return torch.cat(losses).double().numpy()


def unigram_losses(learnt_CKT: NDArray[np.uint16], held_CKT: NDArray[np.uint16], *, codebook_size: int) -> list[float]:
    """Loss of each codebook if codes are guessed by how often they occur in training."""
    losses: list[float] = []
    for k in range(held_CKT.shape[1]):
        counts_V = np.bincount(learnt_CKT[:, k].ravel(), minlength=codebook_size) + 1
        log_share_V = np.log(counts_V / counts_V.sum())
        losses.append(-float(log_share_V[held_CKT[:, k].ravel()].mean()))
    return losses


def swap_captions(facts: Sequence[Facts], *, seed: int) -> list[int]:
    """Name for every clip another one, of another instrument, whose caption it gets."""
    rng = np.random.default_rng([seed, 3])
    swapped: list[int] = []
    for own in facts:
        others = [index for index, other in enumerate(facts) if other.instrument != own.instrument]
        swapped.append(int(rng.choice(others)))
    return swapped


def measure(
    model: Any, untrained: Any, tokenizer: Any, *, learnt: CaptionedCodes, held: CaptionedCodes, seed: int
) -> dict[str, float]:
    """Take all figures.

    Args:
        model: the generator with its rounded weights.
        untrained: one of the same shapes with the weights that training starts from.
        tokenizer: of both.
        learnt: training clips, for the unigram baseline.
        held: clips to measure on.
        seed: of the swap and the interval.
    """
    own = list(range(len(held)))
    right_CK = held_losses(model, tokenizer, held, own)
    swapped_CK = held_losses(model, tokenizer, held, swap_captions(held.facts, seed=seed))
    size = model.config.decoder.vocab_size
    rows = {
        "trained": right_CK.mean(axis=0),
        "unigram": unigram_losses(learnt.codes_CKT, held.codes_CKT, codebook_size=size),
        "untrained": held_losses(untrained, tokenizer, held, own).mean(axis=0),
    }
    figures = {f"loss, {name}, nats per code": float(np.mean(values_K)) for name, values_K in rows.items()}
    for name, values_K in rows.items():
        figures |= {f"loss, {name}, codebook {k + 1}": float(value) for k, value in enumerate(values_K)}
    difference_C = (swapped_CK - right_CK).mean(axis=1)
    low, high = bootstrap_interval(difference_C, seed=seed)
    figures["loss with a swapped caption, more by"] = float(difference_C.mean())
    figures["loss with a swapped caption, more by, 2.5 % bound"] = low
    figures["loss with a swapped caption, more by, 97.5 % bound"] = high
    return figures | {"clips better with their own caption, %": 100 * float((difference_C > 0).mean())}


def bootstrap_interval(values_C: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """95 % interval of a mean, by drawing clips with replacement."""
    rng = np.random.default_rng([seed, 4])
    means = [float(rng.choice(values_C, len(values_C)).mean()) for _ in range(NUM_DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@torch.no_grad()
def time_generation(model: Any, tokenizer: Any, *, num_frames: int) -> float:
    """Processor time to generate so many frames with guidance, by the library's own loop."""
    tokens = tokenizer(["a flute playing a folk song"], return_tensors="pt")
    started_s = time.process_time()
    model.generate(**tokens, max_new_tokens=num_frames, do_sample=True, guidance_scale=3.0)
    return time.process_time() - started_s
