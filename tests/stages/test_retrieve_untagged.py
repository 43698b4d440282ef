"""Clips that nobody tagged: CLAP's guesses are written down, read by `structured`, and may be left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from pipeline.data.provenance import folder_digest, pretty_json
from pipeline.data.shards import Sample, encode_json, encode_npz
from pipeline.models.clap_prompt import embed_prompts
from pipeline.models.places import checkpoint_stamp
from pipeline.retrieval.zero_shot import LabelSet, label_prompts, make_label_set
from tests.stages.conftest import run_stage, write_params
from tests.stages.test_retrieve import clip_json, examples, read, refuse, write_column

NUM_CLIPS = 40
KEYS = [f"library-{n:04d}" for n in range(NUM_CLIPS)]


def number_of(key: str) -> int:
    return int(key[-4:])


def labels_of(clap: Path) -> LabelSet:
    prompts = label_prompts("instrument")
    embedded_BD = embed_prompts(clap, [text for phrasings in prompts.values() for text in phrasings])
    assert embedded_BD is not None
    return make_label_set("instrument", embedded_BD.reshape(len(prompts), 3, -1))


def instruments(clap: Path) -> list[str]:
    """Five labels that a small text tower tells apart: what each has of its own points at no other one."""
    labels = labels_of(clap)
    own_LD = labels.vectors_LD - labels.vectors_LD.mean(axis=0)
    logits_LL = own_LD @ labels.vectors_LD.T / np.linalg.norm(own_LD, axis=1, keepdims=True)
    others_LL = np.where(np.eye(len(own_LD)) > 0, -np.inf, logits_LL)
    leads = np.diag(logits_LL) - others_LL.max(axis=1)
    return [labels.labels[n] for n in np.argsort(-leads)[:5]]


def sounds(clap: Path) -> np.ndarray:
    """Audio [N, D]: what its instrument's label has of its own, and a noise of which no label tells."""
    labels, names = labels_of(clap), instruments(clap)
    wide_LD = labels.vectors_LD.astype(np.float64)
    own_LD = wide_LD - wide_LD.mean(axis=0)
    own_LD /= np.linalg.norm(own_LD, axis=1, keepdims=True)
    noise_ND = np.random.default_rng(0).normal(size=(NUM_CLIPS, wide_LD.shape[1]))
    noise_ND -= noise_ND @ np.linalg.pinv(wide_LD) @ wide_LD
    noise_ND *= 0.5 / np.linalg.norm(noise_ND, axis=1, keepdims=True)
    return own_LD[[labels.labels.index(names[n % 5]) for n in range(NUM_CLIPS)]] + noise_ND


