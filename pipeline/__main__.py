"""Look at files and at folders of shards, without running any stage."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.provenance import MANIFEST_NAME, read_manifest
from pipeline.data.shards import ShardFile, decode_json, decode_npy, decode_npz, expand_shards, load_index
from pipeline.engine.cli import run_main
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


def list_shards(path: Path) -> None:
    """List the shards of a folder, with what the manifest counts."""
    entries = load_index(path)
    for entry in entries:
        members = ", ".join(entry.members)
        print(f"{entry.name}  {entry.num_samples:6d} samples  {entry.num_bytes / 1e6:9.2f} MB  {members}")
    num_samples, num_bytes = (sum(getattr(entry, name) for entry in entries) for name in ("num_samples", "num_bytes"))
    print(f"{len(entries)} shards, {num_samples} samples, {num_bytes / 1e6:.2f} MB")
    if (path / MANIFEST_NAME).is_file():
        counts = read_manifest(path)["counts"]
        print(f"in {counts['in']}, used {counts['used']}, dropped {counts['dropped']}")
        print(f"clips out {counts['out']}, dropped {counts['clips_dropped']}")


def show(path: Path, key: str | None) -> None:
    """Show one sample of a tar or folder in words: the one with the key, or the first."""
    for tar in expand_shards(str(path)):
        for sample in ShardFile(tar):
            if key in (None, sample.key):
                print(f"{tar.name}: {sample.key}")
                for name, data in sample.members.items():
                    print(f"  {name}: {_in_words(name, data)}")
                return
    raise ParamsError(f"{path}: no sample {key or ''}; `python -m pipeline ls {path}` tells what there is")


def _in_words(name: str, data: bytes | memoryview) -> str:
    if name.endswith("json"):
        return "\n    ".join(json.dumps(decode_json(data), ensure_ascii=False, indent=1).splitlines())
    if name.endswith("npz"):
        return ", ".join(f"{key} {_array_in_words(array)}" for key, array in decode_npz(data).items())
    if name.endswith("npy"):
        return _array_in_words(decode_npy(data))
    return f"{len(data)} bytes"


def _array_in_words(array: Any) -> str:
    ends = f", from {array.min()} to {array.max()}" if array.size else ""
    return f"{array.dtype} {list(array.shape)}{ends}"


def verify(path: Path) -> None:
    """Check every shard of a folder against its index: size, SHA-256, headers.

    Raises:
        ContractError: names the first damaged shard, and where it is damaged.
    """
    for entry in load_index(path):
        ShardFile(path / entry.name, entry).check()
        print(f"{entry.name}  {entry.num_samples} samples  good")


def _run(args: argparse.Namespace) -> None:
    commands: dict[str, Callable[[], None]] = {
        "probe": lambda: probe(args.path),
        "ls": lambda: list_shards(args.path),
        "show": lambda: show(args.path, args.key),
        "verify": lambda: verify(args.path),
    }
    commands[args.command]()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the inspector from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("probe", help="what Setlist makes of single files, by the default limits of ingest")
    command.add_argument("path", type=Path, nargs="+", help="audio or score")
    for name, text in (
        ("ls", "what a folder of shards holds"),
        ("verify", "check a folder of shards against its index"),
    ):
        commands.add_parser(name, help=text).add_argument("path", type=Path, help="folder")
    command = commands.add_parser("show", help="one sample in words")
    command.add_argument("path", type=Path, help="tar or folder")
    command.add_argument("key", nargs="?", help="the first sample if left out")
    run_main(_run, parser, argv)


if __name__ == "__main__":
    from pipeline.__main__ import main

    main()
