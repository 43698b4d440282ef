"""Look at files and at folders of shards, without running any stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.engine.cli import run_main
from pipeline.inspection.damage import verify_shards
from pipeline.inspection.lengths import tell_lengths
from pipeline.inspection.listing import list_shards, show_sample
from pipeline.inspection.probing import probe

SHARDS_HELP = "a tar, a pattern of tars, a folder of shards, or a folder above such folders"


def _run(args: argparse.Namespace) -> None:
    if args.command == "probe":
        probe(args.path)
        return
    commands: dict[str, Callable[[], Iterator[str]]] = {
        "ls": lambda: list_shards(args.path),
        "show": lambda: show_sample(args.path, args.key),
        "verify": lambda: verify_shards(args.path),
        "stats": lambda: tell_lengths(args.path),
    }
    try:
        for line in commands[args.command]():
            print(line)
    finally:
        # Here, where a reader that left is expected, and not when the interpreter ends.
        sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the inspector from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("probe", help="what Setlist makes of single files, by the default limits of ingest")
    command.add_argument("path", type=Path, nargs="+", help="audio or score")
    for name, text in (
        ("ls", "which shards there are, their columns, and what the manifest counts"),
        ("verify", "check shards against their index; damage is named with the byte"),
        ("stats", "how long the samples are: frames, seconds, examples"),
    ):
        commands.add_parser(name, help=text).add_argument("path", type=Path, help=SHARDS_HELP)
    command = commands.add_parser("show", help="one sample in words")
    command.add_argument("path", type=Path, help=SHARDS_HELP)
    command.add_argument("key", nargs="?", help="the first sample if left out")
    run_main(_run, parser, argv)


if __name__ == "__main__":
    from pipeline.__main__ import main

    main()
