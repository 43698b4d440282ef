"""Find clips that are the same recording, by their acoustic fingerprints.

No clip is compared with all others: an index proposes, and what it proposes is bounded by the number of words times
that of the clips that a hash may have.

Shape letters: S words of all clips one after another, T frames, M bits of a word, P proposed alignments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.music.fingerprint import fingerprint_words

MAX_ERROR = 0.2
"""Bit errors of two clips over those expected by chance; below it they are the same recording.

Measured: copies (MP3 at 64 kbit/s of a clipped, shifted clip) 0.08 in the median and below this in 29 of 30; the same
notes at the same tempo on another instrument 0.28 and more in 35 of 36 (0.19 in one), at another tempo 0.42; unrelated
clips 0.8. The same notes at the same tempo on the same synthetic instrument may count as one recording (from 0.11).
"""
_MIN_OVERLAP = 0.4
"""Of the shorter clip: half, less what the frames' length takes away."""
_MIN_CHANCE_BITS = 60.0
"""Errors that chance must make in an overlap for it to prove anything: silence and steady tones make none."""
_TABLES = tuple(
    (bits, lag_frames)
    for bits in (0x0000FFFF, 0xFFFF0000, 0x00FFFF00, 0xFF0000FF, 0x00FF00FF, 0xFF00FF00)
    for lag_frames in (2, 5, 9)
)
"""Hash tables of the index: 16 bits of a word and 8 of one a little later. Each looks at other bands, so that damage
in some leaves some table whole; two moments tell tunes apart that share a chord. 24 neighbouring bits would collide
twice as often and meet in fewer copies."""
_LATER_BITS = 0x33333333
_MIN_ONES = 4
"""Of the 24 bits; hashes with fewer come from steady sound, and all steady sound is alike."""
_MAX_CLIPS_PER_HASH = 64
"""Hashes in more clips than this say too little about each, and cost their square."""
_NEAR_FRAMES = range(-8, 9, 2)
_MAX_NEAR_ERROR = 0.22
"""Share of wrong bits around a meeting; copies have 0.05, chance 0.4."""
_CHUNK_WORDS = 1 << 21

