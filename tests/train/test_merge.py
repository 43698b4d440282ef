"""train.merge: a model of its own from an adapter, compared before it gets its name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from pipeline.errors import ContractError, ParamsError
from pipeline.models import audiocraft_logits
from pipeline.models.convert_musicgen import musicgen_to_audiocraft
from tests.conftest import REPOSITORY
from tests.train import toys
from train import generate, merge, run
from train.card import SNIPPET
from train.icl import merging
from train.icl.adapter import load_trained
from train.icl.batches import collate
from train.icl.model import load_model
from train.icl.states import read_states, states_mask
from train.inputs import read_run
from train.params import TrainParams

LEARNED = {"lora_targets": "all", "learning_rate": 0.05, "steps": 3}


def make_project(root: Path, *, width: int = 16, **train: object) -> Path:
    """A project whose base model has a projection between its text encoder and its decoder, as released ones do."""
    toys.save_musicgen(root / "checkpoints/musicgen", width=width, text_width=24)
    toys.save_encodec(root / "checkpoints/encodec")
    toys.write_pack(root / "shards/train", "train", toys.random_samples(8))
    toys.write_pack(root / "shards/test", "test", toys.random_samples(2, seed=1))
    return toys.make_project(root, train=toys.TRAIN | LEARNED | train)


def train_one(root: Path, name: str, *settings: str) -> None:
    flags = [part for setting in settings for part in ("--set", setting)]
    run.main(["--root", str(root), "--shards", str(root / "shards/train"), "--name", name, *flags])


def merge_one(root: Path, name: str, out: Path, *flags: str) -> None:
    merge.main(["--root", str(root), "--run", name, "--out", str(out), *flags])


def refused(capsys: pytest.CaptureFixture[str], root: Path, name: str, out: Path, *flags: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as left:
        merge_one(root, name, out, *flags)
    said = capsys.readouterr().err.splitlines()[-1]
    assert not list(out.parent.glob(f".{out.name}*"))
    return left.value.code, said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of the default format; nothing in it is changed."""
    root = make_project(tmp_path_factory.mktemp("merge"))
    train_one(root, "toy")
    return root


@pytest.fixture(scope="module")
def merged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "merged"
    merge_one(trained, "toy", out)
    return out


def test_a_merged_model_says_what_the_adapter_says_and_not_what_the_base_says(trained, merged):
    source = str(trained / "checkpoints/musicgen")
    one = merging.hear(load_trained(read_run(trained / "runs/toy"), source))
    params = read_run(trained / "runs/toy").params
    other = merging.hear(load_model(str(merged), params=params))
    base = merging.hear(load_model(source, params=params))
    assert merging.check_equal(one, other, what="both") < 1e-4
    assert merging.relative_difference(base, one) > 0.1
    assert len(one.logits) == 2
    assert one.logits[0].shape[1] > one.logits[1].shape[1]


