"""What an episode shows, and that only seed, step and key decide it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.music.sequence import num_columns
from tests.train.test_data import CODEC
from tests.train.toys import altered, random_samples
from train.augment import any_caption, blank_examples, draw_context, order_examples, plain_context
from train.data import Episode, key_random, read_episode
from train.params import TrainParams

EPISODE = read_episode(random_samples(1)[0], CODEC, where="toy")


def shown(episode: Episode):
    """An episode as plain values, to be compared."""
    clips = [(clip.shape, clip.tobytes()) for clip in [*episode.examples_KT, episode.target_KT]]
    return clips, episode.prompts, episode.caption, None if episode.clap_ND is None else episode.clap_ND.tobytes()


def paired(episode: Episode):
    """Each example's codes with its prompt and its vector."""
    assert episode.clap_ND is not None
    rows = zip(episode.examples_KT, episode.prompts[:-1], episode.clap_ND, strict=True)
    return {(clip.tobytes(), prompt, vector.tobytes()) for clip, prompt, vector in rows}


def drawn_params(draw):
    return TrainParams(
        seed=draw(st.integers(0, 3)),
        num_examples=draw(st.sampled_from([0, 2, 5, (0, 1, 2, 3)])),
        order=draw(st.sampled_from(["nearest_last", "nearest_first", "shuffled"])),
        separator=draw(st.sampled_from(["none", "learned"])),
        text_placement=draw(st.sampled_from(["cross", "inline"])),
        max_text_tokens=4,
        example_crop=draw(st.sampled_from(["start", "random"])),
        caption=draw(st.sampled_from(["packed", "any"])),
        max_example_frames=draw(st.sampled_from([3, 480])),
        max_target_frames=9,
        max_total_columns=draw(st.sampled_from([40, 3000])),
        null_share=draw(st.sampled_from([0.0, 0.3])),
        no_examples_share=draw(st.sampled_from([0.0, 0.3])),
        no_text_share=draw(st.sampled_from([0.0, 0.3])),
    )


@settings(deadline=None)
@given(st.composite(drawn_params)(), st.integers(0, 50))
def test_whatever_is_drawn_fits_keeps_pairs_together_and_is_drawn_again(params, step):
    context = draw_context(EPISODE, step, params)
    assert shown(context) == shown(draw_context(EPISODE, step, params))
    assert len(context.prompts) == len(context.examples_KT) + 1
    assert context.clap_ND is not None
    assert len(context.clap_ND) == len(context.examples_KT) <= params.most_examples
    lengths = [clip.shape[1] for clip in [*context.examples_KT, context.target_KT]]
    assert max(lengths[:-1], default=0) <= params.max_example_frames
    assert num_columns(lengths, 4, params.form) <= params.max_total_columns
    if params.max_example_frames == 480:
        assert paired(context) <= paired(EPISODE)


def test_without_chance_training_and_evaluation_show_the_same():
    for order in ("nearest_last", "nearest_first"):
        params = TrainParams(num_examples=2, order=order)
        assert shown(draw_context(EPISODE, 7, params)) == shown(plain_context(EPISODE, 2, params))


def test_orders_are_what_they_say():
    last, first = (plain_context(EPISODE, 3, TrainParams(order=order)) for order in ("nearest_last", "nearest_first"))
    assert last.prompts == EPISODE.prompts
    assert first.prompts == [*EPISODE.prompts[2::-1], EPISODE.prompts[-1]]
    shuffled = [draw_context(EPISODE, i, TrainParams(order="shuffled", num_examples=3)) for i in range(60)]
    assert len({tuple(episode.prompts) for episode in shuffled}) == 6
    assert {frozenset(paired(episode)) for episode in shuffled} == {frozenset(paired(EPISODE))}
    plain = TrainParams(order="shuffled", num_examples=3)
    assert shown(plain_context(EPISODE, 3, plain)) == shown(plain_context(EPISODE, 3, plain))


def test_the_farthest_example_goes_first_whatever_the_order():
    params = TrainParams(num_examples=3, order="nearest_first", max_target_frames=9, max_total_columns=40)
    kept = plain_context(EPISODE, 3, params)
    assert 0 < len(kept.examples_KT) < 3
    assert kept.prompts[0] == EPISODE.prompts[2]


def test_what_guidance_subtracts_comes_as_often_as_asked():
    params = TrainParams(num_examples=2, null_share=0.1, no_examples_share=0.2, no_text_share=0.3)
    drawn = [draw_context(EPISODE, i, params) for i in range(1000)]
    counts = Counter((bool(episode.examples_KT), episode.prompts[-1] is not None) for episode in drawn)
    assert counts[False, False] == pytest.approx(100, abs=40)
    assert counts[False, True] == pytest.approx(200, abs=50)
    assert counts[True, False] == pytest.approx(300, abs=60)
    assert all(None not in episode.prompts[:-1] for episode in drawn)


def test_any_of_the_captions_takes_the_place_of_the_packed_one():
    captions = [{"text": text, "source": "human"} for text in ("amber", "basalt", "cedar")]
    sample = altered(random_samples(1)[0], captions=captions, caption_index=1, prompt="120 bpm: basalt. basalt")
    episode = read_episode(sample, CODEC, where="toy")
    prompts = {draw_context(episode, i, TrainParams(caption="any")).prompts[-1] for i in range(40)}
    assert prompts == {f"120 bpm: {text}. basalt" for text in ("amber", "basalt", "cedar")}
    assert plain_context(episode, 1, TrainParams(caption="any")).prompts[-1] == "120 bpm: basalt. basalt"
    silent = replace(episode, prompts=[None])
    assert any_caption(silent, key_random(0, 0, "a")).prompts == [None]


def test_crops_come_from_anywhere_in_an_example():
    clip = np.tile(np.arange(10, dtype=np.uint16), (4, 1))
    episode = replace(EPISODE, examples_KT=[clip] * 3)
    params = TrainParams(num_examples=3, example_crop="random", max_example_frames=7)
    drawn = [draw_context(episode, i, params).examples_KT for i in range(60)]
    assert {int(codes[0, 0]) for codes_of in drawn for codes in codes_of} == {0, 1, 2, 3}
    assert all(np.array_equal(np.diff(codes[0]), np.ones(6)) for codes_of in drawn for codes in codes_of)
    fixed = draw_context(episode, 3, replace(params, example_crop="start")).examples_KT
    assert all(codes[0, 0] == 0 and codes.shape[1] == 7 for codes in fixed)


def test_blanked_examples_say_nothing_in_any_representation():
    blank = blank_examples(EPISODE, 16)
    assert all((codes == 16).all() for codes in blank.examples_KT)
    assert blank.clap_ND is not None
    assert not blank.clap_ND.any()
    assert blank.prompts == EPISODE.prompts


def test_episodes_without_vectors_stay_without():
    bare = replace(EPISODE, clap_ND=None)
    ordered = order_examples(bare, "shuffled", key_random(0, 0, "a"))
    assert ordered.clap_ND is None
    assert blank_examples(bare, 16).clap_ND is None
