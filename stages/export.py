"""Export: lyrics and recordings in the formats of other trainers and of players. Run by hand, after the chain.

In:    shards/ingest with tracks.jsonl, shards/lyrics and shards/transcribe of one corpus, as far as they are there
       (lyrics come before what a recogniser heard); for audiocraft shards/describe; for --split
       shards/split/split.json.
Out:   the folder that --out names, whole or not at all; manifest.json and drops.jsonl lie in it beside
       songbloom   songs.jsonl {idx, lyrics, prompt_wav, audio_path, ...}, prompts/*.wav (48 kHz), targets/*.flac; the
                   prompt is cut from a part of the song that the target does not hold
       lrc         one LRC file per recording, with the phrases of all clips
       audiocraft  per clip a FLAC and beside it the JSON that its MusicDataset reads
Drops: no_lyrics (or, for songbloom, lyrics without times); too_short (to spare a prompt beside a target).

The clips of a recording are joined again, for songbloom the longest stretch without a hole: what two clips hold once,
at one loudness. Phrases that a cut went through are put together; one that goes on beyond the stretch is part of no
target, and `num_phrases_outside`, in the line of a song and summed up in the manifest, counts those beyond holes.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.columns import join_columns
from pipeline.data.provenance import MANIFEST_NAME, check_parents, folder_digest, pretty_json
from pipeline.data.records import TRACKS_FILE, Drop, Phrase, Reason, all_captions, count_drops
from pipeline.data.shards import decode_json, encode_jsonl, read_jsonl
from pipeline.data.splits import SPLIT_FILE, SPLITS, read_splits
from pipeline.data.storage import publish_folder, write_bytes
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import only_run
from pipeline.engine.progress import progress
from pipeline.engine.project import Project, column_tasks, open_project
from pipeline.errors import ContractError, ParamsError
from pipeline.lyrics.songs import Song, make_song

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.lyrics.sections import Section
    from pipeline.lyrics.songbloom import PromptCut

VOICES = ("phrases", "energy", "silero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the flags ask for."""

    format: str
    model: str = "150s"
    """SongBloom's model: its longest song, and how long a tag lasts."""
    min_target_s: float = 20.0
    """Shortest target; what a recording has beyond it may serve as the prompt."""
    voice: str = "phrases"
    """What tells where voices sound: `phrases`, `energy` or `silero`."""

    def __post_init__(self) -> None:
        if not self.min_target_s >= 1:
            raise ParamsError(f"--min-target-s {self.min_target_s:g}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how songs are written."""

    folder: Path
    """Where the files are put."""
    final: Path
    """Where they will lie in the end."""
    options: Options


Lines = list[dict[str, Any]]
Write = Callable[[Song, Target], Lines | Drop]


@dataclass(frozen=True, slots=True)
class Format:
    """What one of the formats needs."""

    columns: tuple[str, ...]
    """What is read besides ingest, as far as it is there."""
    needs_column: bool
    """Nothing can be written without one of them."""
    write: Write
    """Writes one song; gives its lines, or why it is left out."""
    lines_file: str = ""
    """Where the lines of all songs go."""


# --- songs from clips ------------------------------------------------------------------------------------------------


def read_songs(project: Project, corpus: str, *, columns: Sequence[str], split: str | None) -> Iterator[Song]:
    """Put the recordings of a corpus together, one at a time."""
    from pipeline.music.tracks import by_track

    layout = project.layout
    folders = [layout.column(column, corpus) for column in ("ingest", *columns)]
    tracks = {track["track"]: track for track in read_jsonl(folders[0] / TRACKS_FILE)}
    wanted = read_splits(layout.split() / SPLIT_FILE).split if split else {}
    num_songs = 0
    for task in column_tasks(folders):
        for clips in by_track(join_columns(task.payload[0])):
            first, sample = clips[0]
            if split and wanted.get(sample.key) != split:
                continue
            if num_songs == project.limit:
                return
            num_songs += 1
            yield make_song(tracks[first["track"]], clips)


def song_wave(song: Song) -> tuple[NDArray[np.float32], int]:
    """Play the stretch of a song as one wave [N]; no louder than its clips, for those do not clip.

    Returns:
        The wave and its rate in Hz.
    """
    import numpy as np

    from pipeline.music.tracks import track_blocks

    rate_hz = song.stretch[0][0]["sample_rate_hz"]
    wave_N = np.concatenate(list(track_blocks(song.stretch, rate_hz)))[round(song.start_s * rate_hz) :]
    least_db = min(float(clip["audio"]["gain_db"]) for clip, _ in song.stretch)
    return wave_N * np.float32(10 ** (least_db / 20)), rate_hz


# --- formats: each writes one song, and gives its lines --------------------------------------------------------------


def write_songbloom(song: Song, target: Target) -> Lines | Drop:
    """Write prompt and target of a song; its line is for songs.jsonl.

    Raises:
        ContractError: lyrics that SongBloom would misread: a fault of ours, and nothing is exported.
    """
    from pipeline.lyrics.songbloom import MODELS, cut_prompt, problems, songbloom_lyrics

    options, model = target.options, MODELS[target.options.model]
    worded = [phrase for phrase in song.phrases if any(letter.isalnum() for letter in phrase["text"])]
    phrases = sorted((p for p in worded if p["start_s"] is not None), key=lambda p: p["start_s"] or 0.0)
    if not phrases:
        outside = f"{song.num_phrases_outside} phrases outside the longest stretch" if song.num_phrases_outside else ""
        return Drop(song.track["track"], Reason.NO_LYRICS, "lyrics without times" if worded else outside)
    cut = cut_prompt(phrases, song.span_s, max_target_s=model.max_s, min_target_s=options.min_target_s)
    if cut is None:
        length_s = song.span_s[1] - song.span_s[0]
        return Drop(song.track["track"], Reason.TOO_SHORT, f"{length_s:.1f} s leave no prompt beside a sung target")
    wave_N, rate_hz = song_wave(song)
    sections = _sections(phrases, wave_N, rate_hz=rate_hz, target_s=cut.target_s, voice=options.voice)
    lyrics = songbloom_lyrics(sections, seconds_per_tag=model.seconds_per_tag)
    if found := problems(lyrics):
        raise ContractError(f"{song.idx}: lyrics that SongBloom would misread: {found[0]}")
    _write_pieces(cut, song.idx, folder=target.folder, wave_N=wave_N, rate_hz=rate_hz)
    line = {
        "idx": song.idx,
        "lyrics": lyrics,
        "prompt_wav": str(target.final / "prompts" / f"{song.idx}.wav"),
        "audio_path": str(target.final / "targets" / f"{song.idx}.flac"),
        "prompt_span_s": [round(song.start_s + edge_s, 3) for edge_s in cut.prompt_s],
        "target_span_s": [round(song.start_s + edge_s, 3) for edge_s in cut.target_s],
        "sections": [[s.kind, round(s.duration_s, 3), s.confidence] for s in sections],
        "num_phrases_outside": song.num_phrases_outside,
    }
    return [line]


def _sections(
    phrases: Sequence[Phrase], wave_N: NDArray[np.float32], *, rate_hz: int, target_s: tuple[float, float], voice: str
) -> list[Section]:
    """Sections of the target, found in the whole song: a chorus may come back outside the target."""
    from pipeline.lyrics.sections import find_sections, sections_in_span
    from pipeline.music.similarity import chroma, find_stripes

    sections = find_sections(
        phrases,
        vocal_spans_s=_voice_spans(wave_N, rate_hz, voice=voice),
        duration_s=len(wave_N) / rate_hz,
        stripes=find_stripes(chroma(wave_N, rate_hz), frames_per_s=2.0),
    )
    return sections_in_span(sections, *target_s)


def _voice_spans(wave_N: NDArray[np.float32], rate_hz: int, *, voice: str) -> list[tuple[float, float]] | None:
    from pipeline.lyrics.vad import VadParams, vocal_spans

    if voice == "phrases":
        return None
    if voice == "energy":
        return vocal_spans(wave_N, rate_hz, VadParams(vote="energy"))
    from pipeline.models.vad import load_speech_detector
    from pipeline.music.audio import resample

    detector = load_speech_detector()
    heard_N = resample(wave_N, rate_hz, detector.sample_rate_hz)
    params = VadParams(vote="both", second_hop_s=detector.hop_s)
    probabilities_T = detector.speech_probabilities(heard_N)
    return vocal_spans(heard_N, detector.sample_rate_hz, params, second_vote=probabilities_T)


def _write_pieces(cut: PromptCut, idx: str, *, folder: Path, wave_N: NDArray[np.float32], rate_hz: int) -> None:
    from pipeline.lyrics.songbloom import PROMPT_RATE_HZ
    from pipeline.music.audio import encode_flac, quantise, resample

    prompt_N, target_N = (wave_N[round(a * rate_hz) : round(b * rate_hz)] for a, b in (cut.prompt_s, cut.target_s))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, PROMPT_RATE_HZ, 0, "NONE", ""))
        writer.writeframes(quantise(resample(prompt_N, rate_hz, PROMPT_RATE_HZ)).astype("<i2").tobytes())
    write_bytes(folder / "prompts" / f"{idx}.wav", file.getvalue())
    write_bytes(folder / "targets" / f"{idx}.flac", encode_flac(target_N, rate_hz))


