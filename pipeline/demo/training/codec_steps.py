"""The two halves of the codec's training: codes that tell the spectra, then sound from codes.

From nothing and together, encoder and decoder learn slowly, as each hears of the sound through the other only; and
codes that say little are all alike. So the encoder and its codebooks learn first, from what a linear layer can read off
the codes: the mel magnitudes of the frame, and the wave below 1 kHz. Then they stay as they are, and the decoder learns
to sound like the original.

Shape letters: B batch, N samples, D latent or values of a frame, T frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.demo.calibration import set_codebooks
from pipeline.demo.training.codec_data import SegmentSource
from pipeline.demo.training.codec_loss import (
    low_band,
    low_lines_db,
    mel_scales_db,
    spectral_loss,
    stack_frames,
    wave_loss,
)
from pipeline.demo.training.codec_quantiser import draw_num_books, quantise
from pipeline.demo.training.codec_start import even_out
from pipeline.demo.training.keeping import Keeper, learning_rate
from pipeline.engine.progress import progress

BATCH_SIZE = 8
PEAK_RATE, WARM_UP_STEPS = 2e-3, 50
FREE_STEPS_SHARE = 0.1
"""Of the first half's steps, before the quantiser comes in."""
KMEANS_BATCHES = 16
BOOK_DROPOUT = 0.2
COMMITMENT_WEIGHT = 0.1
READ_WAVE_WEIGHT = 0.5
LOW_BAND_STD = 0.08
"""Of training segments."""
MIDDLE_DB, SPREAD_DB = -55.0, 15.0
"""Of the magnitudes that the linear layer reads off, roughly."""
WAVE_ALONE_SHARE = 0.08
"""Of the second half's steps: spectra first would teach the decoder phases of its own, which it then keeps."""
LONG_WINDOWS, SHORT_WINDOWS = (2048, 1024), (512, 256)


