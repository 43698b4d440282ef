"""EnCodec's encoder over a long wave, window by window, with what one pass would give.

The convolutions see a fixed stretch to both sides: each window brings it along and drops what comes of it. The LSTM
between them remembers everything since the start of the wave: no stretch to the left would do, so its state is carried
from window to window instead.

In exact arithmetic the result is that of one pass. In float32 it was equal to the bit at the sizes of the published
32 and 24 kHz encoders on one thread; where a library picks another algorithm for another length, last bits differ,
and with them a code that was a tie within rounding.

Shape letters: B batch, C channels, N samples, T frames, D latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecLSTM, EncodecResnetBlock


@dataclass(frozen=True, slots=True)
class Context:
    """What one output depends on besides its own stretch of the input, in units of that stretch."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Stages:
    """An encoder cut at its LSTM."""

    front: Sequence[nn.Module]
    """Convolutions from samples to frames."""
    lstm: Any
    back: Sequence[nn.Module]
    """Convolutions from frames to latents."""


def cut_encoder(encoder: Any) -> Stages:
    """Cut transformers' `EncodecEncoder` at its LSTM."""
    layers = list(encoder.layers)
    at = next(index for index, layer in enumerate(layers) if isinstance(layer, EncodecLSTM))
    return Stages(layers[:at], layers[at], layers[at + 1 :])


def measure_context(layers: Iterable[nn.Module], *, hop_samples: int = 1) -> Context:
    """Find out how far convolutions see beyond the input of one output; it follows from their sizes alone.

    Args:
        layers: convolutions, residual blocks and whatever works on each position by itself.
        hop_samples: inputs per output.
    """
    first, last = _reach(list(layers), 0, 0)
    return Context(max(0, -(first // hop_samples)), max(0, last // hop_samples))


def right_context_frames(encoder: Any, hop_samples: int) -> int:
    """Frames of sound after a frame that its code depends on: 4 for MusicGen's codec, 0 for a causal one."""
    stages = cut_encoder(encoder)
    return measure_context(stages.front, hop_samples=hop_samples).right + measure_context(stages.back).right


def _reach(layers: Sequence[Any], first: int, last: int) -> tuple[int, int]:
    """First and last input position that the outputs `first` to `last` depend on."""
    for layer in reversed(layers):
        if isinstance(layer, EncodecConv1d):
            conv: Any = layer.conv
            stride, width = conv.stride[0], (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
            padding = width - stride
            left = padding if layer.causal else padding - padding // 2
            first, last = first * stride - left, last * stride - left + width - 1
        elif isinstance(layer, EncodecResnetBlock):
            reaches = [_reach(list(layer.block), first, last), _reach([layer.shortcut], first, last)]
            first, last = min(reach[0] for reach in reaches), max(reach[1] for reach in reaches)
    return first, last


def encode_in_windows(
    stages: Stages,
    wave_BCN: Tensor,
    *,
    hop_samples: int,
    window_frames: int,
    device: torch.device | str = "cpu",
    num_rows: int = 1,
) -> Iterator[Tensor]:
    """Encode waves to latents, a window at a time; memory does not grow with their length.

    Args:
        stages: the encoder.
        wave_BCN: samples, whole hops; may lie in another memory than the model's.
        hop_samples: samples per frame.
        window_frames: frames encoded at once; a wave of at most that many is encoded in one pass. Raised to what the
            start of a wave needs: its padding mirrors the frames that follow.
        device: where the model is.
        num_rows: rows that the LSTM and what follows it are given at the least, silence where there are fewer waves. A
            matrix product may round otherwise for another number of rows; the convolutions before it do not.

    Yields:
        Latents [B, D, T], one after another; their frames are those of the wave.
    """
    context, behind = measure_context(stages.front, hop_samples=hop_samples), measure_context(stages.back)
    window_frames = max(window_frames, 1 + context.left + behind.left)
    num_frames = wave_BCN.shape[-1] // hop_samples
    memory, held_BCT, held_from, done = None, None, 0, 0
    for start in range(0, num_frames, window_frames):
        end = min(start + window_frames, num_frames)
        first, last = max(0, start - context.left), min(num_frames, end + context.right)
        seen_BCN = wave_BCN[..., first * hop_samples : last * hop_samples].to(device)
        # One by one on a CPU: the first layers' arrays are many times the wave, and fit no cache together.
        parts_BCN = seen_BCN.split(1) if seen_BCN.device.type == "cpu" else [seen_BCN]
        frames_BCT = torch.cat([_run(stages.front, part_BCN) for part_BCN in parts_BCN])[
            ..., start - first : end - first
        ]
        frames_BCT = torch.nn.functional.pad(frames_BCT, (0, 0, 0, 0, 0, max(0, num_rows - len(wave_BCN))))
        remembered_BCT, memory = _remember(stages.lstm, frames_BCT, memory)
        held_BCT = remembered_BCT if held_BCT is None else torch.cat([held_BCT, remembered_BCT], dim=-1)
        # The last frames wait for those after them, unless there are none.
        ready = end if end == num_frames else max(done, end - behind.right)
        if ready > done:
            yield _run(stages.back, held_BCT)[: len(wave_BCN), :, done - held_from : ready - held_from]
        done, keep_from = ready, max(0, ready - behind.left)
        held_BCT, held_from = held_BCT[..., keep_from - held_from :], keep_from


def _run(layers: Sequence[nn.Module], frames_BCT: Tensor) -> Tensor:
    for layer in layers:
        frames_BCT = layer(frames_BCT)
    return frames_BCT


def _remember(layer: Any, frames_BCT: Tensor, memory: Any) -> tuple[Tensor, Any]:
    """EnCodec's LSTM with its residual, from where it was left."""
    frames_TBC = frames_BCT.permute(2, 0, 1)
    found_TBC, memory = layer.lstm(frames_TBC, memory)
    return (found_TBC + frames_TBC).permute(1, 2, 0), memory
