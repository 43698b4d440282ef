"""Two decoders that give the same blocks: libsndfile through soundfile, FFmpeg through PyAV.

Shape letters: C channels, N samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import av
import av.error
import av.logging
import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from pipeline.data.files import Source
from pipeline.music.headers import has_mpeg_frame_count, promised_share

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.plane import AudioPlane
    from av.audio.stream import AudioStream
    from av.container import InputContainer

AudioReason = Literal["unreadable", "truncated", "empty", "no_audio_stream", "antiphase"]

# Blocks of 2^20 frames: a lying header allocates nothing, and soundfile's seek after each read costs nothing.
_BLOCK_FRAMES = 1 << 20
_JOINED_SAMPLES = 1 << 15
_ENERGY_STEP = 16
# Outside these, resampling one second could make gigabytes; no recording has such a rate.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
# Containers that are one file: FFmpeg's playlist formats (hls, concat, dash ...) would open what a text names.
_CONTAINERS = (
    "wav,w64,aiff,caf,au,flac,mp3,aac,ogg,matroska,webm,mov,mp4,m4a,asf,ac3,eac3,amr,ape,wv,tta,dsf,"
    "mpegts,mpeg,avi,flv,voc,loas,mpc,mpc8,oma"
)
# Containers that store a length; for the others FFmpeg estimates one from the bit rate.
_TIMED_CONTAINERS = ("wav", "w64", "aiff", "caf", "flac", "ogg", "matroska", "mov")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
# ITU-R BS.775-3, table 2, row 1/0 (mono), scaled to 1 for left and right; LFE is left out as there.
_ITU_WEIGHTS = {
    "FL": 1.0, "FR": 1.0, "FC": 2**0.5, "LFE": 0.0,
    "SL": 0.5**0.5, "SR": 0.5**0.5, "BL": 0.5**0.5, "BR": 0.5**0.5, "BC": 0.5**0.5,
}  # fmt: skip
# PyAV 18.1 counts planes up to a null pointer that frames of 8 and more do not have, and reads past their end: 7.1
# AAC and Opus crash the process. FFmpeg's own conversion to interleaved samples comes first for those.
_UNSAFE_PLANES = 8
# FFmpeg's sample formats, planar or not, and full scale of the integers.
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_INTEGER_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}

# FFmpeg's messages come back inside the errors; its printing of them would be noise between progress bars.
av.logging.set_level(av.logging.PANIC)


class AudioError(Exception):
    """A recording that cannot be used as it is.

    Attributes:
        reason: one of the closed list `AudioReason`.
        detail: one line for a person; holds no path, so that it is the same on every machine.
    """

    def __init__(self, reason: AudioReason, detail: str) -> None:
        super().__init__(reason, detail)  # both in args: the error travels between processes
        self.reason: AudioReason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(slots=True)
class Facts:
    """What a file says about itself, and what comes to light while it is decoded."""

    sample_rate_hz: int = 0
    source_format: str = ""
    """Container and coding, e.g. "WAV/PCM_16" (soundfile) or "mov/aac" (PyAV)."""
    num_channels: int = 0
    """Largest number of channels so far."""
    decoder: Literal["soundfile", "pyav"] = "soundfile"
    num_samples: int = 0
    """Decoded so far."""
    declared_s: float | None = None
    """Length by the header, known for sure at the end; None where it holds none."""
    is_dual_mono: bool = False
    """Two channels, and the same in both so far."""
    channels_energy: float = 0.0
    """Of the two channels of a stereo recording, their mean; of every 16th sample, which is enough to compare."""
    mono_energy: float = 0.0
    """Of their mono mix, likewise."""

    @property
    def cancelled_db(self) -> float:
        """What two channels lose in the mix: 0 for equal ones, 3 for unrelated ones, all if one is inverted."""
        if self.channels_energy <= 0:
            return 0.0
        return 10 * math.log10(self.channels_energy / max(self.mono_energy, 1e-30))

    @property
    def decoded_s(self) -> float:
        """Length decoded so far."""
        return self.num_samples / self.sample_rate_hz if self.sample_rate_hz else 0.0


def soundfile_blocks(file: Source, facts: Facts) -> Iterator[NDArray[np.float32]]:
    """Decode mono or stereo with libsndfile, block by block.

    Args:
        file: the recording.
        facts: filled in as decoding goes on.

    Yields:
        Mono samples [N].

    Raises:
        AudioError: `unreadable` for what libsndfile cannot read or what FFmpeg knows better (unknown length, more
            than two channels).
    """
    share = promised_share(file)
    file.seek(0)
    try:
        # By descriptor where there is one: read in C, and libsndfile sees no name to guess a format from.
        with sf.SoundFile(_descriptor(file), closefd=False) as sound:
            _check_ordinary(sound)
            facts.sample_rate_hz, facts.source_format = sound.samplerate, f"{sound.format}/{sound.subtype}"
            facts.decoder = "soundfile"
            for block_CN in _read_blocks(sound):
                yield _to_mono(block_CN, (), facts)
            declared_s = sound.frames / sound.samplerate if share is None else facts.decoded_s * share
            facts.declared_s = None if sound.format == "MP3" else declared_s
    except sf.LibsndfileError as error:
        raise AudioError("unreadable", f"libsndfile: {error.error_string.strip()}") from error
    except (sf.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise AudioError("unreadable", f"libsndfile: {type(error).__name__}") from error


def _descriptor(file: Source) -> Any:
    try:
        return file.fileno()
    except OSError:  # bytes in memory, or a member of a tar: read through callbacks
        return file


def _check_ordinary(sound: sf.SoundFile) -> None:
    _check_rate(sound.samplerate)
    if sound.channels > 2:
        raise AudioError("unreadable", f"libsndfile does not name the {sound.channels} channels")
    if sound.frames >= 1 << 48:  # libsndfile's mark for "unknown"; soundfile would allocate that much
        raise AudioError("unreadable", "libsndfile: unknown number of samples")


def _check_rate(sample_rate_hz: int) -> None:
    if not _MIN_RATE_HZ <= sample_rate_hz <= _MAX_RATE_HZ:
        raise AudioError("unreadable", f"sample rate {sample_rate_hz} Hz is no rate of a recording")


def _read_blocks(sound: sf.SoundFile) -> Iterator[NDArray[np.float32]]:
    num_frames = max(1, min(_BLOCK_FRAMES, sound.frames))
    while (block_NC := np.asarray(sound.read(num_frames, dtype="float32", always_2d=True), np.float32)).size:
        yield block_NC.T


def pyav_blocks(file: Source, facts: Facts) -> Iterator[NDArray[np.float32]]:
    """Decode with FFmpeg, block by block: any number of channels, changing ones too.

    Packets that do not decode are passed over; the time they stood for counts as missing. Arguments and yields as
    `soundfile_blocks`.

    Raises:
        AudioError: `unreadable`, `no_audio_stream`.
    """
    guesses_length = not has_mpeg_frame_count(file)
    file.seek(0)
    try:
        with av.open(file, "r", options={"format_whitelist": _CONTAINERS}, metadata_errors="replace") as container:
            name = container.format.name.split(",")[0]
            if not container.streams.audio:
                raise AudioError("no_audio_stream", f"{name} holds no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison] (PyAV's stubs are wrong)
                raise AudioError("unreadable", f"FFmpeg: no decoder for the sound of this {name}")
            facts.source_format, facts.decoder = f"{name}/{stream.codec_context.name}", "pyav"
            packets = _Packets(container, stream)
            for block_CN, names in _joined(packets.frames()):
                facts.sample_rate_hz = packets.sample_rate_hz
                yield _to_mono(block_CN, names, facts)
            if packets.num_lost and not facts.num_samples:
                raise AudioError("unreadable", f"FFmpeg: none of {packets.num_lost} packets of {name} decodes")
            facts.declared_s = None if name == "mp3" and guesses_length else _declared_s(container, stream)
            if facts.declared_s is None and packets.lost_s:
                facts.declared_s = facts.decoded_s + packets.lost_s
    except av.error.FFmpegError as error:
        raise AudioError("unreadable", f"FFmpeg: {error.strerror}") from error
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise AudioError("unreadable", f"FFmpeg: {type(error).__name__}") from error


def _declared_s(container: InputContainer, stream: AudioStream) -> float | None:
    name = container.format.name.split(",")[0]
    if name != "mp3" and name not in _TIMED_CONTAINERS:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska counts from the start of the file, and sound may begin later than the picture.
    start_s = max(float((stream.start_time or 0) * (stream.time_base or 0)), 0.0)
    if match := _CLOCK.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = (float(part) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds - start_s
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base - start_s
    return None


class _Packets:
    """The frames of a stream; counts what does not decode."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self.sample_rate_hz = 0
        self.num_lost = 0
        self.lost_s = 0.0

    def frames(self) -> Iterator[AudioFrame]:
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.num_lost += 1
                self.lost_s += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            for frame in frames:
                if frame.sample_rate != self.sample_rate_hz:
                    self._take_rate(frame.sample_rate)
                if frame.format.is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES:
                    yield from av.AudioResampler(format="flt").resample(frame)
                else:
                    yield frame

    def _take_rate(self, sample_rate_hz: int) -> None:
        _check_rate(sample_rate_hz)
        if self.sample_rate_hz:
            raise AudioError("unreadable", f"sample rate changes from {self.sample_rate_hz} Hz inside the file")
        self.sample_rate_hz = sample_rate_hz


