"""Paired figures of a trained run, and the CLAP score between its anchors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.errors import ContractError
from tests.train import toys
from tests.train.test_data import CODEC
from train import checkpoint, evaluate, run
from train.data import PackedShards
from train.params import EvaluateParams


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


@pytest.mark.parametrize(("representation", "blanks"), [("text", False), ("clap", True)])
def test_examples_are_blanked_only_where_more_than_captions_is_shown(project, representation, blanks):
    sets = [f"train.{value}" for value in ("cross_attention=full", f"representation={representation}", "clap_dim=4")]
    more = [part for value in sets for part in ("--set", value)]
    run.main(["--root", str(project), "--shards", str(project / "shards/train"), "--name", "toy", *more])
    metrics, _ = evaluate_toy(project)
    assert (metrics["trained"]["examples_blanked"] is not None) == blanks
    assert metrics["trained"]["captions_swapped"] is not None


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
    stamp = {"model": "pitch", "weights_sha256": "ab"}  # noqa: RUF012

    def embed_audio(self, waves_N):
        return np.stack([np.eye(8, dtype=np.float32)[int(wave_N[0] * 8)] for wave_N in waves_N])

    def embed_text(self, texts):
        return np.stack([np.eye(8, dtype=np.float32)[int(text)] for text in texts])


class LevelCodec:
    """The last code of a clip is its level."""

    sample_rate_hz = 16_000
    frame_rate_hz = 50.0

    def decode(self, codes_KT):
        return np.full(320 * codes_KT.shape[1], codes_KT[0, -1] / 8, np.float32)


def level_samples(levels, strategy):
    """Clips of three frames, of which the last bears another level."""
    clips = [np.repeat([[level, level, 7]], 4, axis=0) for level in levels]
    samples = [
        toys.packed_sample(f"level-{n}", target_KT=clip, examples_KT=[], prompts=[str(level)], codec=toys.stamp())
        for n, (level, clip) in enumerate(zip(levels, clips, strict=True))
    ]
    return [toys.altered(sample, strategy=strategy) for sample in samples]


def level_episodes(folder, strategy=None):
    """Four targets of levels 1 to 4 and generated wavs of two frames, of which the last has a wrong level."""
    samples = level_samples([1, 2, 3, 4], strategy or {"name": "random"})
    shards = PackedShards(toys.write_pack(folder / "pack", "test", samples), CODEC)
    (folder / "samples").mkdir()
    for n, level in enumerate([1, 2, 3, 7]):
        soundfile.write(folder / "samples" / f"level-{n}.wav", np.full(640, level / 8 + 0.01), 16_000)
    return [shards[i] for i in range(4)]


def score_levels(folder, episodes):
    return evaluate.clap_scores(folder, episodes, codec=LevelCodec(), embedder=PitchEmbedder(), seed=0)


def test_clap_score_stands_between_its_anchors(tmp_path):
    scores = score_levels(tmp_path, level_episodes(tmp_path))
    assert scores["num_samples"] == 4
    assert scores["generated"] == 0.75
    assert scores["anchor_shuffled_captions"] == 0.0


def test_real_audio_is_cut_to_the_length_of_the_generated(tmp_path):
    assert score_levels(tmp_path, level_episodes(tmp_path))["anchor_real_audio"] == 1.0


@pytest.mark.parametrize(
    ("strategy", "circular"),
    [
        ({"name": "semantic", "embedder": {"model": "pitch", "weights_sha256": "ab"}}, True),
        ({"name": "semantic", "embedder": {"model": "other", "weights_sha256": "cd"}}, False),
        ({"name": "semantic", "embedder": {"model": "other"}}, None),
        ({"name": "semantic"}, None),
    ],
)
def test_clap_score_is_circular_where_the_same_embedder_chose_the_examples(tmp_path, strategy, circular):
    assert score_levels(tmp_path, level_episodes(tmp_path, strategy))["circular"] is circular


def test_no_wav_of_the_targets_is_an_error(tmp_path):
    episodes = level_episodes(tmp_path)
    with pytest.raises(ContractError, match="no wav of these targets"):
        score_levels(tmp_path / "pack", episodes)


def failing(root, *more, capsys):
    """Exit code and the one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        evaluate_toy(root, *more)
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return left.value.code, text


def test_another_base_of_the_same_shape_is_refused(trained, capsys):
    toys.save_musicgen(trained / "checkpoints/other", seed=1)
    code, text = failing(trained, "--set", "models.generator=other", capsys=capsys)
    assert code == 1
    assert "trained on musicgen@sha256:" in text
    assert "models.generator is other@sha256:" in text


def test_an_empty_test_set_is_one_line(trained, capsys):
    shutil.rmtree(trained / "shards/test")
    toys.write_empty_pack(trained / "shards/test", "test")
    code, text = failing(trained, capsys=capsys)
    assert code == 1
    assert "not one sample" in text


@pytest.fixture
def generated(trained):
    """Silence instead of generated audio, and models to score it with; the packed codes name another codec."""
    toys.save_encodec(trained / "checkpoints/encodec")
    toys.save_encodec(trained / "checkpoints/clap")
    stamp = toys.stamp() | {"weights_sha256": "0" * 64}
    samples = [toys.altered(sample, codec=stamp) for sample in toys.random_samples(2, seed=1)]
    toys.write_pack(trained / "shards/test", "test", samples)
    (trained / "made/samples").mkdir(parents=True)
    soundfile.write(trained / "made/samples" / f"{samples[0].key}.wav", np.zeros(640), 16_000)
    return trained


MADE = ("--generated", "made", "--set", "models.embedder=clap")


def test_codes_of_another_codec_of_the_same_shape_are_refused_before_any_work(generated, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "score", lambda *_: pytest.fail("works first"))
    code, text = failing(generated, *MADE, capsys=capsys)
    assert code == 1
    assert "test-000000.tar" in text
    assert "000000000000" in text
    assert "encodec@sha256:" in text


def test_a_folder_without_wavs_is_refused_before_any_work(generated, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "score", lambda *_: pytest.fail("works first"))
    shutil.rmtree(generated / "made/samples")
    code, text = failing(generated, *MADE, capsys=capsys)
    assert code == 1
    assert "run train.generate" in text


def test_a_lost_result_is_only_put_in_place_again(trained, monkeypatch, capsys):
    first = evaluate_toy(trained)
    shutil.rmtree(trained / "runs/evaluate/toy")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "score", lambda *_: pytest.fail("works again"))
        assert evaluate_toy(trained) == first
    assert "finished before" in capsys.readouterr().err
    evaluate_toy(trained, "--set", "evaluate.seed=1")
    assert "finished before" not in capsys.readouterr().err


def test_a_result_tells_what_it_was_made_from(trained):
    evaluate_toy(trained)
    told = yaml.safe_load((trained / "runs/evaluate/toy/config.yaml").read_text())
    assert told["base"].startswith("musicgen@sha256:")
    assert told["device"] == "cpu"
    assert {"torch", "transformers", "peft"} <= set(told["packages"])


def test_a_name_under_way_is_refused_before_any_work(trained, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "score", lambda *_: pytest.fail("works first"))
    with checkpoint.claim(trained / "runs/.work/evaluate/toy"):
        code, text = failing(trained, capsys=capsys)
    assert code == 1
    assert "another process" in text
