"""Lay codes out as the columns that a MusicGen decoder reads: delay pattern, separators, labels, budgets.

    start | A_1 delayed | SEP | A_2 delayed | SEP | ... | A_t delayed

Every segment is delayed by itself (code (k, t) stands in column t + k of its segment, T + K - 1 columns), so
that a separator column never meets half of a frame. The start column and the rests of the delay pattern hold
the pad id, as MusicGen was trained. Column j predicts column j + 1: the network reads all columns but the
last, and its labels are all columns but the first. Separators and pads are never labels: no head has them.
What else may stand there is a `Format`: other separators or none, fewer codebooks of the examples, no codes of
the examples at all, and encoder states that the network puts as columns before each segment.

Shape letters: K codebooks, T frames of one segment, S columns, P columns before the target, N segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint16]
LossOn = Literal["target", "all"]
Separator = Literal["none", "pad", "learned", "text"]
Representation = Literal["codes", "clap", "both", "text"]
TextPlacement = Literal["cross", "inline"]

IGNORED_LABEL = -100
"""Label of a place that has no part in the loss; the value that torch and transformers skip."""


class Format(NamedTuple):
    """How an episode is laid out."""

    separator: Separator = "learned"
    """What stands between two segments: nothing, a column of pads, or one that the network fills."""
    representation: Representation = "codes"
    """What an example is shown by beside its caption: codes, CLAP vectors, both, nothing."""
    text_placement: TextPlacement = "cross"
    """Whether states of text and CLAP are attended to, or put as columns before their segment."""
    example_codebooks: int | None = None
    """Codebooks of the examples that are shown, the first ones; None for all."""
    state_columns: int = 0
    """Columns that a budget keeps free before each segment for states put there."""

    @property
    def shows_codes(self) -> bool:
        """Whether examples have columns of codes."""
        return self.representation in ("codes", "both")

    @property
    def shows_clap(self) -> bool:
        """Whether examples are shown by CLAP vectors."""
        return self.representation in ("clap", "both")

    @property
    def has_separators(self) -> bool:
        """Whether a column stands between segments; without columns of the examples there is nothing to part."""
        return self.separator != "none" and (self.shows_codes or self.text_placement == "inline")


PLAIN = Format()


class Prefix(NamedTuple):
    """What stands before the columns of a target.

    Attributes:
        columns_KP: int64 ids; column 0 is the start column.
        segments_P: int64, the segment whose text a column reads.
        starts_N: int64, per segment the column before which its states go, where they go among the columns.
    """

    columns_KP: NDArray[np.int64]
    segments_P: NDArray[np.int64]
    starts_N: NDArray[np.int64]


class Columns(NamedTuple):
    """An episode as columns.

    Attributes:
        columns_KS: int64 ids: codes, pad id or separator id; column 0 is the start column.
        segments_S: int64, the segment whose text a column reads: examples 0 to n - 1, the target n. The start
            column and a separator belong to the segment that follows, whose first column they predict; so does the
            last column of a segment where no separator follows.
        label_mask_KS: bool, the codes that the loss counts.
        starts_N: int64, per segment the column before which its states go.
    """

    columns_KS: NDArray[np.int64]
    segments_S: NDArray[np.int64]
    label_mask_KS: NDArray[np.bool_]
    starts_N: NDArray[np.int64]

    @property
    def inputs_KS(self) -> NDArray[np.int64]:  # noqa: N802 - shape letters
        """What the network reads, [K, S - 1]."""
        return self.columns_KS[:, :-1]

    @property
    def labels_KS(self) -> NDArray[np.int64]:  # noqa: N802 - shape letters
        """What it should say at each input column, [K, S - 1]; IGNORED_LABEL outside the loss."""
        return np.where(self.label_mask_KS[:, 1:], self.columns_KS[:, 1:], IGNORED_LABEL)


class Budget(NamedTuple):
    """Limits of an episode, in frames and columns."""

    max_example_frames: int = 480
    max_target_frames: int = 500
    max_total_columns: int = 3000
    """Codes, flush and separators together: the number of columns that the network reads."""


def pad_id(codebook_size: int) -> int:
    """Id of start, flush and padding: MusicGen's own pad id."""
    return codebook_size


def separator_id(codebook_size: int) -> int:
    """Id of a separator column: the first one after MusicGen's ids."""
    return codebook_size + 1


