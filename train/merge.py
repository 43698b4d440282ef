"""Make a model of its own from an adapter: python -m train.merge --run NAME --out FOLDER.

In: a finished run of method lora, and its base model (models.generator). Out: a folder with the base's weights and the
adapter's in one, in float32:

    transformers   a whole checkpoint with codec, tokenizer and generation settings, for stock transformers, and for
                   models.generator of another run; parts.safetensors beside it holds the separator and other small
                   parts of the run's format
    audiocraft     state_dict.bin and compression_state_dict.bin; it generates from a prompt alone

What is written is read back and compared with the adapter's model before it gets its name: logits within 1e-4, the same
greedy codes. Always on the CPU; needs memory for two copies of the model in float32.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.data.layout import Layout
from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import section
from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import find_checkpoint
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.card import base_of, describe_base, front_matter, licence_note
from train.inputs import Run, check_base, model_label, read_run
from train.params import TrainParams

if TYPE_CHECKING:
    from train.icl.merging import Heard

Target = Literal["transformers", "audiocraft"]
CARD_OF_RUN = "TRAINING.md"
"""The run's own card, beside the merged model's."""
AS_TRAINED = {"bf16": 0.05, "nf4": 0.3}
"""How far logits may lie from those of the base as training kept it, as a share of their standard deviation; beyond it
the command warns. Random weights showed 0.6 % and 10 % (2 layers of width 64), 0.9 % and 16 % (8 of 256)."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to merge, and into what."""

    run: Run
    source: str
    """Where the base model lies."""
    base_folder: Path
    revision: str | None
    out: Path
    target: Target
    text_encoder: str
    """T5 by the name that audiocraft has for it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.merge")
    parser.add_argument("--run", required=True, help="name of a finished training of method lora")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; new or empty")
    parser.add_argument(
        "--format", choices=("transformers", "audiocraft"), default="transformers", help="(%(default)s)"
    )
    parser.add_argument("--text-encoder", default="t5-base", help="T5 as audiocraft names it (%(default)s)")
    run_main(body, parser, argv)


def body(args: argparse.Namespace) -> None:
    """Merge, or say what would be merged."""
    job = plan(args)
    for line in left_out(job.run.params) if job.target == "audiocraft" else []:
        print(f"warning: {line}", file=sys.stderr)
    if args.dry_run:
        print(f"would merge {job.run.folder} with {job.run.base_label} into {job.out} ({job.target})")
        return
    merge(job)


def plan(args: argparse.Namespace) -> Job:
    """Read flags and settings into a job, before anything is loaded.

    Raises:
        ContractError: no such run, one that has no adapter, no base model or another one.
        ParamsError: the folder is not empty, or the format cannot hold the run.
    """
    check_out(args.out)
    run = read_run(Layout(args.root).run(args.run))
    if run.weights.name == checkpoint.MODEL_FOLDER:
        raise ContractError(
            f"{run.folder}: trained by train.method full, so {run.weights} is a whole model already; use it as it is, "
            f"or `python -m pipeline.models.convert musicgen {run.weights} {args.out}` for audiocraft"
        )
    if args.format == "audiocraft":
        refuse_parts(run.params)
    source = place(section(read_params(args), "models", ModelsParams), args.root, "generator")
    base = find_checkpoint(source, role="generator")
    check_base(run, model_label(base))
    return Job(run, source, base.path, base.revision, args.out, args.format, args.text_encoder)


def check_out(out: Path) -> None:
    """Refuse a folder with something in it.

    Raises:
        ParamsError: there is something.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ParamsError(f"--out {out}: is not empty; name a new folder")


def refuse_parts(params: TrainParams) -> None:
    """Refuse a run that audiocraft's MusicGen has no place for.

    Raises:
        ParamsError: says what it is.
    """
    needed = params.own_parts
    if params.trains_separator and not _saw_prompts_alone(params):
        needed = [*needed, "a learned separator, without which this run never saw a prompt"]
    if needed:
        raise ParamsError(
            f"--format audiocraft: has no place for {', '.join(needed)}, which this run was trained with; "
            "use --format transformers"
        )


def _saw_prompts_alone(params: TrainParams) -> bool:
    return 0 in params.example_counts or params.no_examples_share > 0


