"""Train the demo's CLAP: real format, real architecture, small, on rendered clips and captions of their facts.

Shape letters: B clips, T mel frames, M mel bands, L tokens, H facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.demo.captions import Facts
from pipeline.demo.training.clap_card import CARD, write_checkpoint
from pipeline.demo.training.clap_data import draw_text, training_features, vocabulary_texts
from pipeline.demo.training.clap_figures import measure
from pipeline.demo.training.clap_losses import TELL_APART, crowd_loss, fact_loss, match_loss, unit
from pipeline.demo.training.clap_model import Learner, set_input_norm
from pipeline.demo.training.clap_shape import shape
from pipeline.demo.training.clap_variants import draw_speeds, vary
from pipeline.demo.training.fact_labels import CLASSES, label_facts
from pipeline.demo.training.keeping import Keeper, learning_rate, write_card
from pipeline.demo.training.music import held_out_music
from pipeline.demo.vocabulary import build_roberta_tokenizer
from pipeline.engine.progress import progress
from pipeline.models.clap import load_embedder

DEFAULT_STEPS = 600
NUM_CLIPS, CLIPS_PER_NORM = 3600, 6
BATCH_SIZE = 96
TEXTS_PER_CLIP = 2
PEAK_RATE, WEIGHT_DECAY, WARMUP_STEPS = 1e-3, 0.05, 60
NUM_HELD_OUT, HELD_OUT_PER_STEP, CAPTION_SEED = 480, 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What counts in a part of the training."""

    num_clips: int
    """To learn from, the first so many."""
    hardness: Mapping[str, float]
    """How much a fact counts among the heads."""
    weights: Mapping[str, float]
    """Of the losses."""
    max_speed: float = 1.0
    """Up to so many times as fast, or as slow, clips are played."""


EASY = Phase(
    num_clips=2400,
    hardness=dict.fromkeys(CLASSES, 1.0),
    weights={"match": 1.0, "shared": 0.3, "audio": 0.7, "crowd": 0.0},
)
HARD = Phase(
    num_clips=NUM_CLIPS,
    hardness=dict.fromkeys(CLASSES, 1.0) | {"mode": 2.0, "key": 3.0, "tempo": 3.0, "dynamics": 0.5},
    weights={"match": 1.0, "shared": 0.5, "audio": 1.5, "crowd": 2.0},
)
PHASES = {0: EASY, 186: HARD, 287: replace(HARD, max_speed=1.28)}
"""By the first step of each. Instruments and forms are learnt soon; then what is hard to hear counts more, and tempo
is told from the other facts."""


