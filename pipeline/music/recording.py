"""A recording, decoded to mono block by block, so that ten hours take no more memory than one minute.

Shape letters: N samples. Blocks are float32 mono, full scale 1.0; loud masters and lossy codecs go beyond it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.files import Source, open_source
from pipeline.data.records import Member
from pipeline.music.audio import resample
from pipeline.music.decoders import AudioError, Facts, pyav_blocks, soundfile_blocks
from pipeline.music.headers import is_mpeg_stream, is_ogg_chain

_MAX_CANCELLED_DB = 20.0
"""Stereo effects cancel a few dB; a plug wired the wrong way round nearly everything."""
Blocks = Iterator[NDArray[np.float32]]


class Recording:
    """An open recording: `blocks()` once, `facts` complete when they are through."""

    def __init__(self, file: Source) -> None:
        self.facts = Facts()
        self._blocks = self._decode(file)
        # The first block settles the rate, the format, and which decoder reads it.
        self._head = list(islice(self._blocks, 1))
        if not self._head:
            self._judge()

    def blocks(self) -> Blocks:
        """Yield the mono samples [N] in order; the verdict on the whole comes at the end.

        Raises:
            AudioError: with its reason; no other error of a decoder gets out.
        """
        yield from chain(self._head, self._blocks)
        self._judge()

    def _judge(self) -> None:
        facts = self.facts
        missing_s = (facts.declared_s or 0.0) - facts.decoded_s
        # Encoders' padding makes smaller differences.
        if missing_s > max(0.1, 0.01 * (facts.declared_s or 0.0)):
            raise AudioError(
                "truncated", f"{facts.decoded_s:.3f} s of {facts.declared_s:.3f} s decode ({facts.source_format})"
            )
        if not facts.num_samples:
            raise AudioError("empty", f"no samples ({facts.source_format})")
        if facts.cancelled_db > _MAX_CANCELLED_DB:
            lost = f"{facts.cancelled_db:.0f} dB" if facts.mono_energy > 0 else "all of it"
            raise AudioError("antiphase", f"one channel is the other inverted: a mono mix loses {lost}")

    def _decode(self, file: Source) -> Blocks:
        if file.seek(0, io.SEEK_END) == 0:
            raise AudioError("empty", "0 bytes")
        # libsndfile reads the first link of a chain only.
        if is_mpeg_stream(file) or is_ogg_chain(file):
            return pyav_blocks(file, self.facts)
        return self._with_either(file)

    def _with_either(self, file: Source) -> Blocks:
        try:
            yield from soundfile_blocks(file, self.facts)
            refusal = (
                None if self.facts.num_samples else AudioError("empty", f"no samples ({self.facts.source_format})")
            )
        except AudioError as error:
            refusal = error
        if refusal is None:
            return
        # From the start if libsndfile read nothing, else from where it broke off.
        num_samples, self.facts = self.facts.num_samples, Facts()
        try:
            yield from _after(num_samples, pyav_blocks(file, self.facts))
        except AudioError as error:
            raise _clearer(refusal, error) from error


def _after(num_samples: int, blocks: Blocks) -> Blocks:
    for block_N in blocks:
        rest_N = block_N[num_samples:]
        num_samples = max(num_samples - len(block_N), 0)
        if rest_N.size:
            yield rest_N


def _clearer(first: AudioError, second: AudioError) -> AudioError:
    """The error that says more; both details where neither decoder can open the file."""
    if second.reason != "unreadable":
        return second
    if first.reason != "unreadable":
        return first
    return AudioError("unreadable", f"{first.detail}; {second.detail}")


@contextlib.contextmanager
def open_recording(source: Path | bytes, member: Member | None = None) -> Generator[Recording]:
    """Open a recording by its content, whatever its name ends in.

    soundfile comes first, PyAV takes what libsndfile refuses. MP3 goes to PyAV at once: as fast, the same samples,
    and libmpg123 inside libsndfile writes its complaints straight to stderr. A cut-off stream that
    stores no length (Ogg, ADTS, MP3 without a Xing header) is a valid shorter stream and passes.
    Where a header claims fewer samples than there are, libsndfile stops at the claim, and so do we.

    Args:
        source: a file, or its bytes.
        member: the recording within the file, a tar.

    Raises:
        AudioError: with its reason, also from `Recording.blocks`.
    """
    try:
        file = open_source(source, member)
    except OSError as error:
        raise AudioError("unreadable", error.strerror or type(error).__name__) from error
    with file:
        yield Recording(file)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole recording in memory."""

    wave_N: NDArray[np.float32]
    sample_rate_hz: int
    facts: Facts
    """Of the file; its rate is that of the recording itself."""


def decode_audio(source: Path | bytes, *, sample_rate_hz: int | None = None) -> Decoded:
    """Decode a whole recording to mono.

    Args:
        source: a file, or its bytes.
        sample_rate_hz: rate to resample to; None keeps the recording's own.

    Raises:
        AudioError: with its reason; no other error of a decoder gets out.
    """
    with open_recording(source) as recording:
        wave_N = np.concatenate(list(recording.blocks()))
    rate_hz = sample_rate_hz or recording.facts.sample_rate_hz
    return Decoded(resample(wave_N, recording.facts.sample_rate_hz, rate_hz), rate_hz, recording.facts)
