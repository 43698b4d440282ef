"""What the generator learns from: codes of clips, and captions written anew for every batch.

Shape letters: C clips, B batch, K codebooks, T frames, S columns, L tokens of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.demo.captions import STYLES, Facts, write_caption
from pipeline.demo.training.music import Music
from pipeline.engine.progress import progress
from pipeline.models.base import Codec
from pipeline.music.sequence import build_sequence

DROPOUT = 0.1
"""Share of captions left out, so that guidance has something to compare with."""
GROUP = 8
"""Clips encoded at a time."""


class Batch(NamedTuple):
    """What one step reads.

    Attributes:
        inputs_BKS: columns.
        labels_BKS: what follows each column.
        captions: None where the text is left out.
    """

    inputs_BKS: Tensor
    labels_BKS: Tensor
    captions: list[str | None]


class CaptionedCodes:
    """Clips as codes with their facts; the same seed and step give the same batch.

    Args:
        codes_CKT: codes of the clips.
        facts: of each clip.
        codebook_size: entries of a codebook.
        seed: decides everything.
    """

    def __init__(self, codes_CKT: NDArray[np.uint16], facts: Sequence[Facts], *, codebook_size: int, seed: int) -> None:
        self.codes_CKT, self.facts, self._codebook_size, self._seed = codes_CKT, facts, codebook_size, seed

    def __len__(self) -> int:
        return len(self.codes_CKT)

    def batch(self, step: int, batch_size: int) -> Batch:
        """Clips for a step of training: every clip once before any comes again."""
        rng = np.random.default_rng([self._seed, step])
        chosen = [self._place(step * batch_size + number) for number in range(batch_size)]
        captions = [None if rng.random() < DROPOUT else caption_of(self.facts[index], rng) for index in chosen]
        return self._lay_out(chosen, captions)

    def _place(self, number: int) -> int:
        epoch, place = divmod(number, len(self))
        return int(np.random.default_rng([self._seed, 1, epoch]).permutation(len(self))[place])

    def fixed(self, chosen: Sequence[int], *, captions_from: Sequence[int]) -> Batch:
        """Clips for measuring, with captions that are the same every time, of these or of other clips."""
        captions = [
            caption_of(self.facts[index], np.random.default_rng([self._seed, 2, index])) for index in captions_from
        ]
        return self._lay_out(chosen, captions)

    def _lay_out(self, chosen: Sequence[int], captions: Sequence[str | None]) -> Batch:
        columns = [build_sequence([], self.codes_CKT[index], codebook_size=self._codebook_size) for index in chosen]
        return Batch(
            torch.from_numpy(np.stack([of.inputs_KS for of in columns])),
            torch.from_numpy(np.stack([of.labels_KS for of in columns])),
            list(captions),
        )


def caption_of(facts: Facts, rng: np.random.Generator) -> str:
    """Describe a clip in the manner of any of the corpus's authors."""
    return write_caption(facts, int(rng.choice(list(STYLES))), rng)


def encode_music(music: Music, codec: Codec, path: Path) -> NDArray[np.uint16]:
    """Codes [C, K, T] of all clips, kept in a file; a codec that gives other codes makes another one.

    Args:
        music: clips of one length.
        codec: the codec.
        path: where the codes are kept; the digest of the codec's golden codes joins its name.
    """
    digest = str(codec.stamp["golden_sha256"])[:12]
    kept = path.with_name(f"{path.stem}-{len(music)}-{digest}.npy")
    if not kept.exists():
        groups = [range(first, min(first + GROUP, len(music))) for first in range(0, len(music), GROUP)]
        codes: list[NDArray[np.uint16]] = []
        for group in progress(groups, total=len(groups), desc="encode", unit="batch"):
            codes += codec.encode([music.wave(index) for index in group])
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, np.stack(codes))
        partial.replace(kept)
    return np.load(kept)


def tokenise(tokenizer: Any, captions: Sequence[str | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and mask [B, L] of captions, and which of them [B] say anything; a left-out one reads as an empty text."""
    tokens = tokenizer([caption or "" for caption in captions], padding=True, return_tensors="pt")
    keep_B = torch.tensor([float(caption is not None) for caption in captions])
    return tokens["input_ids"], tokens["attention_mask"], keep_B