@pytest.fixture
def untagged(tmp_path: Path, checkpoints: Path) -> Path:
    """Captions tell tempo and mode, tags nothing, and the vectors the instrument."""
    project = tmp_path / "untagged"
    clap = project / "checkpoints/clap"
    shutil.copytree(checkpoints / "clap", clap)
    weights = load_file(clap / "model.safetensors")
    save_file(
        weights | {"logit_scale_a": np.array(np.log(2000), np.float32)},
        clap / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_params(project)
    params: dict[str, Any] = yaml.safe_load((project / "params.yaml").read_text())
    params["sources"] = {"library": {"root": "mine"}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    texts = [
        f"a {('slow', 'fast')[n % 2]} tune in a {('minor', 'major')[n // 2 % 2]} key, number {n}"
        for n in range(NUM_CLIPS)
    ]
    clips = [
        clip_json(key, [{"text": text, "source": "human"}]) | {"aspects": []}
        for key, text in zip(KEYS, texts, strict=True)
    ]
    shards, text_ND = project / "shards", embed_prompts(clap, texts)
    assert text_ND is not None
    write_column(
        shards / "ingest/library",
        [Sample(key, {"json": encode_json(clip)}) for key, clip in zip(KEYS, clips, strict=True)],
    )
    parents = {"ingest": folder_digest(shards / "ingest/library")}
    empty = encode_json({"attributes": {}, "captions": []})
    write_column(shards / "describe/library", [Sample(key, {"describe.json": empty}) for key in KEYS], parents=parents)
    vectors = [
        encode_npz(audio=audio_D.astype(np.float16), text=text_D[None].astype(np.float16))
        for audio_D, text_D in zip(sounds(clap), text_ND, strict=True)
    ]
    write_column(
        shards / "embed/library",
        [Sample(key, {"clap.npz": data}) for key, data in zip(KEYS, vectors, strict=True)],
        parents=parents,
        models={"embedder": checkpoint_stamp(str(clap), "clap")},
    )
    split = {
        "parents": {"library": parents["ingest"]},
        "split": {key: "test" if number_of(key) % 8 == 0 else "train" for key in KEYS},
        "group": {key: key for key in KEYS},
    }
    (shards / "split").mkdir()
    (shards / "split/split.json").write_bytes(pretty_json(split))
    return project


def test_structured_varies_the_instrument_that_it_hears(untagged: Path, capsys: pytest.CaptureFixture[str]):
    run_stage("retrieve", "--strategy", "structured", root=untagged)
    assert "of 35 pool clips without tags, CLAP tells the genre of" in capsys.readouterr().out
    played = instruments(untagged / "checkpoints/clap")
    guesses = read(untagged / "shards/retrieve/structured/guesses.json")["guesses"]
    assert set(guesses) == {key for key in KEYS if number_of(key) % 8}
    for key, guess in guesses.items():
        assert guess["instrument"]["label"] == played[number_of(key) % 5]
        assert guess["instrument"]["sure"]
        assert guess["instrument"]["probability"] > 0.5
    found = examples(untagged, "structured", ("library",))
    assert len(found) == NUM_CLIPS
    for value in found.values():
        heard = [played[number_of(example["key"]) % 5] for example in value["examples"]]
        assert value["varied"] == "instrument"
        assert len(set(heard)) == len(heard)


def test_its_sets_are_checked_against_the_same_guesses(untagged: Path, capsys: pytest.CaptureFixture[str]):
    run_stage("retrieve", "--strategy", "structured", root=untagged)
    rows = [f"{key},{('minor', 'major')[number_of(key) // 2 % 2]}" for key in KEYS]
    (untagged / "facts.csv").write_text("\n".join(["track,mode", *rows]))
    run_stage("retrieve", "--facts", str(untagged / "facts.csv"), root=untagged)
    rules = read(untagged / "runs/retrieve/facts.json")["rules"]
    assert rules["obeying"] == rules["sets"] == NUM_CLIPS
    path = untagged / "shards/retrieve/structured/guesses.json"
    path.write_text("{")
    code, said = refuse("--facts", str(untagged / "facts.csv"), root=untagged, capsys=capsys)
    assert code == 1
    assert "guesses.json: cannot be read" in said


def test_guesses_can_be_left_out_and_need_no_model_then(untagged: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(untagged / "checkpoints")
    code, said = refuse("--strategy", "structured", root=untagged, capsys=capsys)
    assert code == 1
    assert "models.embedder: no folder clap below models.root (checkpoints)" in said
    assert "retrieve.zero_shot=false" in said
    run_stage("retrieve", "--strategy", "structured", "--set", "retrieve.zero_shot=false", root=untagged)
    assert read(untagged / "shards/retrieve/structured/guesses.json")["guesses"] == {}
    assert {value.get("varied") for value in examples(untagged, "structured", ("library",)).values()} == {None}


def test_a_prompt_is_answered_by_the_same_guesses(untagged: Path):
    flags = ("--query", "a slow tune in a minor key", "--strategy", "structured", "-k", "3")
    run_stage("retrieve", *flags, root=untagged)
    played = instruments(untagged / "checkpoints/clap")
    answer = read(untagged / "runs/retrieve/query.json")
    assert answer["rule"] == "all in a minor key, slow, under 80 bpm; the instrument changes"
    heard = {played[number_of(example["key"]) % 5] for example in answer["examples"]}
    assert len(heard) == 3


def test_labels_are_embedded_once(untagged: Path):
    flags = ("--query", "a slow tune in a minor key", "--strategy", "structured")
    run_stage("retrieve", *flags, root=untagged)
    (kept,) = (untagged / "shards/.work/labels").glob("*/vectors.npy")
    before = kept.stat().st_mtime_ns
    run_stage("retrieve", *flags, root=untagged)
    assert kept.stat().st_mtime_ns == before
