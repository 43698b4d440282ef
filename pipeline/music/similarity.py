"""What of a recording sounds alike.

Letters: N samples, T frames, D feature dimensions, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Stripe(NamedTuple):
    """Two stretches of a recording that sound alike: a line beside the diagonal of its self-similarity."""

    first_s: float
    second_s: float
    length_s: float
    similarity: float
    """Mean cosine, -1 to 1."""


def find_stripes(
    features_TD: NDArray[np.float32], *, frames_per_s: float, min_s: float = 6.0, min_similarity: float = 0.7
) -> list[Stripe]:
    """Find stretches of a recording that sound alike, best first.

    The stripes of the self-similarity matrix (Foote 1999; Goto 2003, RefraiD): for every lag the cosine of the
    features with those that lag behind, averaged over `min_s`, where it stays above a threshold. What holds all
    through the recording is taken off first, so that a drone is not alike to itself.

    Args:
        features_TD: such as chroma or an encoder's states; two frames a second are enough.
        frames_per_s: their rate.
        min_s: length of the shortest stripe, and shortest lag.
        min_similarity: mean cosine within a stripe.
    """
    window = max(round(min_s * frames_per_s), 1)
    centred_TD = features_TD - features_TD.mean(axis=0)
    norm_T = np.linalg.norm(centred_TD, axis=1)
    unit_TD = centred_TD / np.maximum(norm_T, 1e-9)[:, None]
    found: list[Stripe] = []
    for lag in range(window, len(unit_TD) - window + 1):
        cosine_T = np.einsum("td,td->t", unit_TD[:-lag], unit_TD[lag:])
        sums_T = np.concatenate([[0.0], np.cumsum(cosine_T)])
        alike_T = (sums_T[window:] - sums_T[:-window]) / window >= min_similarity
        for first, last in _runs(alike_T):
            # The mean reaches beyond what is alike: back to the first and last frame that are.
            alike = first + np.flatnonzero(cosine_T[first : min(last + window - 1, first + lag)] >= min_similarity)
            start, stop = int(alike[0]), int(alike[-1]) + 1
            similarity = float(cosine_T[start:stop].mean())
            stripe = Stripe(
                start / frames_per_s, (start + lag) / frames_per_s, (stop - start) / frames_per_s, similarity
            )
            found.append(stripe)
    return _strongest(found, slack_s=min_s / 2)


def chroma(wave_N: NDArray[np.float32], sample_rate_hz: int, *, frames_per_s: float = 2.0) -> NDArray[np.float32]:
    """Strength of the twelve pitch classes over time, as features for `find_stripes` [T, D].

    Magnitudes from 65 to 2,100 Hz, in windows of half a second; the root of them, so that no one note rules.
    """
    window, hop = round(0.5 * sample_rate_hz), round(sample_rate_hz / frames_per_s)
    frequency_F = np.fft.rfftfreq(window, 1 / sample_rate_hz)
    used_F = (frequency_F >= 65) & (frequency_F <= 2100)
    pitch_F = np.rint(12 * np.log2(frequency_F[used_F] / 440)).astype(int) % 12
    fold_FD = np.eye(12, dtype=np.float32)[pitch_F]
    padded_N = np.pad(wave_N, (0, window))
    rows = [padded_N[n : n + window] * np.hanning(window) for n in range(0, max(len(wave_N), 1), hop)]
    return np.stack([np.sqrt(np.abs(np.fft.rfft(row))[used_F] @ fold_FD) for row in rows]).astype(np.float32)


def _runs(is_on_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_on_T, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _strongest(stripes: Sequence[Stripe], *, slack_s: float) -> list[Stripe]:
    """Of stripes side by side, that is the same stretches at nearly the same lag, keep the strongest."""
    kept: list[Stripe] = []
    for stripe in sorted(stripes, key=lambda s: (-s.similarity * s.length_s, s)):
        lag_s = stripe.second_s - stripe.first_s
        beside = [
            other
            for other in kept
            if abs(other.second_s - other.first_s - lag_s) <= slack_s
            and min(other.first_s + other.length_s, stripe.first_s + stripe.length_s)
            > max(other.first_s, stripe.first_s)
        ]
        if not beside:
            kept.append(stripe)
    return kept
