"""Plan a training's memory without loading anything: python -m train.memory --preset gpu16.

In: a preset, or section `train` of params.yaml; a published size, or the generator's own config.json. Out: a table of
what one step takes at the longest sequence, and what LoRA, 4 bits and recomputing the layers save.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.engine.cli import build_parser, read_params, run_main
from pipeline.engine.params import load_params, section
from pipeline.engine.presets import as_overrides, preset_path, size_changes
from pipeline.errors import ParamsError
from pipeline.models.base import find_checkpoint
from pipeline.models.places import ModelsParams, place
from train.params import TrainParams
from train.planning import GB, MemoryPlan, plan_memory
from train.shapes import SHAPES, published_config, quiet_transformers, read_config

CLAIMED_LORA, CLAIMED_RECOMPUTING = 70, 40
"""Per cent of memory that LoRA and gradient checkpointing are said to save."""
CARDS_GB = {"gpu10": 10, "gpu16": 16, "gpu24": 24}


def body(args: argparse.Namespace) -> None:
    """Print the plan."""
    if args.columns is not None and args.columns < 1:
        raise ParamsError(f"--columns {args.columns}: must be at least 1")
    names: list[Any] = [args.base or args.size] if args.base or args.size else list(SHAPES)
    for name in names:
        raw = _read(args, name)
        params = section(raw, "train", TrainParams)
        if args.columns is not None:
            params = replace(params, max_total_columns=args.columns, max_example_frames=args.columns, num_examples=1)
        config = _own_config(raw, args) if args.base else published_config(name)
        with quiet_transformers():
            _print_plan(name, plan_memory(config, params), params, card_gb=CARDS_GB.get(args.preset))
            _print_savings(config, params)


def _read(args: argparse.Namespace, size: str) -> dict[str, Any]:
    """The settings for a size; presets for cards differ with it."""
    if not args.preset:
        return read_params(args)
    changes = size_changes(args.preset, size) if args.preset in CARDS_GB and not args.base else {}
    return load_params(preset_path(args.preset), [*as_overrides(changes), *args.set])


def _own_config(raw: dict[str, Any], args: argparse.Namespace) -> Any:
    models = section(raw, "models", ModelsParams)
    checkpoint = find_checkpoint(place(replace(models, generator=args.base), args.root, "generator"), role="generator")
    return read_config(checkpoint.path)


def _print_plan(name: str, plan: MemoryPlan, params: TrainParams, *, card_gb: int | None) -> None:
    parts = plan.footprint
    kept = "kept for the backward pass" + (", layers computed again" if params.gradient_checkpointing else "")
    rows = [
        ("text encoder", parts.text_encoder),
        (f"decoder's frozen weights, {params.base_weights}", parts.frozen),
        (f"trained weights ({params.method})", parts.trained),
        ("their gradients", parts.gradients),
        (f"optimiser, {params.optimiser}", parts.optimiser),
        (f"{kept}, {params.batch_size} x {plan.num_columns:,} columns", parts.kept),
        ("on top of it, at the worst moment", parts.peak),
        ("driver and fragments", plan.needed_bytes - parts.total),
    ]
    print(f"\n{name}: {plan.num_columns:,} columns, {plan.num_text_tokens} text tokens, batch {params.batch_size}")
    for what, size in rows:
        print(f"  {what:<70}{size / GB:7.2f} GB")
    needed_gb = plan.needed_bytes / GB
    fits = "has it" if card_gb is None or needed_gb <= card_gb else "is too small"
    verdict = f"; a card of {card_gb} GB {fits}" if card_gb else ""
    print(f"  {'needed':<70}{needed_gb:7.2f} GB{verdict}")


def _print_savings(config: Any, params: TrainParams) -> None:
    """Compare with the same training in other ways, each at the same columns."""
    plain = replace(params, method="lora", base_weights="fp32", gradient_checkpointing=False, optimiser="adamw")
    ways = {
        "whole decoder, AdamW": replace(plain, method="full"),
        "LoRA": plain,
        "LoRA, bf16 weights": replace(plain, base_weights="bf16"),
        "LoRA, 4 bits (QLoRA)": replace(plain, base_weights="nf4"),
        "LoRA, layers computed again": replace(plain, gradient_checkpointing=True),
        "QLoRA, layers computed again": replace(plain, base_weights="nf4", gradient_checkpointing=True),
    }
    totals = {name: plan_memory(config, way).needed_bytes for name, way in ways.items()}
    first = totals["whole decoder, AdamW"]
    for name, total in totals.items():
        print(f"    {name:<32}{total / GB:8.2f} GB{100 * (total / first - 1):+8.0f} % against the whole decoder")
    lora, recomputed = totals["LoRA"], totals["LoRA, layers computed again"]
    print(
        f"    LoRA saves {_saved(first, lora):.0f} %, QLoRA {_saved(first, totals['LoRA, 4 bits (QLoRA)']):.0f} %, "
        f"of the whole decoder's memory; the research plan claims {CLAIMED_LORA} % for LoRA"
    )
    print(
        f"    computing layers again saves {_saved(lora, recomputed):.0f} % of LoRA's memory; "
        f"the research plan claims {CLAIMED_RECOMPUTING} %"
    )


def _saved(before: int, after: int) -> float:
    """Per cent."""
    return 100 * (1 - after / before)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = build_parser(__doc__, prog="python -m train.memory")
    parser.add_argument(
        "--preset", help="gpu10, gpu16, gpu24 (each as its sizes change it), demo; without it, params.yaml"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--size", choices=SHAPES, help="one published size; without it, all of them")
    which.add_argument("--base", help="a checkpoint's folder or hub id: only its config.json is read")
    parser.add_argument("--columns", type=int, help="another length of the longest sequence")
    run_main(body, parser, argv)


if __name__ == "__main__":
    from train.memory import main

    main()
