from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from pipeline.data.records import Track
from pipeline.errors import ContractError, TransientError
from pipeline.fetching.state import Entry, StateFile
from pipeline.fetching.videos import RowFetcher, VideoParams
from pipeline.fetching.ytdlp import YtdlpParams
from tests.pipeline.fetching.loopback import Answer, Page, Server, serving
from tests.pipeline.fetching.sounds import RATE_HZ, encoded, marked_wave, pitches_hz

# yt-dlp leaves the connections of failed requests to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:Implicitly:ResourceWarning")

YTIDS = [f"{'-_Aa'[n % 4]}bcdefghi{n:02d}" for n in range(12)]


@pytest.fixture(scope="module")
def webm() -> bytes:
    return encoded(marked_wave(45), "webm", "libopus")


@pytest.fixture
def server(webm: bytes) -> Iterator[Server]:
    with serving() as server:
        for ytid in YTIDS:
            server.pages[f"/watch/{ytid}"] = Page(webm, "video/webm")
        yield server
        gc.collect()  # while the mark above is in force


def track(ytid: str, root: Path | None = None) -> Track:
    paths = sorted((root / "audio").glob(f"{ytid}.*")) if root else []
    return Track(id=ytid, path=paths[0] if paths else None, span_s=(30.0, 40.0))


def row_fetcher(server: Server, root: Path, **changes: object) -> RowFetcher:
    ytdlp = YtdlpParams(url=server.url + "/watch/{ytid}", timeout_s=2, retries=1)
    params = VideoParams(**{"ytdlp": ytdlp, "pause_s": 0.0, **changes})  # type: ignore[arg-type]
    return RowFetcher(params, root, state=StateFile(root / "fetch_state.jsonl"), work=root / ".fetch")


def fetch(server: Server, root: Path, num_rows: int, *, retry_now: bool = False, **changes: object) -> StateFile:
    rows = row_fetcher(server, root, **changes)
    rows.run(rows.todo([track(ytid, root) for ytid in YTIDS[:num_rows]], retry_now=retry_now))
    return rows.state


def test_rows_become_clips_of_the_right_span(server: Server, tmp_path: Path):
    state = fetch(server, tmp_path, 3)
    assert state.counts()["ok"] == 3
    for ytid in YTIDS[:3]:
        clip = tmp_path / "audio" / f"{ytid}.wav"
        assert pitches_hz(clip) == [880] * 40
        assert soundfile.info(clip).samplerate == RATE_HZ
        assert state.entries[ytid].path == f"audio/{ytid}.wav"
    assert [p.name for p in (tmp_path / ".fetch/videos").iterdir() if p.is_file()] == []


def test_a_second_run_asks_for_nothing(server: Server, tmp_path: Path):
    fetch(server, tmp_path, 2)
    num_requests = len(server.requests)
    fetch(server, tmp_path, 2)
    assert len(server.requests) == num_requests


def test_a_clip_that_vanished_or_was_cut_is_fetched_again(server: Server, tmp_path: Path):
    fetch(server, tmp_path, 2)
    first, second = (tmp_path / "audio" / f"{ytid}.wav" for ytid in YTIDS[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:10_000])
    fetch(server, tmp_path, 2)
    assert pitches_hz(first) == pitches_hz(second) == [880] * 40
    assert (tmp_path / ".fetch/aside" / second.name).stat().st_size == 10_000


def test_files_of_ones_own_are_checked_and_kept(server: Server, tmp_path: Path, webm: bytes):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / f"audio/{YTIDS[0]}.flac", marked_wave(10.4), RATE_HZ)
    (tmp_path / f"audio/{YTIDS[1]}.webm").write_bytes(webm)  # a whole video, cut by ingest
    soundfile.write(tmp_path / f"audio/{YTIDS[2]}.wav", marked_wave(3), RATE_HZ)
    (tmp_path / f"audio/{YTIDS[3]}.m4a").write_bytes(b"cut off")
    state = fetch(server, tmp_path, 4)
    assert state.counts()["ok"] == 4
    assert [state.entries[ytid].detail for ytid in YTIDS[:4]] == ["was there", "was there", "", ""]
    assert {request.path[-11:] for request in server.requests} == set(YTIDS[2:4])
    assert sorted(path.name for path in (tmp_path / ".fetch/aside").iterdir()) == sorted(
        [f"{YTIDS[2]}.wav", f"{YTIDS[3]}.m4a"]
    )


