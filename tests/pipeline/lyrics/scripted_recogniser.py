"""A recogniser that follows a script: true lines where they are sung, and hallucinations among them.

What it assumes of Whisper, since no weights are at hand here:
- avg_logprob, no_speech_prob and compression_ratio are those of a 30 s window, one for all its phrases, so a
  hallucination among true lines wears their numbers. (True in openai-whisper and faster-whisper alike.)
- log-probability: true lines -0.42 +- 0.18; stock phrases and loops -0.45 +- 0.25, since Whisper is sure of what it has
  seen often; other inventions -0.75 +- 0.3. Mixed over a window by length of text.
- no-speech: 0.2 where a window is sung throughout to 0.7 where nothing is sung, +- 0.2; a tenth of the sung windows
  0.35 more, for Whisper takes singing for music.
- times: starts +- 0.15 s; a third of the phrases last to the next one, up to 1.5 s too long.
- where inventions lie: over instruments, at most 0.7 s of them on singing; yet in place of a sung line for half of the
  loops and of the other languages, a fifth of the stock phrases and marks, and `in_song_share` of everything else.
- vocal activity: onsets +- 0.1 s, in 3 % of the lines 30 to 60 % unheard, and an eighth of the instruments taken for a
  voice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.data.records import Heard
from pipeline.lyrics.gates import estimate_moras

IN_SONG_SHARE = {"loop_in_line": 0.5, "line_again_and_again": 0.5, "foreign_script": 0.5, "latin_sentence": 0.5}
IN_SONG_SHARE |= dict.fromkeys(("stock_ja", "stock_other", "annotation", "punctuation"), 0.2)
IN_SONG_SHARE["plain_over_silence"] = 0.0
SURE_KINDS = frozenset({"loop_in_line", "line_again_and_again", "stock_ja", "stock_other"})


@dataclass
class Said:
    """A phrase with the truth about it."""

    text: str
    start_s: float
    end_s: float
    item: int = -1
    """Number of the hallucination in the list, -1 for a true line."""
    logprob: float = 0.0


@dataclass
class Script:
    """A track: what was reported, what is true of it, and what vocal activity made of it."""

    said: list[Said] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    again: list[Heard] = field(default_factory=list)
    """A second pass."""
    vocal_spans_s: list[tuple[float, float]] = field(default_factory=list)
    sung_s: list[tuple[float, float]] = field(default_factory=list)


def write_script(
    songs: Sequence[Sequence[str]],
    inventions: Sequence[tuple[int, str, str]],
    *,
    seed: int,
    in_song_share: float = 0.0,
) -> Script:
    """Make a track of songs with inventions (number, text, kind) among their lines."""
    rng = np.random.default_rng(seed)
    script, free = _sing(songs, rng)
    replaced: set[int] = set()
    for turn, (item, text, kind) in enumerate(inventions):
        num_times = int(rng.integers(6, 13)) if kind == "line_again_and_again" else 1
        at = int(rng.integers(0, len(script.sung_s) - num_times + 1))
        # Whisper says one thing at a time.
        is_taken = not replaced.isdisjoint(range(at, at + num_times))
        if rng.random() < IN_SONG_SHARE.get(kind, in_song_share) and not is_taken:
            replaced.update(range(at, at + num_times))
            late_s = rng.normal(0, 0.15, (num_times, 2))
            spots = [
                (s + a, max(s + a + 0.2, e + b)) for (s, e), (a, b) in zip(script.sung_s[at:], late_s, strict=False)
            ]
        else:
            spots = _over_instruments(text, num_times, free[turn % len(free)], rng)
        mean, sd = (-0.45, 0.25) if kind in SURE_KINDS else (-0.75, 0.3)
        script.said += [Said(text, s, e, item, min(rng.normal(mean, sd), -0.05)) for s, e in spots]
    sung = [line for n, line in enumerate(script.said[: len(script.sung_s)]) if n not in replaced]
    script.said = sorted(sung + script.said[len(script.sung_s) :], key=lambda said: said.start_s)
    script.vocal_spans_s = _activity(script, rng)
    script.heard = _report(script, rng)
    script.again = _second_pass(script, inventions, rng)
    return script


def _sing(songs: Sequence[Sequence[str]], rng: np.random.Generator) -> tuple[Script, list[tuple[float, float]]]:
    """Lines one after another at 1.5 to 6 moras a second, with an instrumental before every song."""
    script, free, now_s = Script(), [], 0.0
    for song in songs:
        pause_s = rng.uniform(6, 24)
        free.append((now_s, now_s + pause_s))
        now_s += pause_s
        for line in song:
            length_s = max(0.6, estimate_moras(line) / rng.uniform(1.5, 6))
            script.sung_s.append((now_s, now_s + length_s))
            gap_s = rng.uniform(0.15, 1.5)
            late_s = rng.uniform(0.3, 1.0) * min(gap_s, 1.5) if rng.random() < 0.35 else rng.normal(0, 0.12)
            start_s = max(0.0, now_s + rng.normal(0, 0.15))
            end_s = max(start_s + 0.3, now_s + length_s + late_s)
            script.said.append(Said(line, start_s, end_s, -1, min(rng.normal(-0.42, 0.18), -0.05)))
            now_s += length_s + gap_s
    free.append((now_s, now_s + 15))
    return script, free


def _over_instruments(
    text: str, num_times: int, free_s: tuple[float, float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    begin_s, finish_s = free_s
    if num_times > 1:
        step_s = (finish_s - begin_s) / num_times
        jitter_s = 0.0 if rng.random() < 0.6 else 0.2 * step_s
        starts = [begin_s + n * step_s + rng.uniform(0, jitter_s) for n in range(num_times)]
        return [(start_s, start_s + 0.9 * step_s) for start_s in starts]
    # Whisper gives invented words any time: what they would take to say, or the whole stretch.
    length_s = min(rng.choice([estimate_moras(text) / rng.uniform(3, 9), rng.uniform(1, 6)]), finish_s - begin_s)
    start_s = rng.uniform(begin_s - 0.7, finish_s - length_s + 0.7)
    return [(max(0.0, start_s), max(0.0, start_s) + max(0.3, length_s))]


def _activity(script: Script, rng: np.random.Generator) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    last_s = 0.0
    for start_s, end_s in script.sung_s:
        while start_s - last_s > 4:
            last_s += rng.exponential(7.0)
            spans.append((last_s, min(last_s + rng.uniform(0.3, 1.7), start_s)))
            last_s = spans[-1][1]
        missed_s = rng.uniform(0.3, 0.6) * (end_s - start_s) if rng.random() < 0.03 else 0.0
        spans.append((start_s + rng.normal(0, 0.1) + missed_s, end_s + rng.normal(0, 0.1)))
        last_s = end_s
    return _tidy(spans)


def _tidy(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    tidy: list[tuple[float, float]] = []
    for start_s, end_s in sorted(span for span in spans if span[1] > span[0]):
        if tidy and start_s <= tidy[-1][1]:
            tidy[-1] = (tidy[-1][0], max(tidy[-1][1], end_s))
        else:
            tidy.append((start_s, end_s))
    return tidy


def _report(script: Script, rng: np.random.Generator) -> list[Heard]:
    windows: dict[int, list[Said]] = {}
    for said in script.said:
        windows.setdefault(int(said.start_s // 30), []).append(said)
    heard: list[Heard] = []
    for window, phrases in windows.items():
        text = "".join(said.text for said in phrases).encode()
        lengths = [len(said.text) for said in phrases]
        logprob = float(np.average([said.logprob for said in phrases], weights=lengths)) + rng.normal(0, 0.03)
        sung_s = sum(max(0.0, min(e, window * 30 + 30) - max(s, window * 30)) for s, e in script.sung_s)
        no_speech = rng.normal(0.7 - 0.5 * sung_s / 30, 0.2) + 0.35 * (sung_s > 10 and rng.random() < 0.1)
        numbers = {
            "avg_logprob": min(logprob, -0.02),
            "no_speech_prob": float(np.clip(no_speech, 0.0, 0.99)),
            "compression_ratio": len(text) / len(zlib.compress(text)),
        }
        heard += [
            Heard(text=said.text, start_s=round(said.start_s, 2), end_s=round(said.end_s, 2), **numbers)
            for said in phrases
        ]
    return heard


def _second_pass(script: Script, inventions: Sequence[tuple[int, str, str]], rng: np.random.Generator) -> list[Heard]:
    """Nearly all true lines again, a letter in twelve heard otherwise; few inventions again, some others instead."""
    kinds = {item: kind for item, _, kind in inventions}
    again: list[Said] = []
    for said in script.said:
        if said.item < 0:
            if rng.random() < 0.97:
                again.append(_misheard(said, 0.4 if rng.random() < 0.05 else 0.08, rng))
            continue
        dice = rng.random()
        if dice < (0.4 if kinds[said.item] in SURE_KINDS else 0.1):
            again.append(said)
        elif dice < 0.7:
            again.append(replace(said, text=inventions[rng.integers(len(inventions))][1]))
    zeros = {"avg_logprob": 0.0, "no_speech_prob": 0.0, "compression_ratio": 1.0}
    shifted = [(said, rng.normal(0, 0.2)) for said in again]
    return [Heard(text=said.text, start_s=said.start_s + d, end_s=said.end_s + d, **zeros) for said, d in shifted]


def _misheard(said: Said, share: float, rng: np.random.Generator) -> Said:
    others = "あいうえおかきくけこさしすせそたちつてとなにぬねのはまやらわん"
    letters = [others[rng.integers(len(others))] if rng.random() < share else letter for letter in said.text]
    return replace(said, text="".join(letters))
