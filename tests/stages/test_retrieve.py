"""Retrieval over two corpora whose captions tell known facts."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.data.provenance import folder_digest, pretty_json
from pipeline.data.shards import (
    Sample,
    ShardFile,
    decode_json,
    encode_json,
    encode_npz,
    load_index,
    write_folder_index,
    write_shard,
)
from pipeline.retrieval.audit import find_leak
from pipeline.retrieval.query import NEEDS_AUDIO
from pipeline.retrieval.strategies import STRATEGIES
from stages import retrieve
from tests.stages.conftest import run_stage, write_params

CORPORA = ("musiccaps", "library")
NUM_CLIPS, CLIPS_PER_SHARD, DIM = 60, 20, 16
INSTRUMENTS, SPEEDS = ("piano", "harp", "koto", "banjo", "flute"), ("slow", "fast")


def write_column(folder: Path, samples: list[Sample], **manifest: Any) -> None:
    folder.mkdir(parents=True)
    starts = range(0, len(samples), CLIPS_PER_SHARD)
    entries = [write_shard(folder / f"{n // 20:06d}.tar", samples[n : n + CLIPS_PER_SHARD]) for n in starts]
    write_folder_index(folder, entries)
    content = {"schema": 1, "params": {}, "parents": {}, "models": {}, "counts": {}} | manifest
    (folder / "manifest.json").write_bytes(pretty_json(content))


def clip_json(key: str, captions: list[dict[str, str]]) -> dict[str, Any]:
    words = np.random.default_rng(list(key.encode())).integers(0, 1 << 32, 100, np.uint32)
    return {
        "key": key,
        "corpus": key.split("-", maxsplit=1)[0],
        "track": key,
        "span_s": [0.0, 1.0],
        "sample_rate_hz": 16000,
        "num_samples": 16000,
        "official_split": None,
        "captions": captions,
        "aspects": ["slow", "minor key"],
        "groups": {"video": key},
        "fingerprint": f"samples of {key}",
        "acoustic_fingerprint": base64.b64encode(words.astype("<u4").tobytes()).decode(),
    }


def write_corpus(shards: Path, corpus: str, random: np.random.Generator) -> None:
    keys = [f"{corpus}-{n:04d}" for n in range(NUM_CLIPS)]
    clips, described, embedded = [], [], []
    for n, key in enumerate(keys):
        text = f"a {SPEEDS[n % 2]} {INSTRUMENTS[n % 5]} tune in a {'minor' if n % 3 else 'major'} key"
        # Every tenth clip has no caption of its own, and says nothing in the one it gets.
        own = [{"text": text, "source": "human", "author": str(n % 4)}] if n % 10 else []
        made = [] if own else [{"text": "A tune.", "source": "template"}]
        clips.append(Sample(key, {"json": encode_json(clip_json(key, own))}))
        described.append(Sample(key, {"describe.json": encode_json({"attributes": {}, "captions": made})}))
        vectors = random.normal(size=(2, DIM))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        embedded.append(Sample(key, {"clap.npz": encode_npz(audio=vectors[0], text=vectors[1:])}))
    write_column(shards / "ingest" / corpus, clips)
    parents = {"ingest": folder_digest(shards / "ingest" / corpus)}
    write_column(shards / "describe" / corpus, described, parents=parents)
    models = {"embedder": {"name": "clap", "weights_sha256": "0" * 64}}
    write_column(shards / "embed" / corpus, embedded, parents=parents, models=models)


def write_project(project: Path, **changes: dict[str, Any]) -> Path:
    random = np.random.default_rng(0)
    project.mkdir()
    write_params(project, **changes)
    for corpus in CORPORA:
        write_corpus(project / "shards", corpus, random)
    keys = [f"{corpus}-{n:04d}" for corpus in CORPORA for n in range(NUM_CLIPS)]
    content = {
        "parents": {corpus: folder_digest(project / "shards/ingest" / corpus) for corpus in CORPORA},
        "split": {key: ("val", "test", "train", "train")[int(key[-4:]) % 4] for key in keys},
        # Two clips of a group, one in each corpus.
        "group": {key: f"g{key[-4:]}" for key in keys},
    }
    (project / "shards/split").mkdir()
    (project / "shards/split/split.json").write_bytes(pretty_json(content))
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every strategy has run."""
    project = write_project(tmp_path_factory.mktemp("retrieve") / "project")
    for strategy in STRATEGIES:
        run_stage("retrieve", "--strategy", strategy, root=project)
    return project


@pytest.fixture
def own_project(project: Path, tmp_path: Path) -> Path:
    shutil.copytree(project, tmp_path / "own")
    return tmp_path / "own"


