from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ParamsError
from pipeline.retrieval.facts import facts_of_text
from pipeline.retrieval.filters import Target
from pipeline.retrieval.index import Pool, stack_unit
from pipeline.retrieval.query import answer_prompt
from pipeline.retrieval.strategies import STRATEGIES, PickParams

PARAMS = PickParams(num_examples=3)
FOR_PROMPTS = [name for name in STRATEGIES if name != "oracle"]
TEXT = "slow piano in a minor key"


def toy_pool() -> Pool:
    random = np.random.default_rng(0)
    captions = [
        f"{tempo} {name} in a minor key" for tempo in ("slow", "fast") for name in ("piano", "harp", "koto")
    ] * 4
    vectors = random.normal(size=(2, len(captions), 8)).astype(np.float16)
    audio, text = (stack_unit(list(part), 8) for part in vectors)
    keys = [f"k{n:03d}" for n in range(len(captions))]
    facts = [facts_of_text(caption) for caption in captions]
    return Pool(keys, {}, audio, text, captions=captions, authors=[""] * len(keys), facts=facts)


@pytest.mark.parametrize("strategy", FOR_PROMPTS)
def test_a_prompt_gets_what_a_target_with_that_caption_would_get(strategy: str):
    pool = toy_pool()
    vector = np.random.default_rng(1).normal(size=8).astype(np.float32)
    answer = answer_prompt(TEXT, vector, pool=pool, strategy=strategy, params=PARAMS)
    query = stack_unit([vector.astype(np.float16)], 8)[0]
    target = Target(f"prompt:{TEXT}", "none", query, query * 0, facts_of_text(TEXT))
    picks = STRATEGIES[strategy](pool, PARAMS)(target)
    assert [example.key for example in answer.examples] == [pool.keys[row] for row, _ in picks.ranked]
    assert [example.score for example in answer.examples] == [round(score, 6) for _, score in picks.ranked]
    assert bool(answer.rule) == (strategy == "structured")


def test_the_table_shows_examples_rule_and_fallback():
    pool, vector = toy_pool(), np.ones(8, np.float32)
    answer = answer_prompt(TEXT, vector, pool=pool, strategy="structured", params=PARAMS)
    lines = answer.table().splitlines()
    assert lines[0] == f"structured: {TEXT}"
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert all(
        example.key in line and example.caption in line
        for example, line in zip(answer.examples, lines[1:4], strict=True)
    )
    assert lines[4] == "rule: all in a minor key, slow, under 80 bpm; the instrument changes"
    vague = answer_prompt("something", vector, pool=pool, strategy="structured", params=PARAMS)
    assert vague.table().splitlines()[-1].startswith("fell back: semantic: ")


def test_long_captions_are_cut_in_the_table_only():
    pool = replace(toy_pool(), captions=["word " * 50] * 24)
    answer = answer_prompt("x", np.ones(8, np.float32), pool=pool, strategy="semantic", params=PARAMS)
    assert answer.examples[0].caption == "word " * 50
    assert max(len(line) for line in answer.table().splitlines()) < 110


@pytest.mark.parametrize(("text", "strategy", "words"), [(" \n", "semantic", "is empty"), ("x", "oracle", "own audio")])
def test_what_cannot_be_answered_is_said(text: str, strategy: str, words: str):
    with pytest.raises(ParamsError, match=words):
        answer_prompt(text, np.ones(8, np.float32), pool=toy_pool(), strategy=strategy, params=PARAMS)
