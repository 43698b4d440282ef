"""Train the demo's aligner: which mora sounds in each frame, and the text as a whole.

Shapes: B batch, M mel frames of 10 ms, F mel bands, T frames of 20 ms, V vocabulary, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.demo.morae import to_katakana
from pipeline.demo.training.keeping import Keeper
from pipeline.demo.training.material import Material, load_backings, load_voices
from pipeline.demo.training.windows import FRAMES_PER_S, MORAE
from pipeline.engine.progress import progress
from pipeline.models.aligner import AlignerConfig, CtcAligner
from pipeline.models.networks import save_network

DEFAULT_STEPS = 900
NUM_VOICES, NUM_BACKINGS = 2000, 300
BATCH, WINDOW_MELS = 12, 800
PEAK_RATE, WARM_STEPS = 2e-3, 50
LEVEL_SHARE, LAST_SLOPE = 8 / 9, 2.5
"""Of the steps at the peak rate; then it falls to nothing, by so many peaks over the length of the training."""
CTC_SHARE = 0.2
QUICK_STEPS = 100
"""Below, a training is a test of itself, and measured on little."""
SPELLINGS = {"じ": ("ジ", "ヂ"), "ず": ("ズ", "ヅ"), "お": ("オ", "ヲ")}
"""What lyrics may spell in two ways; the rarer one is sung in a tenth of the cases."""
VOCABULARY = ("", *(to_katakana(kana) for kana in MORAE), "ヂ", "ヅ", "ヲ", "ー")
"""Morae in katakana after CTC's blank; ー prolongs the one before."""
BLANK, PROLONGED_ID = 0, VOCABULARY.index("ー")
LONG_S, PROLONGED_SHARE = 0.4, 0.06
"""So many of the long morae are taught as a mora and its prolongation."""
LOG_FLOOR, LOG_CENTRE, LOG_SCALE = 1e-6, -6.0, 4.0
"""Of `CtcAligner`'s front end, which training does without: spectra come from the cache."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Stretches of singing, with the token of every frame and the text of each."""

    log_BMF: Tensor
    labels_BT: Tensor
    texts: list[list[int]]


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
    from pipeline.demo.training.aligner_figures import measure, write_card

    network = fit(steps=steps, seed=seed, cache=cache)
    save_network(network.half(), network.config, out)
    figures = measure(out, is_quick=steps < QUICK_STEPS)
    write_card(out, figures, steps=steps, seed=seed)
    return figures


def fit(*, steps: int, seed: int, cache: Path) -> CtcAligner:
    """Train from the last checkpoint on."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CtcAligner(AlignerConfig(vocabulary=VOCABULARY))
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    keeper = Keeper(cache / "checkpoint.pt")
    first = keeper.load(network, optimiser)
    voices = load_voices(cache / "sung", min(NUM_VOICES, 4 * steps), seed=seed, ear="aligner")
    backings = load_backings(cache / "sung", min(NUM_BACKINGS, 2 * steps), seed=seed, ear="aligner")
    for step in progress(range(first, steps), total=steps - first, desc="aligner", unit="step"):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * rate_at(step, steps)
        rng = np.random.default_rng([seed, 30, step])
        stretches = [draw_stretch(voices, backings, rng) for _ in range(BATCH)]
        keeper.note(step, learn(network, optimiser, collate(stretches)))
        keeper.save_sometimes(network, optimiser, step + 1)
    keeper.save(network, optimiser, max(first, steps))
    return network


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: up, level, and for the last ninth of the steps from a quarter down."""
    warm = min(1.0, (step + 1) / WARM_STEPS)
    return warm if step < LEVEL_SHARE * steps else warm * LAST_SLOPE * (steps - step) / steps


