"""Runs a step over shards on this machine: in this process, or in a pool of processes.

Every finished shard lies with a done mark in `shards/.work/<stage>/<fingerprint>/`. A run that was killed finds them
and goes on; a finished run is published by links, so running it again costs next to nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from threadpoolctl import threadpool_limits

from pipeline.data.provenance import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    code_digest,
    digest_of,
    package_versions,
    pretty_json,
)
from pipeline.data.records import NORMAL_REASONS, Drop, Line, Reason, count_drops
from pipeline.data.shards import Sample, ShardEntry, encode_json, encode_jsonl, write_folder_index, write_shard
from pipeline.data.storage import link_or_copy, publish_folder, recover_folder, write_bytes
from pipeline.engine.progress import progress
from pipeline.errors import ContractError, ParamsError, TransientError

Result = Sample | Drop | Line


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParams:
    """Section `engine` of params.yaml: how to run; nothing here can change a byte of any result."""

    workers: int = 1
    """Processes; 1 runs inside the command itself. Each loads its own models."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ParamsError(f"engine.workers: {self.workers}, must be at least 1")


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one shard."""

    name: str
    """Name of the shard without its ending, such as `000003` or `train-000003`."""
    num_items: int
    payload: Any
    """What the step needs: a slice of the source, or the path of a parent's shard. Must pickle."""


class Step(Protocol):
    """Maps the payload of a shard to samples, drops and side lines; built once per worker."""

    def __call__(self, task: Task) -> Iterator[Result]:
        """Work on one shard, item by item, in key order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stage on one corpus: what to do, and everything that the result depends on."""

    stage: str
    modules: Sequence[str]
    """Modules whose code makes the bytes, such as `stages.encode`; what they import counts too."""
    out: Path
    work: Path
    tasks: Sequence[Task]
    make_step: Callable[[], Step]
    """Must pickle; loads models. Not called when every shard is done."""
    params: Mapping[str, Any]
    parents: Mapping[str, str]
    """Digests of the inputs by name."""
    models: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Stamps of the models that made the bytes."""
    packages: Sequence[str] = ()
    """Packages whose version may change bytes."""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further lines for the manifest, such as licences."""
    resume_key: str = ""
    """State of inputs that has no lasting digest (file times of a source): splits work folders, not in the manifest."""
    side_files: Sequence[str] = ()
    """Files that the step's lines go to; made even if there is no line."""
    max_drop_share: float = 1.0
    may_be_empty: bool = True
    """Whether no sample at all is a result, such as no lyrics in instrumental music."""

    def manifest(self) -> dict[str, Any]:
        """All that the manifest says but the counts."""
        return {
            "schema": MANIFEST_SCHEMA,
            "stage": self.stage,
            "params": dict(self.params),
            "parents": dict(self.parents),
            "models": dict(self.models),
            "packages": package_versions(self.packages),
            **self.notes,
        }

    def fingerprint(self) -> str:
        """Digest of everything that can change a byte: what the manifest says, the code, and the cut into shards."""
        cut = [[task.name, task.num_items] for task in self.tasks]
        return digest_of([self.manifest(), [code_digest(module) for module in self.modules], cut, self.resume_key])[:16]


def run_job(job: Job, engine: EngineParams, *, dry_run: bool = False) -> dict[str, Any] | None:
    """Make all shards of a job that are not done yet, then publish the folder.

    Returns:
        The manifest; None after a dry run.

    Raises:
        ContractError: too many drops, counts that do not add up, or another run at work on the same folder.
        TransientError: a worker died.
    """
    done_folder = job.work / job.fingerprint()
    if dry_run:
        todo = [task for task in job.tasks if not _is_done(done_folder, task)]
        print(f"{job.stage}: {len(todo)} of {len(job.tasks)} shards to make, into {job.out}")
        return None
    with only_run(job.work, job.out):
        recover_folder(job.out, job.work / "retired")
        done_folder.mkdir(parents=True, exist_ok=True)
        for part in done_folder.glob(".*.part"):
            part.unlink(missing_ok=True)  # what a killed worker had in hand
        todo = [task for task in job.tasks if not _is_done(done_folder, task)]
        # One GPU has room for one worker's models.
        workers = 1 if job.models.get("device") == "cuda" else min(engine.workers, len(todo))
        _make_shards(job, todo, done_folder, workers)
        manifest = _publish(job, done_folder)
    counts = manifest["counts"]
    dropped = ", ".join(f"{n} {reason}" for reason, n in counts["dropped"].items()) or "none"
    print(f"{job.stage}: {job.out}: {counts['in']} in, {counts['out']} out; dropped: {dropped}")
    return manifest


