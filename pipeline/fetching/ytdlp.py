"""yt-dlp as a library: the sound of one video to a file, and its many messages as one of three states.

Whole sound is fetched and cut by us, not by yt-dlp's `--download-sections`: those need an ffmpeg program beside the
wheels, which then fetches by itself, without yt-dlp's resume, speed limit and time-outs, at 32 KiB/s from long videos
(yt-dlp issue 17612); and forced keyframes encode a second time. Of long videos only what reaches past the span is had.
"""

from __future__ import annotations

import glob
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TransientError
from pipeline.fetching.state import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yt_dlp import YoutubeDL

# In this order: YouTube puts some blocks into words that begin with "Video unavailable".
_BLOCKED = re.compile(
    r"not a bot|HTTP Error 429|Too Many Requests|rate.?limited|try again later|unusual traffic|captcha", re.IGNORECASE
)
_GONE = re.compile(
    r"Video unavailable|Private video|video is private|has been removed|been terminated|no longer available|"
    r"is not available|not made this video available|available in your country|blocked it|not available from your|"
    r"members.only|account associated|HTTP Error 404|HTTP Error 410",
    re.IGNORECASE,
)
# What yt-dlp says when it finds no formats, for want of a JavaScript runtime or of rights, is no loss of the video.
_OURS = re.compile(r"Requested format is not available|No video formats found", re.IGNORECASE)
_DETAIL_CHARS = 200
# Beyond the span: bit rates vary, and an index may stand before the sound.
_MARGIN_S, _MARGIN_BYTES = 60.0, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class YtdlpParams:
    """How yt-dlp fetches one video."""

    url: str = "https://www.youtube.com/watch?v={ytid}"
    """Address of a video; `{ytid}` is filled in."""
    format: str = "bestaudio/best"
    """yt-dlp's format selection."""
    timeout_s: float = 20.0
    """Longest silence of the server."""
    retries: int = 3
    """Further attempts within one download, each resuming."""
    max_video_s: float = 900.0
    """Longest time that one video may take; a throttled one fails and waits for its next turn."""
    max_speed_kib_s: float | None = None
    """Speed limit of a download."""
    cookies: str | None = None
    """Netscape cookie file of a logged-in browser, for the bot check; below the project's root."""


class VideoError(Exception):
    """A video that was not obtained: a state, and one line for a person."""

    def __init__(self, state: Status, detail: str) -> None:
        super().__init__(state, detail)
        self.state: Status = state
        self.detail = detail


def classify(message: str) -> Status:
    """Say what a message of yt-dlp means for the row."""
    if _BLOCKED.search(message):
        return "blocked"
    return "gone" if _GONE.search(message) and not _OURS.search(message) else "failed"


