"""params.yaml, read into frozen dataclasses: an unknown key or a wrong type is an error that names it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ParamsError

T = TypeVar("T")


def load_params(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a params file and lay `section.key=value` overrides on top of it.

    Raises:
        ParamsError: the file is missing or no mapping of sections, or an override names a section that is not there.
    """
    try:
        params = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; `make params PRESET=demo` writes one, --params names another"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = (
            f" line {error.problem_mark.line + 1}"
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark
            else ""
        )
        raise ParamsError(
            f"{path}:{line} is not YAML; mend it or write a new one by `make params PRESET=demo`"
        ) from error
    if not isinstance(params, dict):
        raise ParamsError(
            f"{path}: must hold sections such as `ingest:`; `make params PRESET=demo` writes a whole file"
        )
    for override in overrides:
        _override(params, override)
    return params


def _override(params: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.split(".")
    if not equals or not sections:
        raise ParamsError(f"--set {override}: write --set section.key=value")
    node: Any = params
    for section_name in sections:
        node = node.get(section_name) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ParamsError(
                f"--set {override}: no section {section_name!r} in the params file{_near(section_name, params)}"
            )
    try:
        node[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ParamsError(f"--set {override}: {text!r} is not a YAML value; put texts in quotes") from None


def section(params: Mapping[str, Any], name: str, cls: type[T]) -> T:
    """Read one section; keys that are left out keep the defaults of the class.

    Raises:
        ParamsError: the section is missing, a key is unknown, a value has the wrong type.
    """
    if name not in params:
        raise ParamsError(
            f"section `{name}` is missing from the params file; `make params PRESET=demo` writes a whole one"
        )
    value = params[name] if params[name] is not None else {}
    return read_value(value, cls, name)


def read_value(value: Any, cls: type[T], where: str) -> T:
    """Check a value from YAML against a dataclass and build it.

    Args:
        value: what YAML gave.
        cls: a frozen dataclass, or any type that pydantic knows.
        where: dotted name for messages.

    Raises:
        ParamsError: an unknown key or a wrong type, with the dotted name of it.
    """
    _refuse_unknown(value, cls, where)
    try:
        # Through JSON, because strict mode takes a YAML list for a tuple there, and refuses "3" for 3.
        return TypeAdapter(cls).validate_json(json.dumps(value), strict=True)
    except TypeError:
        raise ParamsError(f"{where}: {value!r} is a date or another YAML type; put it in quotes") from None
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join([where, *(str(part) for part in first["loc"])])
        raise ParamsError(f"{dotted}: {first['msg']}, not {first['input']!r}") from None


def _refuse_unknown(value: Any, cls: Any, where: str) -> None:
    if not dataclasses.is_dataclass(cls) or not isinstance(value, dict):
        return
    hints = typing.get_type_hints(cls)
    for key, inner in value.items():
        if key not in hints:
            raise ParamsError(f"{where}.{key}: no such setting{_near(str(key), hints)}")
        _refuse_unknown(inner, hints[key], f"{where}.{key}")


def _near(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(map(str, names))}"
