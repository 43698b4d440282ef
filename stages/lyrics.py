"""Lyrics: what is sung, from a recording's score or its own tags, cleaned, read, and dealt out to its clips by time.

In:    shards/ingest/<corpus>: clips and tracks.jsonl; the scores below the corpus' root; an aligner (`models.aligner`).
Out:   shards/lyrics/<corpus>: `lyrics.json`, `{"phrases": [...]}`, times from the start of the clip; `songs.jsonl`:
       per song its source, what cleaning removed, what could not be read.
Drops: no_lyrics (neither in a score nor in the tags; or no times, and more than one clip; or nothing sung in this
       clip); bad_encoding (a tag whose bytes no encoding reads well); bad_score.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.columns import join_columns
from pipeline.data.records import TRACKS_FILE, ClipJson, Drop, Line, Phrase, Reason
from pipeline.data.shards import Sample, encode_json, read_jsonl
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least, at_most
from pipeline.engine.project import ColumnStage, Project, open_project, run_column
from pipeline.errors import ContractError
from pipeline.lyrics.clean import CleanParams
from pipeline.models.places import ModelsParams, checkpoint_stamp, place

if TYPE_CHECKING:
    from pipeline.lyrics.kana import Reading

SONGS_FILE = "songs.jsonl"
PACKAGES = ("music21", "pyopenjtalk-plus", "sudachidict-core", "sudachipy")
ALIGNER_PACKAGES = ("numpy", "soundfile", "soxr", "torch", "torchaudio")
Clips = list[tuple[ClipJson, Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LyricsParams:
    """Section `lyrics` of params.yaml."""

    part: str | None = None
    """Part of the score to read, by name; null for the part that the recording sings, or the leading one."""
    clean: CleanParams = CleanParams()
    """What belongs to the words."""
    max_unknown_share: float = 0.1
    """Share of what is sung in Japanese that may be without a reading before the stage fails."""

    def __post_init__(self) -> None:
        at_least("lyrics", self, 0, "max_unknown_share")
        at_most("lyrics", self, 1, "max_unknown_share")


@dataclass(slots=True)
class _Song:
    """The words of a recording."""

    phrases: list[Phrase]
    source: str
    removed: dict[str, int]
    readings: Sequence[Reading]
    fault: tuple[Reason, str] = (Reason.NO_LYRICS, "")
    """Why there are none, if there are none."""


class LyricsStep:
    """Give each clip the phrases that sound in it."""

    def __init__(self, params: LyricsParams, source_root: Path, aligner: str | None, device: str) -> None:
        from pipeline.lyrics import clean, kana, phrases, score, tags
        from pipeline.music import tracks

        self.params, self.source_root = params, source_root
        self.clean, self.kana, self.phrases, self.score = clean, kana, phrases, score
        self.tags, self.tracks = tags, tracks
        self.lines: dict[str, dict[str, Any]] = {}
        self.aligner = None
        if aligner is not None:
            from pipeline.models.aligner import load_aligner

            self.aligner = load_aligner(aligner, device=device)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield lyrics, or a drop, for every clip of a shard, and a line for every song."""
        paths, limit = task.payload
        if not self.lines:
            self.lines = {track["track"]: track for track in read_jsonl(paths[0].parent / TRACKS_FILE)}
        for clips in self.tracks.by_track(join_columns(paths, limit)):
            track = self.lines[clips[0][0]["track"]]
            song = self._song(track)
            if song.phrases and song.phrases[0]["start_s"] is None and self.aligner:
                song.phrases = self._timed(song.phrases, clips)
            for clip, sample in clips:
                yield self._deal(track, song, clip, sample.key)
            if song.phrases or song.fault[0] != Reason.NO_LYRICS:
                yield Line(SONGS_FILE, self._song_line(track, song))

    def _song(self, track: dict[str, Any]) -> _Song:
        source = track["score"] or "tags"
        dropped: Counter[str] = Counter()
        try:
            found = self._score_phrases(track) if track["score"] else self._tag_phrases(track, dropped)
        except self.score.NoPartError:
            if self.params.part:
                raise
            return _Song([], source, {}, (), (Reason.BAD_SCORE, f"{source} has no part {track['part']}"))
        except ContractError:
            return _Song([], source, {}, (), (Reason.BAD_SCORE, f"{source} cannot be read"))
        kept, removed = self.clean.clean_phrases(found, self.params.clean)
        removed.update(dropped)
        phrases, readings = self.phrases.add_readings(kept, is_sounding=Path(source).stem.endswith("_SVS"))
        song = _Song(phrases, source, dict(sorted(removed.items())), readings)
        if source == "tags" and "lyrics" in track["tags"].get(self.tags.GARBLED, "").split():
            song.fault = Reason.BAD_ENCODING, "the lyrics tag is in no encoding that reads well"
        return song

    def _score_phrases(self, track: dict[str, Any]) -> list[Phrase]:
        return self.score.read_score(self.source_root / track["score"], part=self.params.part or track["part"])

    def _tag_phrases(self, track: dict[str, Any], dropped: Counter[str]) -> list[Phrase]:
        return self.tags.parse_lyrics(track["tags"].get("lyrics", ""), dropped)

    def _timed(self, phrases: list[Phrase], clips: Clips) -> list[Phrase]:
        """Find when phrases are sung that came without times."""
        import numpy as np

        assert self.aligner is not None  # noqa: S101 (else this is not called)
        wave_N = np.concatenate(list(self.tracks.track_blocks(clips, self.aligner.sample_rate_hz)))
        return self.phrases.align_phrases(phrases, self.aligner.vocabulary, partial(self.aligner.align, wave_N))

    def _deal(self, track: dict[str, Any], song: _Song, clip: ClipJson, key: str) -> Result:
        if not song.phrases:
            return Drop(key, *song.fault)
        start_s, end_s = clip["span_s"]
        if song.phrases[0]["start_s"] is not None:
            phrases, why = self.phrases.phrases_in_span(song.phrases, start_s, end_s), "nothing sung in this clip"
        else:
            # Words without times may be given to a clip only if the clip is the whole recording.
            whole = len(track["clips"]) == 1 and end_s - start_s >= 0.9 * track["duration_s"]
            phrases, why = song.phrases if whole else [], "lyrics without times, recording cut into clips"
        if not phrases:
            return Drop(key, Reason.NO_LYRICS, why)
        return Sample(key, {"lyrics.json": encode_json({"phrases": phrases})})

    def _song_line(self, track: dict[str, Any], song: _Song) -> dict[str, Any]:
        return {
            "track": track["track"],
            "source": song.source,
            "phrases": len(song.phrases),
            "removed": song.removed,
            "moras": sum(self.kana.count_moras(phrase.get("kana", "")) for phrase in song.phrases),
            "unread": self.phrases.unread(song.readings),
        }


