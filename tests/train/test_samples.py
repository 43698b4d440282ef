"""Codes that a training samples on its way, and their rendering."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from pipeline.data.shards import decode_npy
from pipeline.errors import ContractError
from tests.train import toys
from tests.train.conftest import make_toy_project
from tests.train.test_data import CODEC
from tests.train.test_run import adapter_bytes
from train import generate, rendering, run, samples
from train.data import PackedShards
from train.icl.model import load_model
from train.params import TrainParams

SAMPLING = ["--set", "train.num_samples=2", "--set", "train.validate_every_steps=4"]


def arguments(root, *more):
    shards = ["--shards", str(root / "shards/train"), "--val", str(root / "shards/test")]
    return ["--root", str(root), *shards, "--name", "toy", *more]


def sampled(root):
    return {
        path.relative_to(root / "runs/toy/samples").as_posix(): path.read_bytes()
        for path in (root / "runs/toy/samples").rglob("*.*")
    }


def test_a_run_publishes_codes_of_validation_prompts_and_is_not_changed_by_it(project):
    run.main(arguments(project, "--set", "train.validate_every_steps=4"))
    undisturbed = adapter_bytes(project)
    assert not (project / "runs/toy/samples").exists()
    run.main(arguments(project, *SAMPLING))
    assert adapter_bytes(project) == undisturbed
    found = sampled(project)
    keys = [f"toy-1-{number:04d}" for number in range(2)]
    assert sorted(found) == [
        f"step-{step:06d}/{key}.{kind}" for step in (4, 6) for key in keys for kind in ("json", "npy")
    ]
    val = PackedShards(sorted((project / "shards/test").glob("*.tar")), CODEC)
    told = json.loads(found[f"step-000006/{keys[0]}.json"])
    assert told["prompt"] == val[0].prompts[-1]
    assert told["examples"] == val[0].prompts[:-1]
    codes_KT = decode_npy(found[f"step-000006/{keys[0]}.npy"])
    assert (codes_KT.dtype, codes_KT.shape) == (np.uint16, val[0].target_KT.shape)
    shutil.rmtree(project / "runs")
    run.main(arguments(project, *SAMPLING))
    assert sampled(project) == found


def test_sampling_touches_no_generator_and_other_processes_write_nothing(project, musicgen, tmp_path):
    model = load_model(str(musicgen), params=TrainParams(num_samples=1))
    val = PackedShards(sorted((project / "shards/test").glob("*.tar")), CODEC)
    before = torch.get_rng_state()
    samples.sample_codes(model, val, tmp_path / "one", step=3)
    samples.sample_codes(model, val, None, step=3)
    assert torch.equal(before, torch.get_rng_state())
    assert [path.name for path in (tmp_path / "one/samples").iterdir()] == ["step-000003"]


@pytest.fixture(scope="module")
def codes_once(tmp_path_factory, musicgen):
    """A project with a codec and a run with samples; not to be changed."""
    root = make_toy_project(tmp_path_factory.mktemp("sampled"), musicgen)
    toys.save_encodec(root / "checkpoints/encodec")
    run.main(arguments(root, *SAMPLING))
    return root


@pytest.fixture
def codes(codes_once, tmp_path):
    """A copy of it."""
    return shutil.copytree(codes_once, tmp_path / "codes", symlinks=True)


def render(root, *more):
    generate.main(["--root", str(root), "--codes", "runs/toy/samples", *more])


def failing(root, capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        generate.main(["--root", str(root), *arguments])
    return left.value.code, capsys.readouterr().err


def test_codes_are_rendered_step_by_step_with_a_page(codes, capsys):
    render(codes, "--dry-run")
    assert "would render 4 samples" in capsys.readouterr().out
    render(codes)
    folder = codes / "runs/generate/toy-samples"
    wavs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))
    assert wavs == [f"step-{step:06d}/toy-1-000{number}.wav" for step in (4, 6) for number in range(2)]
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    info = soundfile.info(folder / wavs[0])
    assert (info.samplerate, info.frames) == (16_000, 320 * lines[0]["num_frames"])
    page = (folder / "index.html").read_text()
    assert all(f'src="{wav}"' in page for wav in wavs)
    assert page.count("<tr>") == 3
    render(codes)
    assert "finished before" in capsys.readouterr().err


def test_codes_of_one_step_may_be_rendered_under_a_name(codes):
    generate.main(["--root", str(codes), "--codes", str(codes / "runs/toy/samples/step-000004"), "--name", "heard"])
    assert len(list((codes / "runs/heard").glob("*.wav"))) == 2


def test_codes_of_another_codec_are_refused(codes, capsys):
    toys.save_encodec(codes / "checkpoints/other", codebook_size=32)
    wrong_shape = failing(codes, capsys, "--codes", "runs/toy/samples", "--set", "models.codec=other")
    for path in (codes / "runs/toy/samples/step-000004").glob("*.json"):
        told = json.loads(path.read_text())
        told["codec"]["weights_sha256"] = "a" * 64
        path.unlink()
        path.write_text(json.dumps(told))
    for code, text in (wrong_shape, failing(codes, capsys, "--codes", "runs/toy/samples")):
        assert code == 1
        assert "set models.codec to the codec of stages.encode" in text


def test_damaged_codes_are_named(codes, capsys):
    folder = codes / "runs/toy/samples/step-000004"
    path, other = sorted(folder.glob("*.npy"))
    path.unlink()
    path.write_bytes(b"nothing")
    code, text = failing(codes, capsys, "--codes", str(folder))
    assert (code, "no array of codes" in text) == (1, True)
    np.save(path, np.full((4, 3), 99, np.uint16))
    assert "not the codes that the json beside it tells of" in failing(codes, capsys, "--codes", str(folder))[1]
    np.save(path, np.zeros((4, 0), np.uint16))
    assert "holds not one code; delete it" in failing(codes, capsys, "--codes", str(folder))[1]
    other.with_suffix(".json").unlink()
    assert "needs the json" in failing(codes, capsys, "--codes", str(folder))[1]
    other.with_suffix(".json").write_text("{}")
    with pytest.raises(ContractError, match="it lacks prompt or codec"):
        rendering.find_codes(folder)
    assert "no codes there" in failing(codes, capsys, "--codes", str(codes / "shards"))[1]


def test_a_run_or_codes_but_not_both_nor_neither(codes, capsys):
    for given in ([], ["--run", "toy"], ["--run", "toy", "--shards", "x", "--codes", "runs/toy/samples"]):
        code, text = failing(codes, capsys, *given)
        assert (code, "--codes" in text) == (2, True)


def test_audio_generated_from_a_pipe_is_that_of_the_local_tar(trained):
    [tar] = (trained / "shards/test").glob("*.tar")
    wavs = []
    for name, shards in (("local", str(tar)), ("piped", f"pipe:cat {tar}")):
        more = ["--shards", shards, "--name", name, "--limit", "2"]
        generate.main(["--root", str(trained), "--run", "toy", *more])
        wavs.append({path.name: path.read_bytes() for path in (trained / "runs" / name / "samples").iterdir()})
    assert len(wavs[0]) == 2
    assert wavs[0] == wavs[1]
