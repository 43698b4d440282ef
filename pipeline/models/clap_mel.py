"""CLAP's log-mel features, equal to transformers' `ClapFeatureExtractor` and several times as fast.

That one takes its Fourier transforms frame by frame in Python; here all frames share one call, on the model's device.
In double precision, as there: in single precision a quiet band beside a loud tone is 0.04 dB off.

Shape letters: B windows, N samples, T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# As in transformers: powers below it count as silence, -100 dB.
_LEAST_POWER = 1e-10
# Windows transformed at once, 30 MB each. On a CPU one alone is fastest: what it needs stays in the cache.
_WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 16}


class MelFeatures:
    """Log-mel features of windows, by the settings of a checkpoint's preprocessor.

    Of its two kinds these are the ones without fusion (`rand_trunc`): no window is longer than the model hears, so
    that nothing is cut at random; a shorter one is repeated as often as it fits, then followed by silence
    (`repeatpad`), as in LAION's training.

    Args:
        extractor: transformers' `ClapFeatureExtractor`, as read from the checkpoint.
        device: where to compute; cpu or cuda.
    """

    def __init__(self, extractor: Any, device: str) -> None:
        self.window_samples = int(extractor.nb_max_samples)
        self.sample_rate_hz = int(extractor.sampling_rate)
        self._hop_samples = int(extractor.hop_length)
        self._device = device
        self._hann_N = torch.hann_window(extractor.fft_window_size, dtype=torch.float64, device=device)
        filters_FM = torch.from_numpy(np.asarray(extractor.mel_filters_slaney, np.float64)).to(device)
        # Frequencies that no band hears are never multiplied.
        heard = filters_FM.any(dim=1).nonzero().flatten()
        self._heard = slice(int(heard[0]), int(heard[-1]) + 1)
        self._filters_FM = filters_FM[self._heard]

    def __call__(self, windows_N: Sequence[NDArray[np.float32]]) -> Tensor:
        """Compute features [B, 1, T, M], decibels, float32, of windows of 1 to `window_samples` samples.

        Raises:
            ValueError: a window without samples, or a longer one.
        """
        wave_BN = torch.from_numpy(np.stack([self._fill(window_N) for window_N in windows_N]))
        parts = [self._transform(part_BN.to(self._device)) for part_BN in wave_BN.split(_WINDOWS_AT_ONCE[self._device])]
        return torch.cat(parts)[:, None]

    def _fill(self, window_N: NDArray[np.float32]) -> NDArray[np.float32]:
        if not 0 < window_N.size <= self.window_samples:
            raise ValueError(f"windows have 1 to {self.window_samples} samples, not {window_N.size}")
        filled_N = np.zeros(self.window_samples, np.float32)
        repeated_N = np.tile(window_N, self.window_samples // window_N.size)
        filled_N[: repeated_N.size] = repeated_N
        return filled_N

    def _transform(self, wave_BN: Tensor) -> Tensor:
        size = self._hann_N.numel()
        padded_BN = torch.nn.functional.pad(wave_BN.double(), (size // 2, size // 2), mode="reflect")
        frames_BTN = padded_BN.unfold(-1, size, self._hop_samples) * self._hann_N
        spectrum_BTF = torch.fft.rfft(frames_BTN)[..., self._heard]
        power_BTF = spectrum_BTF.real.square() + spectrum_BTF.imag.square()
        return (10 * torch.log10((power_BTF @ self._filters_FM).clamp_min(_LEAST_POWER))).float()
