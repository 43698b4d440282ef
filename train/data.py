"""Packed shards as episodes, in an order that is a function of the seed; and where chance comes from.

Shape letters: K codebooks, T frames, S columns, N examples, D embedding.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.epochs import Plan, planned_sample
from pipeline.data.reading import FetchedShards, LocalShards
from pipeline.data.shards import Sample, decode_json, decode_npy
from pipeline.errors import ContractError
from train.inputs import Source, label_digest

NUM_PROBED = 64
"""Samples looked at to learn what all hold; pack gives all samples the same number of examples if it can."""


class CodecShape(NamedTuple):
    """What shards and model must agree on; the names of the codec stamp."""

    num_codebooks: int
    codebook_size: int
    frame_rate_hz: float
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class Episode:
    """A packed sample as training and evaluation use it."""

    key: str
    caption: str
    """The target's caption that the prompt was made from."""
    target_KT: NDArray[np.uint16]
    examples_KT: list[NDArray[np.uint16]]
    """In prompt order, nearest last."""
    prompts: list[str | None]
    """One per example, then the target's; None is the null prompt."""
    codec_sha256: str | None = None
    """Weights of the codec that made the codes; None where pack did not say."""
    embedder_sha256: str | None = None
    """Weights of the embedder that chose the examples; None where pack did not say."""
    captions: tuple[str, ...] = ()
    """All captions of the target."""
    clap_ND: NDArray[np.float16] | None = None
    """CLAP's audio embedding of each example, in prompt order."""


First = tuple[Source, dict[str, Any], Episode]
"""Where a sample lies, its json, and what was made of it."""


class Stamped(Protocol):
    """Samples whose stamps can be checked."""

    def first_samples(self) -> Iterable[First]:
        """One sample of every kind that there may be."""
        ...


class Planned(Protocol):
    """Episodes in the order of a training."""

    def planned(self, position: int, seed: int) -> Episode:
        """The episode at a position of the endless sequence of epochs."""
        ...


class NoSampleError(ContractError):
    """Tars that hold no sample at all."""


class PackedShards:
    """Random access to the episodes of packed tars, checked against the model's codec; from any thread.

    Args:
        paths: local tars; or addresses, whose samples are read into memory first.
        codec: what the model reads.
        limit: only the first so many samples.

    Raises:
        NoSampleError: no sample at all.
        ContractError: a damaged tar.
    """

    def __init__(self, paths: Sequence[Source], codec: CodecShape, *, limit: int | None = None) -> None:
        self.shards = _open_tars(paths, limit)
        self.codec = codec
        self._opening = threading.Lock()
        self._len = len(self.shards) if limit is None else min(limit, len(self.shards))
        if self._len == 0:
            names = ", ".join(map(str, paths)) or "no tar"
            raise NoSampleError(f"{names}: not one sample; `python -m stages.pack` makes them, its drops say why not")

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, i: int) -> Episode:
        shard, number = self.shards.find(i)
        with self._opening:
            sample = self.shards.shard(shard)[number]
        return read_episode(sample, self.codec, where=self.shards.paths[shard])

    def planned(self, position: int, seed: int) -> Episode:
        """The episode at a position of the endless sequence of exact epochs that a seed stands for."""
        return self[sample_at(position, len(self), seed)]

    def probe(self) -> list[Episode]:
        """Some episodes, to learn what all hold."""
        return [self[i] for i in range(min(NUM_PROBED, len(self)))]

    def first_samples(self) -> Iterator[First]:
        """The first sample of every shard that has one, with its json: what holds for it holds for its shard.

        Raises:
            ContractError: it is no packed sample, or none of this codec.
        """
        for number, entry in enumerate(self.shards.entries):
            if entry.num_samples:
                path, sample = self.shards.paths[number], self.shards.shard(number)[0]
                episode = read_episode(sample, self.codec, where=path)
                yield path, decode_json(sample.members["json"]), episode

    def check_train(self) -> None:
        """Refuse to train on other splits: see `check_train`."""
        check_train(self)

    def check_codec(self, codec: str) -> None:
        """Refuse shards whose codes another codec made, even where all its sizes agree.

        Args:
            codec: label of the codec that is to decode them.

        Raises:
            ContractError: another one made them; where pack did not say which, nothing is known against it.
        """
        for path, _, episode in self.first_samples():
            made_by = episode.codec_sha256
            if made_by not in (None, label_digest(codec)):
                raise ContractError(
                    f"{path}: codes of a codec with weights {made_by}, models.codec is {codec}; "
                    "set models.codec to the codec of stages.encode, or encode and pack again"
                )


