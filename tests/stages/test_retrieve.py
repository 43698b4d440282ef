"""Retrieval over two corpora whose captions tell known facts, and over the chain, where every stage has run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.data.draws import draw
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
from pipeline.models.base import weights_digest
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


def write_corpus(shards: Path, corpus: str, random: np.random.Generator) -> None:
    keys = [f"{corpus}-{n:04d}" for n in range(NUM_CLIPS)]
    clips, described, embedded = [], [], []
    for n, key in enumerate(keys):
        text = f"a {SPEEDS[n % 2]} {INSTRUMENTS[n % 5]} tune in a {'minor' if n % 3 else 'major'} key"
        # Every tenth clip has no caption of its own, and says nothing in the one it gets.
        own = [{"text": text, "source": "human", "author": str(n % 4)}] if n % 10 else []
        made = [] if own else [{"text": "A tune.", "source": "template"}]
        clips.append(
            Sample(key, {"json": encode_json({"key": key, "captions": own, "aspects": ["slow", "minor key"]})})
        )
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
    run_stage("retrieve", "--strategy", "semantic", root=own_project)
    code, said = refuse("--strategy", "structured", root=own_project, capsys=capsys)
    assert code == 1
    assert "stages.describe" in said


def test_a_pool_without_train_clips_is_refused(own_project: Path, capsys: pytest.CaptureFixture[str]):
    path = own_project / "shards/split/split.json"
    split = read(path)
    path.write_bytes(pretty_json(split | {"split": dict.fromkeys(split["split"], "test")}))
    assert "no train clips" in refuse("--strategy", "random", root=own_project, capsys=capsys)[1]


# --- a prompt, and the chain ------------------------------------------------------------------------------------------


def test_a_prompt_is_answered_by_table_and_json(copy_of_chain: Path, capsys: pytest.CaptureFixture[str]):
    flags = ("--query", "a fast plucked tune", "--strategy", "diverse", "-k", "3")
    run_stage("retrieve", *flags, root=copy_of_chain)
    answer = read(copy_of_chain / "runs/retrieve/query.json")
    said = capsys.readouterr().out
    assert said.startswith("diverse: a fast plucked tune\n")
    assert len(answer["examples"]) == 3
    assert all(example["key"] in said for example in answer["examples"])
    split = read(copy_of_chain / "shards/split/split.json")["split"]
    assert {split[example["key"]] for example in answer["examples"]} == {"train"}
    run_stage("retrieve", *flags[:-2], "-k", "500", "--out", str(copy_of_chain / "all.json"), root=copy_of_chain)
    assert len(read(copy_of_chain / "all.json")["examples"]) == sum(name == "train" for name in split.values())
    assert "of 500 examples" in capsys.readouterr().out


def test_a_prompt_gets_the_examples_that_a_target_with_its_caption_got(copy_of_chain: Path):
    """Training and inference choose by one rule; of the target's group and copies only a target knows."""
    found = examples(copy_of_chain, "semantic")
    split = read(copy_of_chain / "shards/split/split.json")
    target = next(key for key in found if split["split"][key] == "test" and key.startswith("musiccaps"))
    folder = copy_of_chain / "shards/ingest/musiccaps"
    clips = {sample.key: sample for entry in load_index(folder) for sample in ShardFile(folder / entry.name)}
    text = decode_json(clips[target].members["json"])["captions"][0]["text"]
    run_stage("retrieve", "--query", text, root=copy_of_chain)
    answer = read(copy_of_chain / "runs/retrieve/query.json")
    assert [e["key"] for e in answer["examples"]] == keys_of(found)[target]


def test_a_checkpoint_of_another_build_is_asked_through_the_embedder(copy_of_chain: Path):
    """Another name of the same activation: the short way does not know it, transformers does."""
    run_stage("retrieve", "--query", "a fast plucked tune", root=copy_of_chain)
    before = read(copy_of_chain / "runs/retrieve/query.json")
    shared = (copy_of_chain / "checkpoints").resolve()
    (copy_of_chain / "checkpoints").unlink()
    shutil.copytree(shared, copy_of_chain / "checkpoints")
    path = copy_of_chain / "checkpoints/clap/config.json"
    config = read(path)
    config["text_config"]["hidden_act"] = "gelu_python"
    path.write_text(json.dumps(config))
    for corpus in CORPORA:
        manifest = copy_of_chain / "shards/embed" / corpus / "manifest.json"
        content = read(manifest)
        content["models"]["embedder"]["weights_sha256"] = weights_digest(path.parent)
        manifest.write_bytes(pretty_json(content))
    run_stage("retrieve", "--query", "a fast plucked tune", root=copy_of_chain)
    after = read(copy_of_chain / "runs/retrieve/query.json")
    assert [e["key"] for e in after["examples"]] == [e["key"] for e in before["examples"]]


def test_a_prompt_is_not_embedded_by_another_model(copy_of_chain: Path, capsys: pytest.CaptureFixture[str]):
    manifest = copy_of_chain / "shards/embed/library/manifest.json"
    content = read(manifest)
    content["models"]["embedder"]["weights_sha256"] = "other"
    manifest.write_bytes(pretty_json(content))
    code, said = refuse("--query", "x", root=copy_of_chain, capsys=capsys)
    assert code == 1
    assert "embedded by another model" in said


def test_random_and_semantic_pick_as_their_definitions_say(chain: Path):
    """Written out a second time, plainly: the results of these two are not to move."""
    split = read(chain / "shards/split/split.json")
    folders = [chain / "shards/embed" / corpus for corpus in CORPORA]
    shards = [ShardFile(folder / entry.name) for folder in folders for entry in load_index(folder)]
    vectors = {sample.key: decode_npz(sample.members["clap.npz"]) for shard in shards for sample in shard}

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))

    text, audio = ({key: unit(v[name].reshape(-1)) for key, v in vectors.items()} for name in ("text", "audio"))
    pool = sorted(key for key in vectors if split["split"][key] == "train")
    chosen, searched = keys_of(examples(chain, "random")), keys_of(examples(chain, "semantic"))
    assert set(chosen) == set(searched) == set(vectors)
    for key in vectors:
        allowed = [p for p in pool if split["group"][p] != split["group"][key] and audio[p] @ audio[key] < 0.98]
        draws = np.random.PCG64(draw(0, "random", key)).random_raw(len(allowed))
        assert chosen[key] == [allowed[n] for n in np.argsort(draws)[:3]]
        nearness = {p: 0.5 * float(text[key] @ text[p]) + 0.5 * float(text[key] @ audio[p]) for p in allowed}
        expected = sorted(allowed, key=lambda p: (-nearness[p], p))[:3]
        assert np.allclose([nearness[p] for p in searched[key]], [nearness[p] for p in expected], atol=1e-6)