def examples(project: Path, strategy: str, corpora: tuple[str, ...] = CORPORA) -> dict[str, dict[str, Any]]:
    folders = [project / "shards/retrieve" / strategy / corpus for corpus in corpora]
    shards = [ShardFile(folder / entry.name) for folder in folders for entry in load_index(folder)]
    return {sample.key: decode_json(sample.members["examples.json"]) for shard in shards for sample in shard}


def keys_of(found: Mapping[str, Any]) -> dict[str, list[str]]:
    return {key: [example["key"] for example in value["examples"]] for key, value in found.items()}


def digests(project: Path, strategy: str) -> dict[str, str]:
    folder = project / "shards/retrieve" / strategy
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_the_settings_know_the_strategies_that_there_are():
    assert set(STRATEGIES) == set(retrieve.STRATEGIES) == set(get_args(retrieve.Strategy))
    assert retrieve.READ_TARGET_AUDIO == NEEDS_AUDIO
    assert set(retrieve.RetrieveParams().strategies) == {"random", "semantic"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_leaks(project: Path, strategy: str):
    split = read(project / "shards/split/split.json")
    found = keys_of(examples(project, strategy))
    assert len(found) == 2 * NUM_CLIPS
    assert {len(keys) for keys in found.values()} == {3}
    assert find_leak(found.items(), split=split["split"], group=split["group"]) is None


def test_structured_sets_carry_their_rule_or_say_to_what_they_fell_back(project: Path):
    found = examples(project, "structured")
    for key, value in found.items():
        if int(key[-4:]) % 10 == 0:
            assert value["rule"] == ""
            assert value["fallback"]["to"] == "semantic"
            assert "shared" not in value
        else:
            numbers = [int(example["key"][-4:]) for example in value["examples"]]
            assert value["shared"] == {
                "mode": "minor" if int(key[-4:]) % 3 else "major",
                "tempo": SPEEDS[int(key[-4:]) % 2],
            }
            assert all((n % 3 > 0) == (int(key[-4:]) % 3 > 0) and n % 2 == int(key[-4:]) % 2 for n in numbers if n % 10)
            assert value["rule"].startswith("all in a m")
            assert value["rule"].endswith("; the instrument changes")
            assert "fallback" not in value
    assert all("rule" not in value for value in examples(project, "semantic").values())


def test_structured_reads_the_target_by_its_caption_unless_told_otherwise(own_project: Path):
    """Tags say slow and minor of every clip, the clips without a caption of their own included."""
    before = examples(own_project, "structured")["musiccaps-0000"]
    run_stage("retrieve", "--strategy", "structured", "--set", "retrieve.use_target_aspects=true", root=own_project)
    after = examples(own_project, "structured")["musiccaps-0000"]
    assert "fallback" in before
    assert after["shared"] == {"tempo": "slow", "mode": "minor"}


def test_the_oracle_is_marked(project: Path):
    for strategy in STRATEGIES:
        is_oracle = strategy == "oracle"
        manifest = read(project / "shards/retrieve" / strategy / "library/manifest.json")
        assert manifest["uses_target_audio"] == is_oracle
        assert read(project / "shards/retrieve" / strategy / "report.json")["uses_target_audio"] == is_oracle
        assert manifest["params"]["strategy"] == strategy


def test_a_report_lies_beside_the_corpora(project: Path, own_project: Path, capsys: pytest.CaptureFixture[str]):
    report = read(project / "shards/retrieve/structured/report.json")
    assert (report["targets"], report["targets_without_enough"], report["pool"]) == (120, 0, 60)
    assert report["fallbacks"]["share"] == 0.1
    assert report["varied"] == {"instrument": 108}
    assert report["same_corpus"]["chance"] == 0.5
    assert 0.1 < report["same_author"]["chance"] < 0.9
    semantic, chance = (read(project / f"shards/retrieve/{name}/report.json") for name in ("semantic", "random"))
    assert semantic["similarity"]["text_text"]["mean"] > chance["similarity"]["text_text"]["mean"] + 0.1
    shared = read(project / "runs/retrieve/overlap.json")["overlap"]
    assert set(shared) == set(STRATEGIES)
    assert shared["semantic"]["diverse"] == shared["diverse"]["semantic"] > shared["semantic"]["random"]
    run_stage("retrieve", "--strategy", "structured", root=own_project)
    said = capsys.readouterr().out
    assert "10 % of the targets fell back: 12 to semantic: the prompt tells" in said
    assert "examples in common with diverse" in said


def test_a_report_does_not_depend_on_other_strategies(own_project: Path):
    before = digests(own_project, "diverse")
    shutil.rmtree(own_project / "shards/retrieve")
    run_stage("retrieve", "--strategy", "diverse", root=own_project)
    assert digests(own_project, "diverse") == before


@pytest.mark.parametrize("strategy", ["diverse", "structured"])
def test_one_worker_and_four_write_the_same_bytes(own_project: Path, strategy: str):
    before = digests(own_project, strategy)
    shutil.rmtree(own_project / "shards/.work")
    shutil.rmtree(own_project / "shards/retrieve" / strategy)
    run_stage("retrieve", "--strategy", strategy, "--workers", "4", root=own_project)
    assert digests(own_project, strategy) == before


def test_the_order_of_the_corpora_changes_no_example(project: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("retrieve", ".work"))
    write_params(other)
    text = (other / "params.yaml").read_text()
    assert "sources:\n  library:" in text  # safe_dump sorts; the first run had them so
    swapped = text.replace("sources:\n  library:\n    root: mine/library\n", "sources:\n")
    swapped = swapped.replace(
        "    root: mine/musiccaps\n", "    root: mine/musiccaps\n  library:\n    root: mine/library\n"
    )
    (other / "params.yaml").write_text(swapped)
    for strategy in STRATEGIES:
        run_stage("retrieve", "--strategy", strategy, root=other)
        assert examples(other, strategy) == examples(project, strategy)


def test_another_seed_gives_other_random_examples(own_project: Path):
    before = keys_of(examples(own_project, "random"))
    run_stage("retrieve", "--strategy", "random", "--set", "retrieve.seed=1", root=own_project)
    after = keys_of(examples(own_project, "random"))
    assert sum(before[key] == after[key] for key in before) < 5


def test_a_limit_on_authors_holds(own_project: Path):
    run_stage("retrieve", "--strategy", "semantic", "--set", "retrieve.max_per_author=1", root=own_project)
    for keys in keys_of(examples(own_project, "semantic")).values():
        authors = [int(key[-4:]) % 4 for key in keys if int(key[-4:]) % 10]
        assert len(set(authors)) == len(authors)
    assert "describe/library" in read(own_project / "shards/retrieve/semantic/library/manifest.json")["parents"]


def test_examples_by_other_authors_only(own_project: Path):
    flags = ("--strategy", "semantic", "--set", "retrieve.other_authors_only=true")
    run_stage("retrieve", *flags, root=own_project)
    for target, keys in keys_of(examples(own_project, "semantic")).items():
        own = int(target[-4:])
        authors = [int(key[-4:]) % 4 for key in keys if int(key[-4:]) % 10]
        assert own % 10 == 0 or own % 4 not in authors
    report = read(own_project / "shards/retrieve/semantic/report.json")
    assert report["same_author"]["rate"] == 0.0 < report["same_author"]["chance"]


def test_tables_for_people_lie_beside_the_figures(project: Path):
    table = (project / "shards/retrieve/oracle/report.md").read_text()
    assert table.startswith("# Examples by oracle (uses the target's audio: an upper bound)\n")
    assert "| targets | 120 |" in table
    side_by_side = (project / "runs/retrieve/strategies.md").read_text()
    assert all(f"| {strategy} | 120 | 0 |" in side_by_side for strategy in STRATEGIES)


def write_facts(project: Path) -> Path:
    """What was played, for the clips of musiccaps: what their captions say, where they have any."""
    rows = [
        f"musiccaps-{n:04d},{'minor' if n % 3 else 'major'},{60 if n % 2 == 0 else 140},{INSTRUMENTS[n % 5]}"
        for n in range(NUM_CLIPS)
    ]
    (project / "facts.csv").write_text("\n".join(["track,mode,bpm,instrument", *rows]) + "\n")
    return project / "facts.csv"


def test_strategies_are_held_against_facts(own_project: Path, capsys: pytest.CaptureFixture[str]):
    run_stage("retrieve", "--facts", str(write_facts(own_project)), root=own_project)
    said = capsys.readouterr().out
    found = read(own_project / "runs/retrieve/facts.json")
    assert set(found["strategies"]) == set(STRATEGIES)
    # Vectors are noise here; structured reads the captions, which tell the facts.
    assert found["strategies"]["structured"]["low"] > 1.2
    assert found["strategies"]["semantic"]["low"] < 1 < found["strategies"]["semantic"]["high"]
    assert found["rules"]["obeying"] == found["rules"]["sets"] == 108
    assert found["rules"]["fallback_share"] == 0.1
    assert "obey their rule: 108 of 108; 10 % of the targets fell back." in said
    assert said in (own_project / "runs/retrieve/facts.md").read_text()


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("track,mode\nsomebody,minor\n", "knows no track of")]
)
def test_a_table_of_other_facts_is_refused(
    own_project: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
):
    if text is not None:
        (own_project / "facts.csv").write_text(text)
    code, said = refuse("--facts", str(own_project / "facts.csv"), root=own_project, capsys=capsys)
    assert code == 2
    assert words in said


