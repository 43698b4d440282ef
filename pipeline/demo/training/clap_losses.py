"""What the demo's CLAP is asked: which text belongs to which clip, and the facts of each.

Shape letters: B clips, D embedding, H facts, V classes of all facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.demo.training.fact_labels import CLASSES

SOFT_SHARPNESS = 15.0
"""How steeply the targets of other clips fall with unlikeness."""
UNIT_SCALE = 8.0
"""Unit vectors have to be stretched before a linear head can be sure of anything."""
MAX_COSINE = 0.8
"""Different clips that lie closer push each other away: those at 0.98 would pass for the same recording."""
MAX_LOGIT_SCALE = 3.9
"""Natural log of 50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What each text should be matched with beside its own clip."""

    share: float
    """Share of the target that goes to clips alike."""
    likeness: Mapping[str, float]
    """How much a fact counts in the likeness of two clips."""


TELL_APART = Aim(
    share=0.2,
    likeness=dict.fromkeys(CLASSES, 1.0) | {"instrument": 3.0, "form": 2.0, "tempo": 2.0, "dynamics": 0.5},
)
SHARE_FACTS = Aim(
    share=0.6,
    likeness=dict.fromkeys(CLASSES, 1.0) | {"instrument": 3.0, "mode": 4.0, "tempo": 2.0, "dynamics": 0.0},
)


class FactHeads(nn.Module):
    """Linear heads that only training needs: one set for the space both towers share, one before its projection.

    Args:
        dim: of the shared space.
        audio_dim: of the audio tower's output before the projection.
    """

    def __init__(self, dim: int, audio_dim: int) -> None:
        super().__init__()
        num_classes = sum(map(len, CLASSES.values()))
        self.shared = nn.Linear(dim, num_classes)
        self.audio = nn.Linear(audio_dim, num_classes)

    def shared_loss(self, vectors_BD: Tensor, labels_BH: Tensor, hardness: Mapping[str, float]) -> Tensor:
        """How badly the facts can be read off unit vectors of either tower."""
        return fact_loss(self.shared(UNIT_SCALE * vectors_BD), labels_BH, hardness)


def fact_loss(logits_BV: Tensor, labels_BH: Tensor, hardness: Mapping[str, float]) -> Tensor:
    """Cross entropy of all facts, their mean weighted by how much each counts."""
    parts = logits_BV.split([len(classes) for classes in CLASSES.values()], dim=1)
    losses = [
        hardness[name] * nn.functional.cross_entropy(part, labels_BH[:, index])
        for index, (name, part) in enumerate(zip(CLASSES, parts, strict=True))
    ]
    return torch.stack(losses).sum() / sum(hardness.values())


def crowd_loss(audio_BD: Tensor) -> Tensor:
    """How much closer than `MAX_COSINE` different clips lie: squares, summed over each clip's neighbours."""
    over_BB = (audio_BD @ audio_BD.T - MAX_COSINE).clamp(min=0).square()
    return over_BB.fill_diagonal_(0).sum(dim=1).mean()


def match_targets(labels_BH: Tensor, aim: Aim) -> Tensor:
    """Which text each clip should be matched with [B, B]: its own, and a little those of clips alike."""
    weights_H = torch.tensor([aim.likeness[name] for name in CLASSES])
    alike_BB = ((labels_BH[:, None] == labels_BH[None]) * weights_H).sum(dim=-1) / weights_H.sum()
    own_BB = torch.eye(len(labels_BH))
    return (1 - aim.share) * own_BB + aim.share * torch.softmax(SOFT_SHARPNESS * alike_BB, dim=1)


def match_loss(audio_BD: Tensor, text_BD: Tensor, *, labels_BH: Tensor, logit_scale: Tensor, aim: Aim) -> Tensor:
    """Contrastive loss in both directions with soft targets (InfoNCE; Radford et al. 2021, section 2.3).

    Args:
        audio_BD: unit vectors of clips.
        text_BD: unit vectors of a text of each.
        labels_BH: the facts of each, as `label_facts` numbers them.
        logit_scale: natural log of what cosines are multiplied by.
        aim: which other clips count as alike.
    """
    logits_BB = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * audio_BD @ text_BD.T
    targets_BB = match_targets(labels_BH, aim)
    there = nn.functional.cross_entropy(logits_BB, targets_BB)
    back = nn.functional.cross_entropy(logits_BB.T, targets_BB)
    return (there + back) / 2


def unit(vectors_BD: Any) -> Tensor:
    """Bring vectors to unit length, in float32."""
    return nn.functional.normalize(vectors_BD.float(), dim=-1)
