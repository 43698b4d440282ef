"""Pack: planted leaks and mixed-up parents are refused, frames are budgeted, no shard is left empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.provenance import file_digest, folder_digest, pretty_json
from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npy, load_index, write_folder_index, write_shard
from pipeline.errors import ParamsError
from stages import pack
from stages.pack import PackParams
from tests.stages.packable import CODEC, Clip, codes_of, write_project


def pool(num: int = 6, **changes: Any) -> list[Clip]:
    keys = [f"musiccaps-{n}" for n in range(num)]
    return [Clip(key, examples=[keys[(n + 1) % num], keys[(n + 2) % num]], **changes) for n, key in enumerate(keys)]


def run(root: Path, *flags: str) -> dict[str, Sample]:
    pack.main(["--root", str(root), "--strategy", "random", *flags])
    folder = root / "shards/pack/random"
    return {sample.key: sample for entry in load_index(folder) for sample in ShardFile(folder / entry.name, entry)}


def refused(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(root, *flags)
    assert caught.value.code in (1, 2)
    assert not (root / "shards/pack").exists()
    return capsys.readouterr().err


def sizes(root: Path, split: str = "train") -> list[int]:
    entries = load_index(root / "shards/pack/random")
    return [entry.num_samples for entry in entries if entry.name.startswith(split)]


# --- leaks ------------------------------------------------------------------------------------------------------------


def plant(name: str) -> list[Clip]:
    """Six good clips, and a leak that the index of examples holds."""
    clips = pool()
    target, twin = clips[0], Clip("library-twin", corpus="library", examples=["musiccaps-3", "musiccaps-4"])
    target.examples = ["library-twin", "musiccaps-4"]
    if name == "the same video in two corpora":
        target.groups = twin.groups = {"video": "dQw4w9WgXcQ"}
    elif name == "a cover":
        target.groups, twin.groups = {"song": "sakura"}, {"song_2": "sakura"}
    elif name == "the very same sound":
        target.fingerprint = twin.fingerprint = "f00d"
    elif name == "a group that the split joined":
        target.group = twin.group = "library-twin"
    elif name == "a re-encoded copy":
        twin.sounds_like = target.key
    elif name == "itself":
        target.examples = [target.key, "musiccaps-4"]
    elif name == "twice the same":
        target.examples = ["musiccaps-4", "musiccaps-4"]
    elif name in ("val", "test"):
        twin.split = name
    return [*clips, twin]


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ("the same video in two corpora", "has the same video dQw4w9WgXcQ"),
        ("a cover", "has the same song sakura"),
        ("the very same sound", "has the same fingerprint f00d"),
        ("a group that the split joined", "of the same group library-twin"),
        ("a re-encoded copy", "example library-twin sounds like it"),
        ("itself", "is its own example"),
        ("twice the same", "an example comes twice"),
        ("val", "example library-twin is in split val, not train"),
        ("test", "example library-twin is in split test, not train"),
    ],
)
def test_every_planted_leak_is_caught_and_named(tmp_path, capsys, leak, words):
    said = refused(write_project(tmp_path, plant(leak)), capsys)
    assert "leak: musiccaps-0" in said
    assert words in said


def test_the_same_project_without_a_leak_is_packed(tmp_path):
    assert len(run(write_project(tmp_path, plant("none")))) == 7


def test_a_sample_names_the_licence_of_its_recording(tmp_path):
    samples = run(write_project(tmp_path, [*pool(), Clip("library-1", corpus="library", examples=["musiccaps-3"])]))
    licences = {key: decode_json(sample.members["json"])["licence"] for key, sample in samples.items()}
    assert (licences["musiccaps-0"], licences["library-1"]) == ("licence of musiccaps", "licence of library")


def test_a_leak_is_caught_also_where_the_budget_leaves_the_example_out(tmp_path, capsys):
    clips = pool()
    clips[0].groups, clips[2].groups = {"artist": "a"}, {"artist": "a"}
    root = write_project(tmp_path, clips, max_total_frames=200, max_target_frames=100)
    assert "has the same artist a" in refused(root, capsys)


def test_levels_that_the_split_left_out_on_purpose_do_not_count(tmp_path):
    clips = pool(groups={"artist": "the only one"})
    root = write_project(tmp_path, clips)
    path = root / "shards/split/split.json"
    path.write_bytes(pretty_json(json.loads(path.read_bytes()) | {"levels_left_out": {"artist": 6}}))
    edit_manifest(root / "shards/retrieve/random/musiccaps", parents={"split": file_digest(path)})
    assert len(run(root)) == 6


# --- parents ----------------------------------------------------------------------------------------------------------


def edit_manifest(folder: Path, **changes: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    path.write_bytes(pretty_json(content | {name: content[name] | value for name, value in changes.items()}))


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("encode", {"models": {"codec": CODEC | {"weights_sha256": "another"}}}, "made with other models"),
        ("encode", {"models": {"codec": CODEC | {"num_codebooks": 8}}}, "made with other models"),
        ("retrieve/random", {"params": {"seed": 9}}, "made with other params"),
        ("retrieve/random", {"parents": {"split": "older"}}, "run `python -m stages.retrieve --strategy random` again"),
        ("embed", {"parents": {"ingest": "older"}}, "run `python -m stages.embed` again"),
        ("retrieve/random", {"parents": {"embed/library": "older"}}, "was made from another embed/library"),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(tmp_path, capsys, stage, changes, words):
    root = write_project(tmp_path, plant("none"))
    edit_manifest(root / "shards" / stage / "library", **changes)
    assert words in refused(root, capsys)


def test_a_split_of_older_clips_is_refused(tmp_path, capsys):
    root = write_project(tmp_path, pool())
    path = root / "shards/split/split.json"
    path.write_bytes(pretty_json(json.loads(path.read_bytes()) | {"parents": {"musiccaps": "older"}}))
    assert "run `python -m stages.split` again" in refused(root, capsys)


def test_examples_that_were_sought_with_another_caption_are_refused(tmp_path, capsys):
    root = write_project(tmp_path, pool())
    folder = root / "shards/retrieve/random/musiccaps"
    shard = ShardFile(folder / "000000.tar")
    samples = [
        Sample(
            s.key,
            {"examples.json": bytes(s.members["examples.json"]).replace(b'"caption_index":0', b'"caption_index":1')},
        )
        for s in shard
    ]
    write_folder_index(folder, [write_shard(folder / "000000.tar", samples)])
    assert "sought with another caption" in refused(root, capsys)


def test_more_examples_than_were_ranked_are_refused(tmp_path, capsys):
    root = write_project(tmp_path, pool())
    assert "retrieve.num_examples ranked 2" in refused(root, capsys, "--set", "pack.num_examples=3")


# --- frames -----------------------------------------------------------------------------------------------------------


def lengths(sample: Sample) -> list[int]:
    value = decode_json(sample.members["json"])
    told = [example["num_frames"] for example in value["examples"]]
    assert decode_npy(sample.members["examples.npy"]).shape[1] == sum(told)
    assert len(decode_npy(sample.members["clap.npy"])) == 1 + len(told)
    assert all(example["start_frame"] == 0 for example in value["examples"])
    return [*told, decode_npy(sample.members["target.npy"]).shape[1]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [100, 100, 100]),
        ({"max_example_frames": 80, "max_target_frames": 70}, [80, 80, 70]),
        ({"max_total_frames": 260}, [60, 100, 100]),
        ({"max_total_frames": 249}, [100, 100]),
        ({"max_total_frames": 249, "min_example_frames": 10}, [49, 100, 100]),
        ({"max_total_frames": 500, "max_target_frames": 500}, [100, 100, 100]),
        ({"max_total_frames": 100, "max_target_frames": 100}, [100]),
    ],
)
def test_frames_are_cut_to_their_budgets_the_farthest_example_first(tmp_path, settings, expected):
    clips = pool()
    packed = run(write_project(tmp_path, clips, **{"max_target_frames": 100, **settings}))
    assert {tuple(lengths(sample)) for sample in packed.values()} == {tuple(expected)}
    codes = {clip.key: codes_of(clip) for clip in clips}
    for sample in packed.values():
        value = decode_json(sample.members["json"])
        cut = [codes[example["key"]][:, : example["num_frames"]] for example in value["examples"]]
        flat_KS = decode_npy(sample.members["examples.npy"])
        assert flat_KS.dtype == np.uint16
        assert np.array_equal(flat_KS, np.concatenate([codes[sample.key][:, :0], *cut], axis=1))


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loader_workers": 1}, [23]),
        ({"loader_workers": 3}, [8, 8, 7]),
        ({"loader_workers": 2, "ranks": 2}, [6, 6, 6, 5]),
        ({"loader_workers": 2, "num_train_shards": 5}, [5, 5, 5, 4, 4]),
        ({"loader_workers": 23}, [1] * 23),
    ],
)
def test_the_number_of_shards_follows_from_who_reads_them(tmp_path, settings, expected):
    root = write_project(tmp_path, pool(23), **settings)
    run(root)
    assert sizes(root) == expected
    assert sizes(root, "val") == sizes(root, "test") == [0]


def test_fewer_samples_than_readers_are_refused_with_the_numbers(tmp_path, capsys):
    root = write_project(tmp_path, pool(), loader_workers=4, ranks=2)
    said = refused(root, capsys)
    assert "6 train samples for 8 shards (4 loader workers x 2 ranks)" in said


def test_clips_that_an_earlier_stage_dropped_leave_no_shard_empty(tmp_path, capsys):
    clips = pool(12)
    for clip in clips[::3]:
        clip.lacks = ["retrieve"]  # nobody's examples lack, only these targets
    root = write_project(tmp_path, clips, num_train_shards=8, loader_workers=8)
    packed = run(root)
    assert sizes(root) == [1] * 8
    assert set(packed) == {clip.key for n, clip in enumerate(clips) if n % 3}
    drops = (root / "shards/pack/random/drops.jsonl").read_text().splitlines()
    assert {json.loads(line)["reason"] for line in drops} == {"missing_column"}
    assert len(drops) == 4
    assert "8 train samples for 9 shards" in refused_anew(root, capsys, "--set", "pack.num_train_shards=9")


def refused_anew(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit):
        run(root, *flags)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"num_train_shards": 3, "loader_workers": 2, "ranks": 2},
            "3 for 2 loader workers x 2 ranks would leave 1 of 4",
        ),
        ({"num_train_shards": 0}, "pack.num_train_shards: 0"),
        ({"loader_workers": 0}, "pack.loader_workers: 0"),
        ({"max_total_frames": 499}, "pack.max_target_frames: 500, more than pack.max_total_frames"),
    ],
)
def test_settings_that_leave_nothing_to_read_are_refused(settings, words):
    with pytest.raises(ParamsError, match=words):
        PackParams(**settings)


def test_the_seed_and_nothing_else_orders_the_samples(tmp_path):
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        root = write_project(tmp_path / name, pool(23), seed=seed)
        orders.append(list(run(root)))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


def test_the_pack_names_its_parents(tmp_path):
    root = write_project(tmp_path, pool())
    run(root)
    manifest = json.loads((root / "shards/pack/random/manifest.json").read_bytes())
    assert manifest["parents"]["encode/musiccaps"] == folder_digest(root / "shards/encode/musiccaps")
    assert manifest["counts"]["out"] == 6


def test_an_example_that_a_later_stage_dropped_makes_room_for_the_next(tmp_path: Path):
    """The pool is what was embedded; encode may have dropped some of it."""
    clips = [Clip(key, examples=[other for other in "abcde" if other != key]) for key in "abcde"]
    clips[1].lacks = ("encode",)
    root = write_project(tmp_path, clips, max_drop_share=1.0)
    run(root)
    shard = ShardFile(root / "shards/pack/random/train-000000.tar")
    found = {sample.key: [e["key"] for e in decode_json(sample.members["json"])["examples"]] for sample in shard}
    assert found == {"a": ["d", "c"], "c": ["d", "a"], "d": ["c", "a"], "e": ["c", "a"]}


def test_a_target_without_enough_whole_examples_is_dropped(tmp_path: Path):
    clips = [Clip("a", examples=["b", "c"]), Clip("b", examples=["c", "d"]), Clip("c", examples=["b", "d"]), Clip("d")]
    clips[3].lacks = ("embed", "retrieve")
    root = write_project(tmp_path, clips, max_drop_share=1.0)
    run(root)
    drops = [json.loads(line) for line in (root / "shards/pack/random/drops.jsonl").read_text().splitlines()]
    assert {drop["item"] for drop in drops} == {"b", "c", "d"}
    assert sum("only 1 of its examples" in drop["detail"] for drop in drops) == 2


def test_an_example_that_nobody_knows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write_project(tmp_path, [Clip("a", examples=["zzz"]), Clip("b", examples=["a"])])
    assert "a: example zzz is not in shards/ingest" in refused(root, capsys)
