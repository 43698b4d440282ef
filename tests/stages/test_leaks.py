"""Leaks of every kind, planted in the inputs (nothing may pick them) and in the finished index (all must be caught)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.provenance import folder_digest, pretty_json
from pipeline.data.shards import (
    Sample,
    ShardFile,
    decode_json,
    decode_npz,
    encode_json,
    encode_npz,
    load_index,
    write_folder_index,
    write_shard,
)
from pipeline.retrieval.audit import Leak, copy_errors, first_leak, group_ids
from pipeline.retrieval.strategies import STRATEGIES
from tests.stages.conftest import run_stage
from tests.stages.test_retrieve import CORPORA, examples, keys_of, write_project

TARGET, EXAMPLE = "musiccaps-0001", "library-0002"  # of test and of train; strangers to each other


def rewrite(folder: Path, change: Callable[[str, dict[str, bytes]], dict[str, bytes]]) -> None:
    """Write the shards of a folder anew, every sample changed, with an index that is true of them."""
    entries = []
    for entry in load_index(folder):
        old = [Sample(s.key, {n: bytes(m) for n, m in s.members.items()}) for s in ShardFile(folder / entry.name)]
        (folder / entry.name).unlink()  # a link: its other name must keep the old bytes
        samples = [Sample(sample.key, change(sample.key, dict(sample.members))) for sample in old]
        entries.append(write_shard(folder / entry.name, samples))
    write_folder_index(folder, entries)


def change_clip(project: Path, key: str, **values: Any) -> None:
    """Change what ingest says of a clip, and let everything else be made of that."""
    shards = project / "shards"
    corpus = key.split("-", maxsplit=1)[0]

    def change(at: str, members: dict[str, bytes]) -> dict[str, bytes]:
        return {"json": encode_json(decode_json(members["json"]) | values)} if at == key else members

    rewrite(shards / "ingest" / corpus, change)
    digest = folder_digest(shards / "ingest" / corpus)
    for manifest in (shards / "describe" / corpus / "manifest.json", shards / "embed" / corpus / "manifest.json"):
        change_json(manifest, parents={"ingest": digest})
    change_json(
        shards / "split/split.json",
        parents={name: folder_digest(shards / "ingest" / name) for name in CORPORA},
    )


def change_json(path: Path, **values: Any) -> None:
    path.write_bytes(pretty_json(json.loads(path.read_bytes()) | values))


def clip_of(project: Path, key: str) -> dict[str, Any]:
    folder = project / "shards/ingest" / key.split("-", maxsplit=1)[0]
    clips = (s for entry in load_index(folder) for s in ShardFile(folder / entry.name))
    return next(decode_json(sample.members["json"]) for sample in clips if sample.key == key)


def same_vectors(project: Path) -> None:
    """Give the example the target's audio embedding, but for a little noise."""
    shards = project / "shards/embed"
    folder = shards / "musiccaps"
    source = next(s for e in load_index(folder) for s in ShardFile(folder / e.name) if s.key == TARGET)
    audio = decode_npz(source.members["clap.npz"])["audio"].astype(np.float32)
    noise = 0.01 * np.random.default_rng(0).normal(size=audio.shape).astype(np.float32)

    def change(key: str, members: dict[str, bytes]) -> dict[str, bytes]:
        text = decode_npz(members["clap.npz"])["text"]
        return (
            {"clap.npz": encode_npz(audio=(audio + noise).astype(np.float16), text=text)} if key == EXAMPLE else members
        )

    rewrite(shards / "library", change)


def plant(project: Path, kind: str) -> None:
    """Make the example a leak for the target: in ingest, in embed or in the split, as far as each could know it."""
    split = project / "shards/split/split.json"
    if kind in {"video", "song", "artist"}:
        level, other = {"video": ("video", "video"), "song": ("song", "song_2"), "artist": ("artist", "artist")}[kind]
        change_clip(project, TARGET, groups={level: "the same"})
        change_clip(project, EXAMPLE, groups={other: "the same"})
    elif kind == "samples":
        change_clip(project, EXAMPLE, fingerprint=clip_of(project, TARGET)["fingerprint"])
    elif kind == "mp3":
        change_clip(project, EXAMPLE, acoustic_fingerprint=clip_of(project, TARGET)["acoustic_fingerprint"])
    elif kind == "sound":
        same_vectors(project)
    elif kind in {"val", "test"}:
        change_json(split, split=json.loads(split.read_bytes())["split"] | {EXAMPLE: kind})
    elif kind == "group":
        group = json.loads(split.read_bytes())["group"]
        change_json(split, group=group | {EXAMPLE: group[TARGET]})


def tamper(project: Path, strategy: str, keys: list[str]) -> None:
    """Put examples before the target in the finished index."""

    def change(key: str, members: dict[str, bytes]) -> dict[str, bytes]:
        value = decode_json(members["examples.json"])
        put = [{"key": name, "score": 0.9} for name in keys]
        return {"examples.json": encode_json(value | {"examples": put})} if key == TARGET else members

    rewrite(project / "shards/retrieve" / strategy / "musiccaps", change)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which two strategies have run."""
    project = write_project(tmp_path_factory.mktemp("leaks") / "project")
    for strategy in ("semantic", "random"):
        run_stage("retrieve", "--strategy", strategy, root=project)
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "own")
    return tmp_path / "own"


def audit(project: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What the audit says of the index; "" if it finds nothing."""
    with contextlib.suppress(SystemExit):
        run_stage("retrieve", "--audit", *flags, root=project)
    said = capsys.readouterr()
    assert bool(said.err) != ("no leak in the examples of" in said.out)
    return said.err


