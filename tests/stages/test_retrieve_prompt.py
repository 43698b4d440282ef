"""Retrieval for a prompt, and over the chain, where every stage has run on sound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.draws import draw
from pipeline.data.provenance import pretty_json
from pipeline.data.shards import ShardFile, decode_json, decode_npz, load_index
from pipeline.models.base import weights_digest
from tests.stages.conftest import run_stage
from tests.stages.test_retrieve import CORPORA, examples, keys_of, read, refuse


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


def test_copies_in_another_corpus_are_no_examples(chain: Path):
    """MusicCaps' number 3 lies in the library too, sample by sample, and number 5 through mp3 and quieter."""
    tracks = {}
    for corpus in CORPORA:
        folder = chain / "shards/ingest" / corpus
        for sample in (s for entry in load_index(folder) for s in ShardFile(folder / entry.name)):
            tracks[decode_json(sample.members["json"])["track"]] = sample.key
    twins = [("Dbcdefghi03", "twin.flac"), ("_bcdefghi05", "again.mp3")]
    pairs = [
        (next(key for track, key in tracks.items() if track.endswith(one[1:])), tracks[other]) for one, other in twins
    ]
    assert len(set(sum(pairs, ()))) == 4
    for strategy in ("random", "semantic"):
        found = keys_of(examples(chain, strategy))
        assert all(one not in found[other] and other not in found[one] for one, other in pairs)


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
    """Written out a second time, plainly: the results of these two are not to move unawares."""
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
        draws = np.random.PCG64(draw(0, "random", key)).random_raw(1000) % np.uint64(len(pool))
        drawn = [pool[row] for row in dict.fromkeys(draws.tolist())]
        assert chosen[key] == [p for p in drawn if p in allowed][:3]
        nearness = {p: 0.5 * float(text[key] @ text[p]) + 0.5 * float(text[key] @ audio[p]) for p in allowed}
        expected = sorted(allowed, key=lambda p: (-nearness[p], p))[:3]
        assert np.allclose([nearness[p] for p in searched[key]], [nearness[p] for p in expected], atol=1e-6)