def write_lrc(song: Song, target: Target) -> Lines | Drop:
    """Write the LRC of a song."""
    from pipeline.lyrics.lrc import lrc_text

    if not song.all_phrases:
        return Drop(song.track["track"], Reason.NO_LYRICS)
    tags = song.track["tags"]
    named = {name: tags.get(field, "") for name, field in (("ti", "title"), ("ar", "artist"), ("al", "album"))}
    text = lrc_text(song.all_phrases, tags=named, duration_s=song.track["duration_s"])
    write_bytes(target.folder / f"{song.idx}.lrc", text.encode())
    return []


def write_audiocraft(song: Song, target: Target) -> Lines | Drop:
    """Write the clips of a song, each with the fields of audiocraft's MusicInfo; what is not known is empty."""
    tags = song.track["tags"]
    for clip, sample in song.clips:
        described = decode_json(sample.members["describe.json"]) if "describe.json" in sample.members else {}
        attributes = described.get("attributes", {})
        captions = all_captions(sample.members)
        info = {
            "title": tags.get("title", ""),
            "artist": tags.get("artist", ""),
            "name": sample.key,
            "description": captions[0]["text"] if captions else "",
            "keywords": ", ".join(clip["aspects"]),
            "key": attributes.get("key") or "",
            "bpm": attributes.get("tempo_bpm") or "",
            "genre": "",
            "instrument": "Mix",
            "moods": [],
            "duration": round(clip["num_samples"] / clip["sample_rate_hz"], 6),
            "sample_rate": clip["sample_rate_hz"],
            "file_extension": "flac",
        }
        write_bytes(target.folder / f"{sample.key}.flac", bytes(sample.members["flac"]))
        write_bytes(target.folder / f"{sample.key}.json", pretty_json(info))
    return []


