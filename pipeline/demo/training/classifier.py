"""Train the demo's classifier of facts, which knows nothing of the CLAP that chooses examples.

Shape letters: B clips, M mel bands, P semitones, T frames, V classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.demo.captions import TEXTURES, Facts
from pipeline.demo.synth import TIMBRES
from pipeline.demo.training.classifier_figures import CARD, measure
from pipeline.demo.training.fact_labels import MODES, pitch_class
from pipeline.demo.training.keeping import Keeper, learning_rate, write_card
from pipeline.demo.training.music import Music, held_out_music, training_music
from pipeline.demo.training.works import CLIPS_PER_SEED
from pipeline.engine.progress import progress
from pipeline.models.classifier import ClassifierConfig, FactNetwork, Spectra, load_classifier
from pipeline.models.networks import save_network

DEFAULT_STEPS = 300
NUM_CLIPS, NUM_HELD_OUT, HELD_OUT_PER_STEP = 3600, 480, 12
BATCH_SIZE = 64
PEAK_RATE, WEIGHT_DECAY, WARMUP_STEPS = 2e-3, 0.05, 50
CLASSES = {"instrument": tuple(TIMBRES), "texture": tuple(TEXTURES)}
WEIGHTS = {"instrument": 0.5, "texture": 1.0, "key": 1.0, "mode": 1.0}
MASKED_BANDS = 10
SHIFT_SEMITONES = (-5, 6)
"""Clips are moved through all keys."""
MAX_TILT, NOISE_LOG_RANGE = 0.25, (-3.0, 0.0)
"""In the units of `FactNetwork.listen`: 0.25 is 4 dB, -3 its floor."""
_OCTAVE = 12

Labels = dict[str, NDArray[np.int64]]
Arrays = tuple[NDArray[np.float16], NDArray[np.float16]]


def train(out: Path, *, steps: int = DEFAULT_STEPS, seed: int = 0, cache: Path) -> dict[str, float]:
    """Train, write the checkpoint's folder, and measure it on held-out clips.

    Args:
        out: folder of the checkpoint.
        steps: of training; few of them take few clips.
        seed: of weights and of the order of everything.
        cache: folder for clips, spectra and the state of a run that was stopped.
    """
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FactNetwork(ClassifierConfig(classes=CLASSES))
    music = training_music(min(NUM_CLIPS, steps * BATCH_SIZE), cache)
    spectra = load_spectra(network, music, cache / "classifier")
    keeper = Keeper(cache / "classifier" / f"steps-{steps}-seed-{seed}.pt")
    learn(network, spectra, label(music.facts), keeper=keeper, schedule=(steps, seed))
    save_network(network.half(), network.config, out)
    figures = measure(
        load_classifier(str(out)), held_out_music(min(NUM_HELD_OUT, HELD_OUT_PER_STEP * steps), cache), seed=seed
    )
    write_card(out, CARD, {"clips": len(music), "steps": steps, "seed": seed, "batch": BATCH_SIZE}, figures)
    return figures


def load_spectra(network: FactNetwork, music: Music, folder: Path) -> Arrays:
    """What the network hears of each clip, [B, M, T] and [B, P, T]; made where the folder lacks it."""
    folder.mkdir(parents=True, exist_ok=True)
    mels: list[NDArray[np.float16]] = []
    semitones: list[NDArray[np.float16]] = []
    starts = range(0, len(music), CLIPS_PER_SEED)
    for start in progress(starts, total=len(starts), desc="spectra", unit="chunk"):
        path = folder / f"train-{start // CLIPS_PER_SEED:03d}.npz"
        if not path.exists():
            indices = range(start, min(start + CLIPS_PER_SEED, len(music)))
            _write_chunk(path, network, [music.wave(index) for index in indices])
        with np.load(path) as kept:
            mels.append(kept["mel"])
            semitones.append(kept["semitone"])
    return np.concatenate(mels), np.concatenate(semitones)


def _write_chunk(path: Path, network: FactNetwork, waves_N: Sequence[NDArray[np.float32]]) -> None:
    with torch.inference_mode():
        heard = [network.listen(torch.from_numpy(wave_N)[None]) for wave_N in waves_N]
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        mel = torch.cat([one.mel_BMT for one in heard]).half().numpy()
        np.savez(file, mel=mel, semitone=torch.cat([one.semitone_BPT for one in heard]).half().numpy())
    partial.replace(path)


def label(facts: Sequence[Facts]) -> Labels:
    """Each clip's class of each fact that the network names [B]."""
    mode_B = np.array([MODES.index(one.mode) for one in facts], np.int64)
    tonic_B = np.array([pitch_class(one.tonic) for one in facts], np.int64)
    labels = {
        name: np.array([values.index(getattr(one, name)) for one in facts], np.int64)
        for name, values in CLASSES.items()
    }
    return labels | {"key": _OCTAVE * mode_B + tonic_B, "mode": mode_B}


