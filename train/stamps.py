"""Whether packed shards belong together, and to the models at hand, by the stamps that these left in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import ContractError
from train.inputs import Source

if TYPE_CHECKING:
    from train.data import First, Stamped
    from train.params import TrainParams

IDENTITY = ("weights_sha256", "golden_sha256")
"""What tells codecs of one shape apart: their weights, and what they make of a golden clip here and there."""


class FirstSamples:
    """Samples to be compared with one another."""

    def __init__(self, *firsts: First) -> None:
        self._firsts = firsts

    def first_samples(self) -> tuple[First, ...]:
        """These."""
        return self._firsts


def codec_stamps(shards: Stamped) -> dict[Source, dict[str, Any]]:
    """The codec's stamp in the first sample of each shard; empty shards are left out."""
    return {path: meta["codec"] for path, meta, _ in shards.first_samples()}


def check_one_codec(shards: Stamped) -> None:
    """Refuse shards of different codecs, though all sizes agree: their codes mean different sounds.

    Raises:
        ContractError: names a shard and what it differs in; where pack did not say, nothing is known against it.
    """
    stamps = codec_stamps(shards)
    for name in IDENTITY:
        _check_one(
            {path: stamp.get(name) for path, stamp in stamps.items()},
            f"codec's {name}",
            "encode and pack all corpora with one codec, on one kind of machine",
        )


def check_clap_vectors(shards: Stamped, params: TrainParams) -> None:
    """Refuse CLAP vectors that the model cannot read, where it is shown them: too wide, or of different embedders.

    Raises:
        ContractError: names a shard; where pack did not say which embedder it was, nothing is known against it.
    """
    if not params.form.shows_clap:
        return
    embedders: dict[Source, str | None] = {}
    for path, _, episode in shards.first_samples():
        width = 0 if episode.clap_ND is None else episode.clap_ND.shape[-1]
        if width != params.clap_dim:
            raise ContractError(
                f"{path}: holds CLAP vectors of width {width}, train.clap_dim is {params.clap_dim}; train with theirs"
            )
        embedders[path] = episode.embedder_sha256
    _check_one(embedders, "embedder's weights_sha256", "embed and pack all corpora with one embedder")


def check_validation(train: Stamped, val: Stamped, params: TrainParams) -> str | None:
    """Refuse validation shards that the model reads otherwise than those it trains on, before hours are spent on it.

    Returns:
        A line where the loss on them is no figure to judge the training by; else None.

    Raises:
        ContractError: another codec or embedder made them; or they are of the test split, and would choose the weights.
    """
    held_out = list(val.first_samples())
    both = FirstSamples(*train.first_samples(), *held_out)
    check_one_codec(both)
    check_clap_vectors(both, params)
    for path, meta, _ in held_out:
        split = meta.get("split", "val")
        if split == "test" and params.publish == "best":
            raise ContractError(
                f"{path}: holds the split test, and train.publish best would choose the weights by it; name val tars, "
                "or publish the last"
            )
        if split != "val":
            return f"--val: {path} holds the split {split}; its loss is no figure to choose settings by"
    return None


def _check_one(values: Mapping[Source, str | None], what: str, advice: str) -> None:
    known = [(path, value) for path, value in values.items() if value]
    for path, value in known:
        where, first = known[0]
        if value != first:
            raise ContractError(f"{path}: its {what} is {value[:12]}, that of {where} is {first[:12]}; {advice}")


def tell_of_golden(shards: Stamped, stamp: Mapping[str, Any]) -> str | None:
    """A line where the codec hears the golden clip otherwise here than where the shards were made; else None.

    No error: between kinds of machine one code in a thousand may differ.
    """
    here = stamp.get("golden_sha256")
    for path, made in codec_stamps(shards).items():
        there = made.get("golden_sha256")
        same_precision = made.get("precision", "fp32") == stamp.get("precision", "fp32")
        if here and there and here != there and same_precision:
            return (
                f"{path}: its codec made {there[:12]} of the golden clip, here it makes {here[:12]}: "
                "another kind of machine or another version; figures may differ in their last digits"
            )
    return None