def train(out: Path, *, steps: int = DEFAULT_STEPS, seed: int = 0, cache: Path) -> dict[str, float]:
    """Train, write the checkpoint's folder, and measure it on held-out clips.

    Args:
        out: folder of the checkpoint.
        steps: of training; few of them take few clips.
        seed: of weights and of the order of everything.
        cache: folder for clips, features and the state of a run that was stopped.
    """
    torch.set_num_threads(1)
    mel_BTM, facts = training_features(min(NUM_CLIPS, steps * BATCH_SIZE), cache)
    tokenizer: Any = build_roberta_tokenizer(vocabulary_texts())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = Learner(len(tokenizer))
    set_input_norm(learner.model, mel_BTM[: EASY.num_clips : CLIPS_PER_NORM])
    keeper = Keeper(cache / "clap" / f"steps-{steps}-seed-{seed}.pt")
    learn(learner, mel_BTM, facts, tokenizer=tokenizer, keeper=keeper, schedule=(steps, seed))
    shape(learner, mel_BTM, facts, tokenizer=tokenizer, schedule=(steps // 2, seed))
    write_checkpoint(learner.model, tokenizer, out)
    held_out = held_out_music(min(NUM_HELD_OUT, HELD_OUT_PER_STEP * steps), cache)
    figures = measure(load_embedder(str(out)), held_out, seed=CAPTION_SEED)
    write_card(out, CARD, {"clips": len(facts), "steps": steps, "seed": seed, "batch": BATCH_SIZE}, figures)
    return figures


def learn(
    learner: Learner,
    mel_BTM: NDArray[np.float16],
    facts: list[Facts],
    *,
    tokenizer: Any,
    keeper: Keeper,
    schedule: tuple[int, int],
) -> None:
    """Take the steps that a run has left.

    Args:
        learner: is changed in place.
        mel_BTM: stretched features of the clips.
        facts: of the same clips.
        tokenizer: of the captions.
        keeper: has the state of a run that was stopped.
        schedule: steps in all, and the seed of what is chosen in each.
    """
    steps, seed = schedule
    optimiser = make_optimiser(learner)
    done = keeper.load(learner, optimiser)
    _be_ready(learner)
    for step in progress(range(done, steps), total=steps - done, desc="clap", unit="step"):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        phase = PHASES[max(first for first in PHASES if first <= step)]
        chosen_B = rng.permutation(min(phase.num_clips, len(facts)))[:BATCH_SIZE]
        speed_B = draw_speeds(len(chosen_B), phase.max_speed, rng)
        heard = _play(facts, chosen_B, speed_B)
        texts = [[draw_text(one, rng) for one in heard] for _ in range(TEXTS_PER_CLIP)]
        tokens = [tokenizer(one, padding=True, return_tensors="pt") for one in texts]
        mel_B1TM, labels_BH = vary(mel_BTM[chosen_B], speed_B, rng), torch.from_numpy(label_facts(heard))
        losses = _losses(learner, mel_B1TM, tokens, labels_BH=labels_BH, phase=phase)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=PEAK_RATE, warm_up_steps=WARMUP_STEPS)
        _descend(learner, optimiser, torch.stack([phase.weights[name] * loss for name, loss in losses.items()]).sum())
        keeper.note(step, losses)
        keeper.save_sometimes(learner, optimiser, step + 1)
    keeper.save(learner, optimiser, steps)


def _be_ready(learner: Learner) -> None:
    learner.train()
    # Measured once, by `set_input_norm`.
    learner.model.audio_model.audio_encoder.batch_norm.eval()


def _play(facts: list[Facts], chosen_B: NDArray[np.int64], speed_B: NDArray[np.float64]) -> list[Facts]:
    """What is true of clips that are played faster or slower."""
    pairs = zip(chosen_B.tolist(), speed_B.tolist(), strict=True)
    return [replace(facts[index], bpm=round(facts[index].bpm * speed)) for index, speed in pairs]


def _descend(learner: Learner, optimiser: torch.optim.AdamW, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimiser.step()


def make_optimiser(learner: Learner) -> torch.optim.AdamW:
    """AdamW that lets biases and norms be."""
    weights = list(learner.parameters())
    groups = [
        {"params": [one for one in weights if one.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))


def _losses(
    learner: Learner, mel_B1TM: Tensor, tokens: list[Any], *, labels_BH: Tensor, phase: Phase
) -> dict[str, Tensor]:
    model, heads = learner.model, learner.heads
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = model.audio_model(input_features=mel_B1TM).pooler_output
        audio_BD = unit(model.audio_projection(pooled))
        texts_BD = [unit(model.get_text_features(**one).pooler_output) for one in tokens]
    aimed: Any = partial(match_loss, labels_BH=labels_BH, logit_scale=model.logit_scale_a, aim=TELL_APART)
    return {
        "match": torch.stack([aimed(audio_BD, one) for one in texts_BD]).mean(),
        "shared": torch.stack(
            [heads.shared_loss(one, labels_BH, phase.hardness) for one in (audio_BD, *texts_BD)]
        ).mean(),
        "audio": fact_loss(heads.audio(pooled.float()), labels_BH, phase.hardness),
        "crowd": crowd_loss(audio_BD),
    }
