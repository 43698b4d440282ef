from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import TransientError
from pipeline.fetching.ytdlp import Downloader, VideoError, YtdlpParams, classify
from tests.pipeline.fetching.loopback import Answer, Page, Server, serving
from tests.pipeline.fetching.sounds import encoded, marked_wave

# yt-dlp leaves the connections of failed requests to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:Implicitly:ResourceWarning")

YTID = "-bcdefghi_0"
GONE = [
    "Video unavailable",
    "Video unavailable. This video is no longer available because the YouTube account associated with this video has "
    "been terminated.",
    "Private video. Sign in if you've been granted access to this video",
    "This video has been removed by the uploader",
    "This video has been removed for violating YouTube's Terms of Service",
    "Video unavailable. This video contains content from SME, who has blocked it in your country on copyright grounds",
    "The uploader has not made this video available in your country",
    "This video is not available",
    "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    "Unable to download webpage: HTTP Error 404: Not Found",
]
BLOCKED = [
    "Sign in to confirm you're not a bot. This helps protect our community.",
    "Sign in to confirm you’re not a bot.",
    "Unable to download API page: HTTP Error 429: Too Many Requests",
    "Video unavailable. This content isn't available, try again later. Your account has been rate-limited by YouTube",
    "Video unavailable. This content isn’t available, try again later.",
]
FAILED = [
    "unable to download video data: HTTP Error 403: Forbidden",
    "Requested format is not available. Use --list-formats for a list of available formats",
    "Sign in to confirm your age. This video may be inappropriate for some users.",
    "Unable to download webpage: <urlopen error [Errno 111] Connection refused>",
    "",
]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def webm() -> bytes:
    return encoded(marked_wave(45), "webm", "libopus")


@contextlib.contextmanager
def downloader(server: Server, folder: Path, **changes: object) -> Iterator[Downloader]:
    params = YtdlpParams(url=server.url + "/watch/{ytid}", timeout_s=2, retries=1, **changes)  # type: ignore[arg-type]
    with contextlib.closing(Downloader(params, folder)) as made:
        yield made
    gc.collect()  # while the mark above is in force


@pytest.mark.parametrize(
    ("message", "state"),
    [*((m, "gone") for m in GONE), *((m, "blocked") for m in BLOCKED), *((m, "failed") for m in FAILED)],
)
def test_messages_are_told_apart(message: str, state: str):
    assert classify(message) == state


def test_a_video_arrives_under_its_id_though_it_begins_with_a_dash(server: Server, tmp_path: Path, webm: bytes):
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm")
    with downloader(server, tmp_path) as made:
        path = made.fetch(YTID, until_s=40)
    assert path.read_bytes() == webm
    assert path.name == f"{YTID}.webm"


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, webm: bytes):
    # The first request only looks what the address is.
    broken = [Answer(), Answer(stop_after=100_000)]
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm", answers=broken)
    with downloader(server, tmp_path) as made:
        assert made.fetch(YTID, until_s=None).read_bytes() == webm
    assert re.fullmatch(r"bytes=[1-9]\d{4,}-", server.requests[-1].headers["Range"])


def test_what_a_broken_run_left_is_resumed(server: Server, tmp_path: Path, webm: bytes):
    # To the look, to the download, and to its one repetition.
    page = Page(webm, "video/webm", answers=[Answer(), Answer(stop_after=100_000)], always=Answer(stop_after=0))
    server.pages[f"/watch/{YTID}"] = page
    with downloader(server, tmp_path) as made, pytest.raises(VideoError) as caught:
        made.fetch(YTID, until_s=None)
    assert caught.value.state == "failed"
    page.always = None
    with downloader(server, tmp_path) as made:
        assert made.fetch(YTID, until_s=None).read_bytes() == webm
    assert re.fullmatch(r"bytes=[1-9]\d{4,}-", server.requests[-1].headers["Range"])


def test_416_starts_the_video_over(server: Server, tmp_path: Path, webm: bytes):
    (tmp_path / f"{YTID}.webm.part").write_bytes(webm + b"more" * 100)
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm")
    with downloader(server, tmp_path) as made:
        assert made.fetch(YTID, until_s=None).read_bytes() == webm
    assert 416 in [request.status for request in server.requests]


