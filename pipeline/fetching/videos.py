"""MusicCaps row by row: what is there is checked, the rest fetched slowly, and a wall ends the run at once."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.records import Track
from pipeline.data.storage import atomic_path
from pipeline.engine.progress import progress
from pipeline.errors import ContractError, TransientError
from pipeline.fetching.cutting import CutError, cut_to_wav
from pipeline.fetching.hub import HubParams
from pipeline.fetching.state import Entry, StateFile, failed, set_aside
from pipeline.fetching.ytdlp import Downloader, VideoError, YtdlpParams

_YTID = re.compile(r"[A-Za-z0-9_-]{11}")


def _table() -> HubParams:
    return HubParams(repo_id="google/MusicCaps", patterns=("musiccaps-public.csv",))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoParams:
    """Section `fetch.musiccaps` of params.yaml."""

    table: HubParams = field(default_factory=_table)
    """Where the CSV comes from, if it is not there."""
    ytdlp: YtdlpParams = field(default_factory=YtdlpParams)
    """How one video is fetched."""
    pause_s: float = 3.0
    """Rest after every request for a video."""
    length_tolerance_s: float = 1.0
    """How far the length of a clip may be from the row's."""
    max_tries: int = 5
    """Failed attempts after which a row is left alone."""
    first_retry_s: float = 3600.0
    """Wait before a failed row is tried again; doubles with each failure."""
    blocked_retry_s: float = 21600.0
    """Wait before a blocked row is tried again."""
    wall_patience: int = 3
    """Blocked rows in a row after which the run stops: the wall is there for all of them."""
    failure_patience: int = 20
    """Failed rows in a row after which the run stops: more likely the network, or yt-dlp is too old."""


class RowFetcher:
    """Fetches rows of MusicCaps into a folder of clips, and keeps the state."""

    def __init__(self, params: VideoParams, root: Path, *, state: StateFile, work: Path, audio: str = "audio") -> None:
        self.params, self.root, self.state, self.audio = params, root, state, audio
        self.work = work / "videos"
        self.work.mkdir(parents=True, exist_ok=True)

    def todo(self, tracks: Sequence[Track], *, retry_now: bool = False) -> list[Track]:
        """List the rows to fetch: never tried, due again, or vanished; those that are there get an entry.

        Raises:
            ContractError: an id that is none of YouTube's; it must not reach a file name or an address.
        """
        alien = next((track.id for track in tracks if not _YTID.fullmatch(track.id)), None)
        if alien is not None:
            raise ContractError(f"musiccaps: {alien!r} is no YouTube id; mend or remove the row")
        now_s = time.time()
        return [track for track in tracks if not self._is_there(track) and self._is_due(track, now_s, retry_now)]

    def _is_due(self, track: Track, now_s: float, retry_now: bool) -> bool:
        entry = self.state.entries.get(track.id)
        if entry is None or entry.may_try(now_s):
            return True
        return retry_now and entry.state in {"failed", "blocked"}

    def _is_there(self, track: Track) -> bool:
        """Whether the clip is there and good; a file that somebody else put there is decoded once."""
        entry = self.state.entries.get(track.id)
        if entry and entry.is_there(self.root):
            return True
        if track.path is None:
            return False
        if self._fault(track.path, track, may_be_whole=True):
            # A cut-off file would count as downloaded for ever.
            set_aside(track.path, self.work.parent)
            return False
        self.state.write(self._ok(track, track.path, "was there"))
        return True

    def run(self, tracks: Sequence[Track], *, cookies: Path | None = None) -> None:
        """Fetch rows one after another.

        Raises:
            TransientError: a wall, or a run of failures; what was obtained stays.
        """
        downloader = Downloader(self.params.ytdlp, self.work, cookies=cookies)
        num_blocked = num_failed = 0
        with contextlib.closing(downloader), progress(total=len(tracks), desc="fetch musiccaps", unit="row") as bar:
            for number, track in enumerate(tracks):
                if number:
                    time.sleep(self.params.pause_s)
                entry = self._fetch(track, downloader)
                self.state.write(entry)
                bar.update()
                num_blocked = num_blocked + 1 if entry.state == "blocked" else 0
                num_failed = num_failed + 1 if entry.state == "failed" else 0
                self._stop_at_wall(num_blocked, num_failed, entry, len(tracks) - number - 1)

    def _stop_at_wall(self, num_blocked: int, num_failed: int, entry: Entry, num_left: int) -> None:
        if num_blocked >= self.params.wall_patience:
            raise TransientError(
                f"musiccaps: stopped at a wall, {num_blocked} rows in a row were blocked ({entry.detail}); {num_left} "
                "rows were left untried. Wait some hours or set fetch.musiccaps.ytdlp.cookies; the same command goes on"
            )
        if num_failed >= self.params.failure_patience:
            raise TransientError(
                f"musiccaps: stopped, {num_failed} rows in a row failed ({entry.detail}); {num_left} rows were left "
                "untried. Check the network and update yt-dlp; the same command with --retry-now goes on"
            )

    def _fetch(self, track: Track, downloader: Downloader) -> Entry:
        params, earlier = self.params, self.state.entries.get(track.id)
        try:
            path = self._obtain(track, downloader, until_s=_span(track)[1])
        except VideoError as error:
            if error.state == "failed":
                return failed(
                    earlier, track.id, error.detail, max_tries=params.max_tries, first_wait_s=params.first_retry_s
                )
            retry_at_s = math.ceil(time.time() + params.blocked_retry_s) if error.state == "blocked" else None
            tries = earlier.tries if earlier else 0
            return Entry(id=track.id, state=error.state, detail=error.detail, tries=tries, retry_at_s=retry_at_s)
        return self._ok(track, path, "")

    def _obtain(self, track: Track, downloader: Downloader, *, until_s: float | None) -> Path:
        """Download, cut and check one clip; where only a beginning was had and proves too short, have the rest."""
        start_s, end_s = _span(track)
        target = self.root / self.audio / f"{track.id}.wav"
        source = downloader.fetch(track.id, until_s=until_s)
        try:
            with atomic_path(target) as temporary:
                cut_to_wav(source, temporary, start_s, end_s)
                fault = self._fault(temporary, track)
                if fault:
                    raise CutError(fault)
        except CutError as error:
            if source.suffix == ".part":
                return self._obtain(track, downloader, until_s=None)
            source.unlink()
            raise VideoError("failed", str(error)) from error
        source.unlink()
        return target

    def _fault(self, path: Path, track: Track, *, may_be_whole: bool = False) -> str:
        """Say why a file is not the row's clip, nor, where it may be, a recording that holds it; empty if it is."""
        from pipeline.music.decoders import AudioError
        from pipeline.music.recording import open_recording

        start_s, end_s = _span(track)
        try:
            with open_recording(path) as recording:
                for _ in recording.blocks():
                    pass
            came_s = recording.facts.decoded_s
        except AudioError as error:
            return str(error)
        is_clip = abs(came_s - (end_s - start_s)) <= self.params.length_tolerance_s
        if is_clip or (may_be_whole and came_s >= end_s - (track.file_start_s or 0.0)):
            return ""
        return f"{came_s:.1f} s came instead of {end_s - start_s:g} s"

    def _ok(self, track: Track, path: Path, detail: str) -> Entry:
        name, size_bytes = path.relative_to(self.root).as_posix(), path.stat().st_size
        return Entry(id=track.id, state="ok", detail=detail, path=name, size_bytes=size_bytes)


def _span(track: Track) -> tuple[float, float]:
    if track.span_s is None:
        raise ContractError(f"musiccaps: row {track.id} has no start and end; mend or remove the row")
    return track.span_s
