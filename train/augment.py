"""What an episode shows: how many examples, in which order, which crop, which caption; and the controls of evaluation.

Whatever varies is drawn from (seed, step, key), so that it depends neither on workers nor on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.music.sequence import Budget, Format, cut_to_budget, pad_id
from train.data import Episode, key_random

if TYPE_CHECKING:
    from train.params import TrainParams


def draw_context(episode: Episode, step: int, params: TrainParams) -> Episode:
    """Show an episode as training does in a step, cut to the budgets.

    Args:
        episode: as packed, nearest last.
        step: number of what is drawn for; with the key it alone decides.
        params: what may vary, and how often something is left out for guidance.
    """
    random = key_random(params.seed, step, episode.key)
    counts = params.example_counts
    shown = nearest_examples(episode, counts[int(random.integers(len(counts)))])
    shown = _drop_for_guidance(shown, random.random(), params)
    if params.caption == "any":
        shown = any_caption(shown, random)
    if params.example_crop == "random":
        shown = crop_examples(shown, params.max_example_frames, random)
    return order_examples(fit_episode(shown, params.budget, params.form), params.order, random)


def plain_context(episode: Episode, num_examples: int, params: TrainParams) -> Episode:
    """Show an episode as validation, evaluation and generation do: as in training, with nothing left to chance.

    A shuffled order is drawn from seed and key, since such a run knows no other.
    """
    shown = fit_episode(nearest_examples(episode, num_examples), params.budget, params.form)
    return order_examples(shown, params.order, key_random(params.seed, 0, episode.key))


def _drop_for_guidance(episode: Episode, chance: float, params: TrainParams) -> Episode:
    """Leave out what guidance subtracts later: everything, the examples, or the target's text."""
    if chance < params.null_share:
        return null_episode(episode)
    if chance < params.null_share + params.no_examples_share:
        return nearest_examples(episode, 0)
    if chance < params.null_share + params.no_examples_share + params.no_text_share:
        return without_text(episode)
    return episode


def choose_examples(episode: Episode, places: Sequence[int]) -> Episode:
    """Keep the examples at these places, in this order, each with its caption and its embedding."""
    *prompts, own = episode.prompts
    clap_ND = episode.clap_ND
    return replace(
        episode,
        examples_KT=[episode.examples_KT[place] for place in places],
        prompts=[*(prompts[place] for place in places), own],
        clap_ND=None if clap_ND is None else clap_ND[list(places)],
    )


def nearest_examples(episode: Episode, num_examples: int) -> Episode:
    """Keep the nearest examples, the last ones; all where there are fewer."""
    total = len(episode.examples_KT)
    if num_examples >= total:
        return episode
    return choose_examples(episode, range(total - num_examples, total))


def order_examples(episode: Episode, order: str, random: np.random.Generator) -> Episode:
    """Put examples that stand nearest last in the order asked for."""
    if order == "nearest_last":
        return episode
    places = list(range(len(episode.examples_KT)))
    if order == "nearest_first":
        places.reverse()
    else:
        random.shuffle(places)
    return choose_examples(episode, places)


def crop_examples(episode: Episode, num_frames: int, random: np.random.Generator) -> Episode:
    """Cut longer examples to `num_frames`, from anywhere in them."""
    firsts = [int(random.integers(max(0, codes.shape[1] - num_frames) + 1)) for codes in episode.examples_KT]
    cut = [codes[:, first : first + num_frames] for codes, first in zip(episode.examples_KT, firsts, strict=True)]
    return replace(episode, examples_KT=cut)


def any_caption(episode: Episode, random: np.random.Generator) -> Episode:
    """Let one of the target's captions stand in its prompt in place of the one that was packed."""
    *prompts, own = episode.prompts
    drawn = episode.captions[int(random.integers(len(episode.captions)))]
    # The prompt is a template filled by pack; whatever it says beside the caption stays.
    prompt = own if own is None else own.replace(episode.caption, drawn, 1)
    return replace(episode, caption=drawn, prompts=[*prompts, prompt])


def null_episode(episode: Episode) -> Episode:
    """The target alone, without text: what guidance subtracts."""
    return without_text(nearest_examples(episode, 0))


def without_text(episode: Episode) -> Episode:
    """Take the target's text away; None is the null prompt."""
    return replace(episode, prompts=[*episode.prompts[:-1], None])


def fit_episode(episode: Episode, budget: Budget, form: Format) -> Episode:
    """Cut an episode to its budgets; examples that do not fit go, the farthest (first) ones."""
    examples_KT, target_KT = cut_to_budget(episode.examples_KT, episode.target_KT, budget, form)
    kept = nearest_examples(episode, len(examples_KT))
    return replace(kept, examples_KT=examples_KT, target_KT=target_KT)


def blank_examples(episode: Episode, codebook_size: int) -> Episode:
    """Replace all codes of the examples by the pad id, and their embeddings by zeros; captions stay."""
    blank = [np.full_like(codes, pad_id(codebook_size)) for codes in episode.examples_KT]
    clap_ND = None if episode.clap_ND is None else np.zeros_like(episode.clap_ND)
    return replace(episode, examples_KT=blank, clap_ND=clap_ND)


def swap_captions(episode: Episode) -> Episode | None:
    """Give each example the prompt of the next one, so that no prompt stands at its own audio.

    Returns:
        None where that changes nothing: fewer than two examples, or equal prompts.
    """
    *prompts, own = episode.prompts
    swapped = prompts[1:] + prompts[:1]
    return None if swapped == prompts else replace(episode, prompts=[*swapped, own])