def _open_tars(paths: Sequence[Source], limit: int | None) -> LocalShards | FetchedShards:
    urls = [path for path in paths if isinstance(path, str)]
    return FetchedShards(urls, limit=limit) if urls else LocalShards([Path(path) for path in paths])


def check_train(shards: Stamped) -> None:
    """Refuse to train on what evaluation will be measured on: a folder of shards holds val and test too.

    Raises:
        ContractError: a shard says that its samples are not of the train split.
    """
    for path, meta, _ in shards.first_samples():
        split = meta.get("split", "train")
        if split != "train":
            name = f"{path.parent}/train-*.tar" if isinstance(path, Path) else "...train-{000000..000003}.tar"
            raise ContractError(f"{path}: holds the split {split}; train on train shards alone: --shards '{name}'")


def read_episode(sample: Sample, codec: CodecShape, *, where: Source) -> Episode:
    """Decode one packed sample.

    Args:
        sample: members `json`, `target.npy`, `examples.npy`, `clap.npy`.
        codec: what the model reads.
        where: the shard, for messages.

    Raises:
        ContractError: a member is missing or contradicts another, or another codec made the codes.
    """
    try:
        meta = decode_json(sample.members["json"])
        target_KT = decode_npy(sample.members["target.npy"])
        flat_KS = decode_npy(sample.members["examples.npy"])
        lengths = [int(example["num_frames"]) for example in meta["examples"]]
        captions = tuple(caption["text"] for caption in meta["captions"])
        caption = captions[meta["caption_index"]]
        clap_ND = decode_npy(sample.members["clap.npy"])[1:, 1]
        prompts = [*(example["prompt"] for example in meta["examples"]), meta["prompt"]]
        stamp = tuple(meta["codec"][name] for name in CodecShape._fields)
        made_by = {
            "codec_sha256": meta["codec"].get("weights_sha256"),
            "embedder_sha256": (meta["strategy"].get("embedder") or {}).get("weights_sha256"),
        }
    except ContractError as error:
        raise ContractError(f"{where}: {sample.key}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"{where}: {sample.key} is no packed sample ({error!r}); pack it again") from error
    _check_shape(stamp, codec, what=f"{where}: {sample.key}")
    frames = [target_KT.shape[-1], *lengths]
    misfit = flat_KS.shape[-1] != sum(lengths) or min(frames) < 1 or len(clap_ND) != len(lengths)
    if misfit or _out_of_range(target_KT, codec) or _out_of_range(flat_KS, codec):
        raise ContractError(f"{where}: codes of {sample.key} do not fit its json; pack it again")
    ends = list(accumulate(lengths))
    examples_KT = [flat_KS[:, end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return Episode(sample.key, caption, target_KT, examples_KT, prompts, captions=captions, clap_ND=clap_ND, **made_by)


def _check_shape(stamp: tuple[Any, ...], codec: CodecShape, *, what: str) -> None:
    if stamp != tuple(codec):
        raise ContractError(
            f"{what} holds codes of another codec: "
            f"{dict(zip(CodecShape._fields, stamp, strict=True))}, the model reads {codec._asdict()}; "
            "encode with the codec of models.generator, or change the model"
        )


def _out_of_range(codes_KT: NDArray[Any], codec: CodecShape) -> bool:
    # A code beyond the codebook would be read as a pad or a separator, without an error.
    wrong_shape = codes_KT.ndim != 2 or codes_KT.shape[0] != codec.num_codebooks
    return wrong_shape or (codes_KT.size > 0 and int(codes_KT.max()) >= codec.codebook_size)


def sample_at(position: int, num_samples: int, seed: int) -> int:
    """Index of the sample at a position of the endless sequence of exact epochs."""
    return planned_sample(Plan(seed=seed), position, num_samples)


def key_random(seed: int, step: int, key: str) -> np.random.Generator:
    """Random numbers that depend on seed, step and key, and on nothing else."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, step, int.from_bytes(digest, "big")])
