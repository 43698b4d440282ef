"""A small network of our own that names facts of a clip: its instrument, texture, key and mode.

It listens twice: to a mel spectrogram, for timbre and texture, and to a spectrum of semitones with long windows, for
the key. The second part treats all transpositions alike: it counts evidence for each of 24 keys, and a mode's share is
the sum over its twelve.

A folder holds `config.json` (`ClassifierConfig`) and `model.safetensors`, in float32 or float16.

Shape letters: B batch, N samples, C channels, T frames, M mel bands, P semitones, F frequency bins, V classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torchaudio.functional
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models.base import choose_device, exact_inference
from pipeline.models.networks import load_network

MODES = ("major", "minor")
KEYS = tuple(f"{pitch_class} {mode}" for mode in MODES for pitch_class in range(12))
"""Semitones of the tonic above C, and the mode."""
_OCTAVE = 12
_DROPOUT = 0.2
_A4_HZ, _A4_MIDI = 440.0, 69
# A semitone's filter is a bell of this width, in semitones: neighbours cross at a seventh of their height.
_SEMITONE_WIDTH = 0.25
# Natural log of power at -18 LUFS lies mostly between -14 and 6.
_LOG_FLOOR, _LOG_CENTRE, _LOG_SCALE = 1e-6, -5.0, 4.0


class Classifier(Protocol):
    """Names what is true of a clip."""

    sample_rate_hz: int
    classes: Mapping[str, tuple[str, ...]]
    """The values of each fact that it knows, in the order of the probabilities."""
    stamp: dict[str, Any]

    def classify(self, waves_N: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Probabilities [B, V] of the values of each fact."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """What decides the network's shape, and what its output means."""

    classes: dict[str, tuple[str, ...]]
    """Values of the facts beside `key` and `mode`, which it always names."""
    sample_rate_hz: int = 16_000
    window_samples: int = 1024
    hop_samples: int = 320
    num_mels: int = 64
    semitone_window_samples: int = 8192
    """Half a second tells semitones apart from C3 on."""
    semitone_hop_samples: int = 2048
    lowest_midi: int = 36
    num_octaves: int = 7
    width: int = 16
    """Channels of the first layer; the later ones have multiples of them."""


class Spectra(NamedTuple):
    """What the network listens to."""

    mel_BMT: Tensor
    semitone_BPT: Tensor