class Reader(nn.Module):
    """A codec's first half with a linear layer that reads spectra off its codes.

    Args:
        codec: an `EncodecModel`.
        num_values: mel magnitudes and low lines of a frame.
        num_samples: of the low band in a frame.
    """

    def __init__(self, codec: Any, *, num_values: int, num_samples: int) -> None:
        super().__init__()
        self.encoder, self.quantizer = codec.encoder, codec.quantizer
        self.readout = nn.Linear(codec.config.hidden_size, num_values)
        self.wave_readout = nn.Linear(codec.config.hidden_size, num_samples)

    def encode(self, wave_BN: Tensor) -> Tensor:
        """Latents [B, D, T] before they are quantised."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latent_BDT = self.encoder(wave_BN[:, None])
        return latent_BDT.float()

    def losses(self, wave_BN: Tensor, *, is_free: bool) -> dict[str, Tensor]:
        """Terms of the loss, weighted; `is_free` reads the latents themselves."""
        latent_BDT, commitment = self.encode(wave_BN), torch.zeros(())
        if not is_free:
            num_books_B = draw_num_books(len(wave_BN), len(self.quantizer.layers), dropout=BOOK_DROPOUT)
            latent_BDT, commitment, _ = quantise(self.quantizer, latent_BDT, num_books_B)
        read_BTD = self.readout(latent_BDT.transpose(1, 2))
        wave_BTN = self.wave_readout(latent_BDT.transpose(1, 2))
        return {
            "read": (read_BTD - frame_values(wave_BN)).abs().mean(),
            "wave": READ_WAVE_WEIGHT * (wave_BTN - low_band(wave_BN) / LOW_BAND_STD).square().mean(),
            "commitment": COMMITMENT_WEIGHT * commitment,
        }


@torch.no_grad()
def frame_values(wave_BN: Tensor) -> Tensor:
    """What is to be read off the codes [B, T, D]: about as many values per window length, around 0."""
    return (stack_frames([*mel_scales_db(wave_BN), low_lines_db(wave_BN)]) - MIDDLE_DB) / SPREAD_DB


def learn_codes(model: Any, source: SegmentSource, *, steps: int, seed: int, keeper: Keeper) -> None:
    """Train encoder and codebooks.

    Args:
        model: an `EncodecModel`.
        source: of segments.
        steps: how many.
        seed: of all that is drawn.
        keeper: keeps the checkpoint.
    """
    first_BN = torch.from_numpy(source.batch(steps, BATCH_SIZE))
    num_values, num_samples = frame_values(first_BN[:1]).shape[2], low_band(first_BN[:1]).shape[2]
    reader = Reader(model, num_values=num_values, num_samples=num_samples).train()
    even_out(model.encoder, first_BN[:, None], last=model.encoder.layers[-1].conv, std=1.0)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    done = keeper.load(reader, optimiser)
    free_steps = max(1, round(FREE_STEPS_SHARE * steps))
    for step in progress(range(done, steps), total=steps - done, desc="train codes", unit="step"):
        torch.manual_seed(seed * steps + step)
        if step == free_steps:
            _start_codebooks(reader, source, first=steps)
        losses = reader.losses(torch.from_numpy(source.batch(step, BATCH_SIZE)), is_free=step < free_steps)
        _descend(reader, optimiser, losses, rate=_rate(step, steps))
        keeper.note(step, losses)
        keeper.save_sometimes(reader, optimiser, step + 1)
    keeper.save(reader, optimiser, max(done, steps))


def learn_sound(model: Any, source: SegmentSource, *, steps: int, seed: int, keeper: Keeper) -> None:
    """Train the decoder on codes that no longer change.

    Args:
        model: an `EncodecModel` whose encoder and codebooks are trained.
        source: of segments; it gives others than those of `learn_codes`.
        steps: how many.
        seed: of all that is drawn.
        keeper: keeps the checkpoint.
    """
    first_BN = torch.from_numpy(source.batch(steps, BATCH_SIZE))
    decoder = model.decoder.train()
    model.encoder.eval()
    latent_BDT = _decoded_latents(model, first_BN)
    even_out(decoder, latent_BDT, last=decoder.layers[-1].conv, std=float(first_BN.std()))
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    done = keeper.load(decoder, optimiser)
    for step in progress(range(done, steps), total=steps - done, desc="train sound", unit="step"):
        torch.manual_seed(seed * steps + step)
        wave_BN = torch.from_numpy(source.batch(2 * steps + step, BATCH_SIZE))
        hears_spectra = step >= WAVE_ALONE_SHARE * steps
        losses = _sound_losses(decoder, _decoded_latents(model, wave_BN), wave_BN, hears_spectra=hears_spectra)
        _descend(decoder, optimiser, losses, rate=_rate(step, steps))
        keeper.note(step, losses)
        keeper.save_sometimes(decoder, optimiser, step + 1)
    keeper.save(decoder, optimiser, max(done, steps))


def _rate(step: int, steps: int) -> float:
    return learning_rate(step, steps, peak=PEAK_RATE, warm_up_steps=WARM_UP_STEPS)


def _descend(module: nn.Module, optimiser: torch.optim.Optimizer, losses: dict[str, Tensor], *, rate: float) -> None:
    optimiser.param_groups[0]["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    sum(losses.values(), torch.zeros(())).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()


def _sound_losses(decoder: Any, latent_BDT: Tensor, wave_BN: Tensor, *, hears_spectra: bool) -> dict[str, Tensor]:
    """The wave's loss, and spectral ones at a long and a short window, drawn anew for every step."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded_BN = decoder(latent_BDT)[:, 0]
    wave = wave_loss(decoded_BN.float(), wave_BN)
    if not hears_spectra:
        return {"wave": wave}
    windows = [choices[int(torch.randint(len(choices), ()))] for choices in (LONG_WINDOWS, SHORT_WINDOWS)]
    losses = {f"spectral_{window}": spectral_loss(decoded_BN.float(), wave_BN, window) for window in windows}
    return {"wave": wave, **losses}


@torch.no_grad()
def _decoded_latents(model: Any, wave_BN: Tensor) -> Tensor:
    """What the decoder gets for a batch: some items without their last books."""
    residual_BDT = model.encoder(wave_BN[:, None])
    num_books_B = draw_num_books(len(wave_BN), len(model.quantizer.layers), dropout=BOOK_DROPOUT)
    total_BDT = torch.zeros_like(residual_BDT)
    for k, layer in enumerate(model.quantizer.layers):
        picked_BDT = layer.decode(layer.encode(residual_BDT))
        total_BDT = total_BDT + picked_BDT * (num_books_B > k)[:, None, None]
        residual_BDT = residual_BDT - picked_BDT
    return total_BDT


@torch.no_grad()
def _start_codebooks(reader: Reader, source: SegmentSource, *, first: int) -> None:
    """Take the codebooks from k-means over latents of batches that no step of this half sees."""
    waves = [torch.from_numpy(source.batch(first + number, BATCH_SIZE)) for number in range(KMEANS_BATCHES)]
    set_codebooks(reader, torch.cat([reader.encode(wave_BN).transpose(1, 2).flatten(0, 1) for wave_BN in waves]))
    for layer in reader.quantizer.layers:
        # Counts of all these batches at once would drown those of the first steps.
        layer.codebook.cluster_size.div_(KMEANS_BATCHES)
        layer.codebook.embed_avg.div_(KMEANS_BATCHES)
