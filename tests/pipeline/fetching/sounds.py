"""Recordings whose pitch tells the time: 440 Hz, but 880 Hz within one span."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import soundfile

SPAN_S = (30.0, 40.0)
RATE_HZ = 48000


def marked_wave(seconds: float, span_s: tuple[float, float] = SPAN_S) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    is_within = (time_s >= span_s[0]) & (time_s < span_s[1])
    return (0.4 * np.sin(2 * np.pi * np.where(is_within, 880, 440) * time_s)).astype(np.float32)


def encoded(wave_N: np.ndarray, container: str, codec: str, layout: str = "mono") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE_HZ, layout=layout)
        stream.bit_rate = 64000
        num_channels = 2 if layout == "stereo" else 1
        data = np.repeat((wave_N * 32767).astype(np.int16), num_channels)[None]
        frame = av.AudioFrame.from_ndarray(data, "s16", layout)
        frame.sample_rate = RATE_HZ
        fifo = av.AudioFifo()
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=RATE_HZ)
        for ready in resampler.resample(frame):
            ready.pts = None
            fifo.write(ready)
        size = stream.codec_context.frame_size or 1024
        position = 0
        while (part := fifo.read(size, partial=True)) is not None:
            part.pts, position = position, position + part.samples
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def pitches_hz(path: Path) -> list[int]:
    """The strongest pitch of every quarter second."""
    wave_N, rate_hz = soundfile.read(path, dtype="float32")
    wave_N = wave_N if wave_N.ndim == 1 else wave_N.mean(1)
    step = rate_hz // 4
    blocks = [wave_N[i : i + step] for i in range(0, len(wave_N) - step + 1, step)]
    return [int(round(np.abs(np.fft.rfft(block)).argmax() * 4, -1)) for block in blocks]
