"""torchaudio: its resampler agrees with ours, and its CTC alignment finds the true frames.

Shape letters: B batch, N samples, T frames, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio.functional as reference

from pipeline.music.audio import resample


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44_100, 32_000), (48_000, 16_000), (16_000, 48_000)])
def test_resampling_agrees_with_torchaudio(from_hz, to_hz):
    times_N = np.arange(from_hz) / from_hz
    wave_N = sum(0.2 * np.sin(2 * np.pi * tone_hz * times_N) for tone_hz in (110.0, 440.0, 3_000.0)).astype(np.float32)
    ours_N = resample(wave_N, from_hz, to_hz)
    # With its default of 6 zero crossings torchaudio is up to 9e-4 off a pure tone; with 64 both are right to 1e-5.
    theirs_N = reference.resample(torch.from_numpy(wave_N), from_hz, to_hz, lowpass_filter_width=64).numpy()
    assert ours_N.size == theirs_N.size == to_hz
    inner = slice(to_hz // 50, -to_hz // 50)  # beyond the ends each assumes its own silence
    error_N = ours_N[inner] - theirs_N[inner]
    assert np.linalg.norm(error_N) < 2e-5 * np.linalg.norm(ours_N[inner])


def posterior(labels_T: list[int], *, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Log probabilities [1, T, V] of a recogniser that is fairly sure of these labels."""
    logits_TV = torch.randn(len(labels_T), vocabulary, generator=torch.Generator().manual_seed(seed))
    logits_TV[torch.arange(len(labels_T)), torch.tensor(labels_T)] += 6.0
    return logits_TV.log_softmax(dim=-1)[None]


def test_forced_alignment_finds_the_true_frames():
    # Blank is 0; "2 2" needs the blank between its halves, and the last word is held to the end.
    labels_T = [0, 0, 1, 1, 1, 0, 2, 2, 0, 2, 0, 0, 3, 0, 4, 4, 4, 4]
    log_probs_1TV = posterior(labels_T, vocabulary=6)
    aligned_1T, scores_1T = reference.forced_align(log_probs_1TV, torch.tensor([[1, 2, 2, 3, 4]]), blank=0)
    assert aligned_1T[0].tolist() == labels_T
    spans = reference.merge_tokens(aligned_1T[0], scores_1T[0].exp())
    assert [(span.token, span.start, span.end) for span in spans] == [
        (1, 2, 5),
        (2, 6, 8),
        (2, 9, 10),
        (3, 12, 13),
        (4, 14, 18),
    ]
    assert min(span.score for span in spans) > 0.5


def test_forced_alignment_of_the_wrong_words_scores_low():
    labels_T = [0, 1, 1, 0, 2, 2, 0, 3, 3, 0]
    log_probs_1TV = posterior(labels_T, vocabulary=6)
    right, wrong = (
        reference.forced_align(log_probs_1TV, torch.tensor([words]), blank=0)[1].mean()
        for words in ([1, 2, 3], [4, 5, 4])
    )
    assert right > -0.2
    assert wrong < -2.0
