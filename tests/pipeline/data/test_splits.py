from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.splits import SplitClip, assign_splits, join_groups, join_within_reason, read_splits
from pipeline.errors import ContractError

LEVELS = st.dictionaries(st.sampled_from(["video", "artist", "song"]), st.sampled_from("abcdefgh"), max_size=3)
CLIPS = st.lists(st.tuples(LEVELS, st.sampled_from([None, "train", "test"])), min_size=1, max_size=30).map(
    lambda rows: [SplitClip(f"k{n:02d}", groups, official) for n, (groups, official) in enumerate(rows)]
)


@given(CLIPS, st.integers(0, 5))
def test_no_group_lies_in_two_splits(clips: list[SplitClip], seed: int):
    result = assign_splits(clips, held_out_share=0.2, seed=seed)
    pairs = [(a, b) for a in clips for b in clips if set(a.groups.items()) & set(b.groups.items())]
    assert all(result.split[a.key] == result.split[b.key] for a, b in pairs)
    assert all(result.split[clip.key] == "test" for clip in clips if clip.official == "test")


@given(CLIPS, st.randoms())
def test_the_order_of_clips_changes_nothing(clips: list[SplitClip], shuffler: random.Random):
    mixed = clips.copy()
    shuffler.shuffle(mixed)
    one, other = (assign_splits(some, held_out_share=0.1, seed=1) for some in (clips, mixed))
    assert (one.split, one.group) == (other.split, other.group)


def test_join_groups_joins_through_others():
    clips = [
        SplitClip("c", {"song": "x"}, None),
        SplitClip("b", {"song": "x", "artist": "y"}, None),
        SplitClip("a", {"artist": "y"}, None),
        SplitClip("d", {"song": "y"}, None),  # same id at another level: no relation
    ]
    assert join_groups(clips) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_train_clips_that_share_a_group_with_test_are_moved_and_named():
    clips = [SplitClip("a", {"video": "v"}, "train"), SplitClip("b", {"video": "v"}, "test")]
    result = assign_splits(clips, held_out_share=0.1, seed=0)
    assert result.split == {"a": "test", "b": "test"}
    assert result.moved == ["a"]


def test_corpora_without_a_split_of_their_own_get_val_and_test():
    result = assign_splits([SplitClip(f"k{n}", {}, None) for n in range(100)], held_out_share=0.05, seed=0)
    counts = {split: list(result.split.values()).count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 90, "val": 5, "test": 5}


def test_official_train_is_never_test():
    result = assign_splits([SplitClip(f"k{n}", {}, "train") for n in range(10)], held_out_share=0.1, seed=0)
    assert sorted(result.split.values()) == ["train"] * 9 + ["val"]


def test_seed_changes_the_choice():
    clips = [SplitClip(f"k{n:03d}", {}, None) for n in range(100)]
    one, other = (assign_splits(clips, held_out_share=0.05, seed=seed).split for seed in (0, 1))
    assert one != other


def test_one_group_is_train_alone():
    assert assign_splits([SplitClip("k", {}, None)], held_out_share=0.05, seed=0).split == {"k": "train"}


def test_read_splits_names_the_missing_file(tmp_path: Path):
    with pytest.raises(ContractError, match=r"stages\.split"):
        read_splits(tmp_path / "split.json")
    (tmp_path / "split.json").write_text(json.dumps({"split": {"k": "val"}, "group": {"k": "k"}}))
    assert read_splits(tmp_path / "split.json").split == {"k": "val"}


def test_the_only_artist_of_a_collection_does_not_swallow_it():
    clips = [SplitClip(f"k{n:02d}", {"artist": "me", "track": str(n // 2)}, None) for n in range(20)]
    assert len(set(join_groups(clips).values())) == 1
    joined, left_out = join_within_reason(clips, max_group_share=0.5)
    assert left_out == {"artist": 20}
    assert len(set(joined.values())) == 10
    assert set(assign_splits(clips, held_out_share=0.1, seed=0, max_group_share=0.5).split.values()) > {"train"}


def test_a_large_group_of_one_recording_is_never_parted():
    clips = [SplitClip(f"k{n}", {"track": "one"}, None) for n in range(9)]
    assert join_within_reason(clips, max_group_share=0.1) == (join_groups(clips), {})


def test_a_clip_that_split_does_not_know_is_named(tmp_path: Path):
    (tmp_path / "split.json").write_text(json.dumps({"split": {}, "group": {}}))
    table = read_splits(tmp_path / "split.json")
    for look_up in (table.split_of, table.group_of):
        with pytest.raises(ContractError, match=r"k: not in split\.json"):
            look_up("k")