@pytest.mark.parametrize(
    ("answer", "state", "detail"),
    [
        (Answer(404), "gone", "HTTP Error 404"),
        (Answer(410), "gone", "HTTP Error 410"),
        (Answer(403), "failed", "HTTP Error 403: Forbidden"),
        (Answer(429), "blocked", "HTTP Error 429"),
        (Answer(403, reason="Sign in to confirm you're not a bot"), "blocked", "not a bot"),
        (Answer(500), "failed", "HTTP Error 500"),
    ],
)
def test_a_status_becomes_a_state(server: Server, tmp_path: Path, answer: Answer, state: str, detail: str):
    server.pages[f"/watch/{YTID}"] = Page(always=answer)
    with downloader(server, tmp_path) as made, pytest.raises(VideoError) as caught:
        made.fetch(YTID, until_s=None)
    assert caught.value.state == state
    assert detail in caught.value.detail
    assert "ERROR" not in caught.value.detail
    assert "caused by" not in caught.value.detail


def test_403_on_the_sound_itself_fails(server: Server, tmp_path: Path, webm: bytes):
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm", answers=[Answer()], always=Answer(403))
    with downloader(server, tmp_path) as made, pytest.raises(VideoError, match="403") as caught:
        made.fetch(YTID, until_s=None)
    assert caught.value.state == "failed"


def test_a_throttled_video_gives_up_its_turn(server: Server, tmp_path: Path, webm: bytes):
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm", always=Answer(bytes_per_s=20_000))
    with downloader(server, tmp_path, max_video_s=0.5) as made, pytest.raises(VideoError, match="slower than"):
        made.fetch(YTID, until_s=None)


def test_nobody_at_the_door_fails(tmp_path: Path):
    with serving() as server:
        pass
    with downloader(server, tmp_path) as made, pytest.raises(VideoError) as caught:
        made.fetch(YTID, until_s=None)
    assert caught.value.state == "failed"
    assert "refused" in caught.value.detail


def test_a_page_without_a_video_fails(server: Server, tmp_path: Path):
    server.pages[f"/watch/{YTID}"] = Page(b"<html><title>Words</title>none</html>", "text/html")
    with downloader(server, tmp_path) as made, pytest.raises(VideoError) as caught:
        made.fetch(YTID, until_s=None)
    assert caught.value.state == "failed"


def video_page(server: Server, media: bytes, duration: str) -> None:
    """A page that tells of its video as schema.org does, with the length."""
    video = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": "A long mix",
        "contentUrl": f"{server.url}/media.webm",
        "duration": duration,
    }
    html = f'<html><head><script type="application/ld+json">{json.dumps(video)}</script></head></html>'
    server.pages[f"/watch/{YTID}"] = Page(html.encode(), "text/html")
    server.pages["/media.webm"] = Page(media, "video/webm")


def test_of_a_long_video_only_the_beginning_is_had(server: Server, tmp_path: Path, webm: bytes):
    video_page(server, webm + b"\0" * 40_000_000, "PT3H")
    with downloader(server, tmp_path) as made:
        path = made.fetch(YTID, until_s=40)
        assert path.suffix == ".part"
        assert 1 << 20 < path.stat().st_size < 6_000_000
        whole = made.fetch(YTID, until_s=None)
    assert whole.stat().st_size == len(webm) + 40_000_000
    assert server.requests[-1].headers["Range"].startswith("bytes=")


def test_a_full_disk_ends_the_run(server: Server, tmp_path: Path, webm: bytes, monkeypatch: pytest.MonkeyPatch):
    server.pages[f"/watch/{YTID}"] = Page(webm, "video/webm")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with downloader(server, tmp_path) as made:
        monkeypatch.setattr("yt_dlp.downloader.http.HttpFD.try_rename", full)
        with pytest.raises(TransientError, match="make room"):
            made.fetch(YTID, until_s=None)


def test_a_missing_javascript_runtime_is_named(server: Server, tmp_path: Path):
    server.pages[f"/watch/{YTID}"] = Page(always=Answer(500))
    with downloader(server, tmp_path) as made:
        original = made._ydl.extract_info

        def warn(*args: object, **kwargs: object) -> object:
            made._ydl.report_warning("No supported JavaScript runtime could be found")
            return original(*args, **kwargs)

        made._ydl.extract_info = warn  # type: ignore[method-assign]
        with pytest.raises(VideoError, match="install deno"):
            made.fetch(YTID, until_s=None)
