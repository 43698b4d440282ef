"""Train one of the demo's models and write its committed weights: `python -m pipeline.demo.training codec`.

Hours on two cores; the demo itself never trains. A run that was stopped goes on from its last checkpoint in the cache.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.demo.expand import WEIGHTS

MODULES = {
    "encodec": "codec",
    "musicgen": "musicgen",
    "clap": "clap",
    "classifier": "classifier",
    "whisper": "whisper",
    "aligner": "aligner",
}
"""Folder of the weights, and the module here that makes it; musicgen needs encodec to be there."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a training from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.training", description=__doc__)
    parser.add_argument("name", choices=MODULES, help="which model")
    parser.add_argument("--steps", type=int, default=None, help="fewer or more than the model's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="default: the committed folder")
    parser.add_argument("--cache", type=Path, default=Path("runs/.work/training"), help="rendered audio, checkpoints")
    args = parser.parse_args(argv)
    training = importlib.import_module(f"pipeline.demo.training.{MODULES[args.name]}")
    figures = training.train(
        args.out or WEIGHTS / args.name,
        steps=training.DEFAULT_STEPS if args.steps is None else args.steps,
        seed=args.seed,
        cache=args.cache / args.name,
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
