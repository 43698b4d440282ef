"""Ingest: recordings become clips.

In:    a corpus as its users have it (`sources.<corpus>`).
Out:   shards/ingest/<corpus>/: per clip `flac` (mono, one rate, one loudness) and `json`; `tracks.jsonl` beside them.
Drops: audio_missing, bad_row, filtered, not_audio, unreadable, no_audio_stream, empty, truncated, antiphase, no_clips;
       of single clips (and of recordings none of whose clips is left) too_short, silent, bad_values, clipped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, Literal

from pipeline.data.files import open_source
from pipeline.data.keys import clip_key
from pipeline.data.provenance import digest_of, listing_digest, spelt_path
from pipeline.data.records import AUDIO_SUFFIXES, TRACKS_FILE, ClipJson, Cut, Drop, Line, Reason, Track
from pipeline.data.shards import Sample, encode_json
from pipeline.data.titles import tag_groups
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Job, Result, Task
from pipeline.engine.params import at_least, at_most, lasting
from pipeline.engine.project import Project, open_project
from pipeline.errors import ParamsError
from pipeline.sources.table import corpus_tracks, kind_of

if TYPE_CHECKING:
    from pipeline.music.cutting import Window
    from pipeline.music.decoders import Facts
    from pipeline.music.loudness import Normalised
    from pipeline.music.recording import Recording


_LONGEST_S = 360_000.0
"""No recording is longer than 100 hours: an end beyond that is a slip, such as milliseconds."""
# Clips wait for the verdict on their whole recording; those of ten minutes wait in memory.
_SPOOL_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestParams:
    """Section `ingest` of params.yaml."""

    sample_rate_hz: int = 32000
    """Rate of the clips; that of the codec saves resampling later."""
    max_clip_s: float = 10.0
    """Longer recordings are cut into clips of at most this length."""
    min_clip_s: float = 2.0
    """Shorter clips, and shorter rests of a recording, are dropped."""
    cut: Literal["windows", "silences"] = "windows"
    """Where to cut: into windows of `max_clip_s`, or where it is quietest in the second half of each. Times that the
    corpus gives come before either."""
    overlap_s: float = 0.0
    """How far a window reaches into the next one."""
    target_lufs: float = -18.0
    """Integrated loudness of every clip (ITU-R BS.1770)."""
    ceiling_dbtp: float = -1.0
    """True peak that the gain may not exceed; where it would, the clip stays quieter and is marked."""
    silence_lufs: float = -60.0
    """Quieter clips are dropped as silent."""
    tracks_per_shard: int = 64
    """Recordings per shard."""
    max_drop_share: float = 0.5
    """Share of recordings that may be unusable before the stage fails; missing, foreign and filtered ones are
    not counted."""

    def __post_init__(self) -> None:
        at_least("ingest", self, 8000, "sample_rate_hz")
        at_least("ingest", self, 0.5, "min_clip_s")
        at_least("ingest", self, self.min_clip_s, "max_clip_s")
        at_least("ingest", self, 1, "tracks_per_shard")
        at_least("ingest", self, 0, "overlap_s")
        if self.overlap_s and (self.cut != "windows" or self.overlap_s >= self.max_clip_s):
            raise ParamsError(
                f"ingest.overlap_s: {self.overlap_s}, must be below max_clip_s, and only windows can overlap"
            )
        at_least("ingest", self, -70, "target_lufs", "silence_lufs")
        at_most("ingest", self, 0, "target_lufs", "ceiling_dbtp")
        at_least("ingest", self, 0, "max_drop_share")
        at_most("ingest", self, 1, "max_drop_share")


class IngestStep:
    """Decode, cut, judge and level the recordings of one shard, in bounded memory."""

    def __init__(self, params: IngestParams, corpus: str, source_root: Path) -> None:
        from pipeline.lyrics import tags
        from pipeline.music import audio, cutting, fingerprint, loudness, recording

        self.params, self.corpus, self.source_root = params, corpus, source_root
        self.audio, self.loudness, self.fingerprint, self.tags = audio, loudness, fingerprint, tags
        self.cutting, self.recording = cutting, recording

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the clips of every track, then the track's line, or its drop."""
        for track in task.payload:
            yield from self._track(track)

    def _track(self, track: Track) -> Iterator[Result]:
        if drop := _unusable(track):
            yield drop
            return
        assert track.path is not None  # noqa: S101 (else it is a drop)
        tags = self._tags(track, track.path)
        # What the corpus says of its groups outweighs tags.
        groups, cuts = tag_groups(tags) | track.groups, _split_cuts(track.cuts, self.params.max_clip_s)
        given_s = {cut.start_s for cut in track.cuts}
        track = replace(track, groups=groups, cuts=cuts)
        with SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            clips: list[tuple[ClipJson, int]] = []
            drops: list[Drop] = []
            try:
                with self.recording.open_recording(track.path, track.member) as recording:
                    for number, window in enumerate(self._windows(track, recording)):
                        if cuts and not window.wave_N.size and window.start_s not in given_s:
                            continue  # the rest of a given time that reaches beyond the end
                        result = self._clip(track, recording.facts, number, window)
                        if isinstance(result, Drop):
                            drops.append(result)
                        else:
                            clips.append((result[0], spool.write(result[1])))
            except self.recording.AudioError as error:
                # Found out at its end, perhaps: then the clips that were made already go with it.
                yield Drop(track.id, _reason(track, error.reason), error.detail)
                return
            spool.seek(0)
            for clip, num_bytes in clips:
                clip["audio"]["dual_mono"] = recording.facts.is_dual_mono
                yield Sample(clip["key"], {"flac": spool.read(num_bytes), "json": encode_json(clip)}, track.id)
        yield from drops
        if not clips:
            yield _no_clips(track, drops)
        yield Line(TRACKS_FILE, self._track_line(track, recording.facts, tags, [clip for clip, _ in clips]))

    def _tags(self, track: Track, path: Path) -> dict[str, str]:
        try:
            with open_source(path, track.member) as source:
                tags = self.tags.read_tags(source, name=track.member.name if track.member else path.name)
        except OSError:
            return {}  # decoding says what is wrong with it
        return {"lyrics": track.lyrics} | tags if track.lyrics else tags

    def _windows(self, track: Track, recording: Recording) -> Iterator[Window]:
        params, blocks, rate_hz = self.params, recording.blocks(), recording.facts.sample_rate_hz
        limits = {"max_clip_s": params.max_clip_s, "min_clip_s": params.min_clip_s}
        if track.cuts:
            return self.cutting.cut_at(blocks, rate_hz, [cut[:2] for cut in track.cuts])
        if track.span_s is not None:
            return self._span(track.span_s, track.file_start_s, recording)
        if params.cut == "silences":
            return self.cutting.cut_at_silences(blocks, rate_hz, **limits)
        return self.cutting.cut_windows(blocks, rate_hz, **limits, overlap_s=params.overlap_s)

    def _span(self, span_s: tuple[float, float], file_start_s: float | None, recording: Recording) -> Iterator[Window]:
        """The span that the corpus means, or the head of a download that was cut to it already."""
        start_s, end_s = (time_s - (file_start_s or 0.0) for time_s in span_s)
        wanted_s = min(end_s - start_s, self.params.max_clip_s)
        spans = [(0.0, wanted_s), (start_s, start_s + wanted_s)]
        head, span = self.cutting.cut_at(recording.blocks(), recording.facts.sample_rate_hz, spans)
        # No longer than what was asked for, by the second that keyframes may be off: it was cut already.
        is_cut = file_start_s is None and recording.facts.decoded_s <= end_s - start_s + 1.0
        yield head if is_cut else span

    def _clip(self, track: Track, facts: Facts, number: int, window: Window) -> tuple[ClipJson, bytes] | Drop:
        params, rate_hz = self.params, facts.sample_rate_hz
        key = clip_key(self.corpus, track.id, number)
        if not window.wave_N.size:
            why = f"{window.start_s:g} s is beyond the end of the recording ({facts.decoded_s:.1f} s)"
            return Drop(track.id, Reason.TOO_SHORT, why, clip=key)
        fault = self.audio.judge_clip(window.wave_N, rate_hz, min_s=params.min_clip_s)
        if fault:
            return Drop(track.id, Reason(fault[0]), fault[1], clip=key)
        centred_N, offset = self.audio.remove_offset(window.wave_N)
        level = self.loudness.normalise_loudness(
            self.audio.resample(centred_N, rate_hz, params.sample_rate_hz),
            params.sample_rate_hz,
            target_lufs=params.target_lufs,
            ceiling_dbtp=params.ceiling_dbtp,
        )
        # Measured once, with the offset gone and at the rate of the clip.
        if level.measured_lufs < params.silence_lufs:
            return Drop(track.id, Reason.SILENT, f"{level.measured_lufs:.1f} LUFS", clip=key)
        own_captions = track.cuts[number].captions if number < len(track.cuts) else ()
        clip = ClipJson(
            key=key,
            corpus=self.corpus,
            track=track.id,
            span_s=[round(window.start_s, 6), round(window.end_s, 6)],
            sample_rate_hz=params.sample_rate_hz,
            num_samples=len(level.wave_N),
            captions=[caption for caption in (*own_captions, *track.captions) if caption["text"]],
            aspects=list(track.aspects),
            groups=dict(track.groups),
            fingerprint=self.fingerprint.exact_fingerprint(window.wave_N, rate_hz),
            acoustic_fingerprint=self.fingerprint.acoustic_fingerprint(window.wave_N, rate_hz),
            official_split=track.official_split,
            audio=_sound(facts, level, offset),
            licence=track.licence,
        )
        return clip, self.audio.encode_flac(level.wave_N, params.sample_rate_hz)

    def _track_line(self, track: Track, facts: Facts, tags: dict[str, str], clips: list[ClipJson]) -> dict[str, Any]:
        path, score = (self._below_root(file) for file in (track.path, track.score))
        return {
            "track": track.id,
            "path": path,
            "member": track.member and track.member.name,
            "format": facts.source_format,
            "duration_s": round(facts.decoded_s, 6),
            "tags": tags,
            "score": score,
            "part": track.part,
            "clips": [{"key": clip["key"], "span_s": clip["span_s"]} for clip in clips],
        }

    def _below_root(self, path: Path | None) -> str | None:
        return path and spelt_path(path, self.source_root)