FORMATS = {
    "songbloom": Format(("lyrics", "transcribe"), needs_column=True, write=write_songbloom, lines_file="songs.jsonl"),
    "lrc": Format(("lyrics", "transcribe"), needs_column=True, write=write_lrc),
    "audiocraft": Format(("describe",), needs_column=False, write=write_audiocraft),
}


# --- the folder ------------------------------------------------------------------------------------------------------


def export_corpus(project: Project, corpus: str, *, out: Path, options: Options, split: str | None = None) -> None:
    """Export one corpus into a folder, which appears when it is whole.

    Raises:
        ParamsError: the folder holds something else.
    """
    out = out.expanduser().resolve()
    _check_out(out)
    parents = _parents(project, corpus, form=FORMATS[options.format])
    songs = read_songs(project, corpus, columns=list(parents)[1:], split=split)
    if project.dry_run:
        print(f"export {options.format}: would write {sum(1 for _ in songs)} recordings into {out}")
        return
    work = out.with_name(f".{out.name}.export")
    with only_run(work, out):
        staged = work / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        num_in, lines, drops = _write_songs(progress(songs, desc="export", unit="song"), Target(staged, out, options))
        outside = {"num_phrases_outside": sum(line.get("num_phrases_outside", 0) for line in lines)} if lines else {}
        made_from = asdict(options) | {"corpus": corpus, "split": split, **outside, **parents}
        counts = _write_manifest(staged, drops, num_in=num_in, made_from=made_from)
        publish_folder(staged, out, work / "retired")
        shutil.rmtree(work, ignore_errors=True)
    dropped = ", ".join(f"{n} {reason}" for reason, n in counts["dropped"].items()) or "none"
    print(f"export {options.format}: {out}: {counts['in']} in, {counts['used']} used; dropped: {dropped}")


