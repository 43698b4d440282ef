"""Windows as Whisper hears them, put together from voices and accompaniments, and what it must write for each.

Shapes: M mel frames of 10 ms, T frames of 20 ms, F mel bands, L tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
import whisper.tokenizer
from numpy.typing import NDArray

from pipeline.demo.expand_whisper import FIRST_TIMESTAMP, NUM_TIMESTAMPS
from pipeline.demo.morae import GEMINATE, HEPBURN, NASAL
from pipeline.demo.training.material import Material, mel_power
from pipeline.demo.training.phrases import SAME_SOUND
from pipeline.demo.training.sung import RATE_HZ, Phrase

SOT, EOT, NO_SPEECH, NO_TIMESTAMPS, JA, TRANSCRIBE = 50_258, 50_257, 50_362, 50_363, 50_266, 50_359
MORAE = sorted({SAME_SOUND.get(kana, kana) for kana in HEPBURN} | {NASAL, GEMINATE})
LATEST_FIRST = 50
"""The first timestamp that decoders allow at the start of a window: 1 s."""
FRAMES_PER_S = 50
NOTHING = -100
"""Target that is not asked for."""
FLOOR_LOG = -10.0

Spectrum = NDArray[np.float32]


@dataclass(slots=True)
class Window:
    """What is heard, what is to be written, and when each token of it sounds."""

    mel_MF: Spectrum
    offset: int
    """Frames of 20 ms by which the window begins later than the 30 s around it."""
    tokens_L: list[int] = field(default_factory=list[int])
    """As Whisper reads them."""
    targets_L: list[int] = field(default_factory=list[int])
    """What follows each, or `NOTHING`."""
    spans_L: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Frames in which each token sounds; the same twice for what does not."""
    phrases: list[Phrase] = field(default_factory=list[Phrase])


@cache
def spell(kana: str) -> tuple[int, ...]:
    """Tokens of a mora, letter by letter: Whisper's own pairs would be many more rows."""
    with warnings.catch_warnings():
        # whisper leaves the file to the garbage collector, once: here, before its cache holds what was in it.
        warnings.simplefilter("ignore", ResourceWarning)
        encoding = whisper.tokenizer.get_tokenizer(multilingual=True, num_languages=99).encoding
    return tuple(token for letter in kana for token in encoding.encode(letter))


