"""params.yaml, read into frozen dataclasses: an unknown key or a wrong type is an error that names it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ParamsError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, and a key that comes twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ParamsError(
                f"{twice}: comes twice in the params file, the second time below line {node.start_mark.line + 1}"
            )
        return super().construct_mapping(node, deep)


# YAML 1.1 wants 1.0e-4; everybody writes 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def load_params(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a params file and lay `section.key=value` overrides on top of it.

    Raises:
        ParamsError: the file is missing or no mapping of sections, or an override names a section that is not there.
    """
    try:
        params = yaml.load(path.read_text("utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
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
        node[key] = yaml.load(text, _Loader)
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
    _refuse_infinite(value, where)
    try:
        # Through JSON, because strict mode takes a YAML list for a tuple there, and refuses "3" for 3.
        return TypeAdapter(cls).validate_json(json.dumps(value), strict=True)
    except TypeError:
        raise ParamsError(f"{where}: {value!r} is a date or another YAML type; put it in quotes") from None
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join([where, *(str(part) for part in first["loc"])])
        raise ParamsError(f"{dotted}: {first['msg']}, not {first['input']!r}") from None


def lasting(params: Any) -> dict[str, Any]:
    """Settings of a stage that decide what it makes: all but how many drops it may have."""
    return {name: value for name, value in dataclasses.asdict(params).items() if name != "max_drop_share"}


def at_least(section_name: str, params: Any, least: float, *names: str) -> None:
    """Refuse settings below a bound; for `__post_init__`.

    Raises:
        ParamsError: names the first one, and the bound.
    """
    for name in names:
        if getattr(params, name) < least:
            raise ParamsError(f"{section_name}.{name}: {getattr(params, name)}, must be at least {least:g}")


def at_most(section_name: str, params: Any, most: float, *names: str) -> None:
    """Refuse settings above a bound; for `__post_init__`.

    Raises:
        ParamsError: names the first one, and the bound.
    """
    for name in names:
        if getattr(params, name) > most:
            raise ParamsError(f"{section_name}.{name}: {getattr(params, name)}, must be at most {most:g}")


def _refuse_unknown(value: Any, cls: Any, where: str) -> None:
    if not dataclasses.is_dataclass(cls) or not isinstance(value, dict):
        return
    hints = typing.get_type_hints(cls)
    for key, inner in value.items():
        if key not in hints:
            raise ParamsError(f"{where}.{key}: no such setting{_near(str(key), hints)}")
        _refuse_unknown(inner, hints[key], f"{where}.{key}")


def _refuse_infinite(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_infinite(inner, f"{where}.{key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ParamsError(f"{where}: {value} is no setting; give a finite number")


def _near(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(map(str, names))}"