def test_every_row_has_its_state(server: Server, tmp_path: Path):
    server.pages[f"/watch/{YTIDS[0]}"].always = Answer(404)
    server.pages[f"/watch/{YTIDS[1]}"].always = Answer(403)
    server.pages[f"/watch/{YTIDS[2]}"].always = Answer(429)
    server.pages[f"/watch/{YTIDS[3]}"].data = encoded(marked_wave(34), "webm", "libopus")
    server.pages[f"/watch/{YTIDS[4]}"].data = b"no sound" * 99
    server.pages[f"/watch/{YTIDS[5]}"].answers = [Answer(), Answer(stop_after=100_000)]
    state = fetch(server, tmp_path, 7)
    assert [state.entries[ytid].state for ytid in YTIDS[:7]] == [
        *("gone", "failed", "blocked", "failed", "failed", "ok", "ok")
    ]
    assert state.entries[YTIDS[3]].detail == "4.0 s came instead of 10 s"
    assert "does not decode" in state.entries[YTIDS[4]].detail
    assert sorted(path.name for path in (tmp_path / "audio").iterdir()) == sorted(f"{ytid}.wav" for ytid in YTIDS[5:7])


def test_failed_and_blocked_rows_wait_and_gone_ones_rest(server: Server, tmp_path: Path):
    for ytid, status in zip(YTIDS, (404, 403, 429), strict=False):
        server.pages[f"/watch/{ytid}"].always = Answer(status)
    fetch(server, tmp_path, 3)
    num_requests = len(server.requests)
    fetch(server, tmp_path, 3)
    assert len(server.requests) == num_requests
    for ytid in YTIDS[:3]:
        server.pages[f"/watch/{ytid}"].always = None
    state = fetch(server, tmp_path, 3, retry_now=True)
    assert [state.entries[ytid].state for ytid in YTIDS[:3]] == ["gone", "ok", "ok"]


def test_a_row_whose_time_has_come_is_tried_again_and_in_the_end_left_alone(server: Server, tmp_path: Path):
    server.pages[f"/watch/{YTIDS[0]}"].always = Answer(403)
    for expected in (1, 2, 3, 3):
        state = fetch(server, tmp_path, 1, max_tries=3, first_retry_s=-1.0)
        assert state.entries[YTIDS[0]].tries == expected
    assert len(server.requests) == 3


def test_the_wall_stops_the_run(server: Server, tmp_path: Path):
    wall = Answer(403, reason="Sign in to confirm you're not a bot")
    for ytid in YTIDS[2:]:
        server.pages[f"/watch/{ytid}"].always = wall
    with pytest.raises(TransientError, match=r"a wall, 3 rows in a row .*not a bot.*7 rows were left untried.*cookies"):
        fetch(server, tmp_path, 12)
    state = StateFile(tmp_path / "fetch_state.jsonl")
    assert state.counts() == {"ok": 2, "gone": 0, "blocked": 3, "failed": 0}
    assert not any(server.asked(f"/watch/{ytid}") for ytid in YTIDS[5:])
    for ytid in YTIDS:
        server.pages[f"/watch/{ytid}"].always = None
    assert fetch(server, tmp_path, 12).counts() == {"ok": 9, "gone": 0, "blocked": 3, "failed": 0}


def test_single_blocked_rows_are_no_wall(server: Server, tmp_path: Path):
    for ytid in YTIDS[:6:2]:
        server.pages[f"/watch/{ytid}"].always = Answer(429)
    assert fetch(server, tmp_path, 6, wall_patience=2).counts()["blocked"] == 3


def test_a_dead_network_stops_the_run(server: Server, tmp_path: Path):
    with serving() as closed:
        pass
    with pytest.raises(TransientError, match=r"4 rows in a row failed .*8 rows were left untried"):
        fetch(closed, tmp_path, 12, failure_patience=4)


def test_a_killed_run_goes_on(server: Server, tmp_path: Path):
    rows = row_fetcher(server, tmp_path)
    rows.run([track(YTIDS[0])])
    with rows.state.path.open("ab") as file:
        file.write(b'{"id": "half a li')
    assert fetch(server, tmp_path, 2).counts()["ok"] == 2
    assert len(server.asked(f"/watch/{YTIDS[0]}")) == 2


def test_rests_lie_between_rows(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rests_s: list[float] = []
    monkeypatch.setattr("pipeline.fetching.videos.time.sleep", rests_s.append)
    fetch(server, tmp_path, 3, pause_s=7.5)
    assert rests_s.count(7.5) == 2


@pytest.mark.parametrize("ytid", ["../../../ab", "short", "abcdefghijkl", "abcdefghi\nj"])
def test_an_alien_id_reaches_neither_disk_nor_net(server: Server, tmp_path: Path, ytid: str):
    with pytest.raises(ContractError, match="is no YouTube id"):
        row_fetcher(server, tmp_path).todo([track(ytid)])


def test_a_row_without_times_is_told(server: Server, tmp_path: Path):
    with pytest.raises(ContractError, match="has no start and end"):
        row_fetcher(server, tmp_path).run([Track(id=YTIDS[0], path=None)])


def test_a_state_without_a_file_is_due(server: Server, tmp_path: Path):
    rows = row_fetcher(server, tmp_path)
    rows.state.write(Entry(id=YTIDS[0], state="ok", path=f"audio/{YTIDS[0]}.wav", size_bytes=5))
    assert rows.todo([track(YTIDS[0])])
