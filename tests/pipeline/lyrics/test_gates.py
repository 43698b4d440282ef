from __future__ import annotations

import pytest

from pipeline.data.records import Heard
from pipeline.lyrics.gates import GateParams, refusal

GOOD = Heard(text="さくら", start_s=0.0, end_s=1.0, avg_logprob=-0.3, no_speech_prob=0.1, compression_ratio=1.0)


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({}, None),
        ({"text": " "}, "empty"),
        ({"no_speech_prob": 0.7}, "no_speech"),
        ({"avg_logprob": -1.1}, "avg_logprob"),
        ({"compression_ratio": 2.5}, "compression_ratio"),
    ],
)
def test_each_gate_refuses_what_it_names(change: dict[str, object], gate: str | None):
    assert refusal({**GOOD, **change}, GateParams()) == gate


def test_a_gate_can_be_opened():
    assert refusal({**GOOD, "avg_logprob": -5.0}, GateParams(min_avg_logprob=-9.0)) is None
