from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.engine.params import load_params, read_value, section
from pipeline.errors import ParamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyParams:
    num: int = 1
    names: tuple[str, ...] = ()
    choice: int | tuple[int, ...] = 3
    inner: Inner = Inner()


def test_section_keeps_defaults_and_reads_lists_and_nested_settings():
    params = section({"toy": {"names": ["a", "b"], "inner": {"share": 1}}}, "toy", ToyParams)
    assert params == ToyParams(names=("a", "b"), inner=Inner(share=1.0))
    assert section({"toy": None}, "toy", ToyParams) == ToyParams()
    assert section({"toy": {"choice": [0, 1]}}, "toy", ToyParams).choice == (0, 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"nmu": 2}, r"toy\.nmu.*did you mean 'num'"),
        ({"inner": {"zzz": 2}}, r"toy\.inner\.zzz.*there are: share"),
        ({"num": "2"}, r"toy\.num.*'2'"),
        ({"num": 2.5}, r"toy\.num"),
        ({"num": True}, r"toy\.num"),
        ({"names": "a"}, r"toy\.names"),
        (["a"], "toy"),
    ],
)
def test_wrong_settings_name_the_key_and_the_remedy(value: object, words: str):
    with pytest.raises(ParamsError, match=words):
        section({"toy": value}, "toy", ToyParams)


def test_a_date_is_refused_in_words():
    import datetime

    with pytest.raises(ParamsError, match="quotes"):
        read_value({"num": datetime.date(2026, 1, 1)}, ToyParams, "toy")


def test_a_missing_section_is_named():
    with pytest.raises(ParamsError, match="section `toy` is missing"):
        section({}, "toy", ToyParams)


def test_overrides_lie_on_top_of_the_file(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("toy:\n  num: 1\n  inner: {share: 0.1}\n")
    params = load_params(path, ["toy.num=7", "toy.inner.share=0.9", "toy.names=[x, y]"])
    assert section(params, "toy", ToyParams) == ToyParams(num=7, names=("x", "y"), inner=Inner(share=0.9))


@pytest.mark.parametrize("override", ["toy.num", "num=1", "tyo.num=1", "toy.num.deep=1", "toy.num=["])
def test_an_override_of_nothing_is_refused(tmp_path: Path, override: str):
    path = tmp_path / "params.yaml"
    path.write_text("toy:\n  num: 1\n")
    with pytest.raises(ParamsError, match="--set"):
        load_params(path, [override])


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "line"), ("- a", "sections"), ("", "sections"), (None, "no such file")]
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str | None, words: str):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ParamsError, match=words):
        load_params(path)
