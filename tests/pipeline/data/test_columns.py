from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.columns import join_columns
from pipeline.data.shards import Sample, write_shard
from pipeline.errors import ContractError


def column(path: Path, name: str, keys: str) -> Path:
    write_shard(path / f"{name}.tar", [Sample(key, {name: key.encode()}) for key in keys])
    return path / f"{name}.tar"


def test_join_puts_members_together_and_keeps_clips_that_a_column_lacks(tmp_path: Path):
    paths = [column(tmp_path, "one", "abcd"), column(tmp_path, "two", "bd"), column(tmp_path, "three", "a")]
    joined = {sample.key: sorted(sample.members) for sample in join_columns(paths)}
    assert joined == {"a": ["one", "three"], "b": ["one", "two"], "c": ["one"], "d": ["one", "two"]}


def test_join_stops_at_the_limit(tmp_path: Path):
    paths = [column(tmp_path, "one", "abcd"), column(tmp_path, "two", "bd")]
    assert [sample.key for sample in join_columns(paths, 2)] == ["a", "b"]


@pytest.mark.parametrize("keys", ["x", "ba", "abx"])
def test_join_fails_on_an_unknown_key_or_another_order(tmp_path: Path, keys: str):
    paths = [column(tmp_path, "one", "ab"), column(tmp_path, "two", keys)]
    with pytest.raises(ContractError, match=r"two\.tar"):
        list(join_columns(paths))


def test_join_checks_the_order_also_when_the_limit_is_the_whole_shard(tmp_path: Path):
    paths = [column(tmp_path, "one", "ab"), column(tmp_path, "two", "ba")]
    with pytest.raises(ContractError, match="out of order"):
        list(join_columns(paths, 2))