def delay(codes_KT: NDArray[np.integer], pad: int) -> NDArray[np.int64]:
    """Shift codebook k by k columns; [K, T + K - 1], `pad` where no code stands."""
    num_codebooks, num_frames = codes_KT.shape
    out_KS = np.full((num_codebooks, num_frames + num_codebooks - 1), pad, dtype=np.int64)
    _frames_at(out_KS, 0, num_frames)[...] = codes_KT
    return out_KS


def _frames_at(columns_KS: NDArray[Any], first: int, num_frames: int) -> NDArray[Any]:
    """The frames of a delayed segment, a view [K, T]: each row begins a column after the one above it.

    Args:
        columns_KS: a whole array, not a slice of one.
        first: the segment's first column.
        num_frames: T.
    """
    row_bytes, step_bytes = columns_KS.strides
    shape, strides = (columns_KS.shape[0], num_frames), (row_bytes + step_bytes, step_bytes)
    return np.ndarray(shape, columns_KS.dtype, columns_KS, first * step_bytes, strides)


def undelay(columns_KS: NDArray[np.integer]) -> Codes:
    """Take the delay pattern off one segment; inverse of `delay`.

    Raises:
        ValueError: fewer columns than one frame needs.
    """
    num_codebooks, num_columns = columns_KS.shape
    num_frames = num_columns - num_codebooks + 1
    if num_frames < 1:
        raise ValueError(f"{num_columns} columns hold no whole frame of {num_codebooks} codebooks")
    rows = [columns_KS[k, k : k + num_frames] for k in range(num_codebooks)]
    return np.stack(rows).astype(np.uint16)


def delay_mask(num_codebooks: int, num_frames: int) -> NDArray[np.bool_]:
    """Where codes stand in a delayed segment, [K, T + K - 1]."""
    mask_KS = np.zeros((num_codebooks, num_frames + num_codebooks - 1), dtype=np.bool_)
    _frames_at(mask_KS, 0, num_frames)[...] = True
    return mask_KS


def num_columns(num_frames: Sequence[int], num_codebooks: int, form: Format = PLAIN) -> int:
    """Columns that the network reads: codes, flush, separators, and what is kept free for states.

    Args:
        num_frames: frames of the segments, the target's last.
        num_codebooks: codebooks of the model.
        form: the layout.
    """
    shown = list(num_frames) if form.shows_codes else list(num_frames[-1:])
    separators = (len(num_frames) - 1) if form.has_separators else 0
    # The start column comes on top, and the last column is not read.
    return sum(shown) + len(shown) * (num_codebooks - 1) + separators + len(num_frames) * form.state_columns


def cut_to_budget(
    examples_KT: Sequence[Codes], target_KT: Codes, budget: Budget, form: Format = PLAIN
) -> tuple[list[Codes], Codes]:
    """Cut segments to their budgets; then drop whole examples, the farthest (first) ones, until all fit.

    A target that does not even fit by itself is cut until it does.

    Args:
        examples_KT: nearest last.
        target_KT: codes of the target.
        budget: the limits.
        form: the layout.

    Returns:
        The examples that stay, always the last ones given, and the target. Views, not copies.

    Raises:
        ValueError: the columns hold not even one frame of a target.
    """
    num_codebooks = target_KT.shape[0]
    room = budget.max_total_columns - num_columns([1], num_codebooks, form) + 1
    most_frames = min(budget.max_target_frames, room)
    if most_frames < 1:
        raise ValueError(f"{budget}: no room for a frame of {num_codebooks} codebooks")
    target = target_KT[:, :most_frames]
    examples = [codes[:, : budget.max_example_frames] for codes in examples_KT]
    lengths = [codes.shape[1] for codes in [*examples, target]]
    while len(lengths) > 1 and num_columns(lengths, num_codebooks, form) > budget.max_total_columns:
        lengths.pop(0)
    return examples[len(examples) + 1 - len(lengths) :], target


def blank_codebooks(codes_KT: NDArray[np.integer], num_shown: int | None, pad: int) -> NDArray[np.integer]:
    """Fill all codebooks after the first `num_shown` with `pad`; None shows all."""
    if num_shown is None or num_shown >= codes_KT.shape[0]:
        return codes_KT
    blanked_KT = codes_KT.copy()
    blanked_KT[num_shown:] = pad
    return blanked_KT


