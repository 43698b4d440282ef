"""Numbered batches for a training: from local tars or streams, made when they are asked for or ahead by threads.

Batch i of local tars is a function of seed and settings. That of a stream is what the reader gives after all batches
before it: an order that seed, addresses and the number of processes fix. A checkpoint keeps where the reader stood (a
few hundred bytes), so that a run that goes on reads the shard in hand once more, and none of those before it.

Whatever the number of threads, the batches are the same. No generator of Python, numpy or torch that others use is
touched.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.data.epochs import Plan, Seat
from pipeline.data.reading import StreamReader, seat_here
from pipeline.data.shards import Sample, decode_json
from pipeline.data.storage import write_bytes
from pipeline.errors import ContractError, TransientError
from train.checkpoint import newest_step, stream_name
from train.data import (
    CodecShape,
    Episode,
    First,
    NoSampleError,
    PackedShards,
    Planned,
    Stamped,
    check_train,
    read_episode,
)
from train.inputs import Source
from train.stamps import FirstSamples, check_clap_vectors, check_one_codec

if TYPE_CHECKING:
    from train.icl.batches import Batch
    from train.params import TrainParams

RETRY_AFTER_S = (1.0, 10.0, 60.0)
"""A stream that breaks off is opened anew so often, after these waits."""
BATCHES_PER_WORKER = 2
"""How far threads work ahead."""


class Training(Planned, Stamped, Protocol):
    """What a training reads from: local or streamed."""

    def probe(self) -> list[Episode]:
        """Some episodes, to learn what all hold."""
        ...


class StreamedEpisodes:
    """Episodes in the order in which streams give them, by position; from any thread.

    What lies before the positions still in use is forgotten, so a position that was passed cannot be asked for again.
    Every sample whose stamps were not seen before is checked as all shards are where they lie here.

    Args:
        urls: addresses of the shards.
        codec: what the model reads.
        params: settings; `seed` and `stream_mode` make the plan.
        seat: which of the shards this process reads.
        state: of an earlier reading, to go on from.

    Raises:
        ContractError: fewer shards than processes.
    """

    def __init__(
        self, urls: Sequence[str], codec: CodecShape, params: TrainParams, *, seat: Seat, state: dict[str, Any] | None
    ) -> None:
        state = state or {"position": 0, "reader": [], "seen": []}
        self._urls, self._codec, self._params, self.seat = list(urls), codec, params, seat
        self._plan = Plan(mode=params.stream_mode, seed=params.seed)
        self._pool_samples = params.batch_size * params.bucket_batches
        self._first = int(state["position"])
        """Position of the first episode that is kept."""
        self._episodes: deque[Episode] = deque()
        self._states: dict[int, Any] = {}
        """Where the reader stood before the first episode of each pool that is kept."""
        self._seen: list[dict[str, Any]] = list(state["seen"])
        self._reading = threading.RLock()
        self._open(state["reader"])

    def _open(self, state: Any) -> None:
        self._reader = StreamReader(self._urls, self._plan, self.seat, [state] if state else [])
        self._samples = self._endless(self._reader)

    def _endless(self, reader: StreamReader) -> Iterator[Sample]:
        num_empty = 0
        # The rest of an epoch may be empty after a checkpoint at its end; a whole one is a mistake.
        while num_empty < 2:
            num_empty += 1
            for sample in reader:
                num_empty = 0
                yield sample
        raise ContractError(
            f"{stream_name(self._urls[0])}: not one sample in {len(self._urls)} streamed shards; pack again, or mend "
            "--shards"
        )

    def planned(self, position: int, seed: int) -> Episode:
        """The episode at a position; of this seed alone."""
        with self._reading:
            if seed != self._params.seed or position < self._first:
                where = stream_name(self._urls[0])
                raise ContractError(f"{where}: position {position} of a stream was passed; go on from a checkpoint")
            while position >= self._first + len(self._episodes):
                self._pull()
            return self._episodes[position - self._first]

    def _pull(self) -> None:
        position = self._first + len(self._episodes)
        if position % self._pool_samples == 0:
            self._states[position] = self._reader.state()
        sample = self._next_sample()
        where = self._reader.shard_in_hand()
        episode = read_episode(sample, self._codec, where=where)
        self._check((where, decode_json(sample.members["json"]), episode))
        self._episodes.append(episode)

    def _next_sample(self) -> Sample:
        state = self._reader.state()
        # An address that never answered is a wrong one: not waited for.
        for wait_s in RETRY_AFTER_S if self._seen else ():
            try:
                return next(self._samples)
            except TransientError:
                time.sleep(wait_s)
                self._open(state)
        return next(self._samples)

    def _check(self, first: First) -> None:
        facts = _facts(first)
        if any(facts["stamps"] == seen["stamps"] for seen in self._seen):
            return
        both = FirstSamples(*map(_first_of, self._seen), first)
        check_train(both)
        check_one_codec(both)
        check_clap_vectors(both, self._params)
        self._seen.append(facts)

    def first_samples(self) -> list[First]:
        """The first sample that comes; those after it are checked as they come."""
        self.probe()
        return [_first_of(facts) for facts in self._seen]

    def probe(self) -> list[Episode]:
        """The first episode that comes."""
        return [self.planned(self._first, self._params.seed)]

    def forget(self, position: int) -> None:
        """Let go of what lies before a position."""
        with self._reading:
            while self._episodes and self._first < position:
                self._episodes.popleft()
                self._first += 1
            self._states = {start: state for start, state in self._states.items() if start >= position}

    def state(self, position: int) -> dict[str, Any]:
        """What to go on with at the first position of a pool that is kept, or at the next one to be read."""
        with self._reading:
            is_next = position == self._first + len(self._episodes)
            reader = self._reader.state() if is_next else self._states[position]
            return {"position": position, "reader": reader, "seen": list(self._seen)}


def _facts(first: First) -> dict[str, Any]:
    """What the checks look at, as JSON: a checkpoint keeps it, so that what follows is checked against it."""
    where, meta, episode = first
    width = None if episode.clap_ND is None else episode.clap_ND.shape[-1]
    stamps = [meta.get("split", "train"), meta["codec"], episode.embedder_sha256, width]
    return {"where": str(where), "stamps": json.loads(json.dumps(stamps))}


def _first_of(facts: dict[str, Any]) -> First:
    split, codec, embedder, width = facts["stamps"]
    clap_ND = None if width is None else np.zeros((0, width), np.float16)
    nothing_KT = np.zeros((0, 0), np.uint16)
    episode = Episode("", "", nothing_KT, [], [], embedder_sha256=embedder, clap_ND=clap_ND)
    return facts["where"], {"split": split, "codec": codec}, episode


class LookAhead:
    """Makes things by number, ahead of the one who asks, who asks for them in order.

    Args:
        make: makes thing i; called from several threads at once.
        num_workers: threads.
        step: distance of the numbers that are asked for.
        end: numbers from here on are never asked for.
    """

    def __init__(self, make: Callable[[int], Any], num_workers: int, *, step: int = 1, end: int) -> None:
        self._make, self._step, self._end = make, step, end
        self._ahead = range(0, (1 + BATCHES_PER_WORKER * num_workers) * step, step)
        self._orders: queue.SimpleQueue[tuple[int, Future[Any]] | None] = queue.SimpleQueue()
        self._made: dict[int, Future[Any]] = {}
        # Daemons: a pipe that hangs must not keep a run from leaving.
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            number, future = order
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._make(number))
                except BaseException as error:  # noqa: BLE001 - raised again where the thing is asked for
                    future.set_exception(error)

    def __call__(self, i: int) -> Any:
        """Thing i; what stopped its making is raised here."""
        self._made = {number: future for number, future in self._made.items() if number >= i}
        for number in (i + more for more in self._ahead):
            if number not in self._made and (number < self._end or number == i):
                self._made[number] = Future()
                self._orders.put((number, self._made[number]))
        return self._made.pop(i).result()

    def close(self) -> None:
        """Stop; what was made and not asked for is lost."""
        for future in self._made.values():
            future.cancel()
        for _ in self._threads:
            self._orders.put(None)


class Loader:
    """The batches of a training.

    Args:
        paths: local tars, or addresses of streams.
        codec: what the model reads.
        params: settings.
        limit: only the first so many samples; streams are read into memory then.
        seat: which process this is; of several, each asks for every so many-th batch, and reads shards of its own.
        state: of a stream, to go on from.

    Raises:
        ContractError: the shards are none to train on; see `check_train`, `check_one_codec`, `check_clap_vectors`.
    """

    def __init__(
        self,
        paths: Sequence[Source],
        codec: CodecShape,
        params: TrainParams,
        *,
        limit: int | None = None,
        seat: Seat | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._params, self._codebook_size, self.seat = params, codec.codebook_size, seat or seat_here()
        urls = [path for path in paths if isinstance(path, str)]
        self.shards: Training
        self._stream: StreamedEpisodes | None = None
        if urls and limit is None:
            self.shards = self._stream = StreamedEpisodes(urls, codec, params, seat=self.seat, state=state)
        else:
            self.shards = PackedShards(paths, codec, limit=limit)
        check_train(self.shards)
        check_one_codec(self.shards)
        check_clap_vectors(self.shards, params)
        self._ahead: LookAhead | None = None
        if params.loader_workers:
            num_ranks = self.seat.num_ranks
            end = params.steps * params.accumulate * num_ranks
            self._ahead = LookAhead(self._make, params.loader_workers, step=num_ranks, end=end)

    def batch(self, i: int) -> Batch:
        """Batch i of the training, to be asked for in order."""
        if self._stream:
            self._stream.forget(self._pool_start(i))
        return self._ahead(i) if self._ahead else self._make(i)

    def _make(self, i: int) -> Batch:
        from train.icl import batches

        number = self._number(i)
        return batches.train_batch(self.shards, number, self._params, codebook_size=self._codebook_size)

    def _number(self, i: int) -> int:
        # A stream belongs to one process: its batches are counted by themselves.
        return i // self.seat.num_ranks if self._stream else i

    def _pool_start(self, i: int) -> int:
        pool = self._number(i) // self._params.bucket_batches
        return pool * self._params.bucket_batches * self._params.batch_size

    def state_at(self, step: int) -> dict[str, Any] | None:
        """What another loader needs to go on after so many steps, all of them done; None where the tars are local."""
        first = step * self._params.accumulate * self.seat.num_ranks
        return self._stream.state(self._pool_start(first)) if self._stream else None

    def close(self) -> None:
        """Stop working ahead."""
        if self._ahead:
            self._ahead.close()


def open_loader(
    paths: Sequence[Source], codec: CodecShape, params: TrainParams, *, limit: int | None, checkpoints: Path
) -> Loader:
    """Open the shards of a training where its newest checkpoint left them.

    Args:
        paths: local tars, or addresses of streams.
        codec: what the model reads.
        params: settings.
        limit: only the first so many samples.
        checkpoints: folder of checkpoints, and of the states of streams beside them.

    Raises:
        ContractError: the shards are none to train on, or a stream's state is missing or damaged.
    """
    seat, step, state = seat_here(), newest_step(checkpoints), None
    if step and limit is None and any(isinstance(path, str) for path in paths):
        state = _read_state(_state_file(checkpoints, step, seat))
    return Loader(paths, codec, params, limit=limit, seat=seat, state=state)


def save_state(checkpoints: Path, step: int, loader: Loader) -> None:
    """Keep where a stream stands, before the checkpoint of that step, which counts on it.

    Every process has a file of its own; the older ones go when their checkpoints have gone.
    """
    state = loader.state_at(step)
    if state is None:
        return
    checkpoints.mkdir(parents=True, exist_ok=True)
    for old in checkpoints.glob(f"reader-*-{loader.seat.rank}.json"):
        if not (checkpoints / f"step-{old.name.split('-')[1]}").exists():
            old.unlink()
    write_bytes(_state_file(checkpoints, step, loader.seat), json.dumps(state).encode())


def _state_file(checkpoints: Path, step: int, seat: Seat) -> Path:
    return checkpoints / f"reader-{step:06d}-{seat.rank}.json"


def _read_state(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(
            f"{path}: does not tell where the stream stood; go on with as many processes as before, or delete "
            f"{path.parent} to begin anew"
        ) from error


def open_validation(
    paths: Sequence[Source], codec: CodecShape, params: TrainParams, *, limit: int | None
) -> PackedShards | None:
    """Open the validation shards; None, and a word of it, where they hold no sample.

    Of streams, only what is read of them is fetched.
    """
    if not paths:
        if params.validate_every_steps or params.num_samples:
            print(
                "train.validate_every_steps, num_samples: no --val names tars, so neither has an effect",
                file=sys.stderr,
            )
        return None
    if isinstance(paths[0], str) and params.validation_batches:
        num_read = max(params.validation_batches * params.batch_size, params.num_samples)
        limit = num_read if limit is None else min(limit, num_read)
    try:
        return PackedShards(paths, codec, limit=limit)
    except NoSampleError:
        print("--val: no sample to validate on in these tars; training without", file=sys.stderr)
        return None
