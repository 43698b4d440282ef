"""Tell that two clips are the same recording."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pipeline.music.audio import quantise


def exact_fingerprint(wave_N: NDArray[np.float32], sample_rate_hz: int) -> str:
    """Digest of a recording that does not depend on its container.

    Equal for lossless copies (WAV, FLAC, AIFF, ALAC ...) of the same 16-bit samples, whatever digital silence
    stands before or after them. Any other change, a lossy copy or another level, gives another digest: the
    acoustic fingerprint that survives those comes with the search for near-duplicates. All digital silence of
    one rate is equal.

    Args:
        wave_N: mono samples as decoded, neither resampled nor normalised.
        sample_rate_hz: part of the digest: the same samples at another rate sound different.

    Returns:
        SHA-256 in hexadecimal.
    """
    pcm_N = quantise(wave_N)
    sounding = np.flatnonzero(pcm_N)
    trimmed_N = pcm_N[sounding[0] : sounding[-1] + 1] if sounding.size else pcm_N[:0]
    digest = hashlib.sha256(f"{sample_rate_hz} ".encode())
    digest.update(trimmed_N.astype("<i2").tobytes())
    return digest.hexdigest()