class FactNetwork(nn.Module):
    """Two stacks of convolutions, and a linear head for each fact."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        rate_hz, width = config.sample_rate_hz, config.width
        mel_FM = torchaudio.functional.melscale_fbanks(
            config.window_samples // 2 + 1, 30.0, rate_hz / 2, config.num_mels, rate_hz, norm="slaney"
        )
        self.mel_FM = nn.Buffer(mel_FM, persistent=False)
        self.semitone_FP = nn.Buffer(semitone_filters(config), persistent=False)
        widths = (1, width, 2 * width, 4 * width, 6 * width)
        self.timbre = nn.Sequential(*(_layer(*pair, stride=2) for pair in itertools.pairwise(widths)))
        self.pitch = nn.Sequential(_layer(1, width, kernel=(5, 3)), _layer(width, width, kernel=(_OCTAVE + 1, 3)))
        num_folded = 2 * width * config.num_octaves
        self.key = nn.Sequential(
            nn.Dropout(_DROPOUT), nn.Conv1d(num_folded, 3 * width, _OCTAVE), nn.ReLU(), nn.Conv1d(3 * width, 2, 1)
        )
        num_heard = widths[-1] * (config.num_mels // 2 ** len(self.timbre) + 1) + num_folded
        self.heads = nn.ModuleDict(
            {name: _head(num_heard, 4 * width, len(values)) for name, values in config.classes.items()}
        )

    def listen(self, wave_BN: Tensor) -> Spectra:
        """Both spectra of waves: natural log of power, brought to about unit spread."""
        config = self.config
        mel_BTM = _power(wave_BN, config.window_samples, config.hop_samples) @ self.mel_FM
        semitone_BTP = _power(wave_BN, config.semitone_window_samples, config.semitone_hop_samples) @ self.semitone_FP
        return Spectra(_log(mel_BTM).transpose(1, 2), _log(semitone_BTP).transpose(1, 2))

    def forward(self, spectra: Spectra) -> dict[str, Tensor]:
        """Log-probabilities [B, V] of the values of each fact, `key` and `mode` among them."""
        timbre_BCMT = self.timbre(spectra.mel_BMT[:, None])
        pitch_BCPT = self.pitch(spectra.semitone_BPT[:, None])
        pitch_BCP = torch.cat([pitch_BCPT.mean(dim=-1), pitch_BCPT.amax(dim=-1)], dim=1)
        # All octaves of a pitch class side by side; then around the circle, so that each key sees the same.
        folded_BCP = pitch_BCP.unflatten(2, (self.config.num_octaves, _OCTAVE)).flatten(1, 2)
        circle_BCP = torch.cat([folded_BCP, folded_BCP[..., : _OCTAVE - 1]], dim=-1)
        key_BV = torch.log_softmax(self.key(circle_BCP).flatten(1), dim=-1)
        heard_BC = torch.cat(
            [timbre_BCMT.mean(dim=-1).flatten(1), timbre_BCMT.amax(dim=(-2, -1)), folded_BCP.mean(dim=-1)], dim=1
        )
        named = {name: torch.log_softmax(head(heard_BC), dim=-1) for name, head in self.heads.items()}
        return named | {"key": key_BV, "mode": key_BV.unflatten(1, (2, _OCTAVE)).logsumexp(dim=-1)}


def semitone_filters(config: ClassifierConfig) -> Tensor:
    """A bell around each semitone on a log-frequency axis [F, P], each of unit sum."""
    num_bins = config.semitone_window_samples // 2 + 1
    hz_F = torch.linspace(0, config.sample_rate_hz / 2, num_bins, dtype=torch.float64)
    midi_F = _A4_MIDI + _OCTAVE * torch.log2(hz_F.clamp(min=1e-3) / _A4_HZ)
    midi_P = config.lowest_midi + torch.arange(_OCTAVE * config.num_octaves)
    bells_FP = torch.exp(-0.5 * ((midi_F[:, None] - midi_P) / _SEMITONE_WIDTH) ** 2)
    return (bells_FP / bells_FP.sum(dim=0)).float()


def _power(wave_BN: Tensor, window_samples: int, hop_samples: int) -> Tensor:
    """Power spectra [B, T, F]; the first window is centred on the wave's start, beyond which there is silence."""
    half = window_samples // 2
    frames_BTN = nn.functional.pad(wave_BN, (half, half)).unfold(-1, window_samples, hop_samples)
    window_N = torch.hann_window(window_samples, device=wave_BN.device)
    return torch.fft.rfft(frames_BTN * window_N).abs().square()


def _log(power: Tensor) -> Tensor:
    return (torch.log(power + _LOG_FLOOR) - _LOG_CENTRE) / _LOG_SCALE


def _layer(num_in: int, num_out: int, *, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )


def _head(num_in: int, width: int, num_values: int) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(_DROPOUT), nn.Linear(num_in, width), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(width, num_values)
    )


def load_classifier(source: str, *, device: str = "cpu") -> Classifier:
    """Load a classifier from a folder or the hub.

    Args:
        source: a local folder as `save_network` writes it, or a hub id.
        device: auto, cpu or cuda.

    Raises:
        ContractError: the checkpoint is missing or damaged.
    """
    network, stamp = load_network(source, _build, role="classifier")
    return _FactClassifier(network.to(choose_device(device)), stamp)


def _build(config: dict[str, Any]) -> FactNetwork:
    classes: dict[str, list[str]] = config.pop("classes")
    return FactNetwork(ClassifierConfig(classes={name: tuple(of) for name, of in classes.items()}, **config))


class _FactClassifier:
    """A loaded classifier; implements `Classifier`."""

    def __init__(self, network: FactNetwork, stamp: dict[str, Any]) -> None:
        self._network = network
        self.sample_rate_hz: int = network.config.sample_rate_hz
        self.classes: Mapping[str, tuple[str, ...]] = network.config.classes | {"key": KEYS, "mode": MODES}
        self.stamp = stamp

    def classify(self, waves_N: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Probabilities [B, V] of the values of each fact; each wave goes through by itself, so none sways another.

        Raises:
            ValueError: a wave without samples.
        """
        device = next(self._network.parameters()).device
        found = {name: np.zeros((len(waves_N), len(values)), np.float32) for name, values in self.classes.items()}
        for index, wave_N in enumerate(waves_N):
            if not wave_N.size:
                raise ValueError("cannot classify a wave without samples")
            with exact_inference():
                named = self._network(self._network.listen(torch.from_numpy(wave_N)[None].to(device)))
            for name, log_BV in named.items():
                found[name][index] = log_BV[0].exp().cpu().numpy()
        return found
