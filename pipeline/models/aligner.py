"""A small CTC network of our own behind the aligner port, and torchaudio's search for the best path.

A folder holds `config.json` (`AlignerConfig`) and `model.safetensors`. The network sees a limited stretch around each
frame and nothing else, so that a long recording in windows gives what it gives as a whole.

Shape letters: B batch, C channels, N samples, M mel frames (two per frame), F mel bands, T frames, V vocabulary,
L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchaudio.functional
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.lyrics.align import STAR, min_frames, path_spans, with_star
from pipeline.models.base import Aligner, choose_device, exact_inference
from pipeline.models.networks import load_network

_WINDOW_FRAMES = 1500
_HOPS_PER_FRAME = 2
# Natural log of mel power from music at -18 LUFS lies mostly between -14 and 2.
_LOG_FLOOR, _LOG_CENTRE, _LOG_SCALE = 1e-6, -6.0, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignerConfig:
    """What decides the network's shape, and what its output means."""

    vocabulary: tuple[str, ...]
    """Sounds by id: moras in katakana or phonemes; the first is CTC's blank, whatever it is called."""
    sample_rate_hz: int = 16_000
    hop_samples: int = 160
    """From one mel spectrum to the next; a frame is two of them."""
    window_samples: int = 400
    """Of a mel spectrum; longer than the hop by an even number."""
    num_mels: int = 80
    width: int = 192
    """Channels of the network."""
    kernel_frames: int = 5
    """Frames that a block looks at; odd."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 4, 2)
    """Frames between those, for one block each."""

    @property
    def frame_samples(self) -> int:
        """Samples of a frame."""
        return _HOPS_PER_FRAME * self.hop_samples

    @property
    def context_frames(self) -> int:
        """Frames to either side that decide a frame, its neighbours in the first layer included."""
        return sum(self.kernel_frames // 2 * dilation for dilation in self.dilations) + 1


class CtcAligner(nn.Module):
    """Log-mel spectra, one layer that halves their rate, blocks of dilated convolutions, a softmax over sounds."""

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.config = config
        num_bins = config.window_samples // 2 + 1
        mel = torchaudio.functional.melscale_fbanks(
            num_bins, 0.0, config.sample_rate_hz / 2, config.num_mels, config.sample_rate_hz, norm="slaney"
        )
        self.mel = nn.Buffer(mel, persistent=False)
        self.window = nn.Buffer(torch.hann_window(config.window_samples), persistent=False)
        self.enter = nn.Conv1d(config.num_mels, config.width, 4, stride=_HOPS_PER_FRAME, padding=1)
        self.blocks = nn.ModuleList(_Block(config.width, config.kernel_frames, step) for step in config.dilations)
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, len(config.vocabulary))

    @property
    def edge_samples(self) -> int:
        """Samples that a mel spectrum reaches beyond its hop, to either side."""
        return (self.config.window_samples - self.config.hop_samples) // 2

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Log-probabilities [B, T, V] of waves [B, T * frame_samples + 2 * edge_samples].

        Frame t covers the samples from `edge_samples + t * frame_samples` on.
        """
        windows = wave_BN.unfold(-1, self.config.window_samples, self.config.hop_samples) * self.window
        power_BMF = torch.fft.rfft(windows).abs().square() @ self.mel
        log_BMF = (torch.log(power_BMF + _LOG_FLOOR) - _LOG_CENTRE) / _LOG_SCALE
        hidden_BCT = self.enter(log_BMF.transpose(1, 2))
        for block in self.blocks:
            hidden_BCT = block(hidden_BCT)
        return torch.log_softmax(self.leave(self.norm(hidden_BCT.transpose(1, 2))), dim=-1)