class Downloader:
    """One yt-dlp for many videos: it keeps YouTube's player code, which would else be fetched for every row."""

    def __init__(self, params: YtdlpParams, folder: Path, *, cookies: Path | None = None) -> None:
        from yt_dlp import YoutubeDL

        self.params, self.folder = params, folder
        self.warnings: list[str] = []
        self._until_s: float | None = None
        self._deadline_s = 0.0
        self._partial: Path | None = None
        self._ydl: YoutubeDL = YoutubeDL(self._options(cookies))  # pyright: ignore[reportArgumentType] (its types are private)

    def close(self) -> None:
        """Let go of connections."""
        self._ydl.close()

    def fetch(self, ytid: str, *, until_s: float | None) -> Path:
        """Download the sound of a video, resuming what lies there of it.

        Args:
            ytid: fills the address.
            until_s: stop when surely past this time; None fetches all.

        Returns:
            The file, or its beginning.

        Raises:
            VideoError: with its state.
            TransientError: the disk is full.
        """
        from yt_dlp.utils import YoutubeDLError

        self._until_s, self._partial = until_s, None
        self._deadline_s = time.monotonic() + self.params.max_video_s
        self.warnings.clear()
        self._ydl.params["outtmpl"] = {"default": f"{ytid}.%(ext)s"}  # whatever id a page gives its video
        try:
            path = _file_of(self._ydl.extract_info(self.params.url.format(ytid=ytid), download=True))
        except (YoutubeDLError, OSError) as error:
            if self._partial:
                return self._partial
            message = _one_line(error)
            if "HTTP Error 416" in message and self._discard_parts(ytid):
                return self.fetch(ytid, until_s=until_s)
            raise self._failure(message) from error
        if path is None or not path.is_file():
            raise self._failure(self.warnings[-1] if self.warnings else "no sound came")
        return path

    def _discard_parts(self, ytid: str) -> list[Path]:
        """Delete what was begun: yt-dlp's own way out of a 416 asks for the same range again, and would for ever."""
        parts = list(self.folder.glob(f"{glob.escape(ytid)}.*.part"))
        for part in parts:
            part.unlink()
        return parts

    def _failure(self, message: str) -> VideoError:
        if "No space left" in message:
            raise TransientError(f"{self.folder}: {message}; make room, the same command goes on")
        runtime = next((text for text in self.warnings if "JavaScript runtime" in text), None)
        state = classify(message)
        hint = " (yt-dlp finds no JavaScript runtime: install deno)" if runtime and state == "failed" else ""
        return VideoError(state, message[:_DETAIL_CHARS] + hint)

    def _options(self, cookies: Path | None) -> dict[str, Any]:
        params = self.params
        return {
            "format": params.format,
            "paths": {"home": str(self.folder)},
            "cachedir": str(self.folder / "cache"),
            "cookiefile": str(cookies) if cookies else None,
            "socket_timeout": params.timeout_s,
            "retries": params.retries,
            "fragment_retries": params.retries,
            "extractor_retries": params.retries,
            "skip_unavailable_fragments": False,
            "ratelimit": params.max_speed_kib_s and params.max_speed_kib_s * 1024,
            "continuedl": True,
            "overwrites": True,
            "noplaylist": True,
            "playlist_items": "1",
            "fixup": "never",
            "updatetime": False,
            "quiet": True,
            "noprogress": True,
            "logger": _Log(self.warnings.append),
            "progress_hooks": [self._watch],
        }

    def _watch(self, progress: Mapping[str, Any]) -> None:
        """Stop a download that takes too long, or that has enough."""
        from yt_dlp.utils import DownloadCancelled

        if progress.get("status") != "downloading":
            return
        if time.monotonic() > self._deadline_s:
            raise DownloadCancelled(f"slower than fetch.musiccaps.ytdlp.max_video_s ({self.params.max_video_s:g} s)")
        total_bytes, video_s = progress.get("total_bytes"), progress["info_dict"].get("duration")
        if self._until_s is None or not total_bytes or not video_s:
            return
        needed_bytes = total_bytes * (self._until_s + _MARGIN_S) / video_s + _MARGIN_BYTES
        if progress["downloaded_bytes"] >= needed_bytes:
            self._partial = Path(progress["tmpfilename"])
            raise DownloadCancelled("enough")


class _Log:
    """What yt-dlp would print; errors come as exceptions anyway."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        self._keep = keep

    def debug(self, message: str) -> None:
        """Pass over what yt-dlp is doing."""

    def warning(self, message: str) -> None:
        """Keep a warning: it may explain an error that follows."""
        self._keep(message)

    def error(self, message: str) -> None:
        """Pass over what comes as an exception."""


def _file_of(info: Any) -> Path | None:
    """Find the downloaded file in what yt-dlp returns; a page with one video inside comes as a playlist."""
    while info and info.get("entries"):
        info = next(iter(info["entries"]), None)
    requested = (info or {}).get("requested_downloads") or [{}]
    filepath = requested[0].get("filepath")
    return Path(filepath) if filepath else None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # "ERROR: [youtube] ID: what happened (caused by <repr>); please report this issue on ..."
    text = re.sub(r"^ERROR: (\[\S+\] (\S+: )?)?", "", text)
    return re.split(r" \(caused by |; please report this issue|\. Use --cookies", text)[0]
