"""Paired figures of a trained run, and the CLAP score between its anchors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from pipeline.errors import ContractError
from tests.train import toys
from tests.train.test_data import CODEC
from train import evaluate, run
from train.data import PackedShards
from train.params import EvaluateParams


@pytest.fixture
def trained(project):
    """A project with a finished run."""
    run.main(["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy"])
    return project


def evaluate_toy(root, *more):
    evaluate.main(["--root", str(root), "--run", "toy", "--shards", str(root / "shards/test"), *more])
    folder = root / "runs/evaluate/toy"
    lines = [json.loads(line) for line in (folder / "per_key.jsonl").read_text().splitlines()]
    return json.loads((folder / "metrics.json").read_text()), lines


def test_every_target_has_every_condition_and_the_means_are_theirs(trained):
    metrics, lines = evaluate_toy(trained)
    assert metrics["num_targets"] == len(lines) == 5
    for model in ("base", "trained"):
        for condition in evaluate.CONDITIONS:
            values = [line[model][condition] for line in lines]
            assert metrics[model][condition] == pytest.approx(np.mean(values))
    differences = [line["base"]["with_examples"] - line["trained"]["with_examples"] for line in lines]
    assert metrics["base_minus_trained"]["with_examples"]["mean"] == pytest.approx(np.mean(differences))


def test_figures_do_not_depend_on_the_batch(trained):
    small, _ = evaluate_toy(trained, "--set", "evaluate.batch_size=1")
    large, _ = evaluate_toy(trained, "--set", "evaluate.batch_size=5")
    for condition in evaluate.CONDITIONS:
        assert small["trained"][condition] == pytest.approx(large["trained"][condition], abs=1e-5)


def test_with_one_example_no_caption_can_be_swapped(trained):
    metrics, lines = evaluate_toy(trained, "--set", "evaluate.num_examples=1")
    assert metrics["trained"]["captions_swapped"] is None
    assert metrics["trained"]["minus_with_examples"]["captions_swapped"] is None
    assert all(line["trained"]["captions_swapped"] is None for line in lines)
    assert metrics["trained"]["minus_with_examples"]["examples_blanked"]["num_pairs"] == 5


def test_without_examples_only_one_condition_is_left(trained):
    metrics, _ = evaluate_toy(trained, "--set", "evaluate.num_examples=0")
    assert [name for name in evaluate.CONDITIONS if metrics["trained"][name] is not None] == ["without_examples"]


def test_dry_run_writes_nothing(trained, capsys):
    arguments = ["--root", str(trained), "--run", "toy", "--shards", str(trained / "shards/test"), "--dry-run"]
    evaluate.main(arguments)
    assert "would evaluate toy on 1 shards" in capsys.readouterr().out
    assert not (trained / "runs/evaluate/toy").exists()


def test_interval_covers_the_mean_and_narrows_with_more_keys():
    random = np.random.default_rng(0)
    widths = []
    for number in (20, 500):
        left = random.normal(1.0, 1.0, number).tolist()
        found = evaluate.paired_difference(left, [0.0] * number, params=EvaluateParams())
        assert found is not None
        assert found["low"] < found["mean"] < found["high"]
        assert found["num_pairs"] == number
        widths.append(found["high"] - found["low"])
    # The normal interval of 500 draws of standard deviation 1 is 2 * 1.96 / sqrt(500) = 0.175 wide.
    assert widths[1] == pytest.approx(0.175, rel=0.15)
    assert widths[0] > 3 * widths[1]


def test_targets_without_both_figures_are_left_out():
    found = evaluate.paired_difference([1.0, None, 3.0], [0.0, 0.0, None], params=EvaluateParams())
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0, "num_pairs": 1}
    assert evaluate.paired_difference([None], [1.0], params=EvaluateParams()) is None


class PitchEmbedder:
    """Text `<number>` and a tone of that pitch lie in the same place; other pitches at right angles."""

    sample_rate_hz = 16_000
    dim = 8
    stamp = {"model": "pitch"}  # noqa: RUF012

    def embed_audio(self, waves_N):
        return np.stack([np.eye(8, dtype=np.float32)[int(wave_N[0] * 8)] for wave_N in waves_N])

    def embed_text(self, texts):
        return np.stack([np.eye(8, dtype=np.float32)[int(text)] for text in texts])


class LevelCodec:
    """The first code of a clip is its level."""

    sample_rate_hz = 16_000

    def decode(self, codes_KT):
        return np.full(320, codes_KT[0, 0] / 8, np.float32)


def level_samples(levels):
    clips = [np.full((4, 3), level) for level in levels]
    return [
        toys.packed_sample(f"level-{n}", target_KT=clip, examples_KT=[], prompts=[str(level)], codec=toys.stamp())
        for n, (level, clip) in enumerate(zip(levels, clips, strict=True))
    ]


@pytest.fixture
def levels(tmp_path):
    """Four targets of levels 1 to 4 and generated wavs, of which the last has a wrong level."""
    shards = PackedShards(toys.write_pack(tmp_path / "pack", "test", level_samples([1, 2, 3, 4])), CODEC)
    (tmp_path / "samples").mkdir()
    for n, level in enumerate([1, 2, 3, 7]):
        soundfile.write(tmp_path / "samples" / f"level-{n}.wav", np.full(320, level / 8 + 0.01), 16_000)
    return tmp_path, [shards[i] for i in range(4)]


def test_clap_score_stands_between_its_anchors(levels):
    folder, episodes = levels
    scores = evaluate.clap_scores(folder, episodes, codec=LevelCodec(), embedder=PitchEmbedder(), seed=0)
    assert scores["num_samples"] == 4
    assert scores["anchor_real_audio"] == 1.0
    assert scores["generated"] == 0.75
    assert scores["anchor_shuffled_captions"] == 0.0


def test_no_wav_of_the_targets_is_an_error(levels, tmp_path):
    folder, episodes = levels
    with pytest.raises(ContractError, match="no wav of these targets"):
        evaluate.clap_scores(folder / "pack", episodes, codec=LevelCodec(), embedder=PitchEmbedder(), seed=0)
