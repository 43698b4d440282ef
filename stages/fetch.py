"""Fetch: corpora come onto the disk, as their makers publish them. Run by hand, before the graph.

In:    MusicCaps: its CSV from the hub, then row by row the sound of a video, through yt-dlp. Song Describer: its Zenodo
       record. jaCappella and the unlabelled singing: their data sets on the hub (accept their terms there first).
Out:   `sources.<corpus>.root`, ready for ingest; `fetch_state.jsonl` there tells of every row or file whether it is
       ok, gone, blocked or failed, and when it may be tried again; `.fetch` holds unfinished downloads.
Drops: none; what could not be had is missing when ingest counts.

Stop it whenever you like: the same command goes on. Folders that you filled yourself need no fetch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import only_run
from pipeline.engine.project import Project, open_project
from pipeline.errors import ParamsError
from pipeline.fetching.http import HttpParams
from pipeline.fetching.hub import HubParams, fetch_hub
from pipeline.fetching.state import STATE_NAME, StateFile
from pipeline.fetching.videos import RowFetcher, VideoParams
from pipeline.fetching.zenodo import RecordParams, fetch_record
from pipeline.sources.table import corpus_tracks

CORPORA = ("musiccaps", "song_describer", "jacappella", "singing")


def _song_describer() -> RecordParams:
    # audio.zip is over 3 GB; the two others are read by pipeline.sources.song_describer.
    files = ("song_describer.csv", "audio_licenses.txt", "audio.zip")
    return RecordParams(record="https://zenodo.org/api/records/10072001", files=files)


def _jacappella() -> HubParams:
    return HubParams(repo_id="jaCappella/jaCappella")


def _singing() -> HubParams:
    return HubParams(repo_id="tts-dataset/japanese-singing-voice", patterns=("data/*.tar",))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchParams:
    """Section `fetch` of params.yaml; it may be left out."""

    http: HttpParams = field(default_factory=HttpParams)
    """Patience with plain downloads."""
    musiccaps: VideoParams = field(default_factory=VideoParams)
    """The CSV, yt-dlp, and how slowly to go."""
    song_describer: RecordParams = field(default_factory=_song_describer)
    """The Zenodo record."""
    jacappella: HubParams = field(default_factory=_jacappella)
    """The data set on the hub; gated."""
    singing: HubParams = field(default_factory=_singing)
    """The data set on the hub; gated, 73 GB: `--limit 2` fetches two of its 78 shards."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One run: the settings, the place, and what is known from earlier runs."""

    project: Project
    params: FetchParams
    settings: dict[str, Any]
    """Section `sources.<corpus>`."""
    root: Path
    work: Path
    state: StateFile
    retry_now: bool


def fetch_musiccaps(fetch: Fetch) -> None:
    """Fetch the CSV if it is not there, then every row that is due."""
    params, project = fetch.params.musiccaps, fetch.project
    # The CSV is part of the state in every way, but not a row: it has a state file of its own.
    if not (fetch.root / fetch.settings.get("csv", "musiccaps-public.csv")).is_file():
        fetch_hub(params.table, fetch.root, state=StateFile(fetch.work / STATE_NAME))
    listed = corpus_tracks("musiccaps", fetch.settings, project.layout.root)
    # A second span of a video has no name of its own on disk; a faulted row is for ingest to count.
    tracks = [track for track in listed if not track.fault and "@" not in track.id][: project.limit]
    rows = RowFetcher(
        params, fetch.root, state=fetch.state, work=fetch.work, audio=fetch.settings.get("audio", "audio")
    )
    cookies = params.ytdlp.cookies and project.layout.root / params.ytdlp.cookies
    if cookies and not cookies.is_file():
        raise ParamsError(f"fetch.musiccaps.ytdlp.cookies: {cookies} is not there")
    rows.run(rows.todo(tracks, retry_now=fetch.retry_now), cookies=cookies or None)


def fetch_song_describer(fetch: Fetch) -> None:
    """Fetch the files of the Zenodo record."""
    params = fetch.params
    fetch_record(
        params.song_describer,
        fetch.root,
        params.http,
        state=fetch.state,
        work=fetch.work,
        limit=fetch.project.limit,
    )


def fetch_from_hub(fetch: Fetch, params: HubParams) -> None:
    """Fetch a data set from the hub."""
    fetch_hub(params, fetch.root, state=fetch.state, limit=fetch.project.limit)


def fetch_corpus(project: Project, corpus: str, *, retry_now: bool = False) -> None:
    """Fetch one corpus into its root, and say what there is."""
    params = project.section("fetch", FetchParams) if "fetch" in project.params else FetchParams()
    settings = (project.params.get("sources") or {}).get(corpus) or {}
    if not isinstance(settings, dict) or not isinstance(settings.get("root"), str):
        raise ParamsError(
            f"sources.{corpus}: names no folder to fetch into; add it, or --set 'sources.{corpus}={{root: my/folder}}'"
        )
    root = project.layout.root / settings["root"]
    work = root / ".fetch"
    if project.dry_run:
        print(f"fetch {corpus}: into {root}, {_known(StateFile(root / STATE_NAME))}")
        return
    with only_run(work, root):
        fetch = Fetch(project, params, settings, root, work, StateFile(root / STATE_NAME), retry_now)
        try:
            if corpus == "musiccaps":
                fetch_musiccaps(fetch)
            elif corpus == "song_describer":
                fetch_song_describer(fetch)
            else:
                fetch_from_hub(fetch, params.jacappella if corpus == "jacappella" else params.singing)
        finally:
            print(f"fetch {corpus}: {root}, {_known(fetch.state)}")


def _known(state: StateFile) -> str:
    """Say what the state file holds, and when there is more to try."""
    counts = ", ".join(f"{number} {status}" for status, number in state.counts().items() if number) or "nothing yet"
    retries_s = [entry.retry_at_s for entry in state.entries.values() if entry.retry_at_s is not None]
    if not retries_s:
        return counts
    wait_s = max(0.0, min(retries_s) - time.time())
    return (
        f"{counts}; the same command tries {len(retries_s)} again from {wait_s / 3600:.1f} h on (--retry-now: at once)"
    )


def run(args: argparse.Namespace) -> None:
    """Fetch the corpus that the flags name."""
    fetch_corpus(open_project(args), args.corpus, retry_now=args.retry_now)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.fetch")
    parser.add_argument("--corpus", required=True, choices=CORPORA, help="what to fetch; `sources` says where to")
    parser.add_argument("--retry-now", action="store_true", help="try failed and blocked rows before their time")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.fetch import main

    main()
