"""The flags that every command shares, and errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.layout import Layout
from pipeline.engine.params import load_params
from pipeline.errors import SetlistError


def build_parser(module_doc: str | None, *, prog: str) -> argparse.ArgumentParser:
    """Make a parser with the common flags; the description is the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=prog, description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = parser.add_argument_group("common flags")
    common.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml, shards/ and runs/ (here)")
    common.add_argument("--params", type=Path, help="settings (ROOT/params.yaml)")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a setting; may be repeated",
    )
    common.add_argument("--workers", type=int, help="processes (engine.workers)")
    common.add_argument("--limit", type=int, help="only the first N items: to try things out")
    common.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def read_params(args: argparse.Namespace) -> dict[str, Any]:
    """Read the settings that the flags name, with `--set` and `--workers` laid on top."""
    overrides = list(args.set)
    if args.workers is not None:
        overrides.append(f"engine.workers={args.workers}")
    return load_params(args.params or Layout(args.root).params_file, overrides)


def run_main(
    body: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse the flags, run the command, and end with an exit code; an expected error is one line on stderr."""
    args = parser.parse_args(argv)
    try:
        body(args)
    except SetlistError as error:
        if args.debug:
            traceback.print_exc()
        sys.exit(_say(parser.prog, str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_say(parser.prog, "stopped by you; the same command goes on from what is finished", 130))
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _say(prog: str, message: str, exit_code: int) -> int:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
