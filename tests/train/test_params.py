"""Settings: what is refused, and how."""

from __future__ import annotations

import pytest

from pipeline.engine.params import section
from pipeline.errors import ParamsError
from train.params import EvaluateParams, GenerateParams, TrainParams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"train\.steps: must be above 0, not 0"),
        ({"learning_rate": -1.0}, r"train\.learning_rate: must be above 0"),
        ({"lora_alpha": 0}, r"train\.lora_alpha: must be above 0, not 0"),
        ({"warmup_steps": -3}, r"train\.warmup_steps: must be at least 0, not -3"),
        ({"weight_decay": -1}, r"train\.weight_decay: must be at least 0, not -1"),
        ({"validate_every_steps": -1}, r"train\.validate_every_steps: must be at least 0, not -1"),
        ({"seed": -1}, r"train\.seed: must be at least 0 and below 2\*\*63, not -1"),
        ({"seed": 2**63}, r"train\.seed: must be at least 0 and below 2\*\*63, not 9223372036854775808"),
        ({"null_share": 1.0}, r"train\.null_share: must be at least 0 and below 1, not 1\.0"),
        ({"num_examples": []}, r"train\.num_examples: needs a number"),
        ({"num_examples": -1}, r"train\.num_examples: needs a number"),
        ({"lora_targets": "("}, r"train\.lora_targets: not a regular expression"),
        ({"max_total_columns": 515}, r"train\.max_target_frames \(500\).* train\.max_total_columns \(515\)"),
        ({"method": "qlora"}, r"train\.method: .*'lora' or 'full'"),
        ({"learing_rate": 1e-3}, r"train\.learing_rate: no such setting; did you mean 'learning_rate'"),
    ],
)
def test_bad_train_settings_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        section({"train": values}, "train", TrainParams)


def test_bad_generate_and_evaluate_settings_are_named():
    with pytest.raises(ParamsError, match=r"generate\.temperature: must be at least 0"):
        GenerateParams(temperature=-1)
    with pytest.raises(ParamsError, match=r"generate\.guidance_scale: must be at least 0"):
        GenerateParams(guidance_scale=-1)
    with pytest.raises(ParamsError, match=r"evaluate\.batch_size: must be above 0"):
        EvaluateParams(batch_size=0)
    with pytest.raises(ParamsError, match=r"evaluate\.seed: must be at least 0"):
        EvaluateParams(seed=-1)


def test_num_examples_is_a_number_or_a_list():
    fixed = section({"train": {"num_examples": 2}}, "train", TrainParams)
    drawn = section({"train": {"num_examples": [0, 3, 1]}}, "train", TrainParams)
    assert (fixed.most_examples, drawn.most_examples) == (2, 3)