def _write_songs(songs: Iterable[Song], target: Target) -> tuple[int, Lines, list[Drop]]:
    """Write all songs; how many there were, the lines of those written, and which were left out."""
    form = FORMATS[target.options.format]
    lines: Lines = []
    drops: list[Drop] = []
    num_in = 0
    for song in songs:
        num_in += 1
        result = form.write(song, target)
        if isinstance(result, Drop):
            drops.append(result)
        else:
            lines += result
    if form.lines_file:
        write_bytes(target.folder / form.lines_file, encode_jsonl(lines))
    return num_in, lines, drops


def _check_out(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier export."""
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        ours = not out.exists() or json.loads((out / MANIFEST_NAME).read_bytes())["stage"] == "export"
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ParamsError(f"--out {out}: is there already and no export of ours; name a new folder, or empty it")


def _parents(project: Project, corpus: str, *, form: Format) -> dict[str, str]:
    """Digests of the columns that are there and are read, ingest first."""
    layout = project.layout
    digests = {"ingest": folder_digest(layout.column("ingest", corpus))}
    for column in form.columns:
        folder = layout.column(column, corpus)
        if (folder / MANIFEST_NAME).is_file():
            check_parents(folder, {"ingest": digests["ingest"]}, stage=f"python -m stages.{column}")
            digests[column] = folder_digest(folder)
    if len(digests) == 1 and form.needs_column:
        raise ContractError(f"{layout.column('lyrics', corpus)}: no lyrics yet; run `python -m stages.lyrics` first")
    return digests


def _write_manifest(
    folder: Path, drops: Sequence[Drop], *, num_in: int, made_from: Mapping[str, Any]
) -> dict[str, Any]:
    counts = {"in": num_in, "used": num_in - len(drops), "dropped": dict(sorted(count_drops(drops).items()))}
    manifest = {"stage": "export", "counts": counts, **made_from}
    write_bytes(folder / "drops.jsonl", encode_jsonl(asdict(drop) for drop in drops))
    write_bytes(folder / MANIFEST_NAME, pretty_json(manifest))
    return counts


def run(args: argparse.Namespace) -> None:
    """Export the corpus that the flags name."""
    project = open_project(args)
    (corpus,) = project.corpora(args.corpus)
    options = Options(format=args.format, model=args.model, min_target_s=args.min_target_s, voice=args.voice)
    export_corpus(project, corpus, out=args.out, options=options, split=args.split)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.export")
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="what to write")
    parser.add_argument("--corpus", required=True, help="which of `sources`")
    parser.add_argument("--out", required=True, type=Path, help="a new folder; one of an earlier export is replaced")
    parser.add_argument("--split", choices=SPLITS, help="only recordings of this split")
    songbloom = parser.add_argument_group("songbloom")
    songbloom.add_argument("--model", choices=("150s", "240s"), default="150s", help="whose tags and length (150s)")
    songbloom.add_argument("--min-target-s", type=float, default=20.0, help="shortest target, in seconds (20)")
    songbloom.add_argument(
        "--voice",
        choices=VOICES,
        default="phrases",
        help="what tells where voices sound: the phrases' times alone; the energy of a recording of voices alone; "
        "or silero-vad for one with instruments",
    )
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.export import main

    main()
