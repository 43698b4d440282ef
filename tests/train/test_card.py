"""The model card: licences, digests, base model, figures, and the lines that hubs read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from pipeline.data.provenance import file_digest
from tests.train.toys import altered, random_samples, write_pack
from train import card, run
from train.params import TrainParams

COMMIT = "a" * 40


def front(text: str) -> dict[str, object]:
    return yaml.safe_load(text.split("---\n")[1])


def test_samples_are_counted_by_corpus_and_licence(tmp_path):
    samples = random_samples(10)
    told = [
        altered(sample, corpus=corpus, licence=licence)
        for sample, (corpus, licence) in zip(
            samples, [("musiccaps", "CC BY-SA 4.0")] * 6 + [("mine", None)] * 4, strict=True
        )
    ]
    paths = write_pack(tmp_path / "pack", "train", told, per_shard=4)
    assert card.count_sources({"train": paths, "val": []}, limit=None) == [
        ("train", "mine", "not stated", 4),
        ("train", "musiccaps", "CC BY-SA 4.0", 6),
    ]
    assert card.count_sources({"train": paths}, limit=7) == [
        ("train", "mine", "not stated", 1),
        ("train", "musiccaps", "CC BY-SA 4.0", 6),
    ]
    assert card.count_sources({"train": ["pipe:cat a.tar"]}, limit=None) == []


def test_shards_of_an_older_pack_state_no_licence(tmp_path):
    paths = write_pack(tmp_path / "pack", "train", random_samples(2))
    assert card.count_sources({"train": paths}, limit=None) == [("train", "toy", "not stated", 2)]


def test_the_manifests_beside_the_shards_are_named_with_their_digests(tmp_path):
    paths = write_pack(tmp_path / "semantic", "train", random_samples(10), per_shard=4)
    assert card.manifest_digests(paths) == []
    (tmp_path / "semantic/manifest.json").write_text("{}")
    digest = file_digest(tmp_path / "semantic/manifest.json")
    assert card.manifest_digests([*paths, "pipe:cat b.tar"]) == [("semantic/manifest.json", digest)]


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: cc-by-4.0\ntags: [x]\n---\n# Model\n", "cc-by-4.0"),
        ("---\ntags: [x]\n---\n# Model\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\n- a\n---\n", None),
        ("---\na: [\n---\n", None),
        ("# Model\n", None),
    ],
)
def test_the_base_models_own_card_tells_its_licence(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)
    assert card.stated_licence(tmp_path) == licence


def test_musicgen_of_the_hub_is_known_not_to_be_for_sale(tmp_path):
    label = "facebook/musicgen-medium@sha256:0123"
    hub = card.base_of(label, COMMIT, tmp_path)
    assert (hub.licence, hub.digest) == ("cc-by-nc-4.0", "0123")
    assert front(card.front_matter(hub, library="peft"))["license"] == "cc-by-nc-4.0"
    # A folder may be called anything.
    local = card.base_of("musicgen-medium@sha256:0123", None, tmp_path)
    assert card.licence_note(local) == "see the base model's card"
    assert not {"license", "base_model"} & front(card.front_matter(local, library="peft")).keys()


def test_settings_that_differ_from_their_defaults_and_have_an_effect_are_told():
    params = TrainParams(steps=7, num_examples=(0, 2), separator="pad", loader_workers=3, keep_checkpoints=9)
    assert card.changed_settings(params) == {"steps": 7, "num_examples": [0, 2], "separator": "pad"}


def card_text(params: TrainParams, *, num_processes: int = 1) -> str:
    metrics = {"step": 7, "num_bad_steps": 1, "num_trained_parameters": 5, "train": {"loss": None}, "validation": None}
    return card.Card(
        name="toy",
        params=params,
        base=card.Base("toy", None, "0123", None),
        metrics={**metrics, "best_validation": None, "published": {"which": "last", "step": 7}},
        shards={},
        sources=[],
        manifests=[],
        num_processes=num_processes,
    ).text()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"representation": "clap", "cross_attention": "full"}, "CLAP states, segment vectors"),
        ({"representation": "both"}, "CLAP states"),
        ({"separator": "text"}, "a separator of text"),
        ({"text_placement": "inline"}, "captions inline"),
        ({}, None),
        ({"cross_attention": "full", "segment_vectors": "none"}, None),
    ],
)
def test_a_format_that_peft_would_read_in_part_is_loaded_by_setlist_alone(settings, parts):
    told = card_text(TrainParams(**settings))
    assert ("PeftModel" in told) == (parts is None)
    assert (f"parts that peft does not read ({parts}): load it by Setlist." in told) == (parts is not None)


@pytest.mark.parametrize(("num_processes", "said"), [(1, "of 24 episodes, 1"), (4, "of 96 episodes by 4 processes, 1")])
def test_a_step_counts_the_episodes_of_all_processes(num_processes, said):
    told = card_text(TrainParams(batch_size=8, accumulate=3), num_processes=num_processes)
    assert f"- steps: 7 {said} skipped\n" in told
    assert "- last training loss: not finite\n" in told


@pytest.fixture
def hub(project: Path, tmp_path: Path, musicgen: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache that holds the toy as facebook/musicgen-small, of one commit."""
    repository = tmp_path / "hub/models--facebook--musicgen-small"
    shutil.copytree(musicgen, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return project


def test_a_run_on_a_hubs_model_names_id_commit_and_licence_and_no_path(hub):
    told = [altered(sample, corpus="musiccaps", licence="CC BY-SA 4.0") for sample in random_samples(8)]
    write_pack(hub / "shards/told", "train", told)
    flags = ["--set", "models.generator=facebook/musicgen-small", "--set", "train.steps=1"]
    run.main(["--root", str(hub), "--shards", str(hub / "shards/told"), "--name", "toy", *flags])
    config = json.loads((hub / "runs/toy/adapter/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("facebook/musicgen-small", COMMIT)
    text = (hub / "runs/toy/README.md").read_text()
    assert front(text) | {"tags": None} == {
        "base_model": "facebook/musicgen-small",
        "library_name": "peft",
        "license": "cc-by-nc-4.0",
        "pipeline_tag": "text-to-audio",
        "tags": None,
    }
    assert "| train | musiccaps | 8 | CC BY-SA 4.0 |" in text
    assert f'from_pretrained("facebook/musicgen-small", revision="{COMMIT}")' in text
    assert "python -m train.merge --run toy --out toy-merged" in text
    assert "python -m train.generate --run toy" in text
    assert "train-000000.tar: " in text
    assert "lora_rank: 4" in text
    for path in (hub / "runs/toy").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(hub) not in path.read_text()


def test_a_whole_models_card_has_no_adapter_to_load(project):
    flags = ["--set", "train.method=full", "--set", "train.steps=1"]
    run.main(["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy", *flags])
    text = (project / "runs/toy/README.md").read_text()
    assert front(text)["library_name"] == "transformers"
    assert 'from_pretrained("runs/toy/model")' in text
    assert "peft" not in text.partition("## Settings")[0]
