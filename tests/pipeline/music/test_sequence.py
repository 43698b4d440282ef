"""Columns: delay pattern, separators, labels, budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.music.sequence import (
    IGNORED_LABEL,
    Budget,
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
    prefix, segments = build_prefix(examples, num_codebooks=target.shape[0], codebook_size=SIZE)
    assert np.array_equal(prefix, built.columns_KS[:, : prefix.shape[1]])
    assert np.array_equal(segments, built.segments_S[: prefix.shape[1]])


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