def test_a_merged_folder_is_whole_and_says_where_it_comes_from(merged):
    names = {path.name for path in merged.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "parts.safetensors",
    } <= names
    card = (merged / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "logits of the adapter's model and the merged differ by at most" in card
    assert (merged / merge.CARD_OF_RUN).read_text().count("## Data") == 1
    assert str(merged.parent) not in card


def test_stock_transformers_generates_with_a_merged_model(trained, merged):
    stock, info = MusicgenForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = AutoTokenizer.from_pretrained(merged)(["amber cedar"], return_tensors="pt")
    base = MusicgenForConditionalGeneration.from_pretrained(trained / "checkpoints/musicgen")
    waves = [sing(network, inputs) for network in (stock, base)]
    assert waves[0].shape == waves[1].shape
    assert not torch.equal(*waves)


def sing(network: Any, inputs: Any) -> torch.Tensor:
    """What a network generates; the toy's codebooks are all zeros, so all codes would sound alike."""
    for number, layer in enumerate(network.audio_encoder.quantizer.layers):
        layer.codebook.embed.normal_(generator=torch.Generator().manual_seed(number))
    return network.generate(**inputs, do_sample=False, guidance_scale=1, max_new_tokens=12)


def test_another_run_in_another_format_goes_on_from_a_merged_model(trained, merged, tmp_path, capsys):
    root = shutil.copytree(trained, tmp_path / "again")
    shutil.copytree(merged, root / "checkpoints/first")
    generator = "models.generator=first"
    train_one(root, "second", generator, "train.cross_attention=full")
    flags = ["--set", generator, "--set", "generate.max_frames=4"]
    generate.main(["--root", str(root), "--run", "second", "--shards", str(root / "shards/test"), *flags])
    assert len(list((root / "runs/generate/second/samples").glob("*.wav"))) == 2
    assert "first@sha256:" in (root / "runs/second/config.yaml").read_text()
    merge_one(root, "second", tmp_path / "third", "--set", generator)
    assert "parts.segment_vectors.weight" not in load_file(tmp_path / "third/model.safetensors")
    assert set(load_file(tmp_path / "third/parts.safetensors")) == {"separator", "segment_vectors.weight"}
    assert refused(capsys, root, "second", tmp_path / "x", "--format", "audiocraft")[1].count("segment vectors") == 1


def test_parts_of_another_size_are_refused_as_a_base(merged, tmp_path):
    base = shutil.copytree(merged, tmp_path / "base")
    parts = load_file(base / "parts.safetensors")
    save_file(parts | {"segment_vectors.weight": torch.ones(9, 16)}, base / "parts.safetensors")
    with pytest.raises(ContractError, match=r"segment_vectors.weight is \(9, 16\), this format needs \(4, 16\)"):
        load_model(str(base), params=TrainParams(cross_attention="full"))


def test_audiocraft_itself_agrees_with_what_was_written_for_it(trained, tmp_path, capsys):
    (tmp_path / "ac").mkdir()
    merge_one(trained, "toy", tmp_path / "ac", "--format", "audiocraft")
    said = capsys.readouterr().err
    assert "warning: the learned separator's rows are left out" in said
    largest = re.search(r"audiocraft itself gives the same logits without examples, within (\S+)", said)
    assert largest is not None
    assert float(largest[1]) < 1e-4
    assert {"state_dict.bin", "compression_state_dict.bin"} <= {path.name for path in (tmp_path / "ac").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["ac"]


def wrongly_converted(merged: Path, folder: Path) -> Path:
    """audiocraft's files with one table off."""
    musicgen_to_audiocraft(str(merged), folder)
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    package["best_state"]["linears.1.weight"] *= 1.1
    torch.save(package, folder / "state_dict.bin")
    return folder


@pytest.mark.long
def test_weights_that_audiocraft_reads_otherwise_are_refused(trained, merged, tmp_path):
    params, converted = read_run(trained / "runs/toy").params, wrongly_converted(merged, tmp_path / "converted")
    with pytest.raises(ContractError, match=r"audiocraft's logits of state_dict.bin differ by 0\.\d+, more than"):
        merging.compare_with_audiocraft(merged, converted, params)


@pytest.mark.long
def test_weights_that_are_others_after_there_and_back_are_refused(trained, merged, tmp_path):
    params, converted = read_run(trained / "runs/toy").params, wrongly_converted(merged, tmp_path / "converted")
    heard = merging.hear(load_model(str(merged), params=params))
    with pytest.raises(ContractError, match="converted back and the merged weights: logits differ"):
        merging.compare_there_and_back(merged, converted, heard, params=params)


def test_without_audiocraft_the_weights_are_converted_back_and_compared(trained, merged, tmp_path, monkeypatch):
    params = read_run(trained / "runs/toy").params
    musicgen_to_audiocraft(str(merged), tmp_path / "converted")
    heard = merging.hear(load_model(str(merged), params=params))
    monkeypatch.setattr(audiocraft_logits, "has_audiocraft", lambda: False)
    line = merge.compare_converted(merged, tmp_path / "converted", heard, params=params)
    assert line == "audiocraft is not installed: converted back, the weights give the same logits, within 0"


@pytest.mark.parametrize("kept", [pytest.param("bf16", marks=pytest.mark.long), "nf4"])
def test_a_base_kept_in_fewer_bits_is_merged_in_float32_and_the_distance_told(tmp_path, capsys, kept):
    root = make_project(tmp_path / "p", width=64, base_weights=kept, precision="bf16", steps=1)
    train_one(root, "small")
    merge_one(root, "small", tmp_path / "out")
    said = capsys.readouterr().err
    share = re.search(rf"the base was {kept} in training and is float32 here: logits differ by ([\d.]+)%", said)
    assert share is not None
    assert 0 < float(share[1]) / 100 < merge.AS_TRAINED[kept]
    assert f"(within {merge.AS_TRAINED[kept]:.0%})" in said
    assert load_file(tmp_path / "out/model.safetensors")["decoder.lm_heads.0.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_examples": 2}, "a learned separator, without which this run never saw a prompt"),
        ({"separator": "text"}, "a separator of text"),
        ({"text_placement": "inline"}, "captions inline"),
        ({"cross_attention": "full", "representation": "clap"}, "CLAP states, segment vectors"),
        ({}, None),
        ({"num_examples": 2, "separator": "pad"}, None),
        ({"num_examples": 2, "no_examples_share": 0.1}, None),
    ],
)
def test_audiocraft_is_refused_what_it_has_no_place_for(settings, said):
    params = TrainParams(**settings)
    if said is None:
        merge.refuse_parts(params)
        assert "audiocraft reads no examples" in merge.left_out(params)[0]
    else:
        with pytest.raises(ParamsError, match=said):
            merge.refuse_parts(params)


