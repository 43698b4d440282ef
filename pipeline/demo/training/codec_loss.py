"""How far decoded sound is from the original: spectra at several window lengths, for training and for measuring.

Magnitudes are scaled so that a full-scale sine reads 1. Shape letters: B batch, N samples, F bins, M mel bands,
T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import librosa
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.demo.training.music import CODEC_RATE_HZ, HOP_SAMPLES

WINDOWS_SAMPLES = (256, 512, 1024, 2048)
NUM_MELS = {256: 20, 512: 40, 1024: 64, 2048: 80}
"""Bands per window length: as many as its bins can tell apart."""
MEASURE_HOPS = {256: 64, 512: 160, 1024: 320, 2048: 320}
"""Whole numbers of spectra in a frame of 320 samples, so that a frame codebook can code them."""
OVERLAP = 4
NUM_LOW_LINES = 200
"""Up to 1.6 kHz."""
LOW_BAND_HZ = 1000
"""Up to here the wave itself is coded too: spectra alone do not say how one frame's phases go on in the next, and a
decoder that must guess them makes every tune buzz at the frame rate."""
FLOOR = 1e-4
"""-80 dBFS: below, the renderings hold nothing but noise."""


def magnitudes(wave_BN: Tensor, window_samples: int, hop_samples: int) -> Tensor:
    """Short-time spectra [B, F, T]."""
    window = torch.hann_window(window_samples)
    spectrum_BFT = torch.stft(wave_BN, window_samples, hop_samples, window=window, return_complex=True)
    power_BFT = spectrum_BFT.real.square() + spectrum_BFT.imag.square()
    # The constant keeps the root's gradient finite in silence.
    return (power_BFT + 1e-12).sqrt() * (2 / window.sum())


@cache
def mel_bank(window_samples: int) -> Tensor:
    """Triangular bands [M, F] that sum magnitudes; the peak of each is 1."""
    bank_MF = librosa.filters.mel(
        sr=CODEC_RATE_HZ, n_fft=window_samples, n_mels=NUM_MELS[window_samples], norm=None, htk=True
    )
    return torch.from_numpy(bank_MF)


def spectral_loss(decoded_BN: Tensor, wave_BN: Tensor, window_samples: int) -> Tensor:
    """L1 of log-mel, and of the magnitudes relative to the original's mean."""
    hop_samples = window_samples // OVERLAP
    ours_BFT = magnitudes(decoded_BN, window_samples, hop_samples)
    theirs_BFT = magnitudes(wave_BN, window_samples, hop_samples)
    bank_MF = mel_bank(window_samples)
    mel = functional.l1_loss((bank_MF @ ours_BFT + FLOOR).log(), (bank_MF @ theirs_BFT + FLOOR).log())
    size_B = theirs_BFT.mean(dim=(1, 2)) + FLOOR
    linear = ((ours_BFT - theirs_BFT).abs().mean(dim=(1, 2)) / size_B).mean()
    return mel + 0.5 * linear


def mel_scales_db(wave_BN: Tensor) -> list[Tensor]:
    """Mel magnitudes in dB, nothing below the floor: [B, M, T] per window length, T whole frames of the codec's hop."""
    num_frames = wave_BN.shape[1] // HOP_SAMPLES
    scales: list[Tensor] = []
    for window in WINDOWS_SAMPLES:
        hop_samples = MEASURE_HOPS[window]
        mel_BMT = mel_bank(window) @ magnitudes(wave_BN, window, hop_samples)
        scales.append(_decibels(mel_BMT[..., : num_frames * (HOP_SAMPLES // hop_samples)]))
    return scales


def low_lines_db(wave_BN: Tensor) -> Tensor:
    """The lowest lines of the longest window's spectrum in dB, where tunes are: [B, F, T], a line every 8 Hz."""
    num_frames = wave_BN.shape[1] // HOP_SAMPLES
    window = WINDOWS_SAMPLES[-1]
    return _decibels(magnitudes(wave_BN, window, MEASURE_HOPS[window])[:, :NUM_LOW_LINES, :num_frames])


def low_band(wave_BN: Tensor) -> Tensor:
    """The wave below `LOW_BAND_HZ` at twice that rate: [B, T, N], N samples in a frame of the codec's hop."""
    num_samples = wave_BN.shape[1] * 2 * LOW_BAND_HZ // CODEC_RATE_HZ
    lines_BF = torch.fft.rfft(wave_BN)[:, : num_samples // 2]
    low_BN = torch.fft.irfft(functional.pad(lines_BF, (0, 1)), n=num_samples) * (num_samples / wave_BN.shape[1])
    return low_BN.view(len(wave_BN), -1, HOP_SAMPLES * 2 * LOW_BAND_HZ // CODEC_RATE_HZ)


def wave_loss(decoded_BN: Tensor, wave_BN: Tensor) -> Tensor:
    """Share of the low band's power that is wrong, each clip by its own."""
    theirs_BTN = low_band(wave_BN)
    error_B = (low_band(decoded_BN) - theirs_BTN).square().mean(dim=(1, 2))
    return (error_B / (theirs_BTN.square().mean(dim=(1, 2)) + FLOOR**2)).clamp(max=4.0).mean()


def _decibels(magnitude: Tensor) -> Tensor:
    return 20 * magnitude.clamp(min=FLOOR).log10()


def stack_frames(scales: Sequence[Tensor]) -> Tensor:
    """Put all values that lie in one frame of the codec beside each other, [B, T, D]."""
    num_frames = scales[-1].shape[2]
    return torch.cat([scale_BMT.transpose(1, 2).reshape(len(scale_BMT), num_frames, -1) for scale_BMT in scales], dim=2)


def mel_distance_db(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Multi-scale mel distance: mean absolute difference in dB, averaged over the window lengths."""
    return float(torch.stack([functional.l1_loss(a, b) for a, b in zip(one, other, strict=True)]).mean())
