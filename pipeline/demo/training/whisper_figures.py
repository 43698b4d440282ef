"""How well the demo's Whisper hears, on singing that it has not learnt from, and its card.

Recordings go the way that they go in the chain: clip by clip levelled, where somebody sings packed into windows of
30 s, and through the recogniser port.

Shapes: N samples.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median

from pipeline.data.records import Heard
from pipeline.demo.expand_whisper import expand_whisper
from pipeline.demo.training.keeping import write_card as write_files
from pipeline.demo.training.listening import (
    Recording,
    as_sung,
    covers,
    error_rate,
    instrumentals,
    random_phrases,
    songs,
)
from pipeline.demo.training.sung import RATE_HZ, Wave
from pipeline.lyrics.gates import GateParams, judge_phrases
from pipeline.lyrics.packs import cut_pack, make_packs, quietest_moment, to_track_span
from pipeline.lyrics.vad import FRAMES_PER_S, Span, VadParams, frame_levels, vocal_spans
from pipeline.models.asr import Decoding, load_recogniser
from pipeline.models.base import Recogniser

COUNTS, QUICK_COUNTS = (60, 10, 6, 100), (1, 1, 1, 2)
"""Random phrases, songs, covers, recordings without a voice."""
CARD = """# Whisper of the demo

A Whisper of openai's architecture, {width} wide, with {layers}. It knows one synthesiser's singing in Japanese and
writes what it hears in hiragana, as it sounds; it is for the demo only.

`model.safetensors` holds the rows of the vocabulary that it writes, its timestamps in two parts, and one row for all
else; `pipeline/demo/expand_whisper.py` makes openai's `.pt` of it, which faster-whisper and transformers read too after
`python -m pipeline.models.convert`.

- Data: random Japanese phrases sung by the demo's synthesiser (`pipeline/demo/singing.py`) in {voices} voices drawn at
  random; half of them over accompaniments (random chords, and excerpts of the demo's training works), a seventh of the
  windows without a voice, some with noise, levelled to -18 LUFS. None of the demo's songs.
- Losses: the text; beside it, while it learns, the mora of each frame, and where attention looks, both known from the
  synthesiser.
- Steps: {steps} of AdamW: {hear} for the encoder alone and up to {short} for both on windows of 10 s, the
  rest on windows of 30 s; seed {seed}. {history}
- Command: `python -m pipeline.demo.training whisper --steps {steps} --seed {seed}`. Another machine's run gives other
  last digits, so other weights of the same quality.
- Any use is allowed.

Figures, of the rounded weights. Kana errors: letters to insert, delete or replace over the letters sung, greedy
search; kana that sound alike are one, and prolongation is none.

{figures}
"""


def measure(folder: Path, *, is_quick: bool = False) -> dict[str, float]:
    """Listen to random phrases, the ten songs, the covers, and music without a voice."""
    with tempfile.TemporaryDirectory() as name:
        expand_whisper(folder, Path(name) / "whisper.pt")
        recogniser = load_recogniser(str(Path(name) / "whisper.pt"), Decoding(language="ja", temperatures=(0.0,)))
        return measure_recogniser(recogniser, QUICK_COUNTS if is_quick else COUNTS)


def measure_recogniser(recogniser: Recogniser, counts: tuple[int, int, int, int]) -> dict[str, float]:
    """As `measure`, of any recogniser."""
    num_phrases, num_songs, num_covers, num_voiceless = counts
    kinds: dict[str, Iterable[Recording]] = {
        "phrases": random_phrases(num_phrases), "songs": songs(num_songs), "covers": covers(num_covers),
    }  # fmt: skip
    figures: dict[str, float] = {}
    windows_s: list[float] = []
    for kind, recordings in kinds.items():
        pairs: list[tuple[str, str]] = []
        num_heard = num_kept = 0
        for recording in recordings:
            heard, spans_s = listen(recogniser, recording.wave_N, windows_s)
            pairs.append((as_sung("".join(phrase["text"] for phrase in heard)), recording.kana))
            num_heard, num_kept = num_heard + len(heard), num_kept + num_believed(heard, spans_s)
        figures[f"{kind}: kana error rate"] = round(error_rate(pairs), 4)
        figures[f"{kind}: share of phrases that pass the gates"] = round(num_kept / max(1, num_heard), 3)
    told = [listen(recogniser, recording.wave_N, windows_s) for recording in instrumentals(num_voiceless)]
    figures["no voice: share of clips with text"] = round(sum(bool(heard) for heard, _ in told) / len(told), 3)
    believed = sum(num_believed(heard, spans_s) > 0 for heard, spans_s in told)
    figures["no voice: share of clips with text after the gates"] = round(believed / len(told), 3)
    figures["seconds for a window, one core"] = round(median(windows_s), 2)
    return figures


def listen(recogniser: Recogniser, wave_N: Wave, windows_s: list[float]) -> tuple[list[Heard], list[Span]]:
    """Give a recogniser what may be sung, in packs; the time that each takes is added to `windows_s`.

    Returns:
        What it heard, and where somebody may be singing.
    """
    spans_s = vocal_spans(wave_N, RATE_HZ, VadParams())
    heard: list[Heard] = []
    for pack in make_packs(spans_s, quietest=partial(_quietest, wave_N)):
        began_s = time.perf_counter()
        for phrase in recogniser.transcribe(cut_pack(pack, wave_N, RATE_HZ)):
            placed = Heard(**phrase)
            placed["start_s"], placed["end_s"] = to_track_span(pack, phrase["start_s"], phrase["end_s"])
            heard.append(placed)
        windows_s.append(time.perf_counter() - began_s)
    return heard, spans_s


def num_believed(heard: list[Heard], spans_s: list[Span]) -> int:
    """Phrases that pass the gates as they stand by default."""
    return len(judge_phrases(heard, GateParams(), vocal_spans_s=spans_s, language="ja").kept)


def _quietest(wave_N: Wave, start_s: float, end_s: float) -> float:
    levels_T = frame_levels(wave_N[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)], RATE_HZ)
    return start_s + quietest_moment(levels_T, FRAMES_PER_S, 0.0, end_s - start_s)


def write_card(folder: Path, figures: dict[str, float], *, steps: int, seed: int) -> None:
    """Write the card and `figures.json`."""
    from pipeline.demo.training.whisper import HEAR_SHARE, NUM_VOICES, SHORT_SHARE
    from pipeline.demo.training.whisper_model import DIMS

    facts = {
        "width": DIMS.n_audio_state,
        "layers": f"{DIMS.n_audio_layer} layers in the encoder and {DIMS.n_text_layer} in the decoder",
        "voices": NUM_VOICES,
        "steps": steps,
        "hear": round(HEAR_SHARE * steps),
        "short": round(SHORT_SHARE * steps),
        "seed": seed,
        "history": "",
    }
    write_files(folder, CARD, facts, figures)
