"""Train the demo's Whisper: short windows first, then whole ones of 30 s, as recognisers are given.

Shapes: as in `whisper_model`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.demo.training.keeping import Keeper
from pipeline.demo.training.material import load_backings, load_voices
from pipeline.demo.training.whisper_model import Batch, SungWhisper, collate, dims_json, in_halves
from pipeline.demo.training.windows import MIXED, PLAIN, USUAL, Mixer, token_ids
from pipeline.engine.progress import progress

DEFAULT_STEPS = 7000
NUM_VOICES, NUM_BACKINGS = 3500, 400
HEAR_SHARE, SHORT_SHARE = 0.28, 0.8
"""Up to the first share of the steps the encoder learns alone; up to the second, windows are short."""
SHORT, LONG = (8, 1000), (3, 3000)
"""Windows of a batch, and mel frames of a window."""
MOVED_SHARE = 0.6
"""Of the short windows, those that lie somewhere in the 30 s and not at their start."""
PEAK_RATE, WARM_STEPS = 2.5e-3, 60
SWIFT_SHARE, LEVEL_SHARE, CALM_RATE = 0.15, 0.75, 0.4
"""Of the steps, at the peak rate and at a calmer one, in peaks; from then on it falls to nothing."""
WEIGHTS = {"text": 1.0, "sound": 0.5, "before": 0.3, "begin": 0.5, "now": 0.3, "next": 0.6}
QUICK_STEPS = 100
"""Below, a training is a test of itself, and measured on little."""


def train(out: Path, *, steps: int, seed: int, cache: Path) -> dict[str, float]:
    """Train, write and measure.

    Args:
        out: where `config.json`, `model.safetensors`, `figures.json` and the card go.
        steps: of the optimiser.
        seed: decides weights, singing and windows.
        cache: rendered material and the last checkpoint; the same arguments go on from there.

    Returns:
        Figures on held-out singing.
    """
    from pipeline.demo.training.whisper_figures import measure, write_card

    network = fit(steps=steps, seed=seed, cache=cache)
    save_rows(network, out)
    figures = measure(out, is_quick=steps < QUICK_STEPS)
    write_card(out, figures, steps=steps, seed=seed)
    return figures


def fit(*, steps: int, seed: int, cache: Path) -> SungWhisper:
    """Train from the last checkpoint on."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SungWhisper()
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    keeper = Keeper(cache / "checkpoint.pt")
    first = keeper.load(network, optimiser)
    voices = load_voices(cache / "sung", min(NUM_VOICES, 2 * steps), seed=seed, ear="whisper")
    backings = load_backings(cache / "sung", min(NUM_BACKINGS, 2 * steps), seed=seed, ear="whisper")
    mixer = Mixer(voices, backings)
    for step in progress(range(first, steps), total=steps - first, desc="whisper", unit="step"):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * rate_at(step, steps)
        batch = draw_batch(mixer, step, steps, seed=seed)
        keeper.note(step, learn(network, optimiser, batch, writes=step >= HEAR_SHARE * steps))
        keeper.save_sometimes(network, optimiser, step + 1)
    keeper.save(network, optimiser, max(first, steps))
    return network


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: up, level, calmer, and down."""
    left = (steps - step) / max(1.0, (1 - LEVEL_SHARE) * steps)
    return min((step + 1) / WARM_STEPS, 1.0 if step < SWIFT_SHARE * steps else CALM_RATE * min(1.0, left))


def draw_batch(mixer: Mixer, step: int, steps: int, *, seed: int) -> Batch:
    """Put the windows of a step together; while the encoder learns alone, most are a voice alone."""
    size, num_mels = SHORT if step < SHORT_SHARE * steps else LONG
    rng = np.random.default_rng([seed, 20, step])
    moves = num_mels == SHORT[1] and rng.random() < MOVED_SHARE
    offset = int(rng.integers(0, (LONG[1] - SHORT[1]) // 2 + 1)) if moves else 0
    shares = PLAIN if step < HEAR_SHARE * steps else MIXED if num_mels == SHORT[1] else USUAL
    batch = collate(
        [
            mixer.window(np.random.default_rng([seed, 21, step, number]), shares, num_mels=num_mels, offset=offset)
            for number in range(size)
        ]
    )
    return batch if step >= HEAR_SHARE * steps else in_halves(batch)


def learn(network: SungWhisper, optimiser: torch.optim.Optimizer, batch: Batch, *, writes: bool) -> dict[str, Tensor]:
    """Take one step; returns the losses before it.

    Args:
        network: changed in place.
        optimiser: of all its weights.
        batch: windows.
        writes: whether the decoder learns too.
    """
    # On CPUs with AMX bfloat16 multiplies six times as fast.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        audio_BTD = network.encode(batch.mel_BFM, batch.offset)
        losses = network.sound_losses(audio_BTD, batch)
        if writes:
            losses |= network.text_losses(audio_BTD, batch)
    total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
    optimiser.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return losses


def save_rows(network: SungWhisper, out: Path) -> None:
    """Write the weights as float16, with what `expand_whisper` must know."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().half().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(("sounds.", "before.")) and name != "encoder.positional_embedding"
    }
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = {"dims": dims_json(network.dims), "token_ids": token_ids()}
    (out / "config.json").write_text(json.dumps(config) + "\n", "utf-8")
