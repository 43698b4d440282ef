"""Tell that two clips are the same recording.

Shape letters: N samples, T frames, F frequency bins, M bands.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.music.audio import quantise, resample

_RATE_HZ = 5_512.5
_WINDOW_SAMPLES = 2048
"""0.37 s, as Haitsma and Kalker have it."""
_HOP_SAMPLES = 512
"""10.8 frames a second; Haitsma and Kalker take 86. `duplicates` makes up for what falls between frames."""
_NUM_BITS = 32
_BAND_HZ = (150.0, 2500.0)
# Measured on 86 real clips and 36 of the demo in several renderings: the pair that keeps copies (clipped, in MP3 at
# 64 kbit/s, shifted by half a second) furthest from another take of the same notes.
_FLOOR = 1e-4
"""Energy added to each band, as a share of the clip's largest (-40 dB): MP3 drops what louder tones mask."""
_MIN_CHANGE = 0.1
"""Smallest change that sets a bit, in nepers of energy (0.4 dB): a steady sound sets none, whatever its noise."""


def exact_fingerprint(wave_N: NDArray[np.float32], sample_rate_hz: int) -> str:
    """Digest of a recording that does not depend on its container.

    Equal for lossless copies (WAV, FLAC, AIFF, ALAC ...) of the same 16-bit samples, whatever digital silence
    stands before or after them. Any other change, a lossy copy or another level, gives another digest:
    `acoustic_fingerprint` survives those. All digital silence of one rate is equal.

    Args:
        wave_N: mono samples as decoded, neither resampled nor normalised.
        sample_rate_hz: part of the digest: the same samples at another rate sound different.

    Returns:
        SHA-256 in hexadecimal.
    """
    pcm_N = quantise(wave_N)
    # As bytes, which are searched from both ends faster than arrays are; all silence leaves nothing.
    is_sounding = (pcm_N != 0).tobytes()
    first, end = max(is_sounding.find(1), 0), is_sounding.rfind(1) + 1
    digest = hashlib.sha256(f"{sample_rate_hz} ".encode())
    digest.update(pcm_N[first:end].astype("<i2", copy=False).data)
    return digest.hexdigest()


def acoustic_fingerprint(wave_N: NDArray[np.float32], sample_rate_hz: int) -> str:
    """Summarise a clip by 10.8 words of 32 bits a second that survive lossy coding, gain and clipping.

    A bit tells whether the level of one band over the next one has risen since the last frame (Haitsma and Kalker,
    A Highly Robust Audio Fingerprinting System, ISMIR 2002, section 4.2). Ours differs from theirs in four ways: the
    frames are eight times as far apart, the bands reach from 150 to 2500 Hz, levels are logarithmic, and changes too
    small to hear set no bit.

    Args:
        wave_N: mono samples, finite.
        sample_rate_hz: their rate.

    Returns:
        Base64 of the little-endian words, 57 characters a second; empty for clips under 0.47 s.
    """
    # The ratio counts; soxr's pass band ends at 2516 Hz.
    levels_TM = _band_levels(resample(wave_N, 2 * sample_rate_hz, round(2 * _RATE_HZ)))
    rise_TM = np.diff(levels_TM[:, :-1] - levels_TM[:, 1:], axis=0)
    packed = np.packbits(rise_TM > _MIN_CHANGE, axis=1, bitorder="little")
    return base64.b64encode(packed.tobytes()).decode()


def fingerprint_words(fingerprint: str) -> NDArray[np.uint32]:
    """Read the words [T] of an acoustic fingerprint.

    Raises:
        ValueError: it is no such fingerprint.
    """
    return np.frombuffer(base64.b64decode(fingerprint, validate=True), "<u4").astype(np.uint32, copy=False)


def _band_levels(signal_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log energy [T, M] in bands of equal width in pitch."""
    num_bands = _NUM_BITS + 1
    if signal_N.size < _WINDOW_SAMPLES:
        return np.zeros((1, num_bands), np.float32)
    frames_TN = np.lib.stride_tricks.sliding_window_view(signal_N, _WINDOW_SAMPLES)[::_HOP_SAMPLES]
    window_N, edges = _window_and_edges()
    spectrum_TF = np.asarray(scipy.fft.rfft(frames_TN * window_N, axis=1), np.complex64)[:, : edges[-1]]
    # Real and imaginary parts in turns.
    parts_TF = np.ascontiguousarray(spectrum_TF).view(np.float32)
    energy_TM = np.add.reduceat(np.square(parts_TF, out=parts_TF), 2 * edges[:-1], axis=1)
    # The smallest normal number keeps the logarithm of digital silence finite.
    return np.log(energy_TM + (_FLOOR * energy_TM.max() + np.finfo(np.float32).tiny)).astype(np.float32)


@lru_cache(maxsize=1)
def _window_and_edges() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    edge_hz = np.geomspace(*_BAND_HZ, _NUM_BITS + 2)
    return np.hanning(_WINDOW_SAMPLES).astype(np.float32), np.rint(edge_hz * _WINDOW_SAMPLES / _RATE_HZ).astype(int)
