"""Ingest: recordings become clips.

In:    a corpus as its users have it (`sources.<corpus>`).
Out:   shards/ingest/<corpus>/: per clip `flac` (mono, one rate, one loudness) and `json`; `tracks.jsonl` beside them.
Drops: audio_missing, bad_row, not_audio, unreadable, no_audio_stream, empty, truncated, no_clips; of single clips
       (and of recordings none of whose clips is left) too_short, silent, bad_values, clipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.keys import clip_key
from pipeline.data.provenance import digest_of, listing_digest
from pipeline.data.records import AUDIO_SUFFIXES, TRACKS_FILE, ClipJson, Drop, Line, Reason, Track
from pipeline.data.shards import Sample, encode_json
from pipeline.data.titles import tag_groups
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, open_project
from pipeline.sources.table import corpus_tracks

if TYPE_CHECKING:
    from pipeline.music.audio import Decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestParams:
    """Section `ingest` of params.yaml."""

    sample_rate_hz: int = 32000
    """Rate of the clips; that of the codec saves resampling later."""
    max_clip_s: float = 10.0
    """Longer recordings are cut into clips of this length."""
    min_clip_s: float = 2.0
    """Shorter clips, and shorter rests of a recording, are dropped."""
    target_lufs: float = -18.0
    """Integrated loudness of every clip (ITU-R BS.1770)."""
    ceiling_dbtp: float = -1.0
    """True peak that the gain may not exceed; where it would, the clip stays quieter and is marked."""
    silence_lufs: float = -60.0
    """Quieter clips are dropped as silent."""
    tracks_per_shard: int = 64
    """Recordings per shard."""
    max_drop_share: float = 0.5
    """Share of recordings that may be unusable before the stage fails; missing files are not counted."""

    def __post_init__(self) -> None:
        at_least("ingest", self, 8000, "sample_rate_hz")
        at_least("ingest", self, 0.5, "min_clip_s")
        at_least("ingest", self, self.min_clip_s, "max_clip_s")
        at_least("ingest", self, 1, "tracks_per_shard")
        at_least("ingest", self, -70, "target_lufs", "silence_lufs")
        at_most("ingest", self, 0, "target_lufs", "ceiling_dbtp")
        at_least("ingest", self, 0, "max_drop_share")
        at_most("ingest", self, 1, "max_drop_share")


class IngestStep:
    """Decode, cut, judge and level the recordings of one shard."""

    def __init__(self, params: IngestParams, corpus: str, source_root: Path) -> None:
        from pipeline.lyrics import tags
        from pipeline.music import audio, fingerprint, loudness

        self.params, self.corpus, self.source_root = params, corpus, source_root
        self.audio, self.loudness, self.fingerprint, self.tags = audio, loudness, fingerprint, tags

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the clips of every track, then the track's line, or its drop."""
        for track in task.payload:
            yield from self._track(track)

    def _track(self, track: Track) -> Iterator[Result]:
        if track.fault:
            yield Drop(track.id, Reason.BAD_ROW, track.fault)
            return
        if track.path is None:
            yield Drop(track.id, Reason.AUDIO_MISSING, track.missing)
            return
        try:
            decoded = self.audio.decode_audio(track.path)
        except self.audio.AudioError as error:
            yield Drop(track.id, self._reason(track.path, error.reason), error.detail)
            return
        tags = self.tags.read_tags(track.path)
        # What the corpus says of its groups outweighs tags.
        track = replace(track, groups=tag_groups(tags) | track.groups)
        clips: list[dict[str, Any]] = []
        drops: list[Drop] = []
        for number, span_s in enumerate(self._spans(track, decoded)):
            result = self._clip(track, decoded, clip_key(self.corpus, track.id, number), span_s)
            if isinstance(result, Drop):
                drops.append(result)
            else:
                clips.append({"key": result.key, "span_s": list(span_s)})
                yield result
        yield from drops
        if not clips:
            yield _no_clips(track, drops)
        yield Line(TRACKS_FILE, self._track_line(track, decoded, tags, clips))

    def _reason(self, path: Path, reason: str) -> Reason:
        unreadable = reason in {"unreadable", "no_audio_stream"} and path.suffix.lower() not in AUDIO_SUFFIXES
        return Reason.NOT_AUDIO if unreadable else Reason(reason)

    def _spans(self, track: Track, decoded: Decoded) -> list[tuple[float, float]]:
        params = self.params
        if track.span_s is None:
            return self.audio.cut_spans(
                decoded.decoded_s, max_clip_s=params.max_clip_s, min_clip_s=params.min_clip_s
            ) or [(0.0, decoded.decoded_s)]
        start_s, end_s = track.span_s
        wanted_s = min(end_s - start_s, params.max_clip_s)
        # The usual download is cut already: about as long as asked for, or too short to hold the span at all. A
        # second is how far keyframes may be off.
        if decoded.decoded_s <= end_s - start_s + 1.0 or decoded.decoded_s < end_s - 1.0:
            start_s = 0.0
        return [(start_s, min(start_s + wanted_s, decoded.decoded_s))]

    def _clip(self, track: Track, decoded: Decoded, key: str, span_s: tuple[float, float]) -> Sample | Drop:
        params, rate = self.params, decoded.sample_rate_hz
        source_wave_N = decoded.wave_N[round(span_s[0] * rate) : round(span_s[1] * rate)]
        fault = self.audio.judge_clip(source_wave_N, rate, min_s=params.min_clip_s, silence_lufs=params.silence_lufs)
        if fault:
            return Drop(track.id, Reason(fault[0]), fault[1], clip=key)
        wave_N = self.audio.resample(source_wave_N, rate, params.sample_rate_hz)
        level = self.loudness.normalise_loudness(
            wave_N, params.sample_rate_hz, target_lufs=params.target_lufs, ceiling_dbtp=params.ceiling_dbtp
        )
        clip = ClipJson(
            key=key,
            corpus=self.corpus,
            track=track.id,
            span_s=[round(span_s[0], 6), round(span_s[1], 6)],
            sample_rate_hz=params.sample_rate_hz,
            num_samples=len(level.wave_N),
            captions=[caption for caption in track.captions if caption["text"]],
            aspects=list(track.aspects),
            groups=dict(track.groups),
            fingerprint=self.fingerprint.exact_fingerprint(source_wave_N, rate),
            acoustic_fingerprint=self.fingerprint.acoustic_fingerprint(source_wave_N, rate),
            official_split=track.official_split,
            audio={
                "source_format": decoded.source_format,
                "source_rate_hz": rate,
                "source_channels": decoded.num_channels,
                "loudness_lufs": round(level.loudness_lufs, 2),
                "gain_db": round(level.gain_db, 2),
                "limited": level.limited,
                "true_peak_dbtp": round(level.true_peak_dbtp, 2),
            },
            licence=track.licence,
        )
        flac = self.audio.encode_flac(level.wave_N, params.sample_rate_hz)
        return Sample(key, {"flac": flac, "json": encode_json(clip)}, track.id)

    def _track_line(
        self, track: Track, decoded: Decoded, tags: dict[str, str], clips: list[dict[str, Any]]
    ) -> dict[str, Any]:
        path, score = (self._below_root(file) for file in (track.path, track.score))
        return {
            "track": track.id,
            "path": path,
            "format": decoded.source_format,
            "duration_s": round(decoded.decoded_s, 6),
            "tags": tags,
            "score": score,
            "clips": clips,
        }

    def _below_root(self, path: Path | None) -> str | None:
        return path and path.relative_to(self.source_root).as_posix()