@contextlib.contextmanager
def only_run(work: Path, out: Path) -> Generator[None]:
    """Hold a stage's scratch folder, so that no second run works in it; a kill sets it free.

    Raises:
        ContractError: another run holds it, or it cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise ContractError(
            f"{work}: cannot be written ({error.strerror}); free it, or choose another --root"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ContractError(f"{out}: another run is making it; wait for that one, or stop it") from None
        yield


# --- making shards ---------------------------------------------------------------------------------------------------


def _make_shards(job: Job, todo: Sequence[Task], folder: Path, workers: int) -> None:
    total = sum(task.num_items for task in todo)
    _use_one_thread()
    with progress(total=total, desc=f"{job.stage} {job.out.name}", unit="item") as bar:
        if workers <= 1:
            step = job.make_step() if todo else None
            for task in todo:
                assert step is not None  # noqa: S101 (there is a step where there is a task)
                _make_shard(step, task, folder, bar.update)
        else:
            _make_in_pool(job, todo, folder=folder, workers=workers, advance=bar.update)


def _make_shard(step: Step, task: Task, folder: Path, advance: Callable[[int], Any]) -> None:
    drops: list[Drop] = []
    lines: list[Line] = []
    used: dict[str, None] = {}
    seen: set[str] = set()

    def samples() -> Iterator[Sample]:
        for result in step(task):
            if isinstance(result, Line):
                lines.append(result)
                continue
            item = result.item or result.key if isinstance(result, Sample) else result.item
            if item not in seen:
                seen.add(item)
                advance(1)
            if isinstance(result, Drop):
                drops.append(result)
            else:
                used[item] = None
                yield result

    entry = write_shard(folder / f"{task.name}.tar", samples())
    whole = [drop for drop in drops if drop.clip is None]
    if task.num_items != len(used) + len(whole) or any(drop.item in used for drop in whole):
        raise ContractError(
            f"{folder.parent.name} shard {task.name}: {task.num_items} items in, {len(used)} used and {len(whole)} "
            "dropped; they must add up: report this as a bug of the stage"
        )
    mark = {
        "entry": asdict(entry),
        "used": len(used),
        "drops": [asdict(d) for d in drops],
        "lines": [asdict(n) for n in lines],
    }
    write_bytes(_mark_path(folder, task), encode_json(mark))


def _mark_path(folder: Path, task: Task) -> Path:
    return folder / f"{task.name}.done"


def _is_done(folder: Path, task: Task) -> bool:
    """Whether a shard has its mark, and is the file that the mark tells of."""
    mark, shard = _mark_path(folder, task), folder / f"{task.name}.tar"
    if not mark.is_file() or not shard.is_file():
        return False
    return shard.stat().st_size == json.loads(mark.read_bytes())["entry"]["num_bytes"]


def _make_in_pool(job: Job, todo: Sequence[Task], *, folder: Path, workers: int, advance: Callable[[int], Any]) -> None:
    # Spawned, not forked: torch's threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job.make_step, folder, counter))
    shown = 0
    try:
        # Workers start at the first task, and inherit that Ctrl-C is for their parent to answer.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            waiting: set[Future[None]] = {pool.submit(_work, task) for task in todo}
        finally:
            signal.signal(signal.SIGINT, answer)
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            advance(counter.value - shown)
            shown = counter.value
            for future in finished:
                future.result()
    except BrokenProcessPool as error:
        raise TransientError(
            f"{job.stage}: a worker died (killed, or out of memory); finished shards are kept: run the same command "
            "again, with fewer --workers if memory ran out"
        ) from error
    except BaseException:
        # Nobody waits for the rest; what is finished is kept.
        for worker in multiprocessing.active_children():
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a pool process holds between shards."""

    current: ClassVar[_Worker]

    def __init__(self, make_step: Callable[[], Step], folder: Path, counter: Any) -> None:
        self.make_step, self.folder, self.counter = make_step, folder, counter
        self.step: Step | None = None

    def work(self, task: Task) -> None:
        # The step is built here and not when the worker starts: an error there would only say that a worker died.
        if self.step is None:
            self.step = self.make_step()
        _make_shard(self.step, task, self.folder, self.count)

    def count(self, n: int) -> None:
        with self.counter.get_lock():
            self.counter.value += n


