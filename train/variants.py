"""Which settings of a sequence go together, and how long a sequence may become.

Refused is what cannot work, and what changes nothing though it was asked for: an ablation must not compare a run with
itself. A default that has no place (separators where nothing is to be parted) is no request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ParamsError
from pipeline.music.sequence import num_columns

if TYPE_CHECKING:
    from train.params import TrainParams

FLUSH_COLUMNS = 16
"""Columns kept free for the end of a target's delay pattern, one fewer than codebooks; no MusicGen needs more."""
TRAINED_COLUMNS = 1500
"""Frames that MusicGen was trained on (its model card: 30 s at 50 Hz)."""


def refuse_nonsense(params: TrainParams) -> None:
    """Refuse settings of a sequence that contradict each other.

    Raises:
        ParamsError: says which two, and why.
    """
    for wrong, message in (*_unreadable(params), *_without_effect(params), *_too_much(params)):
        if wrong:
            raise ParamsError(f"train.{message}")


def _unreadable(params: TrainParams) -> tuple[tuple[bool, str], ...]:
    hidden = params.text_placement == "cross" and params.cross_attention == "block" and not params.form.shows_codes
    return (
        (
            hidden,
            f"representation {params.representation}: with train.cross_attention block the target sees its own text "
            "alone, so no example at all; set train.cross_attention full, or train.text_placement inline",
        ),
        (
            params.example_codebooks is not None and params.example_codebooks < 1,
            f"example_codebooks: must be at least 1, not {params.example_codebooks}; "
            "train.representation text or clap shows no codes",
        ),
    )


def _without_effect(params: TrainParams) -> tuple[tuple[bool, str], ...]:
    form, full = params.form, params.cross_attention == "full"
    inline = params.text_placement == "inline"
    no_codes = f"train.representation {params.representation} shows no codes of the examples"
    return (
        (inline and full, "cross_attention full: train.text_placement inline does not use cross-attention"),
        (
            params.segment_vectors == "none" and not full,
            "segment_vectors none: only train.cross_attention full has them",
        ),
        (params.example_codebooks is not None and not form.shows_codes, f"example_codebooks: {no_codes}"),
        (params.loss_on == "all" and not form.shows_codes, f"loss_on all: {no_codes}, so it is the same as target"),
        (params.example_crop == "random" and not form.shows_codes, f"example_crop random: {no_codes}"),
        (
            params.separator in ("pad", "text") and not form.has_separators,
            f"separator {params.separator}: {no_codes}, so there is nothing to part",
        ),
    )


def _too_much(params: TrainParams) -> tuple[tuple[bool, str], ...]:
    dropped = params.null_share + params.no_examples_share + params.no_text_share
    least = params.max_target_frames + FLUSH_COLUMNS + params.form.state_columns
    inline = f", {params.form.state_columns} columns of text" if params.form.state_columns else ""
    return (
        (dropped >= 1, f"null_share, no_examples_share and no_text_share: sum to {dropped:g}, must stay below 1"),
        (
            least > params.max_total_columns,
            f"max_target_frames ({params.max_target_frames}){inline} and {FLUSH_COLUMNS} columns of flush "
            f"do not fit train.max_total_columns ({params.max_total_columns}); lower the one or raise the other",
        ),
    )


def check_num_examples(section: str, num_examples: int, trained: TrainParams) -> None:
    """Refuse more examples than a run has vectors for.

    Raises:
        ParamsError: says how many there are.
    """
    marked = trained.cross_attention == "full" and trained.segment_vectors == "learned"
    if marked and num_examples > trained.most_examples:
        raise ParamsError(
            f"{section}.num_examples: {num_examples}, but the run learned vectors for {trained.most_examples} examples"
        )


def longest_episode(params: TrainParams, num_codebooks: int) -> int:
    """Columns of an episode with the most examples, all as long as they may be."""
    frames = [params.max_example_frames] * params.most_examples + [params.max_target_frames]
    return num_columns(frames, num_codebooks, params.form)


def tell_of_length(params: TrainParams, num_codebooks: int) -> str | None:
    """A line for the user where episodes do not fit, or are longer than what MusicGen was trained on; else None."""
    longest = longest_episode(params, num_codebooks)
    if longest > params.max_total_columns:
        return (
            f"{params.most_examples} examples and a target take up to {longest:,} columns, train.max_total_columns is "
            f"{params.max_total_columns:,}: the farthest examples are left out where they do not fit"
        )
    if longest > TRAINED_COLUMNS:
        return (
            f"episodes take up to {longest:,} columns: MusicGen was trained on {TRAINED_COLUMNS:,}, "
            "what lies beyond is extrapolated"
        )
    return None