def test_the_pool_is_written_once_for_all_strategies_and_anew_for_other_vectors(own_project: Path):
    shelf = own_project / "shards/.work/pool"
    (before,) = (path for path in shelf.iterdir() if path.is_dir())
    times = {path: path.stat().st_mtime_ns for path in before.iterdir()}
    run_stage("retrieve", "--strategy", "random", "--set", "retrieve.num_examples=2", root=own_project)
    assert {path: path.stat().st_mtime_ns for path in before.iterdir()} == times
    run_stage("retrieve", "--strategy", "semantic", "--set", "retrieve.text_weight=0.2", root=own_project)
    (after,) = (path for path in shelf.iterdir() if path.is_dir())
    assert after != before


def test_a_dry_run_writes_nothing(tmp_path: Path):
    project = write_project(tmp_path / "dry")
    run_stage("retrieve", "--dry-run", root=project)
    assert not (project / "shards/retrieve").exists()
    assert not (project / "runs").exists()


def test_targets_without_enough_examples_are_counted(own_project: Path, capsys: pytest.CaptureFixture[str]):
    """60 train clips; the group of a train clip takes two of them, that of another one none."""
    flags = ("--set", "retrieve.num_examples=59", "--set", "retrieve.max_drop_share=1")
    run_stage("retrieve", "--strategy", "random", *flags, root=own_project)
    assert read(own_project / "shards/retrieve/random/report.json")["targets_without_enough"] == 60
    assert "60 without enough examples" in capsys.readouterr().out


