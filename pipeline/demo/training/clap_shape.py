"""The last part of CLAP's training: the space is shaped by the facts that captions name, while the ear stays as it is.

What the audio tower hears is computed once; only both projections and the text tower learn, at a tenth of the cost.

Shape letters: B clips, T mel frames, M mel bands, W width of the audio tower, D embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.demo.captions import Facts
from pipeline.demo.training.clap_data import draw_text
from pipeline.demo.training.clap_losses import SHARE_FACTS, crowd_loss, match_loss, unit
from pipeline.demo.training.clap_model import Learner
from pipeline.demo.training.clap_variants import vary
from pipeline.demo.training.fact_labels import CLASSES, label_facts
from pipeline.demo.training.keeping import learning_rate
from pipeline.engine.progress import progress

NUM_VIEWS = 2
BATCH_SIZE, VIEW_BATCH = 192, 40
PEAK_RATE, WARMUP_STEPS = 1e-3, 20
SHARED_WEIGHT, CROWD_WEIGHT = 0.5, 4.0
HARDNESS = dict.fromkeys(CLASSES, 1.0) | {"mode": 3.0}


def shape(
    learner: Learner, mel_BTM: NDArray[np.float16], facts: list[Facts], *, tokenizer: Any, schedule: tuple[int, int]
) -> None:
    """Bring clips that share facts together, and those that crowd apart.

    Args:
        learner: is changed in place.
        mel_BTM: stretched features of the clips.
        facts: of the same clips.
        tokenizer: of the captions.
        schedule: number of steps, and the seed of what is chosen in each.
    """
    steps, seed = schedule
    views_BW = [hear(learner, mel_BTM, np.random.default_rng([seed, 2, view])) for view in range(NUM_VIEWS)]
    labels_BH = torch.from_numpy(label_facts(facts))
    model = learner.model
    parts = (model.audio_projection, model.text_model, model.text_projection, learner.heads.shared)
    optimiser = torch.optim.AdamW([weight for part in parts for weight in part.parameters()], lr=PEAK_RATE)
    learner.train()
    for step in progress(range(steps), total=steps, desc="clap, shape", unit="step"):
        rng = np.random.default_rng([seed, 1, step])
        torch.manual_seed(seed * 1_000_003 + step)
        chosen_B = rng.permutation(len(facts))[:BATCH_SIZE]
        tokens = tokenizer([draw_text(facts[index], rng) for index in chosen_B], padding=True, return_tensors="pt")
        pooled_BW = views_BW[int(rng.integers(NUM_VIEWS))][chosen_B]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=PEAK_RATE, warm_up_steps=WARMUP_STEPS)
        optimiser.zero_grad()
        _loss(learner, pooled_BW, tokens, labels_BH[chosen_B]).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
    learner.eval()


def hear(learner: Learner, mel_BTM: NDArray[np.float16], rng: np.random.Generator) -> Tensor:
    """What the audio tower makes of all clips, each from elsewhere, before its projection [B, W]."""
    learner.eval()
    parts: list[Tensor] = []
    starts = range(0, len(mel_BTM), VIEW_BATCH)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in progress(starts, total=len(starts), desc="clap, hear", unit="batch"):
            part_BTM = mel_BTM[start : start + VIEW_BATCH]
            varied = vary(part_BTM, np.ones(len(part_BTM)), rng)
            parts.append(learner.model.audio_model(input_features=varied).pooler_output.float())
    return torch.cat(parts)


def _loss(learner: Learner, pooled_BW: Tensor, tokens: Any, labels_BH: Tensor) -> Tensor:
    model = learner.model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text_BD = unit(model.get_text_features(**tokens).pooler_output)
    audio_BD = unit(model.audio_projection(pooled_BW))
    match = match_loss(
        audio_BD, text_BD, labels_BH=labels_BH, logit_scale=model.logit_scale_a.detach(), aim=SHARE_FACTS
    )
    shared = sum(learner.heads.shared_loss(one, labels_BH, HARDNESS) for one in (audio_BD, text_BD))
    return match + SHARED_WEIGHT * shared + CROWD_WEIGHT * crowd_loss(audio_BD)
