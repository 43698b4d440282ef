"""Cut a span out of a recording of any length, to the sample, without holding more than the span in memory.

Shape letters: N samples, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

# Containers with an index of times; in others a jump lands at a guess, so they are decoded from the start.
_SEEKABLE = ("matroska", "mov")
# Opus wants 80 ms before the first good sample (RFC 7845, 4.6), AAC a frame or two.
_RUN_UP_S = 2.0
# What single-file media come in. Playlists (hls, concat) would open whatever a server's text names.
_CONTAINERS = "wav,aiff,flac,mp3,aac,ogg,matroska,webm,mov,mp4,m4a,mpegts,flv"


class CutError(Exception):
    """A file from which the span cannot be had; the text is one line."""


def cut_to_wav(source: Path, target: Path, start_s: float, end_s: float) -> float:
    """Write a span of a recording as 16-bit WAV, mono or stereo, at its own rate.

    A download cut off behind the span is good enough.

    Args:
        source: any audio or video file.
        target: the WAV.
        start_s: begin of the span.
        end_s: its end; a recording that stops before gives a shorter WAV.

    Returns:
        Length of what was written, in seconds.

    Raises:
        CutError: no sound in the file, or none within the span.
    """
    import av
    import soundfile

    try:
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        with av.open(str(source), options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise CutError("no sound in what came")
            parts, rate_hz = _decode_span(container, start_s, end_s)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise CutError(f"what came does not decode ({error})") from error
    if not parts:
        raise CutError(f"nothing at {start_s:g} to {end_s:g} s")
    wave_NC = np.concatenate(parts)
    soundfile.write(target, wave_NC, rate_hz, format="WAV", subtype="PCM_16")
    return len(wave_NC) / rate_hz


def _decode_span(container: InputContainer, start_s: float, end_s: float) -> tuple[list[NDArray[np.int16]], int]:
    import av

    stream = container.streams.audio[0]
    if container.format.name.split(",")[0] in _SEEKABLE and start_s > _RUN_UP_S:
        container.seek(int((start_s - _RUN_UP_S) * av.time_base))
    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="s16", layout=layout)
    parts: list[NDArray[np.int16]] = []
    rate_hz, next_s = 0, 0.0
    for packet in container.demux(stream):
        for frame in _frames(packet):
            rate_hz = frame.sample_rate
            at_s = next_s if frame.time is None else frame.time
            next_s = at_s + frame.samples / rate_hz
            if at_s >= end_s:
                return parts, rate_hz
            for even in resampler.resample(frame):
                part = _within(even, at_s, start_s, end_s)
                parts += [part] if len(part) else []
    return parts, rate_hz


def _frames(packet: Packet[AudioStream]) -> list[AudioFrame]:
    """Decode a packet; one that does not decode is a gap, and the length tells."""
    import av

    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _within(frame: AudioFrame, at_s: float, start_s: float, end_s: float) -> NDArray[np.int16]:
    wave_NC = np.asarray(frame.to_ndarray(), np.int16).reshape(-1, len(frame.layout.channels))
    first, last = (max(0, round((edge_s - at_s) * frame.sample_rate)) for edge_s in (start_s, end_s))
    return wave_NC[first:last]