def draw_stretch(
    voices: list[Material], backings: list[Material], rng: np.random.Generator
) -> tuple[Tensor, Tensor, list[int]]:
    """Draw a stretch of a voice, half of the time over an accompaniment, with its frames' tokens and its text."""
    voice = voices[rng.integers(len(voices))]
    # From an even frame on: a frame of the aligner is two of the spectrum.
    start = 2 * int(rng.integers(max(1, (len(voice.log_MF) - WINDOW_MELS) // 2 + 1)))
    power_MF = np.zeros((WINDOW_MELS, voice.log_MF.shape[1]), np.float32)
    part_MF = voice.log_MF[start : start + WINDOW_MELS]
    power_MF[: len(part_MF)] = _power(part_MF, rng.normal(0, 2))
    if rng.random() < 0.5:
        backing_MF = backings[rng.integers(len(backings))].log_MF[:WINDOW_MELS]
        power_MF[: len(backing_MF)] += _power(backing_MF, rng.uniform(-18, -5))
    if rng.random() < 0.3:
        hiss = float(power_MF.mean()) * 10 ** (-rng.uniform(1.0, 4.0))
        power_MF += rng.gamma(2.0, 0.5 * hiss, power_MF.shape).astype(np.float32)
    log_MF = (np.log(power_MF + np.float32(LOG_FLOOR)) - LOG_CENTRE) / LOG_SCALE
    labels_T, text = frame_tokens(voice, start // 2, rng)
    return torch.from_numpy(log_MF.astype(np.float32)), torch.from_numpy(labels_T), text


def _power(log_MF: np.ndarray, level_db: float) -> np.ndarray:
    return np.exp((log_MF.astype(np.float32) + np.float32(level_db / 10)) * np.float32(np.log(10)))


def frame_tokens(voice: Material, first: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Token of every frame from `first` on, and those that have most of their time there."""
    labels_T, text = np.zeros(WINDOW_MELS // 2, np.int64), list[int]()
    for phrase in voice.phrases:
        for kana, start_s, end_s in phrase:
            token = VOCABULARY.index(_spelling(kana, rng))
            middle_s = (start_s + end_s) / 2
            parts = [(token, start_s, end_s)]
            if end_s - start_s > LONG_S and rng.random() < PROLONGED_SHARE:
                parts = [(token, start_s, middle_s), (PROLONGED_ID, middle_s, end_s)]
            for sound, begin_s, finish_s in parts:
                begin, finish = (round(at_s * FRAMES_PER_S) - first for at_s in (begin_s, finish_s))
                if 0 <= (begin + finish) // 2 < len(labels_T):
                    begin = max(0, begin)
                    if text and text[-1] == sound and begin:
                        # CTC asks for a blank between two that are the same.
                        labels_T[begin - 1] = BLANK
                    labels_T[begin : max(begin + 1, finish)] = sound
                    text.append(sound)
    return labels_T, text


def _spelling(kana: str, rng: np.random.Generator) -> str:
    usual, rare = SPELLINGS.get(kana, (to_katakana(kana), ""))
    return rare if rare and rng.random() < 0.1 else usual


def collate(stretches: list[tuple[Tensor, Tensor, list[int]]]) -> Batch:
    """Put stretches together."""
    log_MFs, labels, texts = zip(*stretches, strict=True)
    return Batch(torch.stack(log_MFs), torch.stack(labels), list(texts))


def learn(network: CtcAligner, optimiser: torch.optim.Optimizer, batch: Batch) -> dict[str, Tensor]:
    """Take one step; returns the losses before it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BTV = hear(network, batch.log_BMF).float()
    frames = functional.cross_entropy(logits_BTV.flatten(0, 1), batch.labels_BT.flatten())
    log_prob_TBV = torch.log_softmax(logits_BTV, -1).transpose(0, 1)
    sizes = torch.tensor([len(text) for text in batch.texts])
    num_frames = torch.full_like(sizes, len(log_prob_TBV))
    texts = torch.tensor([token for text in batch.texts for token in text])
    ctc = functional.ctc_loss(log_prob_TBV, texts, num_frames, sizes, reduction="sum", zero_infinity=True)
    ctc = ctc / batch.labels_BT.numel()
    optimiser.zero_grad()
    (frames + CTC_SHARE * ctc).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return {"frames": frames, "ctc": ctc}


def hear(network: CtcAligner, log_BMF: Tensor) -> Tensor:
    """Logits [B, T, V] from spectra, as `CtcAligner.forward` makes them of waves."""
    hidden_BCT = network.enter(log_BMF.transpose(1, 2))
    for block in network.blocks:
        hidden_BCT = block(hidden_BCT)
    return network.leave(network.norm(hidden_BCT.transpose(1, 2)))