def test_a_run_without_examples_loses_nothing_in_audiocraft():
    merge.refuse_parts(TrainParams(num_examples=0))
    assert merge.left_out(TrainParams(num_examples=0)) == []


def test_what_cannot_be_merged_is_one_line_that_says_what_to_do(trained, merged, tmp_path, capsys):
    out = tmp_path / "out"
    assert "no finished run; `python -m train.run --name nobody`" in refused(capsys, trained, "nobody", out)[1]
    code, said = refused(capsys, trained, "toy", merged)
    assert (code, "is not empty; name a new folder" in said) == (2, True)
    said = refused(capsys, trained, "toy", out, "--set", "models.generator=nowhere")[1]
    assert "name a checkpoint's folder or a hub id in section models" in said
    other = toys.save_musicgen(tmp_path / "other", seed=1)
    said = refused(capsys, trained, "toy", out, "--set", f"models.generator={other}")[1]
    assert "set models.generator to the model it was trained on" in said
    assert not out.exists()


def test_a_run_of_the_whole_model_needs_no_merge(tmp_path, capsys):
    root = make_project(tmp_path / "p", method="full", steps=1)
    train_one(root, "whole")
    said = refused(capsys, root, "whole", tmp_path / "out")[1]
    assert "is a whole model already" in said


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(trained, tmp_path, capsys):
    merge_one(trained, "toy", tmp_path / "out", "--dry-run")
    assert "would merge" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_models_that_differ_are_not_equal(trained):
    model = load_trained(read_run(trained / "runs/toy"), str(trained / "checkpoints/musicgen"))
    heard = merging.hear(model)
    with pytest.raises(ContractError, match=r"both: logits differ by 0\.01, more than 0\.0001"):
        merging.check_equal(heard, heard._replace(logits=[part + 0.01 for part in heard.logits]), what="both")
    with pytest.raises(ContractError, match="logits differ by nan"):
        merging.check_equal(heard, heard._replace(logits=[part * np.nan for part in heard.logits]), what="both")
    with pytest.raises(ContractError, match="both: greedy codes differ"):
        merging.check_equal(heard, heard._replace(codes=[codes + 1 for codes in heard.codes]), what="both")


def test_the_comparison_shows_what_a_format_reads(merged):
    params = TrainParams(cross_attention="full", representation="clap", clap_dim=4)
    whole, alone = merging.probe(load_model(str(merged), params=params))
    assert whole.clap_ND.shape == (2, 4)
    assert (len(whole.prompts), len(alone.prompts)) == (3, 1)
    one, none = (replace(params, num_examples=number, representation="codes") for number in (1, 0))
    assert [len(merging.probe(load_model(str(merged), params=p))[0].prompts) for p in (one, none)] == [2, 1]


def clean_environment() -> dict[str, str]:
    """An environment in which Python finds its packages, and nothing of this repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def documented_snippet() -> str:
    text = (REPOSITORY / "docs/train.md").read_text()
    section = text.partition("## Use the adapter without Setlist")[2]
    return section.partition("```python\n")[2].partition("```")[0]


def test_the_documented_snippet_loads_an_adapter_by_peft_alone(trained, tmp_path):
    source, adapter = trained / "checkpoints/musicgen", trained / "runs/toy/adapter"
    for target, name in ((source, "facebook/musicgen-small"), (adapter, "runs/semantic/adapter")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    model = load_trained(read_run(trained / "runs/toy"), str(source))
    episode = merging.probe(model)[0]
    batch = collate([episode], codebook_size=16)
    read = read_states(model, batch.prompts, batch.clap_ND)
    mask = states_mask(model, batch.segments_BS, read)
    inputs = {"columns": batch.inputs_BKS[0], "states": read.states_BLD, "mask": mask}
    save_file({name: value.detach().contiguous() for name, value in inputs.items()}, tmp_path / "inputs.safetensors")
    asked = """
from safetensors.torch import load_file, save_file
inputs = load_file("inputs.safetensors")
with torch.no_grad():
    out = model.decoder(
        inputs["columns"], encoder_hidden_states=inputs["states"], encoder_attention_mask=inputs["mask"]
    )
save_file({"logits": out.logits}, "logits.safetensors")
import importlib.util, json
print(json.dumps([importlib.util.find_spec(name) is None for name in ("train", "pipeline")]))
"""
    script = documented_snippet() + asked
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True]
    with torch.no_grad():
        ours = model.logits(batch)[0]
    assert (batch.inputs_BKS == 17).any(), "no separator among the columns: its row would not be seen"
    assert torch.allclose(load_file(tmp_path / "logits.safetensors")["logits"], ours, atol=1e-5)


def test_the_cards_snippet_is_the_documented_one():
    filled = SNIPPET.format(base='"facebook/musicgen-small"', adapter="runs/semantic/adapter")
    assert filled == documented_snippet()
