"""Readers of packed shards: local tars through memory maps, pipes and object stores through stock webdataset.

Both give the samples of a plan to a seat, and both tell in a small dict where they stand:

    reader = open_reader(["shards/pack/semantic/train-*.tar"], Plan(seed=1))
    for sample in reader: ...            # the rest of an exact epoch; without end if resampled
    state = reader.state()
    reader = open_reader([...], Plan(seed=1), state=state)      # goes on with the sample after that

Local tars are read sample by sample: by any number of workers and ranks, also by another one after resuming, and going
on after n samples reads nothing of the n. A stream is read shard by shard: an exact epoch needs a shard for every seat,
and going on reads the shard in hand once more. Addresses that webdataset does not open (`s3://`) are opened by fsspec.
"""

from __future__ import annotations

import os
import re
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.data.epochs import Plan, Seat, planned_sample, planned_shard, shuffle_stream, turns_per_epoch
from pipeline.data.provenance import digest_of
from pipeline.data.shards import STREAM, Sample, ShardEntry, ShardFile, entry_of, expand_braces, expand_shards
from pipeline.errors import ContractError, ParamsError, TransientError

MAX_OPEN_SHARDS = 128
"""Maps kept open; each holds a file descriptor, of which a process has 1,024 by default."""
DIGEST_LETTERS = 16
BUFFER_SAMPLES = 1000
"""Samples of one shard that a stream shuffles at once."""
CHUNK_BYTES = 1 << 20
STOPPED_BY_US = [0, -13, 141, 23]
"""How a command ends whose output nobody reads on: SIGPIPE, as itself or told by a shell; curl's word for it."""

State = dict[str, Any]


class Reader(Protocol):
    """What local and streamed shards have in common."""

    def __iter__(self) -> Iterator[Sample]:
        """Give what is left of the exact epoch under way, a whole one after that; or samples without end."""
        ...

    def state(self) -> State:
        """Where the reader stands, as JSON: `open_reader` goes on from there with the next sample."""
        ...


class LocalShards:
    """Random access to the samples of local tars, which are opened when they are first touched.

    Args:
        paths: tars with an index beside them; others are scanned.

    Raises:
        ContractError: a tar is missing, damaged in its headers, or not the one that its index describes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.entries: list[ShardEntry] = [entry_of(path) for path in self.paths]
        self._ends = np.cumsum([entry.num_samples for entry in self.entries], dtype=np.int64)
        self._open: OrderedDict[int, ShardFile] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.paths else 0

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard, number = self.find(i)
        return self.shard(shard)[number]

    def find(self, i: int) -> tuple[int, int]:
        """Number of the shard that holds sample i, and the sample's number in it."""
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - (int(self._ends[shard - 1]) if shard else 0)

    def shard(self, number: int) -> ShardFile:
        """One of the shards, opened if it is not; views of one that was closed stay good."""
        if number not in self._open:
            self._open[number] = ShardFile(self.paths[number], self.entries[number])
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[number]

    @cached_property
    def digest(self) -> str:
        """Names the samples and their order: what a state is good for."""
        facts = [[entry.name, entry.sha256 or entry.num_bytes, entry.num_samples] for entry in self.entries]
        return digest_of(facts)[:DIGEST_LETTERS]

    def __reduce__(self) -> tuple[Any, ...]:
        # Maps do not travel to spawned workers; each opens its own.
        return LocalShards, (self.paths,)


class FetchedShard(NamedTuple):
    """How many samples a streamed shard gave."""

    num_samples: int