def _start_worker(make_step: Callable[[], Step], folder: Path, counter: Any) -> None:
    _use_one_thread()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    _Worker.current = _Worker(make_step, folder, counter)


def _use_one_thread() -> None:
    # More threads change the last bits of sums, and make busy cores slower. The environment is for what is not
    # imported yet (make_step imports torch), the calls for what is: numpy surely, torch perhaps.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _die_with(parent: Any) -> None:
    # A killed parent leaves workers waiting for ever on a pipe that they hold open themselves.
    parent.join()
    os._exit(1)


def _work(task: Task) -> None:
    _Worker.current.work(task)


# --- publishing ------------------------------------------------------------------------------------------------------


def _publish(job: Job, done_folder: Path) -> dict[str, Any]:
    marks = [json.loads(_mark_path(done_folder, task).read_bytes()) for task in job.tasks]
    drops = [Drop(**{**drop, "reason": Reason(drop["reason"])}) for mark in marks for drop in mark["drops"]]
    lines = [Line(**line) for mark in marks for line in mark["lines"]]
    counts = _counts(job, marks, drops)
    _check_drop_share(job, counts, drops)
    if not counts["out"] and not job.may_be_empty:
        raise ContractError(f"{job.stage}: not one sample came out of {counts['in']}; dropped: {counts['dropped']}")
    manifest = {**job.manifest(), "counts": counts}
    staged = job.work / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for mark in marks:
        link_or_copy(done_folder / mark["entry"]["name"], staged / mark["entry"]["name"])
    write_folder_index(staged, [ShardEntry(**mark["entry"]) for mark in marks])
    write_bytes(staged / "drops.jsonl", encode_jsonl(asdict(drop) for drop in drops))
    for name in sorted({line.file for line in lines} | set(job.side_files)):
        write_bytes(staged / name, encode_jsonl(line.value for line in lines if line.file == name))
    write_bytes(staged / MANIFEST_NAME, pretty_json(manifest))
    publish_folder(staged, job.out, job.work / "retired")
    for stale in job.work.iterdir():
        if stale.is_dir() and stale != done_folder:
            shutil.rmtree(stale, ignore_errors=True)
    return manifest


def publish_files(stage: str, out: Path, *, work: Path, files: Mapping[str, bytes], dry_run: bool = False) -> None:
    """Publish a folder of small files at once: for stages that read everything and write little.

    Args:
        stage: its name, for messages.
        out: the folder to replace.
        work: its scratch folder.
        files: content by file name.
        dry_run: only say what would be written.
    """
    if dry_run:
        print(f"{stage}: would write {', '.join(files)} into {out}")
        return
    with only_run(work, out):
        staged = work / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        for name, data in files.items():
            write_bytes(staged / name, data)
        publish_folder(staged, out, work / "retired")


def _counts(job: Job, marks: Sequence[Mapping[str, Any]], drops: Sequence[Drop]) -> dict[str, Any]:
    return {
        "in": sum(task.num_items for task in job.tasks),
        "used": sum(mark["used"] for mark in marks),
        "dropped": dict(sorted(count_drops(drop for drop in drops if drop.clip is None).items())),
        "out": sum(mark["entry"]["num_samples"] for mark in marks),
        "clips_dropped": dict(sorted(count_drops(drop for drop in drops if drop.clip is not None).items())),
    }


def _check_drop_share(job: Job, counts: Mapping[str, Any], drops: Sequence[Drop]) -> None:
    bad = [drop for drop in drops if drop.clip is None and drop.reason not in NORMAL_REASONS]
    if len(bad) > job.max_drop_share * counts["in"]:
        name = job.stage.split()[0]
        raise ContractError(
            f"{job.stage}: {len(bad)} of {counts['in']} items dropped, {name}.max_drop_share allows "
            f"{job.max_drop_share:.0%}; the first: {bad[0].item}: {bad[0].reason} {bad[0].detail}; mend them, or "
            f"--set {name}.max_drop_share=1"
        )
