"""docs/add-a-corpus.md works as it is written."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from pipeline.sources import table
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "add-a-corpus.md").read_text("utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_short():
    assert len(CODE.splitlines()) < 60


def test_the_example_reads_the_corpus_it_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("pipeline.sources.hymns")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(CODE, "hymns.py", "exec"), module.__dict__)
    monkeypatch.setattr(table, "CORPORA", (*table.CORPORA, "hymns"))
    (tmp_path / "hymns" / "recordings").mkdir(parents=True)
    (tmp_path / "hymns" / "recordings" / "001.ogg").touch()
    rows = [
        "number,title,tune,words,book",
        "001,Praise,OLD 100TH,la,Psalter",
        "002,Joy,OLD 100TH (alt.),la,Psalter",
        "003,,X,la,Y",
    ]
    (tmp_path / "hymns" / "hymns.csv").write_text("\n".join([*rows, ""]), "utf-8")
    first, second, third = table.corpus_tracks("hymns", {"root": "hymns"}, tmp_path)
    assert first.path == tmp_path / "hymns/recordings/001.ogg"
    assert (second.path, second.missing) == (None, "no recordings/002.ogg")
    assert first.groups["song"] == second.groups["song"]
    assert third.fault == "row 3: no title"


def test_the_page_names_what_there_is():
    for name in re.findall(r"`(pipeline/[\w/.]+|tests/[\w/.]+)`", PAGE):
        assert name == "pipeline/sources/hymns.py" or (REPOSITORY / name).exists(), name
