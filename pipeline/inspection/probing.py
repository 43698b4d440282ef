"""What Setlist makes of single files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ContractError, ParamsError

MIN_CLIP_S, MAX_CLIP_S, SILENCE_LUFS = 2.0, 10.0, -60.0


def probe(paths: Sequence[Path]) -> None:
    """Say what Setlist makes of single files: audio by its sound, scores by their phrases."""
    from pipeline.lyrics.score_source import SCORE_SUFFIXES

    for path in paths:
        if not path.is_file():
            raise ParamsError(f"{path}: not a file; name recordings or scores")
        print(f"{path}:")
        if path.suffix.lower() in SCORE_SUFFIXES:
            _probe_score(path)
        else:
            _probe_audio(path)


def _probe_score(path: Path) -> None:
    from pipeline.lyrics.score import read_score

    try:
        phrases = read_score(path)
    except ContractError as error:
        print(f"  verdict   unreadable: {error}")
        return
    print(f"  verdict   score, {len(phrases)} phrases")
    for phrase in phrases:
        print(f"  {phrase['start_s']:8.2f} to {phrase['end_s']:8.2f} s  {phrase['text']}")


def _probe_audio(path: Path) -> None:
    from pipeline.lyrics.tags import read_tags
    from pipeline.music.audio import judge_clip
    from pipeline.music.cutting import cut_windows
    from pipeline.music.decoders import AudioError
    from pipeline.music.loudness import integrated_loudness, true_peak_dbtp
    from pipeline.music.recording import decode_audio

    try:
        decoded = decode_audio(path)
    except AudioError as error:
        print(f"  verdict   dropped: {error.reason}: {error.detail}")
        return
    rate_hz, facts = decoded.sample_rate_hz, decoded.facts
    channels = f"{facts.num_channels} channels" + (", both the same" if facts.is_dual_mono else "")
    print(f"  format    {facts.source_format}, {rate_hz} Hz, {channels}, by {facts.decoder}")
    print(f"  length    {facts.decoded_s:.3f} s")
    loudness_lufs, peak_dbtp = integrated_loudness(decoded.wave_N, rate_hz), true_peak_dbtp(decoded.wave_N)
    print(f"  loudness  {loudness_lufs:.1f} LUFS, peak {peak_dbtp:.1f} dBTP, offset {decoded.wave_N.mean():.4f}")
    tags = read_tags(path)
    if tags:
        print("  tags      " + ", ".join(f"{name}: {text[:60]!r}" for name, text in tags.items()))
    for window in cut_windows([decoded.wave_N], rate_hz, max_clip_s=MAX_CLIP_S, min_clip_s=MIN_CLIP_S):
        fault = judge_clip(window.wave_N, rate_hz, min_s=MIN_CLIP_S, silence_lufs=SILENCE_LUFS)
        verdict = f"dropped: {fault[0]}: {fault[1]}" if fault else "good"
        print(f"  clip      {window.start_s:.2f} to {window.end_s:.2f} s: {verdict}")