Words = NDArray[np.uint32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Pool:
    """The words of all clips one after another."""

    words_S: Words
    first: Ints
    """Row of each clip's first word, and the end of the last clip."""

    def clip_words(self, clip: int) -> Words:
        return self.words_S[self.first[clip] : self.first[clip + 1]]


def find_duplicates(fingerprints: Mapping[str, str]) -> list[tuple[str, str]]:
    """Find pairs of clips that hold the same stretch of the same recording, at any shift.

    At least half of the shorter clip must lie in the other one. Silence, steady tones and clips of a second or less
    have no pairs. Of clips with the very same fingerprint only the smallest key is compared with the rest; so the
    pairs connect every set of duplicates, but not each clip of it with each. A recording in more than 64 versions
    may be missed.

    Args:
        fingerprints: `acoustic_fingerprint` by key.

    Returns:
        Pairs of keys, the smaller first, sorted; whatever the order of the mapping.

    Raises:
        ValueError: a value is no acoustic fingerprint.
    """
    equal: dict[str, list[str]] = {}
    for key in sorted(fingerprints):
        equal.setdefault(fingerprints[key], []).append(key)
    keys = [same[0] for same in equal.values()]
    words = [fingerprint_words(fingerprint) for fingerprint in equal]
    pool = _Pool(np.concatenate([*words, np.zeros(0, np.uint32)]), np.cumsum([0, *map(len, words)]))
    pairs = [(keys[low], keys[high]) for low, high in _same_recordings(pool)]
    for same, clip_T in zip(equal.values(), words, strict=True):
        if len(same) > 1 and _relative_error(clip_T, clip_T, 0) < MAX_ERROR:
            pairs += [(same[0], other) for other in same[1:]]
    return sorted((min(pair), max(pair)) for pair in pairs)


def _same_recordings(pool: _Pool) -> Iterator[tuple[int, int]]:
    """Yield the pairs of clips, each once, for which some proposed alignment holds."""
    found: set[tuple[int, int]] = set()
    low_P, high_P, offset_P = _plausible(pool, *_propose(pool))
    for low, high, offset in zip(low_P.tolist(), high_P.tolist(), offset_P.tolist(), strict=True):
        if (low, high) in found:
            continue
        if _relative_error(pool.clip_words(low), pool.clip_words(high), offset) < MAX_ERROR:
            found.add((low, high))
            yield low, high


def _propose(pool: _Pool) -> tuple[Ints, Ints, Ints]:
    """Look up which clips share a hash, and at which offset.

    Returns:
        Clips (low < high) and offsets [P]: frame t of the higher clip lies between frames t + offset and
        t + offset + 1 of the lower.
    """
    num_clips = len(pool.first) - 1
    owner_S = np.repeat(np.arange(num_clips), np.diff(pool.first))
    frame_S = np.arange(len(pool.words_S)) - pool.first[owner_S]
    span = 2 * (int(frame_S.max(initial=0)) + 2)
    found = [np.zeros(0, np.int64)]
    for bits, lag_frames in _TABLES:
        for low_P, high_P in _meetings(*_hashes(pool, owner_S, bits, lag_frames)):
            # Which side of the frame the other one lies on is not known.
            for side in (0, 1):
                near = _is_near(pool, owner_S, low_P - side, high_P)
                low, high = low_P[near], high_P[near]
                offset_P = frame_S[low] - side - frame_S[high] + span // 2
                found.append((owner_S[low] * num_clips + owner_S[high]) * span + offset_P)
    pair_P, offset_P = np.divmod(np.unique(np.concatenate(found)), span)
    return pair_P // num_clips, pair_P % num_clips, offset_P - span // 2


def _hashes(pool: _Pool, owner_S: Ints, bits: int, lag_frames: int) -> tuple[NDArray[np.uint64], Ints]:
    """Hashes and their rows, sorted; each hash once for each clip, and only in few clips."""
    row = np.arange(max(0, len(owner_S) - lag_frames))
    row = row[owner_S[row] == owner_S[row + lag_frames]]
    now, later = pool.words_S[row] & np.uint32(bits), pool.words_S[row + lag_frames] & np.uint32(bits & _LATER_BITS)
    usable = np.bitwise_count(now) + np.bitwise_count(later) >= _MIN_ONES
    row = row[usable]
    hashed = (now[usable].astype(np.uint64) << np.uint64(32)) | later[usable]
    order = np.argsort(hashed, kind="stable")
    hashed, row = hashed[order], row[order]
    # A hash that lasts, or comes back, counts once for its clip.
    is_new = np.ones(len(row), bool)
    is_new[1:] = (hashed[1:] != hashed[:-1]) | (owner_S[row[1:]] != owner_S[row[:-1]])
    hashed, row = hashed[is_new], row[is_new]
    _, place, count = np.unique(hashed, return_inverse=True, return_counts=True)
    rare = count[place] <= _MAX_CLIPS_PER_HASH
    return hashed[rare], row[rare]


def _meetings(hashed: NDArray[np.uint64], row: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows [P] with equal hashes, the lower clip's first: neighbours in the sorted list, then those two apart."""
    start = np.arange(len(row))
    for step in range(1, _MAX_CLIPS_PER_HASH):
        start = start[start + step < len(row)]
        start = start[hashed[start] == hashed[start + step]]
        if not start.size:
            return
        yield row[start], row[start + step]


def _is_near(pool: _Pool, owner_S: Ints, low_P: Ints, high_P: Ints) -> NDArray[np.bool_]:
    """Tell whether clips agree around a meeting: most meetings are by chance, and go here."""
    low_first, low_last = pool.first[owner_S[low_P + 1]], pool.first[owner_S[low_P + 1] + 1] - 2
    high_first, high_last = pool.first[owner_S[high_P]], pool.first[owner_S[high_P] + 1] - 2
    wrong_P, stable_P = np.zeros((2, len(low_P)), np.int64)
    for step in _NEAR_FRAMES:
        low, high = low_P + step, high_P + step
        inside = np.flatnonzero((low >= low_first) & (low <= low_last) & (high >= high_first) & (high <= high_last))
        wrong, stable = _stable_errors(pool.words_S, high[inside], low[inside])
        wrong_P[inside] += wrong
        stable_P[inside] += stable
    return wrong_P < _MAX_NEAR_ERROR * stable_P


def _plausible(pool: _Pool, low_P: Ints, high_P: Ints, offset_P: Ints) -> tuple[Ints, Ints, Ints]:
    """Keep alignments with enough overlap and so few errors that `_relative_error` may accept them."""
    length = np.diff(pool.first)
    begin_P = np.maximum(0, -offset_P)
    num_P = np.minimum(length[high_P] - 1, length[low_P] - 1 - offset_P) - begin_P
    kept = np.flatnonzero(num_P >= _MIN_OVERLAP * np.minimum(length[low_P], length[high_P]))
    kept = kept[num_P[kept] > 0]
    good: list[Ints] = [kept[:0]]
    for chunk in _chunks(kept, num_P):
        num = num_P[chunk]
        starts = np.cumsum(num) - num
        step = np.arange(num.sum()) - np.repeat(starts, num)
        one = step + np.repeat(pool.first[high_P[chunk]] + begin_P[chunk], num)
        other = step + np.repeat(pool.first[low_P[chunk]] + begin_P[chunk] + offset_P[chunk], num)
        wrong, stable = _stable_errors(pool.words_S, one, other)
        wrong, stable = np.add.reduceat(wrong, starts), np.add.reduceat(stable, starts)
        # Chance errs in half of the bits at most; the exact rate is worked out for the few that remain.
        good.append(chunk[wrong < 0.5 * MAX_ERROR * stable])
    keep = np.concatenate(good)
    return low_P[keep], high_P[keep], offset_P[keep]


def _chunks(kept: Ints, num_P: Ints) -> Sequence[Ints]:
    """Cut alignments into parts of bounded overlap in all."""
    part = np.cumsum(num_P[kept]) // _CHUNK_WORDS
    return [chunk for chunk in np.split(kept, np.flatnonzero(np.diff(part)) + 1) if chunk.size]


def _stable_errors(words_S: Words, one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """Count the stable bits that differ, and all stable bits, of each row `one` against `other`, both ways."""
    own, own_next, its, its_next = words_S[one], words_S[one + 1], words_S[other], words_S[other + 1]
    stable, its_stable = ~(own ^ own_next), ~(its ^ its_next)
    wrong = np.bitwise_count(stable & (own ^ its_next)).astype(np.int64) + np.bitwise_count(its_stable & (its ^ own))
    return wrong, np.bitwise_count(stable).astype(np.int64) + np.bitwise_count(its_stable)


def _relative_error(low_T: Words, high_T: Words, offset: int) -> float:
    """Bit errors of two aligned clips over the errors that chance would make.

    Frames of two copies do not begin together, and a bit that changes from one frame to the next may be either in
    between. So only those bits of two neighbouring frames that agree are compared, with the other clip's frame that
    lies between the two; and the same the other way round. Chance is that of two unrelated clips with the same
    share of ones in each band of the overlap (as in Cohen's kappa, 1960: this is 1 - kappa).

    Returns:
        0 for the same sound, about 1 for unrelated ones; infinity where the overlap proves nothing.
    """
    begin, end = max(0, -offset), min(len(high_T) - 1, len(low_T) - 1 - offset)
    if end <= begin:
        return np.inf
    high, high_next = _bits(high_T[begin:end]), _bits(high_T[begin + 1 : end + 1])
    low, low_next = _bits(low_T[begin + offset : end + offset]), _bits(low_T[begin + offset + 1 : end + offset + 1])
    wrong = chance = 0.0
    for stable, one, other in ((high == high_next, high, low_next), (low == low_next, low, high)):
        num_M = np.maximum(stable.sum(axis=0), 1)
        ones_M, others_M = (stable & one).sum(axis=0), (stable & other).sum(axis=0)
        wrong += float((stable & (one ^ other)).sum())
        chance += float(((ones_M * (num_M - others_M) + others_M * (num_M - ones_M)) / num_M).sum())
    return wrong / chance if chance >= _MIN_CHANCE_BITS else np.inf


def _bits(words_T: Words) -> NDArray[np.bool_]:
    """Take words apart, [T, M]."""
    octets = words_T.astype("<u4").view(np.uint8).reshape(len(words_T), 4)
    return np.unpackbits(octets, axis=1, bitorder="little").astype(bool)
