from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.records import Drop, Line, Reason
from pipeline.data.shards import Sample, ShardFile, load_index
from pipeline.engine.local import EngineParams, Job, Result, Task, publish_files, run_job
from pipeline.errors import ContractError, ParamsError, TransientError

ONE, FOUR = EngineParams(workers=1), EngineParams(workers=4)


class ToyStep:
    """Makes a sample of every even number, drops every odd one."""

    def __call__(self, task: Task) -> Iterator[Result]:
        for number in task.payload:
            if number % 2:
                yield Drop(f"k{number}", Reason.SILENT, "odd")
            else:
                yield Sample(f"k{number}", {"txt": str(number).encode()})
                yield Line("lines.jsonl", {"number": number})


class FailingStep(ToyStep):
    def __call__(self, task: Task) -> Iterator[Result]:
        if task.name == "000002":
            raise RuntimeError("shard 2 is cursed")
        yield from super().__call__(task)


class DyingStep(ToyStep):
    def __call__(self, task: Task) -> Iterator[Result]:
        if task.name == "000002":
            os.kill(os.getpid(), 9)
        yield from super().__call__(task)


class LosingStep(ToyStep):
    def __call__(self, task: Task) -> Iterator[Result]:
        return (result for result in super().__call__(task) if not isinstance(result, Drop))


def toy_job(root: Path, **changes: object) -> Job:
    job = Job(
        stage="toy",
        modules=["pipeline.data.keys"],
        out=root / "shards" / "toy",
        work=root / "shards" / ".work" / "toy",
        tasks=[Task(f"{n:06d}", 4, list(range(4 * n, 4 * n + 4))) for n in range(4)],
        make_step=ToyStep,
        params={"setting": 1},
        parents={},
    )
    return replace(job, **changes)  # pyright: ignore[reportArgumentType]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_job_writes_shards_index_manifest_drops_and_lines(tmp_path: Path):
    manifest = run_job(toy_job(tmp_path), ONE)
    out = tmp_path / "shards" / "toy"
    assert manifest is not None
    assert manifest["counts"] == {"in": 16, "used": 8, "dropped": {"silent": 8}, "out": 8, "clips_dropped": {}}
    assert json.loads((out / "manifest.json").read_bytes()) == manifest
    assert [entry.keys for entry in load_index(out)][:2] == [["k0", "k2"], ["k4", "k6"]]
    assert ShardFile(out / "000003.tar")[1].members["txt"] == b"14"
    assert len((out / "drops.jsonl").read_text().splitlines()) == 8
    assert (out / "lines.jsonl").read_text().splitlines()[0] == '{"number":0}'


def test_bytes_are_the_same_with_one_and_four_workers(tmp_path: Path):
    run_job(toy_job(tmp_path / "one"), ONE)
    run_job(toy_job(tmp_path / "four"), FOUR)
    assert content(tmp_path / "one/shards/toy") == content(tmp_path / "four/shards/toy")


@pytest.mark.parametrize(
    ("step", "error", "engine"),
    [(FailingStep, RuntimeError, ONE), (DyingStep, TransientError, EngineParams(workers=2))],
)
def test_a_run_that_fails_publishes_nothing_and_goes_on_from_its_shards(
    tmp_path: Path, step: type[ToyStep], error: type[Exception], engine: EngineParams
):
    with pytest.raises(error):
        run_job(toy_job(tmp_path, make_step=step), engine)
    assert not (tmp_path / "shards" / "toy").exists()
    (done,) = [path for path in (tmp_path / "shards/.work/toy").iterdir() if path.is_dir()]
    # Of a worker that was stopped in between there may be a tar without its mark, which does not count.
    marked = [path for path in done.glob("*.tar") if path.with_suffix(".done").exists()]
    before = {path.name: path.stat().st_mtime_ns for path in marked}
    assert before
    run_job(toy_job(tmp_path), ONE)
    after = {path.name: path.stat().st_mtime_ns for path in done.glob("*.tar")}
    assert before.items() <= after.items()
    run_job(toy_job(tmp_path / "whole"), ONE)
    assert content(tmp_path / "shards/toy") == content(tmp_path / "whole/shards/toy")


def test_a_second_run_makes_no_step_and_a_lost_folder_comes_back(tmp_path: Path):
    import shutil

    def no_step() -> ToyStep:
        raise AssertionError("nothing is left to do")

    run_job(toy_job(tmp_path), ONE)
    before = content(tmp_path / "shards/toy")
    shutil.rmtree(tmp_path / "shards/toy")
    run_job(toy_job(tmp_path, make_step=no_step), ONE)
    assert content(tmp_path / "shards/toy") == before


@pytest.mark.parametrize(
    "change",
    [{"params": {"setting": 2}}, {"parents": {"ingest": "x"}}, {"resume_key": "later"}, {"models": {"codec": 1}}],
)
def test_a_change_of_anything_that_counts_reuses_nothing(tmp_path: Path, change: dict[str, object]):
    run_job(toy_job(tmp_path), ONE)
    (old,) = [path.name for path in (tmp_path / "shards/.work/toy").iterdir() if path.is_dir()]
    run_job(toy_job(tmp_path, **change), ONE)
    (new,) = [path.name for path in (tmp_path / "shards/.work/toy").iterdir() if path.is_dir()]
    assert old != new


def no_checkpoint() -> ToyStep:
    raise ContractError("no checkpoint here")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_cannot_be_built_says_why(tmp_path: Path, workers: int):
    with pytest.raises(ContractError, match="no checkpoint here"):
        run_job(toy_job(tmp_path, make_step=no_checkpoint), EngineParams(workers=workers))
    assert not (tmp_path / "shards" / "toy").exists()


def test_too_many_drops_fail_the_stage_and_name_the_way_out(tmp_path: Path):
    with pytest.raises(ContractError, match=r"8 of 16.*--set toy\.max_drop_share=1"):
        run_job(toy_job(tmp_path, max_drop_share=0.4), ONE)
    assert not (tmp_path / "shards/toy").exists()
    run_job(toy_job(tmp_path, max_drop_share=0.5), ONE)


def test_an_item_that_vanishes_without_a_drop_is_a_contract_error(tmp_path: Path):
    with pytest.raises(ContractError, match="add up"):
        run_job(toy_job(tmp_path, make_step=LosingStep), ONE)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_job(toy_job(tmp_path), ONE, dry_run=True) is None
    publish_files("toy", tmp_path / "out", work=tmp_path / "work", files={"a": b""}, dry_run=True)
    assert "4 of 4 shards to make" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_two_runs_on_one_folder_are_refused(tmp_path: Path):
    import fcntl

    work = tmp_path / "shards/.work/toy"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ContractError, match="another run"):
            run_job(toy_job(tmp_path), ONE)


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "shards").write_text("a file where a folder should be")
    with pytest.raises(ContractError, match="cannot be written"):
        run_job(toy_job(tmp_path), ONE)


def test_no_workers_is_refused():
    with pytest.raises(ParamsError, match=r"engine\.workers"):
        EngineParams(workers=0)
