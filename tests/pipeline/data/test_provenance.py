from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipeline.data import provenance
from pipeline.errors import ContractError


def bare(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "pipeline").mkdir(exist_ok=True)
    (tmp_path / "pipeline" / "toy.py").write_text(code)
    monkeypatch.setattr(provenance, "CODE_ROOT", tmp_path)
    provenance.code_digest.cache_clear()
    provenance._tree.cache_clear()
    try:
        return provenance.code_digest("pipeline.toy")
    finally:
        provenance.code_digest.cache_clear()
        provenance._tree.cache_clear()


def test_comments_docstrings_and_layout_do_not_change_the_code_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = bare("def f(x):\n    return x + 1\n", tmp_path, monkeypatch)
    dressed = '"""Doc."""\n\n\n# why\ndef f(\n    x,\n):\n    """Add."""\n    return (x + 1)  # one\n'
    assert bare(dressed, tmp_path, monkeypatch) == plain
    assert bare("def f(x):\n    return x + 2\n", tmp_path, monkeypatch) != plain


def test_imports_inside_functions_belong_to_the_closure():
    closure = provenance.import_closure("stages.encode")
    assert {"stages.encode", "pipeline.models.codec", "pipeline.music.audio", "pipeline.data.shards"} <= set(closure)
    assert "pipeline.models.clap" not in closure


def test_the_closure_holds_our_modules_only():
    for name in provenance.import_closure("stages.pack"):
        assert provenance.module_file(name) is not None
    assert provenance.module_file("numpy") is None


def test_a_bare_string_is_not_code():
    assert provenance._is_bare_string(ast.parse("'text'").body[0])
    assert not provenance._is_bare_string(ast.parse("x = 'text'").body[0])


def test_missing_inputs_are_named(tmp_path: Path):
    with pytest.raises(ContractError, match=r"index\.json"):
        provenance.folder_digest(tmp_path)
    with pytest.raises(ContractError, match="no such folder"):
        provenance.listing_digest(tmp_path / "none")
    with pytest.raises(ContractError, match=r"manifest\.json"):
        provenance.read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ContractError, match="no manifest of schema 1"):
        provenance.read_manifest(tmp_path)


def test_listing_digest_sees_a_new_time_and_a_new_file(tmp_path: Path):
    import os

    (tmp_path / "a").write_text("x")
    one = provenance.listing_digest(tmp_path)
    os.utime(tmp_path / "a", ns=(1, 1))
    two = provenance.listing_digest(tmp_path)
    (tmp_path / "b").write_text("x")
    assert len({one, two, provenance.listing_digest(tmp_path)}) == 3


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"parents": 3}'])
def test_a_split_that_cannot_be_read_is_one_line_that_names_its_stage(tmp_path, content):
    path = tmp_path / "split.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(ContractError, match=r"split\.json.*run `python -m stages\.split`"):
        provenance.check_parents(path, {"ingest/mine": "abc"}, stage="python -m stages.split")