def learn(network: FactNetwork, spectra: Arrays, labels: Labels, *, keeper: Keeper, schedule: tuple[int, int]) -> None:
    """Take the steps that a run has left.

    Args:
        network: is changed in place, and left ready for inference.
        spectra: what it hears of each clip.
        labels: of the same clips.
        keeper: has the state of a run that was stopped.
        schedule: steps in all, and the seed of what is chosen in each.
    """
    steps, seed = schedule
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rarity = {
        "texture": _rarity(labels["texture"], len(CLASSES["texture"])),
        "mode": _rarity(labels["mode"], len(MODES)),
    }
    done = keeper.load(network, optimiser)
    network.train()
    for step in progress(range(done, steps), total=steps - done, desc="classifier", unit="step"):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        chosen_B = rng.permutation(len(labels["mode"]))[:BATCH_SIZE]
        batch = {name: values[chosen_B] for name, values in labels.items()}
        shift_B = rng.integers(SHIFT_SEMITONES[0], SHIFT_SEMITONES[1] + 1, len(chosen_B))
        batch["key"] = _OCTAVE * batch["mode"] + (batch["key"] + shift_B) % _OCTAVE
        losses = _losses(network, vary(spectra[0][chosen_B], spectra[1][chosen_B], shift_B, rng), batch, rarity)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=PEAK_RATE, warm_up_steps=WARMUP_STEPS)
        optimiser.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        keeper.note(step, losses)
        keeper.save_sometimes(network, optimiser, step + 1)
    keeper.save(network, optimiser, steps)
    network.eval()


def _rarity(labels_B: NDArray[np.int64], num_values: int) -> Tensor:
    """How much each value of a fact counts: rare ones more, by the root of their number."""
    counts_V = np.maximum(1, np.bincount(labels_B, minlength=num_values))
    return torch.from_numpy((counts_V**-0.5 / (counts_V**-0.5).mean()).astype(np.float32))


def _losses(network: FactNetwork, spectra: Spectra, labels: Labels, rarity: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        named = network(spectra)
    return {
        name: nn.functional.nll_loss(log_BV.float(), torch.from_numpy(labels[name]), weight=rarity.get(name))
        for name, log_BV in named.items()
    }


def vary(
    mel_BMT: NDArray[np.float16],
    semitone_BPT: NDArray[np.float16],
    shift_B: NDArray[np.int64],
    rng: np.random.Generator,
) -> Spectra:
    """Start clips elsewhere, tilt their colour, hide bands, lift every second one's floor; transpose the semitones.

    Args:
        mel_BMT: log-mel spectra.
        semitone_BPT: of the same clips.
        shift_B: semitones up.
        rng: decides the rest.
    """
    mel, semitone = mel_BMT.astype(np.float32), semitone_BPT.astype(np.float32)
    slope_M = np.linspace(-1, 1, mel.shape[1], dtype=np.float32)[:, None]
    for index, shift in enumerate(shift_B.tolist()):
        rolled_MT = np.roll(mel[index], int(rng.integers(mel.shape[2])), axis=1)
        mel[index] = rolled_MT + np.float32(rng.uniform(-MAX_TILT, MAX_TILT)) * slope_M
        low, width = int(rng.integers(len(slope_M))), int(rng.integers(1, MASKED_BANDS + 1))
        mel[index, low : low + width] = mel[index].mean()
        semitone[index] = np.roll(semitone[index], shift, axis=0)
        if rng.random() < 0.5:
            floor = np.float32(rng.uniform(*NOISE_LOG_RANGE))
            mel[index], semitone[index] = np.maximum(mel[index], floor), np.maximum(semitone[index], floor)
    return Spectra(torch.from_numpy(mel), torch.from_numpy(semitone))
