"""What a result was made from: digests of code, inputs and models, and the manifest that tells them."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.data.shards import INDEX_NAME, encode_json
from pipeline.data.storage import walk_files
from pipeline.errors import ContractError

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1
CODE_ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("pipeline", "stages", "train")
NO_BYTES_CHANGE = frozenset({"pipeline.engine.progress", "pipeline.engine.cli", "pipeline.errors", "pipeline.__main__"})
"""Modules that cannot change a byte of any result, left out of code digests and of dvc's deps."""


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return sha256_hex(encode_json(value))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        ContractError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror}); run the stage that makes it first") from error


def folder_digest(folder: Path) -> str:
    """Digest of a folder of shards: of its index, which holds the digest of every shard."""
    return file_digest(folder / INDEX_NAME)


def spelt_path(path: Path, folder: Path) -> str:
    """A path below a folder; a name that is no UTF-8 is spelt out, since JSON cannot hold it."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def listing_digest(folder: Path) -> str:
    """Digest of names, sizes and times of all files below a folder; cheap, for user's sources and resume only.

    Raises:
        ContractError: there is no such folder.
    """
    if not folder.is_dir():
        raise ContractError(f"{folder}: no such folder; check `sources` in the params file")
    stats = ((path, path.stat()) for path in walk_files(folder) if path.exists())
    return digest_of([[spelt_path(path, folder), s.st_size, s.st_mtime_ns] for path, s in stats])


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of Python and of packages, by their name on the index."""
    versions = {name: importlib.metadata.version(name) for name in sorted(names)}
    return versions | {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def import_closure(module: str) -> list[str]:
    """Names of our own modules that a module imports, directly or not, at its top or inside functions.

    Args:
        module: dotted name such as `stages.encode`; itself part of the result.
    """
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += _own_imports(name)
    return sorted(seen)


@cache
def code_digest(module: str) -> str:
    """Digest of a module's code and of all own code it imports, blind to comments, docstrings and layout."""
    names = [name for name in import_closure(module) if name not in NO_BYTES_CHANGE]
    return digest_of([[name, sha256_hex(_bare_code(name).encode())] for name in names])


def module_file(module: str) -> Path | None:
    """Source file of one of our modules, None if there is no such module."""
    base = CODE_ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _own_imports(module: str) -> list[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from pipeline.music import audio` names a module, `from pipeline.errors import X` does not.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    own = (name for name in found if name.split(".")[0] in OWN_PACKAGES)
    return [name for name in own if module_file(name) is not None]


@cache
def _tree(module: str) -> ast.Module:
    path = module_file(module)
    return ast.parse(path.read_bytes()) if path else ast.Module([], [])


def _bare_code(module: str) -> str:
    tree = ast.parse(ast.unparse(_tree(module)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            # A bare string is a docstring, or the text below a parameter field: it explains, it does nothing.
            node.body = [part for part in node.body if not _is_bare_string(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Raises:
        ContractError: there is none, or it is of another schema.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); run the stage that makes it first") from error
    whole = isinstance(manifest, dict) and {"params", "parents", "models", "counts"} <= set(manifest)
    if not whole or manifest.get("schema") != MANIFEST_SCHEMA:
        raise ContractError(f"{path}: no manifest of schema {MANIFEST_SCHEMA}; run the stage that makes it again")
    return manifest


def check_parents(made: Path, parents: Mapping[str, str], *, stage: str) -> None:
    """Check that a folder, or a file that names its parents, was made from what its parents are now.

    Args:
        made: folder of shards, or split.json.
        parents: digests as they are now, by name.
        stage: the command that makes it.

    Raises:
        ContractError: a parent was made anew since, or nobody can tell.
    """
    try:
        is_file = made.is_file() or made.suffix == ".json"
        known: dict[str, str] = dict((json.loads(made.read_bytes()) if is_file else read_manifest(made))["parents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{made}: cannot be read ({error!r}); run `{stage}` first") from None
    for name, digest in parents.items():
        if known.get(name) != digest:
            raise ContractError(f"{made}: was made from another {name} than lies there now; run `{stage}` again")


def pretty_json(value: Mapping[str, Any]) -> bytes:
    """Encode for people to read: indented, sorted, one line end at the end."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()
