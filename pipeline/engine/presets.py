"""Presets by size of the model: python -m pipeline.engine.presets gpu16 large > params.yaml.

A preset is a whole params file, pipeline/presets/NAME.yaml. What changes in it with the size of MusicGen stands in
pipeline/presets/sizes/NAME.yaml, as `section.key: value`; comments and all else stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import pipeline
from pipeline.errors import ParamsError

FOLDER = Path(pipeline.__file__).parent / "presets"


def preset_path(name: str) -> Path:
    """Where a preset lies.

    Raises:
        ParamsError: there is none of that name; names those that there are.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ParamsError(
            f"no preset {name}; there are {', '.join(sorted(file.stem for file in FOLDER.glob('*.yaml')))}"
        )
    return path


def size_changes(name: str, size: str) -> dict[str, Any]:
    """What a preset changes for a size of the model, by `section.key`.

    Raises:
        ParamsError: the preset has no sizes, or not that one.
    """
    preset_path(name)
    path = FOLDER / "sizes" / f"{name}.yaml"
    if not path.is_file():
        sized = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ParamsError(f"preset {name} has no sizes; {sized} have")
    sizes: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text("utf-8"))
    if size not in sizes:
        raise ParamsError(f"preset {name} has no size {size}; there are {', '.join(sizes)}")
    return sizes[size]


def as_overrides(changes: Mapping[str, Any]) -> list[str]:
    """The same as `--set` takes them."""
    return [f"{dotted}={json.dumps(value)}" for dotted, value in changes.items()]


def sized_text(name: str, size: str) -> str:
    """A preset for a size of the model, as text with its comments.

    Raises:
        ParamsError: no such preset or size.
    """
    text = preset_path(name).read_text("utf-8")
    for dotted, value in size_changes(name, size).items():
        text = _replace(text, dotted, json.dumps(value).strip('"'))
    return text


def _replace(text: str, dotted: str, value: str) -> str:
    section, key = dotted.split(".")
    lines, inside = text.splitlines(keepends=True), False
    for i, line in enumerate(lines):
        if re.match(r"\w", line):
            inside = line.startswith(f"{section}:")
        if inside and line.startswith(f"  {key}: "):
            lines[i] = re.sub(r"(?<=: )[^\s#]+", lambda _: value, line, count=1)
    return "".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Write a preset to stdout, and what its size changed to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.engine.presets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", help="gpu10, gpu16, gpu24")
    parser.add_argument("size", help="small, medium, large")
    args = parser.parse_args(argv)
    try:
        text, changes = sized_text(args.preset, args.size), size_changes(args.preset, args.size)
    except ParamsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.stdout.write(text)
    told = ", ".join(
        f"{dotted}: {value if isinstance(value, str) else json.dumps(value)}" for dotted, value in changes.items()
    )
    print(f"{args.preset} for {args.size}: {told}", file=sys.stderr)


if __name__ == "__main__":
    from pipeline.engine.presets import main

    main()