def left_out(params: TrainParams) -> list[str]:
    """What of a run audiocraft cannot do, though it holds all the weights that it has a place for."""
    if params.most_examples == 0:
        return []
    separator = "the learned separator's rows are left out, and " if params.trains_separator else ""
    return [
        f"{separator}audiocraft reads no examples: a caption of its own for every clip needs a mask per column. It "
        "generates from the prompt alone"
    ]


def merge(job: Job) -> None:
    """Merge, compare, and only then give the folder its name."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{job.out.name}.", dir=job.out.parent) as scratch:
        folder, checks = build(job, Path(scratch))
        (folder / "README.md").write_text(card(job, checks), "utf-8")
        if (job.run.folder / "README.md").is_file():
            shutil.copyfile(job.run.folder / "README.md", folder / CARD_OF_RUN)
        if job.out.is_dir():
            job.out.rmdir()
        folder.rename(job.out)
    print(f"{job.out}: {job.run.folder.name} merged into its base, for {job.target}", file=sys.stderr)


def build(job: Job, scratch: Path) -> tuple[Path, list[str]]:
    """Write and compare.

    Returns:
        The finished folder, and a line for every comparison; each is printed when it is done.
    """
    from train.icl.merging import TOLERANCE, hear_as_trained, relative_difference, write_merged

    params, whole, checks = job.run.params, scratch / "merged", list[str]()

    def tell(line: str) -> None:
        print(line, file=sys.stderr)
        checks.append(line)

    print(f"merging {job.run.folder} into {job.run.base_label}", file=sys.stderr)
    heard, largest = write_merged(job.run, job.source, whole)
    tell(f"logits of the adapter's model and the merged differ by at most {largest:.2g} (allowed {TOLERANCE})")
    tell("greedy codes are the same, with and without examples")
    if params.base_weights != "fp32":
        share = relative_difference(hear_as_trained(job.run, job.source), heard)
        allowed = AS_TRAINED[params.base_weights]
        tell(
            f"the base was {params.base_weights} in training and is float32 here: logits differ by {share:.2%} of "
            f"their standard deviation ({'within' if share <= allowed else 'WARNING: beyond'} {allowed:.0%})"
        )
    if job.target == "transformers":
        return whole, checks
    from pipeline.models.convert_musicgen import musicgen_to_audiocraft

    converted = scratch / "audiocraft"
    musicgen_to_audiocraft(str(whole), converted, text_encoder=job.text_encoder)
    tell(compare_converted(whole, converted, heard, params=params))
    return converted, checks


def compare_converted(whole: Path, converted: Path, heard: Heard, *, params: TrainParams) -> str:
    """Compare audiocraft's files with what they were made from: by the package, or else on the way back.

    Returns:
        A line that says which, and how much they differ.
    """
    from pipeline.models.audiocraft_logits import has_audiocraft
    from train.icl.merging import compare_there_and_back, compare_with_audiocraft

    if has_audiocraft():
        largest = compare_with_audiocraft(whole, converted, params)
        return f"audiocraft itself gives the same logits without examples, within {largest:.2g}"
    largest = compare_there_and_back(whole, converted, heard, params=params)
    return f"audiocraft is not installed: converted back, the weights give the same logits, within {largest:.2g}"


def card(job: Job, checks: Sequence[str]) -> str:
    """The merged model's README.md."""
    base = base_of(job.run.base_label, job.revision, job.base_folder)
    compared = "\n".join(f"- {line}" for line in checks)
    load = {
        "transformers": f'MusicgenForConditionalGeneration.from_pretrained("{job.out.name}")',
        "audiocraft": f'audiocraft.models.MusicGen.get_pretrained("{job.out.name}")',
    }
    limits = "".join(f"\nNote: {line}.\n" for line in left_out(job.run.params) if job.target == "audiocraft")
    return f"""\
{front_matter(base, library=job.target)}
# {job.run.folder.name}, merged

A LoRA run of Setlist merged into its base model, in float32: `{load[job.target]}`.
{limits}
- base model: {describe_base(base)}
- its licence: {licence_note(base)}
- data, licences, figures and settings of the run: {CARD_OF_RUN}

## Compared

{compared}
"""


if __name__ == "__main__":
    from train.merge import main

    main()