def token_ids() -> list[int]:
    """All tokens that are written, without timestamps."""
    kana = {token for mora in MORAE for token in spell(mora)}
    return sorted(kana | {SOT, EOT, NO_SPEECH, NO_TIMESTAMPS, JA, TRANSCRIBE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many windows are what."""

    voiceless: float
    accompanied: float
    """Of those with a voice."""
    noisy: float = 0.4
    noise_bels: tuple[float, float] = (0.3, 3.5)
    """From the loudest to the softest noise, below one of 0.05 RMS."""


PLAIN, MIXED = Shares(voiceless=0.03, accompanied=0.25), Shares(voiceless=0.14, accompanied=0.5)
USUAL = Shares(voiceless=0.14, accompanied=0.4, noisy=0.3, noise_bels=(1.0, 3.5))


class Mixer:
    """Puts windows together; what comes out depends on the generator alone."""

    def __init__(self, voices: Sequence[Material], backings: Sequence[Material]) -> None:
        self._voices, self._backings = voices, backings
        hiss_N = np.random.default_rng(0).standard_normal(30 * RATE_HZ).astype(np.float32)
        # Of power 1 in each band's mean, so that levels can be compared with those of music.
        self._hiss_MF = mel_power(0.05 * hiss_N, "whisper")

    def window(self, rng: np.random.Generator, shares: Shares, *, num_mels: int, offset: int = 0) -> Window:
        """Put a window of so many mel frames together."""
        power_MF = np.zeros((num_mels, self._hiss_MF.shape[1]), np.float32)
        phrases: list[Phrase] = []
        if rng.random() < shares.voiceless:
            filled = int(rng.uniform(0.2, 1.0) * num_mels)
            if rng.random() < 0.85:
                self._play(power_MF[:filled], rng, level_db=rng.normal(0, 2))
        else:
            has_backing = rng.random() < shares.accompanied
            filled = self._sing(power_MF, phrases, rng, may_wait=has_backing)
            if has_backing:
                self._play(power_MF[:filled], rng, level_db=rng.uniform(-18, -5))
        if rng.random() < shares.noisy:
            start = int(rng.integers(len(self._hiss_MF) - filled + 1))
            power_MF[:filled] += self._hiss_MF[start : start + filled] * np.float32(
                10 ** -rng.uniform(*shares.noise_bels)
            )
        window = Window(_log_mel(power_MF, filled, rng), offset, phrases=phrases)
        _write(window, rng)
        return window

    def _sing(self, power_MF: Spectrum, phrases: list[Phrase], rng: np.random.Generator, *, may_wait: bool) -> int:
        """Put voices one after another, and return up to where the window is filled."""
        at, room = 0, len(power_MF)
        wanted = room if rng.random() < 0.6 else int(rng.uniform(0.1, 1.0) * room)
        while True:
            if may_wait and rng.random() < 0.3:
                at += 2 * int(rng.uniform(0, 0.15) * room / 2)
            voice = self._voices[int(rng.integers(len(self._voices)))]
            size = len(voice.log_MF)
            if at + size > room or (phrases and at + size > wanted):
                break
            power_MF[at : at + size] += _power(voice.log_MF, rng.normal(0, 1.5))
            phrases += [_moved(phrase, at / (2 * FRAMES_PER_S)) for phrase in voice.phrases]
            at += size
        return min(at, room)

    def _play(self, power_MF: Spectrum, rng: np.random.Generator, *, level_db: float) -> None:
        """Add accompaniments, one after another."""
        at = 0
        while at < len(power_MF):
            backing = self._backings[int(rng.integers(len(self._backings)))]
            part = backing.log_MF[: len(power_MF) - at]
            power_MF[at : at + len(part)] += _power(part, level_db)
            at += len(part)


def _power(log_MF: NDArray[np.float16], level_db: float) -> Spectrum:
    return np.exp((log_MF.astype(np.float32) + np.float32(level_db / 10)) * np.float32(np.log(10)))


def _moved(phrase: Phrase, by_s: float) -> Phrase:
    return [(kana, start_s + by_s, end_s + by_s) for kana, start_s, end_s in phrase]


def _log_mel(power_MF: Spectrum, filled: int, rng: np.random.Generator) -> Spectrum:
    """As Whisper's front end; some are padded with zeros, as faster-whisper pads what it has made."""
    power_MF *= np.float32(10 ** (rng.normal(0, 1.5) / 10))
    log_MF = np.log10(np.maximum(power_MF, np.float32(1e-10)))
    scaled_MF = (np.maximum(log_MF, log_MF.max() - 8) + 4) / 4
    if rng.random() < 0.25:
        scaled_MF[filled:] = 0
    return scaled_MF.astype(np.float32)


def _write(window: Window, rng: np.random.Generator) -> None:
    """Fill in tokens, targets and spans."""
    rows = list(_tokens(window, with_times=rng.random() < 0.9))
    window.tokens_L = [token for token, _ in rows[:-1]]
    window.targets_L = [token for token, _ in rows[1:]]
    window.spans_L = [span for _, span in rows]
    if not window.phrases:
        window.targets_L[0] = NO_SPEECH
    elif window.offset and window.targets_L[2] > FIRST_TIMESTAMP + LATEST_FIRST:
        # Such a first timestamp is never asked for: decoders forbid it.
        window.targets_L[2] = NOTHING


def _tokens(window: Window, *, with_times: bool) -> Iterator[tuple[int, tuple[int, int]]]:
    """Tokens in order, with the frames of the window in which each sounds."""
    yield from ((token, (0, 0)) for token in (SOT, JA, TRANSCRIBE))
    if not with_times:
        yield NO_TIMESTAMPS, (0, 0)
    elif not window.phrases:
        yield FIRST_TIMESTAMP, (0, 0)
    for number, phrase in enumerate(window.phrases):
        if with_times:
            latest = LATEST_FIRST if number == 0 and not window.offset else NUM_TIMESTAMPS - 1
            yield _timestamp(phrase[0][1], window.offset, latest)
        for kana, start_s, end_s in phrase:
            first = int(start_s * FRAMES_PER_S)
            span = (first, max(first + 1, round(end_s * FRAMES_PER_S)))
            yield from ((token, span) for token in spell(kana))
        if with_times:
            yield _timestamp(phrase[-1][2], window.offset, NUM_TIMESTAMPS - 1)
    yield EOT, (0, 0)


def _timestamp(at_s: float, offset: int, latest: int) -> tuple[int, tuple[int, int]]:
    step = min(round(at_s * FRAMES_PER_S) + offset, latest)
    frame = step - offset
    return FIRST_TIMESTAMP + step, (max(0, frame - 2), frame + 2)


def frame_labels(window: Window) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which mora sounds in each frame of 20 ms, 0 for none, which one came before it, and where one begins; `[T]`."""
    num_frames = len(window.mel_MF) // 2
    labels_T, before_T = (torch.zeros(num_frames, dtype=torch.long) for _ in range(2))
    begins_T = torch.zeros(num_frames)
    for phrase in window.phrases:
        before = 0
        for kana, start_s, end_s in phrase:
            first, last = round(start_s * FRAMES_PER_S), round(end_s * FRAMES_PER_S)
            labels_T[first:last], before_T[first:last] = MORAE.index(kana) + 1, before
            begins_T[first : first + 2] = 1
            before = MORAE.index(kana) + 1
    return labels_T, before_T, begins_T
