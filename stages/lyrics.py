"""Lyrics: what is sung, from a recording's own tags, dealt out to its clips by time.

In:    shards/ingest/<corpus>: clips and tracks.jsonl.
Out:   shards/lyrics/<corpus>: `lyrics.json`, `{"phrases": [...]}`, times from the start of the clip.
Drops: no_lyrics (nothing in the tags; or no times, and more than one clip; or nothing sung in this clip); bad_encoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.data.columns import join_columns
from pipeline.data.records import TRACKS_FILE, ClipJson, Drop, Phrase, Reason
from pipeline.data.shards import Sample, decode_json, encode_json, read_jsonl
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.lyrics.tags import parse_lyrics, phrases_in_span


class LyricsStep:
    """Give each clip the phrases that sound in it."""

    def __init__(self) -> None:
        self.tracks: dict[str, dict[str, Any]] = {}

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield lyrics, or a drop, for every clip of a shard."""
        paths, limit = task.payload
        if not self.tracks:
            self.tracks = {track["track"]: track for track in read_jsonl(paths[0].parent / TRACKS_FILE)}
        for sample in join_columns(paths, limit):
            clip: ClipJson = decode_json(sample.members["json"])
            track = self.tracks[clip["track"]]
            phrases, why = _phrases(track, clip)
            if phrases:
                yield Sample(sample.key, {"lyrics.json": encode_json({"phrases": phrases})})
            elif "lyrics" in track["tags"].get("garbled", "").split():
                yield Drop(sample.key, Reason.BAD_ENCODING, "the lyrics tag is in no encoding that reads well")
            else:
                yield Drop(sample.key, Reason.NO_LYRICS, why)


def _phrases(track: dict[str, Any], clip: ClipJson) -> tuple[list[Phrase], str]:
    phrases = parse_lyrics(track["tags"].get("lyrics", ""))
    if not phrases:
        return [], ""
    if phrases[0]["start_s"] is not None:
        return phrases_in_span(phrases, *clip["span_s"]), "nothing sung in this clip"
    # Words without times may be given to a clip only if the clip is the whole recording.
    whole = len(track["clips"]) == 1 and clip["span_s"][1] - clip["span_s"][0] >= 0.9 * track["duration_s"]
    return (phrases, "") if whole else ([], "lyrics without times, recording cut into clips")


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    project = open_project(args)
    for corpus in project.corpora(args.corpus):
        run_column(project, corpus, ColumnStage(name="lyrics", params={}, make_step=LyricsStep))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.lyrics")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.lyrics import main

    main()