def build_prefix(
    examples_KT: Sequence[NDArray[np.integer]], *, num_codebooks: int, codebook_size: int, form: Format = PLAIN
) -> Prefix:
    """Columns that stand before the target: the start column, then every example with what parts it from the next."""
    size = _prefix_columns(examples_KT, num_codebooks, form)
    columns_KP = np.full((num_codebooks, size), pad_id(codebook_size), dtype=np.int64)
    segments_P = np.empty(size, dtype=np.int64)
    starts_N = _fill_prefix(columns_KP, segments_P, examples_KT, codebook_size=codebook_size, form=form)
    return Prefix(columns_KP, segments_P, starts_N)


def _prefix_columns(examples_KT: Sequence[NDArray[np.integer]], num_codebooks: int, form: Format) -> int:
    shown = [codes_KT.shape[1] + num_codebooks - 1 for codes_KT in examples_KT] if form.shows_codes else []
    return 1 + sum(shown) + form.has_separators * len(examples_KT)


def _fill_prefix(
    columns_KS: NDArray[np.int64],
    segments_S: NDArray[np.int64],
    examples_KT: Sequence[NDArray[np.integer]],
    *,
    codebook_size: int,
    form: Format,
) -> NDArray[np.int64]:
    """Write what stands before the target into columns full of pads; returns `starts_N`."""
    num_codebooks, pad = columns_KS.shape[0], pad_id(codebook_size)
    between = pad if form.separator == "pad" else separator_id(codebook_size)
    # Without any column of an example, even the start column predicts the target's first one.
    segments_S[0] = 0 if form.shows_codes or form.has_separators else len(examples_KT)
    starts = [1]
    for i, codes_KT in enumerate(examples_KT):
        end = first = starts[-1]
        if form.shows_codes:
            end += codes_KT.shape[1] + num_codebooks - 1
            shown_KT = blank_codebooks(codes_KT, form.example_codebooks, pad)
            _frames_at(columns_KS, first, codes_KT.shape[1])[...] = shown_KT
            segments_S[first:end] = i
        if form.has_separators:
            columns_KS[:, end], segments_S[end] = between, i + 1
            end += 1
        elif form.separator == "none" and form.shows_codes:
            segments_S[end - 1] = i + 1
        starts.append(end)
    return np.array(starts)


def build_sequence(
    examples_KT: Sequence[NDArray[np.integer]],
    target_KT: NDArray[np.integer],
    *,
    codebook_size: int,
    loss_on: LossOn = "target",
    form: Format = PLAIN,
) -> Columns:
    """Columns of an episode, with the place of each code that the loss counts.

    Args:
        examples_KT: codes in prompt order; the pad id stands for a code that is blanked.
        target_KT: codes of the target, at least one frame.
        codebook_size: entries per codebook; fixes the pad and the separator id.
        loss_on: count the target's codes only, or the examples' too.
        form: the layout.

    Raises:
        ValueError: segments with different K, or an empty one.
    """
    num_codebooks = target_KT.shape[0]
    segments_KT = [*examples_KT, target_KT]
    if any(codes.ndim != 2 or codes.shape[0] != num_codebooks or codes.shape[1] < 1 for codes in segments_KT):
        shapes = [codes.shape for codes in segments_KT]
        raise ValueError(f"segments need the same codebooks and at least one frame, got {shapes}")
    num_frames, first = target_KT.shape[1], _prefix_columns(examples_KT, num_codebooks, form)
    shape = (num_codebooks, first + num_frames + num_codebooks - 1)
    columns_KS = np.full(shape, pad_id(codebook_size), dtype=np.int64)
    segments_S = np.full(shape[1], len(examples_KT), dtype=np.int64)
    starts_N = _fill_prefix(columns_KS, segments_S, examples_KT, codebook_size=codebook_size, form=form)
    _frames_at(columns_KS, first, num_frames)[...] = target_KT
    if loss_on == "all":
        mask_KS = columns_KS < codebook_size
    else:
        mask_KS = np.zeros(shape, dtype=np.bool_)
        _frames_at(mask_KS, first, num_frames)[...] = True
    return Columns(columns_KS, segments_S, mask_KS, starts_N)