class _Block(nn.Module):
    """Each channel over time, then all channels at each time, added to what came in."""

    def __init__(self, width: int, kernel_frames: int, dilation: int) -> None:
        super().__init__()
        padding = kernel_frames // 2 * dilation
        self.over_time = nn.Conv1d(width, width, kernel_frames, padding=padding, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        return hidden_BCT + self.mix(self.norm(self.over_time(hidden_BCT).transpose(1, 2))).transpose(1, 2)


def load_aligner(source: str, *, device: str = "cpu") -> Aligner:
    """Load an aligner from a folder or the hub.

    Args:
        source: a local folder as `save_network` writes it, or a hub id.
        device: auto, cpu or cuda.

    Raises:
        ContractError: the checkpoint is missing or damaged.
    """
    network, stamp = load_network(source, _build, role="aligner")
    return _CtcAligner(network.to(choose_device(device)), stamp)


def _build(config: dict[str, Any]) -> CtcAligner:
    lists: dict[str, Any] = {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
    return CtcAligner(AlignerConfig(**{**config, **lists}))


class _CtcAligner:
    """A loaded aligner; implements `Aligner`."""

    def __init__(self, network: CtcAligner, stamp: dict[str, Any]) -> None:
        config = network.config
        self._network = network
        self.sample_rate_hz: int = config.sample_rate_hz
        self.frame_s: float = config.frame_samples / config.sample_rate_hz
        self.vocabulary: tuple[str, ...] = config.vocabulary
        self.stamp = stamp

    def log_posteriors(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities [T, V]; a long wave goes through in windows, each with all the context that it needs."""
        config, edge = self._network.config, self._network.edge_samples
        num_frames = -(-wave_N.size // config.frame_samples)
        padded_N = np.zeros(num_frames * config.frame_samples + 2 * edge, np.float32)
        padded_N[edge : edge + wave_N.size] = wave_N
        parts = [np.zeros((0, len(config.vocabulary)), np.float32)]
        for start in range(0, num_frames, _WINDOW_FRAMES):
            end = min(start + _WINDOW_FRAMES, num_frames)
            first, last = max(0, start - config.context_frames), min(num_frames, end + config.context_frames)
            seen_N = padded_N[first * config.frame_samples : last * config.frame_samples + 2 * edge]
            parts.append(self._run(seen_N)[start - first : end - first])
        return np.concatenate(parts)

    def _run(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        device = self._network.leave.weight.device
        with exact_inference():
            return self._network(torch.from_numpy(wave_N)[None].to(device))[0].cpu().numpy()

    def align(self, wave_N: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Start and end in seconds and confidence of every token [L, 3]."""
        return align_posteriors(self.log_posteriors(wave_N), tokens, frame_s=self.frame_s)


def align_posteriors(log_prob_TV: NDArray[np.float32], tokens: Sequence[int], *, frame_s: float) -> NDArray[np.float64]:
    """Find the likeliest way through the posteriors that spells a text (torchaudio's `forced_align`, on the CPU).

    Args:
        log_prob_TV: log-probabilities of the vocabulary at every frame; token 0 is the blank.
        tokens: ids of the vocabulary; STAR for some sound of which nothing is known.
        frame_s: length of a frame.

    Returns:
        Start and end in seconds and confidence, 0 to 1, of every token [L, 3].

    Raises:
        ValueError: more text than the frames can hold, or a token that is no sound.
    """
    num_frames, num_sounds = log_prob_TV.shape
    if not tokens:
        return np.zeros((0, 3))
    if min_frames(tokens) > num_frames:
        raise ValueError(f"{len(tokens)} tokens need {min_frames(tokens)} frames, and there are {num_frames}")
    if not all(token == STAR or 0 < token < num_sounds for token in tokens):
        raise ValueError(f"tokens must be STAR or from 1 to {num_sounds - 1}")
    log_prob = torch.from_numpy(np.ascontiguousarray(with_star(log_prob_TV)))[None]
    targets = torch.tensor([[num_sounds if token == STAR else token for token in tokens]], dtype=torch.int32)
    path, scores = torchaudio.functional.forced_align(log_prob, targets)
    return path_spans(path[0].numpy().astype(np.int64), scores[0].numpy(), tokens, frame_s=frame_s)
