from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.epochs import Plan, Seat, planned_sample, planned_shard, shuffle_stream, turns_per_epoch
from pipeline.errors import ContractError, ParamsError

seats = st.tuples(st.integers(1, 4), st.integers(1, 4))


def all_seats(num_workers: int, num_ranks: int) -> list[Seat]:
    return [
        Seat(worker=worker, num_workers=num_workers, rank=rank, num_ranks=num_ranks)
        for worker in range(num_workers)
        for rank in range(num_ranks)
    ]


@given(st.integers(1, 50), st.integers(0, 9), st.sampled_from(["shuffled", "as_stored"]))
def test_every_exact_epoch_holds_every_sample_once(num_samples: int, seed: int, order: str):
    plan = Plan(seed=seed, order=order)
    for epoch in range(3):
        positions = range(epoch * num_samples, (epoch + 1) * num_samples)
        found = [planned_sample(plan, position, num_samples) for position in positions]
        assert sorted(found) == list(range(num_samples))
        assert order == "shuffled" or found == sorted(found)


@given(seats, st.integers(0, 20), st.integers(0, 5))
def test_every_exact_epoch_of_a_stream_gives_every_shard_to_one_seat(of: tuple[int, int], more: int, seed: int):
    num_shards, plan = of[0] * of[1] + more, Plan(seed=seed)
    for epoch in range(3):
        found = []
        for seat in all_seats(*of):
            turns = turns_per_epoch(seat, num_shards)
            found += [planned_shard(plan, seat, epoch * turns + turn, num_shards) for turn in range(turns)]
            assert turns in (num_shards // seat.num_seats, num_shards // seat.num_seats + 1)
        assert sorted(found) == list(range(num_shards))


def test_resampled_draws_are_even_and_go_on_over_blocks():
    plan = Plan(mode="resampled", seed=3)
    counts = Counter(planned_sample(plan, position, 10) for position in range(10_000))
    assert set(counts) == set(range(10))
    # 10,000 draws of 10: mean 1,000, standard deviation 30.
    assert max(abs(count - 1000) for count in counts.values()) < 150
    first, second = ([planned_sample(plan, start + n, 10) for n in range(100)] for start in (0, 4096))
    assert first != second


def test_resampled_seats_see_other_shards():
    plan = Plan(mode="resampled")
    one, two = ([planned_shard(plan, seat, turn, 50) for turn in range(20)] for seat in all_seats(2, 1))
    assert one != two


def test_seeds_and_epochs_differ():
    orders = {tuple(planned_sample(Plan(seed=seed), p, 20) for p in range(20)) for seed in range(5)}
    orders |= {tuple(planned_sample(Plan(), p, 20) for p in range(20 * e, 20 * e + 20)) for e in range(1, 5)}
    assert len(orders) == 9


@given(st.integers(0, 40), st.integers(1, 12), st.text(max_size=3))
def test_a_shuffled_stream_keeps_everything_and_repeats_itself(num: int, buffer_samples: int, seed: str):
    found = list(shuffle_stream(range(num), buffer_samples, seed=seed))
    assert sorted(found) == list(range(num))
    assert found == list(shuffle_stream(range(num), buffer_samples, seed=seed))
    assert buffer_samples > 1 or found == list(range(num))
    # Nothing comes before it was read: n samples out need at most 2 n in.
    assert all(value <= 2 * place + 1 for place, value in enumerate(found))


def test_a_shuffled_stream_gives_its_first_sample_after_two():
    read = []
    stream = shuffle_stream((read.append(n) or n for n in range(100)), 50, seed="")
    next(stream)
    assert len(read) == 2


@pytest.mark.parametrize(
    "wrong", [{"mode": "endless"}, {"order": "sorted"}, {"mode": "resampled", "order": "as_stored"}]
)
def test_a_plan_of_another_name_is_refused(wrong: dict[str, str]):
    with pytest.raises(ParamsError):
        Plan(**wrong)


@pytest.mark.parametrize("wrong", [{"rank": 1}, {"worker": -1}, {"num_ranks": 0}])
def test_a_seat_that_does_not_exist_is_refused(wrong: dict[str, int]):
    with pytest.raises(ParamsError, match="counted from 0"):
        Seat(**wrong)


def test_too_few_to_share_is_said_with_the_numbers():
    with pytest.raises(ContractError, match=r"5 shards for 3 loader workers x 2 ranks would leave 1 of 6 empty"):
        Seat(num_workers=3, num_ranks=2).check_enough(5, "shards")
    Seat(num_workers=3, num_ranks=2).check_enough(6, "shards")