def check_readings(project: Project, corpus: str, params: LyricsParams) -> None:
    """Fail when too much of a corpus could not be read: then something else than lyrics was taken for them.

    Raises:
        ContractError: with the words and signs that stood out.
    """
    from pipeline.lyrics.kana import unknown_share

    songs = read_jsonl(project.layout.column("lyrics", corpus) / SONGS_FILE)
    unread: Counter[str] = Counter()
    for song in songs:
        unread.update(song["unread"])
    share = unknown_share(unread, sum(song["moras"] for song in songs))
    words = sorted(unread, key=lambda word: (-unread[word], word))[:10]
    if share > params.max_unknown_share:
        raise ContractError(
            f"lyrics/{corpus}: {share:.0%} of what is sung in Japanese has no reading ({' '.join(words)} ...); see "
            f"{SONGS_FILE} there, then mend the lyrics, or raise lyrics.max_unknown_share ({params.max_unknown_share})"
        )
    if words:
        print(f"lyrics: {corpus}: {share:.1%} of what is sung in Japanese has no reading: {' '.join(words)}")


def run_corpus(project: Project, corpus: str) -> None:
    """Run the stage over one corpus."""
    params = project.section("lyrics", LyricsParams) if "lyrics" in project.params else LyricsParams()
    models = project.section("models", ModelsParams) if "models" in project.params else ModelsParams()
    stamps, aligner, device = {}, None, "cpu"
    if models.aligner is not None:
        from pipeline.models.base import choose_device

        aligner, device = place(models, project.layout.root, "aligner"), choose_device(models.device)
        stamps = {"aligner": checkpoint_stamp(aligner, models.aligner), "device": device}
    stage = ColumnStage(
        name="lyrics",
        params=asdict(params),
        make_step=partial(LyricsStep, params, project.source_root(corpus), aligner, device),
        models=stamps,
        packages=(*PACKAGES, *(ALIGNER_PACKAGES if models.aligner is not None else ())),
        side_files=(SONGS_FILE,),
    )
    run_column(project, corpus, stage)
    if not project.dry_run:
        check_readings(project, corpus, params)


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    project = open_project(args)
    for corpus in project.corpora(args.corpus):
        run_corpus(project, corpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.lyrics")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.lyrics import main

    main()