def refuse(*flags: str, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        run_stage("retrieve", *flags, root=root)
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-k", "3"), "belong to --query"),
        (("--out", "x.json"), "belong to --query"),
        (("--query", " "), "is empty"),
        (("--query", "x", "--strategy", "oracle"), "own audio"),
        (("--query", "x", "-k", "0"), "retrieve.num_examples: 0"),
        (("--set", "retrieve.mmr_lambda=1.5"), "retrieve.mmr_lambda"),
        (("--set", "retrieve.text_weight=-0.1"), "retrieve.text_weight"),
        (("--set", "retrieve.strategies=[]"), "is empty"),
        (("--set", "retrieve.strategies=[best]"), "retrieve.strategies"),
        (("--set", "retrieve.max_per_author=-1"), "retrieve.max_per_author"),
        (("--set", "retrieve.near_duplicate_cosine=1.5"), "retrieve.near_duplicate_cosine"),
        (("--query", "x", "--audit"), "not allowed with"),
        (("--query", "x", "--facts", "y.csv"), "not allowed with"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
):
    code, said = refuse(*flags, root=project, capsys=capsys)
    assert code == 2
    assert words in said


def test_a_description_of_other_clips_is_refused(own_project: Path, capsys: pytest.CaptureFixture[str]):
    manifest = own_project / "shards/describe/library/manifest.json"
    manifest.write_bytes(pretty_json(read(manifest) | {"parents": {"ingest": "other"}}))
    code, said = refuse("--strategy", "structured", root=own_project, capsys=capsys)
    assert code == 1
    assert "stages.describe" in said


def test_facts_of_nothing_are_refused(own_project: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(own_project / "shards/retrieve")
    code, said = refuse("--facts", str(write_facts(own_project)), root=own_project, capsys=capsys)
    assert code == 1
    assert "no examples to compare; run `python -m stages.retrieve` first" in said


def test_a_missing_description_is_said_before_the_work(own_project: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(own_project / "shards/describe/library")
    shutil.rmtree(own_project / "shards/retrieve")
    code, said = refuse("--strategy", "semantic", root=own_project, capsys=capsys)
    assert code == 1
    assert "shards/describe/library" in said
    assert not (own_project / "shards/retrieve").exists()


def test_a_pool_without_train_clips_is_refused(own_project: Path, capsys: pytest.CaptureFixture[str]):
    path = own_project / "shards/split/split.json"
    split = read(path)
    path.write_bytes(pretty_json(split | {"split": dict.fromkeys(split["split"], "test")}))
    assert "no train clips" in refuse("--strategy", "random", root=own_project, capsys=capsys)[1]
