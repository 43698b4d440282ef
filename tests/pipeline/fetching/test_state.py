from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ContractError
from pipeline.fetching.state import Entry, StateFile, failed, set_aside


def test_the_last_line_of_an_id_counts(tmp_path: Path):
    state = StateFile(tmp_path / "state.jsonl")
    state.write(Entry(id="a", state="failed", detail="nöise", tries=1, retry_at_s=5))
    state.write(Entry(id="b", state="gone", detail="Private video"))
    state.write(Entry(id="a", state="ok", path="a.wav", size_bytes=3))
    again = StateFile(tmp_path / "state.jsonl")
    assert again.entries == state.entries
    assert again.counts() == {"ok": 1, "gone": 1, "blocked": 0, "failed": 0}
    assert len((tmp_path / "state.jsonl").read_text("utf-8").splitlines()) == 3


def test_the_next_try_is_written_for_people(tmp_path: Path):
    state = StateFile(tmp_path / "state.jsonl")
    state.write(Entry(id="a", state="blocked", retry_at_s=1_800_000_000))
    assert json.loads(state.path.read_bytes())["retry_at"] == "2027-01-15T08:00:00+00:00"


@given(cut=st.integers(0, 400))
def test_a_torn_line_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.mktemp("torn") / "state.jsonl"
    state = StateFile(path)
    for name in ("a", "b"):
        state.write(Entry(id=name, state="ok", detail="é" * 20))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    num_whole = whole[:cut].count(b"\n") + (not whole[:cut].endswith(b"\n") and whole[cut : cut + 1] == b"\n")
    torn = StateFile(path)
    assert len(torn.entries) == num_whole
    torn.write(Entry(id="c", state="gone"))
    assert set(StateFile(path).entries) == {*torn.entries, "c"}
    assert len(StateFile(path).entries) == num_whole + 1


def test_lines_of_others_are_passed_over(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    path.write_text('{"id": "a", "state": "odd"}\n[1]\n{"id": "b"}\n\xff\n{"id": "c", "state": "ok"}\n', "utf-8")
    assert set(StateFile(path).entries) == {"c"}


def test_a_killed_writer_leaves_a_readable_file(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    code = (
        "import sys; from pathlib import Path; from pipeline.fetching.state import Entry, StateFile\n"
        "state = StateFile(Path(sys.argv[1]))\n"
        "for n in range(10**6): state.write(Entry(id=str(n), state='ok'))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
        deadline_s = time.monotonic() + 20
        while (not path.is_file() or path.stat().st_size < 2000) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.kill()
    entries = StateFile(path).entries
    assert len(entries) >= 10
    assert list(entries) == [str(n) for n in range(len(entries))]


def test_every_failure_waits_twice_as_long_until_none_follows():
    entry, waits_s = None, []
    for _ in range(3):
        entry = failed(entry, "a", "noise", max_tries=4, first_wait_s=100)
        assert entry.retry_at_s is not None
        waits_s.append(entry.retry_at_s - time.time())
        assert not entry.may_try(time.time())
        assert entry.may_try(time.time() + waits_s[-1] + 1)
    assert waits_s == pytest.approx([100, 200, 400], abs=5)
    last = failed(entry, "a", "noise", max_tries=4, first_wait_s=100)
    assert (last.tries, last.retry_at_s) == (4, None)
    assert not last.may_try(time.time() + 1e9)


def test_gone_is_gone_and_a_vanished_file_is_due():
    assert not Entry(id="a", state="gone").may_try(1e12)
    assert Entry(id="a", state="ok", path="a.wav").may_try(0)


def test_a_file_of_another_size_is_not_there(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"123")
    assert Entry(id="a", state="ok", path="a.wav", size_bytes=3).is_there(tmp_path)
    assert not Entry(id="a", state="ok", path="a.wav", size_bytes=4).is_there(tmp_path)
    assert not Entry(id="a", state="ok", path="b.wav", size_bytes=3).is_there(tmp_path)
    assert not Entry(id="a", state="failed", path="a.wav", size_bytes=3).is_there(tmp_path)


def test_a_state_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "state.jsonl").mkdir()
    with pytest.raises(ContractError, match="cannot be written"):
        StateFile(tmp_path / "state.jsonl").write(Entry(id="a", state="ok"))


def test_what_is_in_the_way_is_kept(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"mine")
    assert set_aside(tmp_path / "a.wav", tmp_path / ".fetch").read_bytes() == b"mine"
    assert not (tmp_path / "a.wav").exists()
