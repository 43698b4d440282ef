"""Phrases become tokens and come back with times; a scripted posterior shows how far times can be trusted."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from pipeline.lyrics.align import BLANK, STAR, min_frames, path_spans, phrase_times, spell, time_phrases, with_star
from pipeline.models.aligner import align_posteriors

FRAME_S = 0.02
PAUSE = "pau"
Label = tuple[float, float, str]
TOKENS = st.lists(st.sampled_from([STAR, 1, 2, 3]), min_size=1, max_size=12)


def test_sounds_are_spelled_and_unknown_ones_become_one_star():
    ids = {"カ": 1, "シャ": 2}
    assert spell(["カ", "シャ", "カ"], ids) == [1, 2, 1]
    assert spell(["ル", "ル", "カ", "ル"], ids) == [STAR, 1, STAR]
    assert spell([], ids) == [STAR]


@given(tokens=TOKENS)
def test_a_text_fits_the_fewest_frames_and_no_fewer(tokens):
    log_prob_TV = np.log(np.full((min_frames(tokens), 4), 0.25, np.float32))
    spans_L3 = align_posteriors(log_prob_TV, tokens, frame_s=FRAME_S)
    assert np.allclose(spans_L3[:, 1] - spans_L3[:, 0], FRAME_S)
    with pytest.raises(ValueError, match="frames, and there are"):
        align_posteriors(log_prob_TV[1:], tokens, frame_s=FRAME_S)


@given(tokens=TOKENS, num_frames=st.integers(30, 60), seed=st.integers(0, 99))
def test_spans_are_in_order_and_apart(tokens, num_frames, seed):
    log_prob_TV = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), num_frames)).astype(np.float32)
    spans_L3 = align_posteriors(log_prob_TV, tokens, frame_s=FRAME_S)
    start_L, end_L, confidence_L = spans_L3.T
    assert (start_L < end_L).all()
    assert (end_L[:-1] <= start_L[1:] + 1e-9).all()
    assert start_L[0] >= 0
    assert end_L[-1] <= num_frames * FRAME_S + 1e-9
    assert ((confidence_L > 0) == (np.array(tokens) != STAR)).all()
    assert (confidence_L <= 1).all()


def test_a_text_of_nothing_has_no_spans():
    assert align_posteriors(np.zeros((5, 3), np.float32), [], frame_s=FRAME_S).shape == (0, 3)


@pytest.mark.parametrize("token", [BLANK, 4, -2])
def test_a_token_that_is_no_sound_is_refused(token):
    with pytest.raises(ValueError, match="tokens must be STAR or from 1 to 3"):
        align_posteriors(np.log(np.full((5, 4), 0.25, np.float32)), [token], frame_s=FRAME_S)


def test_a_path_of_another_text_is_refused():
    with pytest.raises(ValueError, match="a path of 2 tokens for a text of 3"):
        path_spans(np.array([0, 1, 1, 0, 2]), np.zeros(5, np.float32), [1, 2, 2], frame_s=FRAME_S)


def test_phrases_get_times_and_confidence():
    spans_L3 = np.array([[0.1, 0.2, 0.9], [0.3, 0.4, 0.4], [1.0, 1.5, 0.0], [2.0, 2.2, 0.8], [2.2, 2.4, 0.0]])
    first, unknown, half = phrase_times(spans_L3, [2, 1, 2])
    assert first == (0.1, 0.4, 0.6)
    assert unknown == (1.0, 1.5, 0.0)
    assert half == (2.0, 2.4, 0.4)


def test_the_star_takes_what_nothing_else_explains():
    # Frames: a, something, b; the model is sure of a and b, and that something sounds between them.
    sure, unsure, silent = [0.04, 0.9, 0.03, 0.03], [0.1, 0.3, 0.3, 0.3], [0.97, 0.01, 0.01, 0.01]
    other = [0.04, 0.03, 0.9, 0.03]
    prob_TV = np.array([silent] * 5 + [sure] * 5 + [unsure] * 7 + [other] * 5 + [silent] * 5, np.float32)
    spans_L3 = align_posteriors(np.log(prob_TV), [1, STAR, 2], frame_s=1.0)
    assert spans_L3[:, :2].tolist() == [[5, 10], [10, 17], [17, 22]]


def test_the_star_is_as_likely_as_half_of_all_that_sounds():
    starred_TV = with_star(np.log(np.array([[0.2, 0.5, 0.3], [1.0, 1e-9, 1e-9]], np.float32)))
    assert np.exp(starred_TV[:, -1]) == pytest.approx([0.4, 0.0], abs=1e-6)


def read_lab(path: Path) -> list[Label]:
    """Phonemes with times of an HTS label file: 100 ns, the phoneme between - and +."""
    rows = (line.split() for line in path.read_text("utf-8").splitlines())
    return [(int(start) / 1e7, int(end) / 1e7, name.split("-")[1].split("+")[0]) for start, end, name in rows]


def made_lab(seed: int) -> list[Label]:
    """Eight phrases of consonants and vowels as long as sung ones, pauses between them."""
    rng = np.random.default_rng(seed)
    labels: list[Label] = [(0.0, 1.0, PAUSE)]
    for _ in range(8):
        for _ in range(int(rng.integers(4, 12))):
            for name, length_s in ((rng.choice([*"kstnm"]), 0.07), (rng.choice([*"aiueo"]), rng.uniform(0.15, 0.8))):
                labels.append((labels[-1][1], labels[-1][1] + length_s, str(name)))
        labels.append((labels[-1][1], labels[-1][1] + rng.uniform(0.25, 1.2), PAUSE))
    return labels


def scripted_posteriors(labels: list[Label], ids: dict[str, int], *, wrong_share: float, seed: int) -> np.ndarray:
    """What a middling model might say: the truth blurred over 100 ms, a share of frames wrong in runs, noise on all."""
    rng = np.random.default_rng(seed)
    times_T = (np.arange(int(labels[-1][1] / FRAME_S)) + 0.5) * FRAME_S
    index_T = np.searchsorted([end_s for _, end_s, _ in labels], times_T)
    truth_T = np.array([ids[labels[index][2]] for index in index_T])
    for start in rng.choice(len(truth_T), int(wrong_share * len(truth_T) / 3), replace=False):
        truth_T[start : start + 3] = rng.integers(0, len(ids))
    prob_TV = gaussian_filter1d(np.eye(len(ids))[truth_T], sigma=0.05 / FRAME_S, axis=0)
    prob_TV = 0.7 * prob_TV + 0.3 * rng.dirichlet(np.full(len(ids), 0.3), len(truth_T))
    return np.log(prob_TV / prob_TV.sum(axis=1, keepdims=True)).astype(np.float32)


def phrase_errors_s(labels: list[Label], *, wrong_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of all starts and ends of phrases, which are what lies between pauses; and their confidences."""
    ids = {name: index for index, name in enumerate([PAUSE, *sorted({name for *_, name in labels} - {PAUSE})])}
    pauses = [index for index, label in enumerate(labels) if label[2] == PAUSE]
    phrases = [labels[a + 1 : b] for a, b in itertools.pairwise(pauses) if b > a + 1]
    log_prob_TV = scripted_posteriors(labels, ids, wrong_share=wrong_share, seed=seed)
    align = partial(align_posteriors, log_prob_TV, frame_s=FRAME_S)
    found = time_phrases([[name for *_, name in phrase] for phrase in phrases], list(ids), align)
    truth = np.array([(phrase[0][0], phrase[-1][1]) for phrase in phrases])
    times = np.array([(times.start_s, times.end_s) for times in found])
    return np.abs(times - truth).ravel(), np.array([times.confidence for times in found])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wrong_share", [0.0, 0.2, 0.35])
def test_phrases_are_found_within_80_ms(wrong_share, seed):
    errors_s, confidence = phrase_errors_s(made_lab(seed), wrong_share=wrong_share, seed=seed)
    assert np.median(errors_s) <= 0.08
    # With a third of the frames wrong, single phrases go astray; the median does not.
    assert np.quantile(errors_s, 0.75) <= (0.1 if wrong_share < 0.3 else 0.5)
    assert 0 < confidence.min() <= confidence.max() < 1


def test_confidence_falls_with_the_model():
    good, bad = (phrase_errors_s(made_lab(0), wrong_share=share, seed=0)[1].mean() for share in (0.0, 0.4))
    assert bad < 0.8 * good


@pytest.mark.parametrize("wrong_share", [0.0, 0.2, 0.35])
def test_real_singing_is_found_within_80_ms(real_data, wrong_share):
    labels = read_lab(real_data / "nit-song070/nitech_jp_song070_f001_004.lab")
    errors_s, _ = phrase_errors_s(labels, wrong_share=wrong_share, seed=0)
    print(f"\n{wrong_share:.0%} wrong: median {np.median(errors_s) * 1e3:.0f} ms, worst {errors_s.max() * 1e3:.0f} ms")
    assert np.median(errors_s) <= 0.08