KINDS = {
    "video": "is of the same video the same",
    "song": "is of the same song the same",
    "artist": "is of the same artist the same",
    "samples": "holds the very same samples",
    "mp3": "is a copy of its recording",
    "sound": "sounds like it",
    "val": "is in split val, not train",
    "test": "is in split test, not train",
    "group": "is of the same group",
}


@pytest.mark.parametrize("strategy", ["semantic", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_leak_in_the_finished_index_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], kind: str, strategy: str
):
    tamper(project, strategy, ["library-0003", EXAMPLE, "musiccaps-0006"])
    flags = ("--strategy", strategy, "--corpus", "musiccaps")
    assert audit(project, capsys, *flags) == ""  # strangers still
    plant(project, kind)
    said = audit(project, capsys, *flags)
    assert f"retrieve {strategy}: leak: {TARGET}: example {EXAMPLE} {KINDS[kind]}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([TARGET], f"example {TARGET} is the target itself"),
        ([EXAMPLE, "library-0003", EXAMPLE], f"example {EXAMPLE} comes twice"),
        (["library-9999"], "example library-9999 or its target is not in shards/ingest"),
    ],
)
def test_what_is_wrong_without_any_plant_is_named_too(
    project: Path, capsys: pytest.CaptureFixture[str], keys: list[str], words: str
):
    tamper(project, "semantic", keys)
    assert words in audit(project, capsys, "--strategy", "semantic")


def test_an_audit_of_what_is_clean_finds_nothing_and_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    run_stage("retrieve", "--audit", root=project)
    assert capsys.readouterr().out.count("no leak in the examples of 120 targets") == 2
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


MANY = ("--set", "retrieve.num_examples=40", "--set", "retrieve.max_drop_share=1", "--corpus", "musiccaps")


@pytest.mark.parametrize("kind", ["sound", "val", "test", "group"])
def test_no_strategy_picks_what_is_planted(project: Path, kind: str):
    """Two thirds of the pool are picked, so that a leak would be among them."""
    plant(project, kind)
    for strategy in STRATEGIES:
        run_stage("retrieve", "--strategy", strategy, *MANY, root=project)
        found = keys_of(examples(project, strategy, ("musiccaps",)))
        assert EXAMPLE not in found[TARGET]
        assert (EXAMPLE in {key for keys in found.values() for key in keys}) == (kind in {"sound", "group"})


@pytest.mark.parametrize("kind", ["video", "song", "artist", "samples", "mp3"])
def test_no_strategy_picks_what_the_split_joins(project: Path, kind: str):
    plant(project, kind)
    run_stage("split", "--set", "split.val_share=0", root=project)
    split = json.loads((project / "shards/split/split.json").read_bytes())
    assert split["split"][EXAMPLE] == "train"
    assert split["group"][EXAMPLE] == split["group"][TARGET]
    for strategy in ("semantic", "random"):
        run_stage("retrieve", "--strategy", strategy, *MANY, root=project)
        found = keys_of(examples(project, strategy, ("musiccaps",)))
        assert EXAMPLE not in found[TARGET]
        assert any(EXAMPLE in keys for keys in found.values())


def test_a_leak_fails_the_stage_that_made_it(project: Path, capsys: pytest.CaptureFixture[str]):
    """The split does not know that the two are one video: the strategies cannot, and the audit does."""
    for key in [f"library-{n:04d}" for n in range(2, 60, 4)]:
        change_clip(project, key, groups={"video": "the same"})
    change_clip(project, TARGET, groups={"video": "the same"})
    flags = ("--strategy", "semantic", "--set", "retrieve.num_examples=30")
    with pytest.raises(SystemExit) as stopped:
        run_stage("retrieve", *flags, root=project)
    assert stopped.value.code == 1
    assert "is of the same video the same" in capsys.readouterr().err


def test_levels_that_the_split_left_out_are_no_leak(project: Path, capsys: pytest.CaptureFixture[str]):
    tamper(project, "semantic", [EXAMPLE, "library-0003", "musiccaps-0006"])
    plant(project, "artist")
    change_json(project / "shards/split/split.json", levels_left_out={"artist": 90})
    assert audit(project, capsys, "--strategy", "semantic", "--corpus", "musiccaps") == ""


def test_a_song_by_any_of_its_titles_is_one_song():
    assert group_ids({"song_3": "x", "video": "v"}, ()) & group_ids({"song": "x"}, ()) == {("song", "x")}
    assert not group_ids({"song": "x"}, ("song",))


def test_targets_without_examples_do_not_stop_the_audit():
    def audio_of(keys: object) -> np.ndarray:
        raise AssertionError("nothing to hear")

    assert first_leak([("a", [])], {}, audio_of=audio_of, near_duplicate_cosine=0.98) is None
    assert Leak("a", "b", "is odd").words() == "a: example b is odd"


def test_copies_are_told_from_strangers_at_any_shift():
    random = np.random.default_rng(0)
    one = random.integers(0, 1 << 32, (3, 80), np.uint32)
    noise = np.uint32(1) << random.integers(0, 32, (3, 80)).astype(np.uint32)
    later = np.concatenate([random.integers(0, 1 << 32, (3, 20), np.uint32), (one ^ noise)[:, :50]], axis=1)
    assert (copy_errors(one, later) < 0.1).all()
    assert (copy_errors(one, one[::-1])[[0, 2]] > 0.5).all()
    assert np.isinf(copy_errors(np.zeros_like(one), np.zeros_like(one))).all()
    assert np.isinf(copy_errors(one[:, :0], later)).all()


def test_an_audit_of_nothing_is_not_clean(project: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(project / "shards/retrieve")
    with pytest.raises(SystemExit) as stopped:
        run_stage("retrieve", "--audit", root=project)
    assert stopped.value.code == 1
    assert "no examples here; run `python -m stages.retrieve --strategy" in capsys.readouterr().err
