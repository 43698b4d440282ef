"""Columns: delay pattern, separators, labels, budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.music.sequence import (
    IGNORED_LABEL,
    Budget,
    Format,
    build_prefix,
    build_sequence,
    cut_to_budget,
    delay,
    delay_mask,
    num_columns,
    pad_id,
    separator_id,
    undelay,
)

SIZE = 8
"""Codebook entries: pad is 8, separator 9."""


@st.composite
def episodes(draw):
    num_codebooks = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    clips = [random.integers(0, SIZE, (num_codebooks, length)).astype(np.uint16) for length in lengths]
    return clips[:-1], clips[-1]


def test_layout_of_one_example_and_a_target():
    example, target = np.array([[0, 1], [2, 3]]), np.array([[4, 5], [6, 7]])
    built = build_sequence([example], target, codebook_size=SIZE)
    assert built.columns_KS.tolist() == [[8, 0, 1, 8, 9, 4, 5, 8], [8, 8, 2, 3, 9, 8, 6, 7]]
    assert built.segments_S.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    no = IGNORED_LABEL
    assert built.labels_KS.tolist() == [[no, no, no, no, 4, 5, no], [no, no, no, no, no, 6, 7]]
    assert built.inputs_KS.tolist() == built.columns_KS[:, :-1].tolist()


@settings(deadline=None)
@given(episodes())
def test_undelay_takes_off_what_delay_put_on(episode):
    _, codes = episode
    assert np.array_equal(undelay(delay(codes, SIZE)), codes)
    assert np.array_equal(delay(codes, SIZE) != SIZE, delay_mask(*codes.shape))


@settings(deadline=None)
@given(episodes())
def test_every_target_code_is_one_label_and_nothing_else_is(episode):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE)
    first = built.columns_KS.shape[1] - (target.shape[1] + target.shape[0] - 1)
    labels = built.labels_KS
    assert (labels != IGNORED_LABEL).sum() == target.size
    assert (labels[:, : first - 1] == IGNORED_LABEL).all()
    for k in range(target.shape[0]):
        assert np.array_equal(labels[k][labels[k] != IGNORED_LABEL], target[k])


@settings(deadline=None)
@given(episodes())
def test_loss_on_all_labels_every_code_and_no_pad_or_separator(episode):
    examples, target = episode
    labels = build_sequence(examples, target, codebook_size=SIZE, loss_on="all").labels_KS
    for k in range(target.shape[0]):
        codes = np.concatenate([clip[k] for clip in [*examples, target]])
        assert np.array_equal(labels[k][labels[k] != IGNORED_LABEL], codes)


@settings(deadline=None)
@given(episodes())
def test_separators_fill_their_columns_and_open_the_next_segment(episode):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE)
    is_separator = built.columns_KS == separator_id(SIZE)
    columns = np.flatnonzero(is_separator.any(axis=0))
    assert is_separator.all(axis=0).sum() == len(columns) == len(examples)
    assert built.segments_S[columns].tolist() == list(range(1, len(examples) + 1))
    assert (np.diff(built.segments_S) >= 0).all()
    assert built.inputs_KS.shape[1] == num_columns([c.shape[1] for c in [*examples, target]], target.shape[0])


@settings(deadline=None)
@given(episodes())
def test_prefix_is_how_the_sequence_begins(episode):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE)
    prefix = build_prefix(examples, num_codebooks=target.shape[0], codebook_size=SIZE)
    num_before = prefix.columns_KP.shape[1]
    assert np.array_equal(prefix.columns_KP, built.columns_KS[:, :num_before])
    assert np.array_equal(prefix.segments_P, built.segments_S[:num_before])
    assert prefix.starts_N.tolist() == built.starts_N.tolist()
    assert prefix.starts_N[-1] == num_before


def test_blanked_examples_are_never_labels():
    blank, target = np.full((2, 3), pad_id(SIZE)), np.ones((2, 3), int)
    labels = build_sequence([blank], target, codebook_size=SIZE, loss_on="all").labels_KS
    assert (labels != IGNORED_LABEL).sum() == target.size


@settings(deadline=None)
@given(episodes(), st.integers(1, 5), st.integers(1, 5), st.integers(5, 60))
def test_budgets_hold_and_the_nearest_examples_stay(episode, example_frames, target_frames, total):
    examples, target = episode
    kept, cut = cut_to_budget(examples, target, Budget(example_frames, target_frames, total))
    lengths = [clip.shape[1] for clip in [*kept, cut]]
    assert cut.shape[1] == min(target.shape[1], target_frames, total - target.shape[0] + 1)
    assert num_columns(lengths, target.shape[0]) <= total
    for given_clip, kept_clip in zip(examples[len(examples) - len(kept) :], kept, strict=True):
        assert np.array_equal(kept_clip, given_clip[:, :example_frames])
    if len(kept) < len(examples):
        longer = [min(examples[-len(kept) - 1].shape[1], example_frames), *lengths]
        assert num_columns(longer, target.shape[0]) > total


def test_a_target_alone_is_cut_to_the_columns_there_are():
    kept, cut = cut_to_budget([], np.zeros((4, 9), np.uint16), Budget(5, 9, 10))
    assert (kept, cut.shape) == ([], (4, 7))


def test_a_budget_without_room_for_one_frame_is_refused():
    with pytest.raises(ValueError, match="no room for a frame of 4 codebooks"):
        cut_to_budget([], np.zeros((4, 9), np.uint16), Budget(5, 9, 3))


def test_default_budgets_fit_five_full_examples():
    budget = Budget()
    lengths = [budget.max_example_frames] * 5 + [budget.max_target_frames]
    assert num_columns(lengths, 4) <= budget.max_total_columns


@pytest.mark.parametrize("examples", [[np.zeros((3, 2), int)], [np.zeros((2, 0), int)]])
def test_segments_that_do_not_fit_together_are_refused(examples):
    with pytest.raises(ValueError, match="same codebooks"):
        build_sequence(examples, np.zeros((2, 2), int), codebook_size=SIZE)


def test_too_few_columns_to_undelay_are_refused():
    with pytest.raises(ValueError, match="no whole frame"):
        undelay(np.zeros((4, 3), int))


@st.composite
def forms(draw):
    return Format(
        separator=draw(st.sampled_from(["none", "pad", "learned", "text"])),
        representation=draw(st.sampled_from(["codes", "clap", "both", "text"])),
        text_placement=draw(st.sampled_from(["cross", "inline"])),
        example_codebooks=draw(st.sampled_from([None, 1, 2, 9])),
        state_columns=draw(st.sampled_from([0, 3])),
    )


@settings(deadline=None)
@given(episodes(), forms(), st.sampled_from(["target", "all"]))
def test_in_every_format_labels_are_the_codes_and_columns_are_counted(episode, form, loss_on):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE, form=form, loss_on=loss_on)
    shown = examples if loss_on == "all" and form.shows_codes else []
    for k in range(target.shape[0]):
        seen = [clip[k] for clip in shown if form.example_codebooks is None or k < form.example_codebooks]
        labels = built.labels_KS[k]
        assert np.array_equal(labels[labels != IGNORED_LABEL], np.concatenate([*seen, target[k]]))
    lengths = [clip.shape[1] for clip in [*examples, target]]
    free = form.state_columns * len(lengths)
    assert built.inputs_KS.shape[1] + free == num_columns(lengths, target.shape[0], form)


@settings(deadline=None)
@given(episodes(), forms())
def test_in_every_format_each_clip_can_be_read_back_from_where_it_starts(episode, form):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE, form=form)
    clips = [*(examples if form.shows_codes else []), target]
    starts = built.starts_N[-len(clips) :]
    for clip, start in zip(clips, starts, strict=True):
        read = undelay(built.columns_KS[:, start : start + clip.shape[1] + clip.shape[0] - 1])
        num_shown = clip.shape[0] if clip is target else form.example_codebooks or clip.shape[0]
        assert np.array_equal(read[:num_shown], clip[:num_shown])
        assert (read[num_shown:] == pad_id(SIZE)).all()


@settings(deadline=None)
@given(episodes(), forms())
def test_a_separator_stands_behind_the_last_flushed_column_and_before_the_next_first_one(episode, form):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE, form=form)
    between = 1 if form.has_separators else 0
    for i, example in enumerate(examples):
        own = example.shape[1] + example.shape[0] - 1 if form.shows_codes else 0
        assert built.starts_N[i + 1] == built.starts_N[i] + own + between
        if between:
            expected = pad_id(SIZE) if form.separator == "pad" else separator_id(SIZE)
            assert (built.columns_KS[:, built.starts_N[i + 1] - 1] == expected).all()
    assert (built.columns_KS == separator_id(SIZE)).any() == (
        bool(examples) and between == 1 and form.separator != "pad"
    )


@settings(deadline=None)
@given(episodes(), forms())
def test_a_column_reads_the_text_of_the_code_that_it_predicts(episode, form):
    examples, target = episode
    built = build_sequence(examples, target, codebook_size=SIZE, form=form, loss_on="all")
    if form.shows_codes or form.text_placement == "cross":
        for j in np.flatnonzero((built.labels_KS != IGNORED_LABEL).any(axis=0)):
            assert built.segments_S[j] == np.searchsorted(built.starts_N, j + 1, side="right") - 1


@settings(deadline=None)
@given(episodes(), forms(), st.integers(1, 5), st.integers(8, 60))
def test_in_every_format_budgets_hold_with_room_for_states(episode, form, example_frames, total):
    examples, target = episode
    kept, cut = cut_to_budget(examples, target, Budget(example_frames, 9, total), form)
    assert num_columns([clip.shape[1] for clip in [*kept, cut]], target.shape[0], form) <= total
    assert (
        len(kept) == len(examples)
        or num_columns(
            [min(clip.shape[1], example_frames) for clip in examples] + [cut.shape[1]], target.shape[0], form
        )
        > total
    )


def test_text_inline_without_codes_is_a_row_of_captions_and_the_target():
    form = Format(representation="text", text_placement="inline")
    built = build_sequence([np.ones((2, 3), int)] * 2, np.array([[4], [5]]), codebook_size=SIZE, form=form)
    assert built.columns_KS.tolist() == [[8, 9, 9, 4, 8], [8, 9, 9, 8, 5]]
    assert built.starts_N.tolist() == [1, 2, 3]