def _sound(facts: Facts, level: Normalised, offset: float) -> dict[str, Any]:
    """What a clip's json says of its sound, but for what shows at the end of the recording."""
    return {
        "source_format": facts.source_format,
        "source_rate_hz": facts.sample_rate_hz,
        "source_channels": facts.num_channels,
        "dc_offset": round(offset, 4),
        "loudness_lufs": round(level.loudness_lufs, 2),
        "gain_db": round(level.gain_db, 2),
        "limited": level.limited,
        "true_peak_dbtp": round(level.true_peak_dbtp, 2),
    }


def _unusable(track: Track) -> Drop | None:
    """What the source says against a track before it is opened."""
    if track.fault:
        return Drop(track.id, Reason.BAD_ROW, track.fault)
    if track.unwanted:
        return Drop(track.id, Reason.FILTERED, track.unwanted)
    if track.path is None:
        return Drop(track.id, Reason.AUDIO_MISSING, track.missing)
    return None


def _reason(track: Track, reason: str) -> Reason:
    name = track.member.name if track.member else track.path.name if track.path else ""
    unreadable = (
        reason in {"unreadable", "no_audio_stream"} and PurePosixPath(name).suffix.lower() not in AUDIO_SUFFIXES
    )
    return Reason.NOT_AUDIO if unreadable else Reason(reason)


