"""Every preset is a whole, valid params file, and its sequences fit its budget."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.engine.local import EngineParams
from pipeline.engine.params import load_params, section
from pipeline.models.places import ModelsParams
from stages.demo import DemoParams
from stages.describe import DescribeParams
from stages.embed import EmbedParams
from stages.encode import EncodeParams
from stages.ingest import IngestParams
from stages.lyrics import LyricsParams
from stages.pack import PackParams
from stages.retrieve import RetrieveParams
from stages.split import SplitParams
from stages.transcribe import TranscribeParams
from tests.conftest import REPOSITORY
from train.compare import CompareParams
from train.params import EvaluateParams, GenerateParams, TrainParams

SECTIONS: dict[str, type[Any]] = {
    "models": ModelsParams,
    "demo": DemoParams,
    "ingest": IngestParams,
    "split": SplitParams,
    "lyrics": LyricsParams,
    "transcribe": TranscribeParams,
    "describe": DescribeParams,
    "encode": EncodeParams,
    "embed": EmbedParams,
    "retrieve": RetrieveParams,
    "pack": PackParams,
    "train": TrainParams,
    "generate": GenerateParams,
    "evaluate": EvaluateParams,
    "compare": CompareParams,
    "engine": EngineParams,
}
PRESETS = sorted((REPOSITORY / "pipeline" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_whole_and_valid(path):
    params = load_params(path)
    assert set(params) == {*SECTIONS, "sources"}
    for name, cls in SECTIONS.items():
        section(params, name, cls)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_longest_sequence_of_a_preset_fits_its_budget(path):
    params = load_params(path)
    train, pack = section(params, "train", TrainParams), section(params, "pack", PackParams)
    most = max(train.num_examples) if isinstance(train.num_examples, tuple) else train.num_examples
    assert most <= pack.num_examples <= section(params, "retrieve", RetrieveParams).num_examples
    num_codebooks = 4
    columns = most * (train.max_example_frames + num_codebooks - 1 + 1) + train.max_target_frames + num_codebooks - 1
    assert columns <= train.max_total_columns


def test_the_committed_settings_are_the_demo():
    assert (REPOSITORY / "params.yaml").read_bytes() == (REPOSITORY / "pipeline/presets/demo.yaml").read_bytes()
