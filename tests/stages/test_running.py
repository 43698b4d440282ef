"""How stages run: the same bytes with any number of workers, nothing reused after a change, errors in one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.data.provenance import file_digest, folder_digest
from pipeline.data.shards import Sample, ShardFile, load_index, scan_shard, write_folder_index, write_shard
from tests.conftest import REPOSITORY
from tests.stages.conftest import run_stage, write_params


def content(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert found
    return found


def command(name: str, *flags: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", "--root", str(root), *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stage", ["ingest", "lyrics", "encode", "retrieve"])
def test_three_workers_write_the_bytes_of_one(copy_of_chain: Path, chain: Path, stage: str):
    for folder in (copy_of_chain / "shards" / stage, copy_of_chain / "shards/.work" / stage):
        shutil.rmtree(folder)
    ran = command(stage, "--workers", "3", root=copy_of_chain)
    assert ran.returncode == 0, ran.stderr
    assert content(copy_of_chain / "shards" / stage) == content(chain / "shards" / stage)


def test_a_second_run_makes_nothing_anew(copy_of_chain: Path):
    marks = {path: path.stat().st_mtime_ns for path in (copy_of_chain / "shards/.work/ingest").rglob("*.done")}
    shutil.rmtree(copy_of_chain / "shards/ingest/library")
    run_stage("ingest", root=copy_of_chain)
    assert marks
    assert {path: path.stat().st_mtime_ns for path in (copy_of_chain / "shards/.work/ingest").rglob("*.done")} == marks
    assert (copy_of_chain / "shards/ingest/library/000000.tar").is_file()


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("ingest", "ingest.target_lufs=-20.0"),
        ("describe", "describe.seed=1"),
        ("encode", "encode.batch_size=3"),
        ("retrieve", "retrieve.near_duplicate_cosine=0.97"),
    ],
)
def test_a_changed_setting_reuses_nothing(copy_of_chain: Path, stage: str, setting: str):
    work = copy_of_chain / "shards/.work" / stage
    before = set(work.rglob("*.done"))
    run_stage(stage, "--set", setting, root=copy_of_chain)
    after = set(work.rglob("*.done"))
    assert before
    assert len(after) == len(before)
    assert not before & after


def test_another_source_file_is_seen(copy_of_chain: Path, tmp_path: Path):
    mine = tmp_path / "mine"
    shutil.copytree((copy_of_chain / "mine").resolve(), mine)
    (copy_of_chain / "mine").unlink()
    mine.rename(copy_of_chain / "mine")
    run_stage("ingest", "--corpus", "library", root=copy_of_chain)
    before = json.loads((copy_of_chain / "shards/ingest/library/manifest.json").read_bytes())["parents"]
    shutil.copy(copy_of_chain / "mine/library/long.wav", copy_of_chain / "mine/library/text.flac")
    run_stage("ingest", "--corpus", "library", root=copy_of_chain)
    after = json.loads((copy_of_chain / "shards/ingest/library/manifest.json").read_bytes())
    assert after["parents"] != before
    assert after["counts"]["out"] == 11


def test_limit_takes_the_first_items(copy_of_chain: Path):
    run_stage("ingest", "--corpus", "musiccaps", "--limit", "2", root=copy_of_chain)
    run_stage("encode", "--corpus", "musiccaps", "--limit", "1", root=copy_of_chain)
    counts = json.loads((copy_of_chain / "shards/encode/musiccaps/manifest.json").read_bytes())["counts"]
    assert counts["in"] == counts["out"] == 1


@pytest.mark.parametrize("stage", ["ingest", "split", "encode", "retrieve"])
def test_a_dry_run_changes_nothing(copy_of_chain: Path, stage: str, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(copy_of_chain / "shards" / stage) if stage == "encode" else None
    before = content(copy_of_chain / "shards")
    run_stage(stage, "--dry-run", root=copy_of_chain)
    assert content(copy_of_chain / "shards") == before
    assert stage in capsys.readouterr().out


def break_setting(project: Path) -> None:
    write_params(project, ingest={"tracks_per_shrad": 5})


def no_params(project: Path) -> None:
    (project / "params.yaml").unlink()


def no_source(project: Path) -> None:
    (project / "mine").unlink()


def no_checkpoint(project: Path) -> None:
    write_params(project, models={"codec": "not-there"})


def cut_shard(project: Path) -> None:
    path = project / "shards/ingest/library/000000.tar"
    data = path.read_bytes()
    path.unlink()  # it is a link into .work
    path.write_bytes(data[: len(data) // 2])
    shutil.rmtree(project / "shards/.work/encode")


def no_parent(project: Path) -> None:
    shutil.rmtree(project / "shards/ingest/library")


def no_split(project: Path) -> None:
    shutil.rmtree(project / "shards/split")


def val_in_pool(project: Path) -> None:
    """Plant a leak: an example of a train clip is now said to be val."""
    path = project / "shards/split/split.json"
    content = json.loads(path.read_bytes())
    first = next(key for key, split in content["split"].items() if split == "train")
    content["split"][first] = "val"
    path.write_text(json.dumps(content))
    # And the trail is covered up: the examples say that they were made from this very split.
    for name in ("musiccaps", "library"):
        manifest_path = project / "shards/retrieve/random" / name / "manifest.json"
        manifest = json.loads(manifest_path.read_bytes())
        manifest["parents"]["split"] = file_digest(path)
        manifest_path.write_text(json.dumps(manifest))


def twin_as_example(project: Path) -> None:
    """Plant a leak: a clip's CLAP vectors stand at its example's place."""
    folder = project / "shards/embed/musiccaps"
    entries = [ShardFile(folder / entry.name) for entry in load_index(folder)]
    first = next(iter(entries[0]))
    for shard in entries:
        twins = [Sample(sample.key, dict(first.members)) for sample in shard]
        shard.path.unlink()
        write_shard(shard.path, twins)
    write_folder_index(folder, [scan_shard(shard.path) for shard in entries])
    for strategy, name in (("random", "musiccaps"), ("random", "library")):
        manifest_path = project / "shards/retrieve" / strategy / name / "manifest.json"
        manifest = json.loads(manifest_path.read_bytes())
        manifest["parents"]["embed/musiccaps"] = folder_digest(folder)
        manifest_path.write_text(json.dumps(manifest))


def ingest_anew(project: Path) -> None:
    run_stage("ingest", "--set", "ingest.target_lufs=-21.0", root=project)


def older_split(project: Path) -> None:
    path = project / "shards/split/split.json"
    content = json.loads(path.read_bytes())
    content["parents"]["library"] = "older"
    path.write_text(json.dumps(content))


def unreadable_rows(project: Path) -> None:
    empty = project / "nothing"
    (empty / "audio").mkdir(parents=True)
    head = "ytid,start_s,end_s,aspect_list,caption,author_id,is_audioset_eval"
    (empty / "musiccaps-public.csv").write_text(f"{head}\nabcdefghijk,0,10,[],A song,1,False\n")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["sources"] = {"musiccaps": {"root": "nothing"}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def other_codec(project: Path) -> None:
    path = project / "shards/encode/library/manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["models"]["codec"]["weights_sha256"] = "another"
    path.unlink()
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "stage", "flags", "exit_code", "words"),
    [
        (break_setting, "ingest", [], 2, "ingest.tracks_per_shrad: no such setting; did you mean 'tracks_per_shard'"),
        (no_params, "ingest", [], 2, "params.yaml: no such file"),
        (no_source, "ingest", [], 2, "no such folder; set sources.library.root"),
        (no_checkpoint, "encode", [], 1, "not-there"),
        (no_checkpoint, "encode", ["--workers", "2"], 1, "not-there"),
        (cut_shard, "encode", ["--corpus", "library"], 1, "000000.tar"),
        (cut_shard, "encode", ["--corpus", "library", "--workers", "2"], 1, "000000.tar"),
        (no_parent, "encode", ["--corpus", "library"], 1, "run the stage that makes"),
        (no_split, "retrieve", [], 1, "split.json"),
        (val_in_pool, "pack", ["--strategy", "random"], 1, "leak"),
        (twin_as_example, "pack", ["--strategy", "random"], 1, "sounds like it"),
        (other_codec, "pack", ["--strategy", "random"], 1, "made with other models"),
        (ingest_anew, "embed", [], 1, "run `python -m stages.describe` again"),
        (ingest_anew, "pack", ["--strategy", "random"], 1, "run `python -m stages.split` again"),
        (older_split, "retrieve", [], 1, "run `python -m stages.split` again"),
        (unreadable_rows, "ingest", [], 1, "not one sample came out of 1"),
        (lambda _: None, "ingest", ["--set", "ingest.tracks_per_shard=0"], 2, "ingest.tracks_per_shard"),
        (lambda _: None, "ingest", ["--set", "ingest.min_clip_s=20.0"], 2, "ingest.max_clip_s"),
        (lambda _: None, "encode", ["--set", "encode.batch_size=0"], 2, "encode.batch_size"),
        (lambda _: None, "embed", ["--set", "embed.batch_size=0"], 2, "embed.batch_size"),
        (lambda _: None, "split", ["--set", "split.max_group_share=0.0"], 2, "split.max_group_share"),
        (lambda _: None, "ingest", ["--corpus", "spotify"], 2, "--corpus spotify"),
        (lambda _: None, "ingest", ["--limit", "0"], 2, "--limit 0"),
        (lambda _: None, "ingest", ["--set", "ingest.max_drop_share=0.1"], 1, "--set ingest.max_drop_share=1"),
        (lambda _: None, "split", ["--set", "split.val_share=0.7"], 2, "split.val_share"),
        (lambda _: None, "retrieve", ["--set", "retrieve.text_weight=2.0"], 2, "retrieve.text_weight"),
        (lambda _: None, "retrieve", ["--set", "retrieve.num_examples=0"], 2, "retrieve.num_examples"),
        (lambda _: None, "pack", ["--strategy", "random", "--set", "pack.num_train_shards=99"], 1, "num_train_shards"),
        (
            lambda _: None,
            "pack",
            ["--strategy", "random", "--set", "pack.prompt_template={mood}"],
            2,
            "prompt_template",
        ),
        (lambda _: None, "pack", ["--strategy", "random", "--set", "pack.num_examples=0"], 2, "at least 1"),
        (lambda _: None, "report", [], 1, "train.evaluate"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_all_as_it_was(
    copy_of_chain: Path, harm: Callable[[Path], None], stage: str, flags: list[str], exit_code: int, words: str
):
    harm(copy_of_chain)
    shards = copy_of_chain / "shards"
    before = {path for path in shards.rglob("*") if ".work" not in path.parts}
    ran = command(stage, *flags, root=copy_of_chain)
    assert ran.returncode == exit_code, ran.stderr
    assert words in ran.stderr
    assert ran.stderr.startswith(f"python -m stages.{stage}: ")
    assert len(ran.stderr.splitlines()) == 1
    assert {path for path in shards.rglob("*") if ".work" not in path.parts} == before


def test_debug_adds_the_traceback(copy_of_chain: Path):
    ran = command("encode", "--debug", "--set", "models.codec=not-there", root=copy_of_chain)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("python -m stages.encode: ")


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stage_killed_at_any_moment_ends_in_the_same_bytes(copy_of_chain: Path, chain: Path, workers: int):
    for folder in (copy_of_chain / "shards/describe", copy_of_chain / "shards/.work/describe"):
        shutil.rmtree(folder)
    seed = int(os.environ.get("SETLIST_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"to repeat: SETLIST_KILL_SEED={seed}")
    draw = random.Random(seed)
    flags = ["--root", str(copy_of_chain), "--workers", str(workers)]
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.describe", *flags],
            cwd=REPOSITORY,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(draw.uniform(0.1, 2.0))
        if process.poll() is None:
            # The command alone, as the kernel does when memory is short: its workers must not outlive it.
            process.kill()
            kills += 1
        process.wait()
    assert kills
    ran = command("describe", "--workers", str(workers), root=copy_of_chain)
    assert ran.returncode == 0, ran.stderr
    assert content(copy_of_chain / "shards/describe") == content(chain / "shards/describe")
    assert not list((copy_of_chain / "shards/.work/describe").rglob("*.part"))
