"""Wavs from a trained run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from pipeline.data.shards import ShardFile, decode_npy
from tests.train import toys
from train import generate, run


@pytest.fixture
def trained(project):
    """A project with a finished run and a codec."""
    toys.save_encodec(project / "checkpoints/encodec")
    run.main(["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy"])
    return project


def arguments(root, *more):
    return ["--root", str(root), "--run", "toy", "--shards", str(root / "shards/test"), *more]


def test_every_target_gets_a_wav_as_long_as_itself(trained):
    generate.main(arguments(trained))
    folder = trained / "runs/generate/toy"
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    shard = ShardFile(trained / "shards/test/test-000000.tar")
    assert [line["key"] for line in lines] == shard.keys
    for line, sample in zip(lines, shard, strict=True):
        info = soundfile.info(folder / "samples" / f"{line['key']}.wav")
        frames = decode_npy(sample.members["target.npy"]).shape[1]
        assert line["num_frames"] == frames
        assert (info.samplerate, info.frames, info.subtype) == (16_000, 320 * frames, "PCM_16")


def test_a_sample_depends_on_seed_and_key_alone(trained):
    generate.main(arguments(trained))
    generate.main(arguments(trained, "--limit", "2", "--name", "again"))
    generate.main(arguments(trained, "--limit", "2", "--name", "other", "--set", "generate.seed=1"))
    names = sorted(path.name for path in (trained / "runs/again/samples").iterdir())
    assert len(names) == 2
    whole, again, other = (
        [(trained / "runs" / run_name / "samples" / name).read_bytes() for name in names]
        for run_name in ("generate/toy", "again", "other")
    )
    assert whole == again
    assert whole != other


def test_guidance_and_length_are_settings(trained):
    generate.main(arguments(trained, "--set", "generate.guidance_scale=3.0", "--set", "generate.max_frames=3"))
    for path in (trained / "runs/generate/toy/samples").iterdir():
        wave, _ = soundfile.read(path)
        assert len(wave) == 3 * 320
        assert np.isfinite(wave).all()


def test_dry_run_writes_nothing(trained, capsys):
    generate.main(arguments(trained, "--dry-run"))
    assert "would generate from 1 shards" in capsys.readouterr().out
    assert not (trained / "runs/generate/toy").exists()


def test_a_codec_that_is_not_the_generators_is_refused(trained, capsys):
    toys.save_encodec(trained / "checkpoints/other", codebook_size=32)
    with pytest.raises(SystemExit) as left:
        generate.main(arguments(trained, "--set", "models.codec=other"))
    assert left.value.code == 1
    assert "use its own codec" in capsys.readouterr().err


def test_an_unknown_run_is_named(project, capsys):
    with pytest.raises(SystemExit) as left:
        generate.main(["--root", str(project), "--run", "none", "--shards", str(project / "shards/test")])
    assert left.value.code == 1
    assert "no finished run" in capsys.readouterr().err
