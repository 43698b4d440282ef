"""Which settings of a sequence are refused, with the reason; how long episodes become."""

from __future__ import annotations

import pytest

from pipeline.engine.params import load_params, section
from pipeline.errors import ParamsError
from tests.conftest import REPOSITORY
from train.params import TrainParams
from train.variants import check_num_examples, longest_episode, tell_of_length

PRESETS = sorted((REPOSITORY / "pipeline" / "presets").glob("*.yaml"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"representation": "text"}, r"train\.representation text: .* no example at all"),
        ({"representation": "clap"}, r"train\.representation clap: .* no example at all"),
        ({"text_placement": "inline", "cross_attention": "full"}, r"cross_attention full: .* does not use"),
        ({"segment_vectors": "none"}, r"segment_vectors none: only train\.cross_attention full"),
        (
            {"representation": "text", "cross_attention": "full", "example_codebooks": 1},
            r"example_codebooks: .* shows no",
        ),
        ({"representation": "text", "cross_attention": "full", "loss_on": "all"}, r"loss_on all: .* same as target"),
        ({"representation": "clap", "cross_attention": "full", "example_crop": "random"}, r"example_crop random: "),
        (
            {"representation": "text", "cross_attention": "full", "separator": "pad"},
            r"separator pad: .* nothing to part",
        ),
        ({"example_codebooks": 0}, r"train\.example_codebooks: must be at least 1, not 0"),
        ({"null_share": 0.5, "no_text_share": 0.5}, r"train\.null_share, .* sum to 1, must stay below 1"),
        (
            {"text_placement": "inline", "max_total_columns": 600},
            r"train\.max_target_frames \(500\), 128 columns of text",
        ),
        ({"separator": "comma"}, r"train\.separator: .*'none', 'pad', 'learned' or 'text'"),
        ({"bucket_batches": 0}, r"train\.bucket_batches: must be above 0"),
        ({"max_batch_columns": -1}, r"train\.max_batch_columns: must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(values, message):
    with pytest.raises(ParamsError, match=message):
        section({"train": values}, "train", TrainParams)


def test_a_default_that_has_no_place_is_no_contradiction():
    assert TrainParams(representation="text", cross_attention="full").form.representation == "text"
    inline = TrainParams(representation="text", text_placement="inline", separator="text")
    assert inline.form.separator == "text"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_fits_and_tells_where_it_exceeds_what_musicgen_was_trained_on(path):
    params = section(load_params(path), "train", TrainParams)
    longest = longest_episode(params, num_codebooks=4)
    assert longest <= params.max_total_columns
    told = tell_of_length(params, num_codebooks=4)
    assert (told is not None and f"up to {longest:,} columns" in told) == (longest > 1500)
    assert longest <= 1500 or f"{longest:,}" in path.read_text("utf-8"), (
        "the preset must say it beside max_total_columns"
    )


def test_examples_that_will_not_fit_are_told():
    told = tell_of_length(TrainParams(num_examples=5, text_placement="inline"), num_codebooks=4)
    assert told is not None
    assert "5 examples and a target take up to 3,691 columns, train.max_total_columns is 3,000" in told
    assert tell_of_length(TrainParams(num_examples=1), num_codebooks=4) is None


def test_more_examples_than_there_are_segment_vectors_are_refused():
    run = TrainParams(cross_attention="full", num_examples=(0, 2))
    check_num_examples("evaluate", 2, run)
    with pytest.raises(ParamsError, match=r"evaluate\.num_examples: 3, but the run learned vectors for 2"):
        check_num_examples("evaluate", 3, run)
    check_num_examples("evaluate", 3, TrainParams(num_examples=2))


def test_an_adapter_is_put_only_where_it_can_learn():
    cross, inline = TrainParams(lora_targets="all"), TrainParams(lora_targets="all", text_placement="inline")
    assert "encoder_attn" not in cross.lora_pattern or "(?!" not in cross.lora_pattern
    assert "(?!.*encoder_attn)" in inline.lora_pattern
    assert not TrainParams(num_examples=0).trains_separator
    assert not TrainParams(separator="pad").trains_separator
    assert TrainParams().trains_separator
