"""The flags that every command shares, and errors as one line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.layout import Layout
from pipeline.engine.params import load_params
from pipeline.errors import ParamsError, SetlistError

DISK_IS_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
OWN_PACKAGES = ("pipeline", "stages", "train")


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
    """Read the settings that the flags name, with `--set` and `--workers` laid on top.

    Raises:
        ParamsError: no such settings, or a `--limit` that leaves nothing.
    """
    if args.limit is not None and args.limit < 1:
        raise ParamsError(f"--limit {args.limit}: must be at least 1")
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
    if threading.current_thread() is threading.main_thread():
        # A polite kill is answered as Ctrl-C: what is under way is tidied up. Training has an answer of its own.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        body(args)
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (Exception, KeyboardInterrupt) as error:
        expected = explain(error)
        if expected is None:
            raise
        if args.debug:
            traceback.print_exc()
        sys.exit(_say(parser.prog, *expected))


def explain(error: BaseException) -> tuple[str, int] | None:
    """Put an error into a line for the user.

    Returns:
        The line and the exit code; None for an error that nobody expected, which deserves its traceback.
    """
    if isinstance(error, SetlistError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped by you; the same command goes on from what is finished", 130
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in OWN_PACKAGES:
        return f"package {error.name} is not installed; `uv pip install -e '.[all]'` installs all that Setlist uses", 1
    # By name and by text: torch, safetensors and libsndfile may not be imported here, and have classes of their own.
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory; lower the batch_size of this stage, or --set models.device=cpu", 1
    if any(sign in str(error) for sign in DISK_IS_FULL):
        return f"the disk or your quota is full ({error}); make room and run the same command again", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}; check the path, its rights and the disk", 1
    return None


def _say(prog: str, message: str, exit_code: int) -> int:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