def _split_cuts(cuts: Sequence[Cut], max_clip_s: float) -> tuple[Cut, ...]:
    """Cut given times that are longer than a clip may be into windows, all in order of their starts."""
    spans: list[Cut] = []
    for cut in cuts:
        end_s = min(cut.end_s, cut.start_s + _LONGEST_S)
        num = max(math.ceil((end_s - cut.start_s) / max_clip_s - 1e-9), 1)
        edges = [cut.start_s + n * max_clip_s for n in range(num)] + [end_s]
        spans += [cut._replace(start_s=edges[n], end_s=edges[n + 1]) for n in range(num)]
    return tuple(sorted(spans, key=lambda cut: cut[:2]))


def _no_clips(track: Track, drops: Sequence[Drop]) -> Drop:
    """Drop a recording none of whose clips was kept, for the reason that they share."""
    reasons = {drop.reason for drop in drops}
    detail = "; ".join(f"{drop.reason}: {drop.detail}" for drop in drops[:3])
    return Drop(track.id, reasons.pop() if len(reasons) == 1 else Reason.NO_CLIPS, detail)


def ingest_corpus(project: Project, corpus: str) -> None:
    """Ingest one corpus."""
    params = project.section("ingest", IngestParams)
    settings = project.params["sources"][corpus] or {}
    kind = kind_of(corpus, settings)
    tracks = corpus_tracks(corpus, settings, project.layout.root)
    tracks = sorted(tracks, key=lambda track: clip_key(corpus, track.id, 0))[: project.limit]
    source_root = project.source_root(corpus)
    chunks = [tracks[i : i + params.tracks_per_shard] for i in range(0, len(tracks), params.tracks_per_shard)]
    out = project.layout.column("ingest", corpus)
    project.run(
        Job(
            stage="ingest",
            modules=["stages.ingest", f"pipeline.sources.{kind}"],
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
    lasting = {name: [spelt_path(path, source_root), path.stat().st_size] for name, path in files.items()}
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
