"""Wavs from a trained run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.data.shards import ShardFile, decode_npy
from pipeline.models.base import weights_digest
from tests.train import toys
from train import checkpoint, generate, run


def failing(arguments, capsys):
    """Exit code and the one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        generate.main(arguments)
    return left.value.code, capsys.readouterr().err


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


def test_another_base_of_the_same_shape_is_refused(trained, capsys):
    toys.save_musicgen(trained / "checkpoints/other", seed=1)
    code, text = failing(arguments(trained, "--set", "models.generator=other"), capsys)
    assert (code, text.count("\n")) == (1, 1)
    assert "trained on musicgen@sha256:" in text
    assert "models.generator is other@sha256:" in text


def test_the_same_base_under_another_name_is_taken(trained):
    (trained / "checkpoints/renamed").symlink_to(trained / "checkpoints/musicgen")
    generate.main(arguments(trained, "--limit", "1", "--set", "models.generator=renamed"))
    assert len(list((trained / "runs/generate/toy/samples").iterdir())) == 1


def test_codes_of_another_codec_of_the_same_shape_are_refused(trained, capsys):
    ours = toys.stamp() | {"weights_sha256": weights_digest(trained / "checkpoints/encodec")}
    other = toys.stamp() | {"weights_sha256": "0" * 64}
    first, second = toys.random_samples(2)
    toys.write_pack(trained / "shards/test", "test", [toys.altered(first, codec=ours)])
    generate.main(arguments(trained))
    samples = [toys.altered(first, codec=ours), toys.altered(second, codec=other)]
    toys.write_pack(trained / "shards/test", "test", samples, per_shard=1)
    code, text = failing(arguments(trained), capsys)
    assert (code, text.count("\n")) == (1, 1)
    assert "test-000001.tar" in text
    assert "000000000000" in text
    assert "encodec@sha256:" in text


def test_an_empty_test_set_is_one_line(trained, capsys):
    shutil.rmtree(trained / "shards/test")
    toys.write_empty_pack(trained / "shards/test", "test")
    code, text = failing(arguments(trained), capsys)
    assert (code, text.count("\n")) == (1, 1)
    assert "not one sample" in text


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_lost_result_is_only_put_in_place_again(trained, monkeypatch, capsys):
    generate.main(arguments(trained))
    before = files_of(trained / "runs/generate/toy")
    shutil.rmtree(trained / "runs/generate/toy")
    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_samples", lambda *_, **__: pytest.fail("works again"))
        generate.main(arguments(trained))
    assert "finished before" in capsys.readouterr().err
    assert files_of(trained / "runs/generate/toy") == before


@pytest.mark.parametrize("change", ["generate.seed=1", "models.codec=other"])
def test_other_settings_work_anew(trained, change, capsys):
    toys.save_encodec(trained / "checkpoints/other", seed=1)
    generate.main(arguments(trained))
    before = files_of(trained / "runs/generate/toy")
    generate.main(arguments(trained, "--set", change))
    assert "finished before" not in capsys.readouterr().err
    after = files_of(trained / "runs/generate/toy")
    assert all(before[name] != after[name] for name in before if name.endswith(".wav"))


def test_other_weights_of_the_run_work_anew(trained, capsys):
    generate.main(arguments(trained))
    path = trained / "runs/toy/adapter/adapter_model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-4] + bytes(4))
    capsys.readouterr()
    generate.main(arguments(trained))
    assert "finished before" not in capsys.readouterr().err


def test_a_result_tells_what_it_was_made_from(trained):
    generate.main(arguments(trained))
    told = yaml.safe_load((trained / "runs/generate/toy/config.yaml").read_text())
    assert told["base"] == f"musicgen@sha256:{weights_digest(trained / 'checkpoints/musicgen')}"
    assert told["models"]["codec"] == f"encodec@sha256:{weights_digest(trained / 'checkpoints/encodec')}"
    assert told["device"] == "cpu"
    assert {"torch", "transformers", "peft"} <= set(told["packages"])
    assert str(trained) not in str(told)


def test_a_name_under_way_is_refused_before_any_work(trained, monkeypatch, capsys):
    monkeypatch.setattr("train.icl.adapter.load_trained", lambda *_, **__: pytest.fail("works first"))
    with checkpoint.claim(trained / "runs/.work/generate/toy"):
        code, text = failing(arguments(trained), capsys)
    assert (code, text.count("\n")) == (1, 1)
    assert "another process" in text


def test_guidance_away_from_what_was_never_left_out_is_told(trained, capsys):
    capsys.readouterr()
    limit = ("--limit", "1", "--set", "generate.max_frames=2")
    generate.main(arguments(trained, *limit, "--set", "generate.guidance_scale=3", "--set", "generate.text_guidance=1"))
    text = capsys.readouterr().err
    assert "generate.guidance_scale: train.null_share was 0" in text
    assert "generate.text_guidance: train.no_text_share was 0" in text
    # 0 is among the counts of examples of this run.
    generate.main(arguments(trained, *limit, "--set", "generate.examples_guidance=1"))
    assert "was 0" not in capsys.readouterr().err


def test_codes_of_a_codec_that_hears_otherwise_are_taken_and_told(trained, capsys):
    sample = toys.random_samples(1)[0]
    toys.write_pack(
        trained / "shards/test", "test", [toys.altered(sample, codec=toys.stamp() | {"golden_sha256": "f0"})]
    )
    generate.main(arguments(trained, "--set", "generate.max_frames=2"))
    assert "its codec made f0 of the golden clip" in capsys.readouterr().err


def test_a_run_in_another_format_is_read_as_it_was_trained(project, capsys):
    toys.save_encodec(project / "checkpoints/encodec")
    sets = [f"train.{value}" for value in ("cross_attention=full", "representation=clap", "clap_dim=4")]
    more = [part for value in sets for part in ("--set", value)]
    run.main(["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy", *more])
    generate.main(arguments(project, "--limit", "1", "--set", "generate.max_frames=2"))
    assert len(list((project / "runs/generate/toy/samples").iterdir())) == 1
    code, text = failing(arguments(project, "--set", "generate.num_examples=4"), capsys)
    assert (code, text.count("\n")) == (2, 1)
    assert "generate.num_examples: 4, but the run learned vectors for 3 examples" in text