class FetchedShards:
    """The samples of streamed shards, read once into memory, with the random access of local ones.

    For sets that are read again and again, or in part: validation, evaluation. A sample is some kilobytes.

    Args:
        urls: their addresses, read in this order.
        limit: stop after so many samples.
    """

    def __init__(self, urls: Sequence[str], *, limit: int | None = None) -> None:
        self.paths = list(urls)
        self._samples: list[list[Sample]] = []
        for url in self.paths:
            left = None if limit is None else limit - sum(map(len, self._samples))
            self._samples.append([] if left == 0 else list(islice(stream_shard(url), left)))
        self.entries = [FetchedShard(len(samples)) for samples in self._samples]
        self._ends = np.cumsum([len(samples) for samples in self._samples], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.paths else 0

    def find(self, i: int) -> tuple[int, int]:
        """Number of the shard that holds sample i, and the sample's number in it."""
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - (int(self._ends[shard - 1]) if shard else 0)

    def shard(self, number: int) -> list[Sample]:
        """The samples of one of the shards."""
        return self._samples[number]


class LocalReader:
    """Reads local tars by position: sample p of the plan belongs to seat p modulo the number of seats."""

    def __init__(self, shards: LocalShards, plan: Plan, seat: Seat | None, states: Sequence[State]) -> None:
        self.shards, self.plan, self.seat = shards, plan, seat
        # Seats that stopped one apart, in the last round of an epoch or by a kill: none skips a sample.
        self._start = min((_position(state, plan, shards.digest) for state in states), default=0)
        self._read = 0
        self._check()

    def _check(self) -> Seat:
        seat = self.seat or seat_here()
        seat.check_enough(len(self.shards), "samples")
        return seat

    def __iter__(self) -> Iterator[Sample]:
        seat, size = self._check(), len(self.shards)
        self._start, self._read = self._position(seat), 0
        end = (self._start // size + 1) * size if self.plan.mode == "exact" else None
        position = self._start + seat.number
        while end is None or position < end:
            self._read += 1
            yield self.shards[planned_sample(self.plan, position, size)]
            position += seat.num_seats
        self._start, self._read = end, 0

    def _position(self, seat: Seat) -> int:
        position = self._start + self._read * seat.num_seats
        if self.plan.mode == "exact":
            # The last round of an epoch may leave some seats without a sample; the next epoch begins for all at once.
            position = min(position, (self._start // len(self.shards) + 1) * len(self.shards))
        return position

    def state(self) -> State:
        """Where all seats stand when each has read as much as this one: one state for all of them."""
        position = self._position(self.seat or seat_here())
        return _plan_facts(self.plan, self.shards.digest) | {"position": position}


def _plan_facts(plan: Plan, digest: str) -> State:
    return {"mode": plan.mode, "order": plan.order, "seed": plan.seed, "shards": digest}


def _position(state: Mapping[str, Any], plan: Plan, digest: str) -> int:
    _check_state(state, _plan_facts(plan, digest))
    return int(state["position"])


def _check_state(state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    other = [name for name, value in facts.items() if state.get(name) != value]
    if other:
        told = ", ".join(f"{name} {state.get(name)} for {facts[name]}" for name in other)
        raise ContractError(f"a reader's state from another reading ({told}); begin anew, or read what it was made of")


class StreamReader:
    """Reads pipes and object stores by whole shards, through stock webdataset."""

    def __init__(self, urls: Sequence[str], plan: Plan, seat: Seat | None, states: Sequence[State]) -> None:
        self.urls, self.plan, self.seat = list(urls), plan, seat
        self._turn, self._read = 0, 0
        self._states = list(states)
        self._check()

    def _check(self) -> Seat:
        seat = self.seat or seat_here()
        if self.plan.mode == "exact":
            seat.check_enough(len(self.urls), "streamed shards")
        return seat

    def _facts(self, seat: Seat) -> State:
        facts = _plan_facts(self.plan, digest_of(self.urls)[:DIGEST_LETTERS])
        return facts | {"seat": seat.number, "num_seats": seat.num_seats}

    def _go_on(self, seat: Seat) -> None:
        if self._states:
            own = next((state for state in self._states if state.get("seat") == seat.number), self._states[0])
            _check_state(own, self._facts(seat))
            self._turn, self._read, self._states = int(own["turn"]), int(own["read"]), []

    def __iter__(self) -> Iterator[Sample]:
        seat = self._check()
        self._go_on(seat)
        empty: set[str] = set()
        while True:
            skip, number = self._read, -1
            for number, sample in enumerate(self._shard(seat, self._turn)):
                if number >= skip:
                    self._read = number + 1
                    yield sample
            if number < 0 and self.plan.mode == "resampled":
                # Without end, and without a sample: nobody would ever come back.
                empty.add(self.shard_in_hand())
                if len(empty) == len(set(self.urls)):
                    raise ContractError(f"{self.urls[0]}: not one sample in {len(self.urls)} streamed shards")
            self._turn, self._read = self._turn + 1, 0
            if self.plan.mode == "exact" and self._turn % turns_per_epoch(seat, len(self.urls)) == 0:
                return

    def shard_in_hand(self) -> str:
        """Address of the shard that the last sample came from."""
        return self.urls[planned_shard(self.plan, self.seat or seat_here(), self._turn, len(self.urls))]

    def _shard(self, seat: Seat, turn: int) -> Iterator[Sample]:
        url = self.urls[planned_shard(self.plan, seat, turn, len(self.urls))]
        buffer_samples = BUFFER_SAMPLES if self.plan.order == "shuffled" else 1
        return shuffle_stream(stream_shard(url), buffer_samples, seed=f"{self.plan.seed}:{seat.number}:{turn}")

    def state(self) -> State:
        """Where this seat stands; every seat of a stream has a state of its own."""
        seat = self.seat or seat_here()
        self._go_on(seat)
        return self._facts(seat) | {"turn": self._turn, "read": self._read}


def stream_shard(url: str) -> Iterator[Sample]:
    """Read one shard from its beginning to its end by stock webdataset.

    Args:
        url: whatever webdataset or fsspec opens: `pipe:aws s3 cp s3://bucket/a.tar -`, an address, a path.

    Raises:
        ContractError: what comes is no tar, or breaks off in a member.
        ParamsError: nobody knows how to open it.
        TransientError: the command failed, or the place does not answer.
    """
    from webdataset.gopen import set_options
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with _open_stream(url) as stream:
            set_options(stream, ignore_status=STOPPED_BY_US)
            for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                members = {name: data for name, data in sample.items() if not name.startswith("__")}
                yield Sample(sample["__key__"], members)
            # To the end, for the command's own verdict: a download that broke off between two members is a failure.
            while stream.read(CHUNK_BYTES):
                pass
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ContractError(f"{url}: not a whole tar ({_first_line(error)}); make or copy it again") from error
    except OSError as error:
        raise TransientError(f"{url}: cannot be read ({_first_line(error)}); try again, or mend the address") from error


def _open_stream(url: str) -> AbstractContextManager[Any]:
    from webdataset.gopen import gopen, gopen_schemes

    scheme = url.partition(":")[0]
    # Stock webdataset asks a store's own program for gs:// and the like, and knows no s3://.
    if "://" not in url or scheme == "file" or scheme in gopen_schemes:
        return gopen(url, mode="rb")
    import fsspec

    try:
        store, path = fsspec.url_to_fs(url)
        return store.open(path, "rb")
    except (ImportError, ValueError) as error:
        program = f"aws s3 cp {url} -" if scheme == "s3" else f"PROGRAM {url}"
        raise ParamsError(
            f"{url}: cannot be opened ({_first_line(error)}); or let a program read it: 'pipe:{program}'"
        ) from error
    except OSError:
        raise
    except Exception as error:
        # Stores have error classes of their own (no credentials, no such host), and their packages may not be here.
        raise TransientError(f"{url}: cannot be read ({_first_line(error)}); try again, or mend the address") from error


def _first_line(error: Exception) -> str:
    line = str(error.args[0] if error.args else error).partition("\n")[0]
    # Stock webdataset adds how it called a command: all of it, and nothing that the address does not say.
    ended = re.search(r"\}\): exit (-?\d+) \(", line)
    return f"the command ended with exit code {ended[1]}" if ended else line.partition(" @ <")[0]


def seat_here() -> Seat:
    """The seat of this process, found as stock webdataset finds it: the environment, torch's ranks, torch's worker."""
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    # Whoever has ranks or workers of torch has imported it: no reason to load it here.
    distributed, data = sys.modules.get("torch.distributed"), sys.modules.get("torch.utils.data")
    if "WORLD_SIZE" not in os.environ and distributed and distributed.is_available() and distributed.is_initialized():
        rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    info = data.get_worker_info() if data is not None else None
    worker, num_workers = (info.id, info.num_workers) if info is not None else (0, 1)
    return Seat(rank=rank, num_ranks=num_ranks, worker=worker, num_workers=num_workers)


def open_reader(
    spec: str | Sequence[str],
    plan: Plan | None = None,
    *,
    seat: Seat | None = None,
    state: State | Sequence[State] = (),
) -> Reader:
    """Open shards for reading: local tars by our own reader, everything else by stock webdataset.

    Args:
        spec: a brace pattern, a glob, a folder, a path, a pipe, an address, or a list of these; all local, or none.
        plan: order of the samples; exact, shuffled epochs by default.
        seat: who reads; by default found where the reading happens, as in a torch DataLoader's worker.
        state: what an earlier reader of the same shards by the same plan gave, or for streams those of all seats;
            nothing begins at the beginning.

    Raises:
        ContractError: fewer samples (local) or shards (streamed) than seats; a damaged tar; another reading's state.
        ParamsError: a pattern that matches nothing.
    """
    patterns = [spec] if isinstance(spec, str) else list(spec)
    plan, states = plan or Plan(), [dict(state)] if isinstance(state, dict) else list(state)
    if any(STREAM.match(pattern) for pattern in patterns):
        urls = [url for pattern in patterns for url in expand_braces(pattern)]
        return StreamReader(urls, plan, seat, states)
    return LocalReader(LocalShards(expand_shards(patterns)), plan, seat, states)


def stock_samples(reader: Reader) -> Iterator[dict[str, Any]]:
    """Give samples as stock webdataset does: one dict with `__key__` and the bytes of each member."""
    for sample in reader:
        yield {"__key__": sample.key} | {name: bytes(data) for name, data in sample.members.items()}