def _no_clips(track: Track, drops: Sequence[Drop]) -> Drop:
    """Drop a recording none of whose clips was kept, for the reason that they share."""
    reasons = {drop.reason for drop in drops}
    detail = "; ".join(f"{drop.reason}: {drop.detail}" for drop in drops[:3])
    return Drop(track.id, reasons.pop() if len(reasons) == 1 else Reason.NO_CLIPS, detail)


def ingest_corpus(project: Project, corpus: str) -> None:
    """Ingest one corpus."""
    params = project.section("ingest", IngestParams)
    settings = project.params["sources"][corpus] or {}
    tracks = corpus_tracks(corpus, settings, project.layout.root)
    tracks = sorted(tracks, key=lambda track: clip_key(corpus, track.id, 0))[: project.limit]
    source_root = project.source_root(corpus)
    chunks = [tracks[i : i + params.tracks_per_shard] for i in range(0, len(tracks), params.tracks_per_shard)]
    out = project.layout.column("ingest", corpus)
    project.run(
        Job(
            stage="ingest",
            modules=["stages.ingest", f"pipeline.sources.{corpus}"],
            out=out,
            work=project.layout.work_of(out),
            tasks=[Task(f"{i:06d}", len(chunk), chunk) for i, chunk in enumerate(chunks)],
            make_step=partial(IngestStep, params, corpus, source_root),
            params=lasting(params),
            parents={"source": digest_of([_lasting(track, source_root) for track in tracks])},
            packages=("av", "numpy", "pyloudnorm", "scipy", "soundfile", "soxr", "tinytag"),
            side_files=(TRACKS_FILE,),
            may_be_empty=False,
            notes={"licences": sorted({track.licence for track in tracks if track.licence})},
            resume_key=listing_digest(source_root),
            max_drop_share=params.max_drop_share,
        )
    )


def _lasting(track: Track, source_root: Path) -> dict[str, Any]:
    """What of a track is still true on another machine: no absolute path, no file time."""
    files = {name: path for name in ("path", "score") if (path := getattr(track, name))}
    lasting = {name: [path.relative_to(source_root).as_posix(), path.stat().st_size] for name, path in files.items()}
    return {**asdict(track), "path": None, "score": None, "missing": "", **lasting}


def run(args: argparse.Namespace) -> None:
    """Ingest the corpora that the flags and settings name."""
    project = open_project(args)
    for corpus in project.corpora(args.corpus):
        ingest_corpus(project, corpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.ingest")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.ingest import main

    main()