@lru_cache(maxsize=32)
def _channel_names(layout: str) -> tuple[str, ...]:
    return tuple(channel.name for channel in av.AudioLayout(layout).channels)


def _joined(frames: Iterable[AudioFrame]) -> Iterator[tuple[NDArray[np.float32], tuple[str, ...]]]:
    """Join the frames, of 1,152 samples in MP3, to blocks [C, N] of about `_JOINED_SAMPLES` with the same channels."""
    held: list[AudioFrame] = []
    kind = ("", "")
    num_samples = 0
    for frame in frames:
        its_kind = (frame.format.name, frame.layout.name)
        if its_kind != kind or num_samples >= _JOINED_SAMPLES:
            if num_samples:
                yield _block(held, *kind)
            held, kind, num_samples = [], its_kind, 0
        held.append(frame)
        num_samples += frame.samples
    if num_samples:
        yield _block(held, *kind)


def _block(
    frames: Sequence[AudioFrame], sample_format: str, layout: str
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The samples of frames of one kind, integers brought to full scale 1.0.

    Joined as bytes: an array for each frame would take a quarter of the decoding time.
    """
    names, is_planar = _channel_names(layout), sample_format.endswith("p")
    dtype = np.dtype(_DTYPES[sample_format.removesuffix("p")])
    sample_bytes = dtype.itemsize * (1 if is_planar else len(names))
    channels = zip(*(_planes(frame, frame.samples * sample_bytes) for frame in frames), strict=True)
    data = np.frombuffer(b"".join(chain.from_iterable(channels)), dtype)
    data_CN = data.reshape(len(names), -1) if is_planar else data.reshape(-1, len(names)).T
    if dtype.kind == "f":
        return data_CN.astype(np.float32, copy=False), names
    full_scale = np.float32(_INTEGER_FULL_SCALE[dtype.str[1:]])
    return data_CN.astype(np.float32) / full_scale - np.float32(dtype.kind == "u"), names


def _planes(frame: AudioFrame, num_bytes: int) -> Sequence[AudioPlane | memoryview]:
    """What holds a frame's samples, without the padding that codecs leave behind them."""
    planes = frame.planes
    return planes if planes[0].buffer_size == num_bytes else [memoryview(plane)[:num_bytes] for plane in planes]


def _to_mono(block_CN: NDArray[np.float32], names: tuple[str, ...], facts: Facts) -> NDArray[np.float32]:
    """Mix a block down, and note what it tells of the file."""
    same = len(block_CN) == 2 and (facts.is_dual_mono or not facts.num_samples)
    # The first samples settle it for nearly every stereo recording.
    facts.is_dual_mono = same and all(np.array_equal(*block_CN[:, :stop]) for stop in (1000, None))
    facts.num_channels = max(facts.num_channels, len(block_CN))
    facts.num_samples += block_CN.shape[1]
    mono_N = downmix(block_CN, names)
    if len(block_CN) == 2:
        left_N, right_N, mix_N = (wave_N[::_ENERGY_STEP] for wave_N in (*block_CN, mono_N))
        with np.errstate(invalid="ignore", over="ignore"):
            facts.channels_energy += float(np.vdot(left_N, left_N) + np.vdot(right_N, right_N)) / 2
            facts.mono_energy += float(np.vdot(mix_N, mix_N))
    return mono_N


def downmix(wave_CN: NDArray[np.float32], names: Sequence[str] = ()) -> NDArray[np.float32]:
    """Mix channels to mono.

    Args:
        wave_CN: float32 [C, N].
        names: FFmpeg's names of the channels, e.g. ("FL", "FR", "FC"); empty where unknown.

    Returns:
        Float32 [N]: (L + R) / 2 for two channels, the weights of ITU-R BS.775-3 (scaled to a sum of 1) for
        more if all are known there, else the plain mean.
    """
    # Slices, not mean(0): a third of the whole decoding time on two channels.
    with np.errstate(invalid="ignore", over="ignore"):
        if len(wave_CN) == 1:
            return wave_CN[0].copy()
        if len(wave_CN) == 2:
            mixed_N = wave_CN[0] + wave_CN[1]
            mixed_N *= np.float32(0.5)
            return mixed_N
        return _weights(tuple(names), len(wave_CN)) @ wave_CN


@lru_cache(maxsize=32)
def _weights(names: tuple[str, ...], num_channels: int) -> NDArray[np.float32]:
    is_known = len(names) == num_channels and all(name in _ITU_WEIGHTS for name in names)
    weights = [_ITU_WEIGHTS[name] for name in names] if is_known else [1.0] * num_channels
    total = sum(weights)
    return np.asarray(weights, np.float32) / np.float32(total or 1.0)
