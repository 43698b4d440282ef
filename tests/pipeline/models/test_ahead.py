"""Decoding ahead of a model: the same results in the same order, bounded, and errors come when it is their turn."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.ahead import group_equal, in_order, map_ahead, threads_ahead

THREADS = [0, 1, 3]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("ahead", [1, 4])
def test_results_keep_the_order_of_the_items(threads, ahead):
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    found = list(map_ahead(slow_first, iter(range(20)), threads=threads, ahead=ahead))
    assert found == [number * number for number in range(20)]
    assert list(map_ahead(slow_first, [], threads=threads, ahead=ahead)) == []


def test_threads_work_while_the_caller_does():
    seen: list[threading.Thread] = []
    both = threading.Barrier(3)

    def meet(number: int) -> int:
        seen.append(threading.current_thread())
        if number:
            both.wait(timeout=10)  # two threads, and the caller who holds result 0: nobody waits for another's end
        return number

    results = map_ahead(meet, range(3), threads=2, ahead=2)
    assert next(results) == 0
    both.wait(timeout=10)
    assert list(results) == [1, 2]
    assert threading.current_thread() not in seen


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_is_taken_than_may_be_held(threads):
    taken: list[int] = []

    def source():
        for number in range(50):
            taken.append(number)
            yield number

    for count, _ in enumerate(map_ahead(lambda number: number, source(), threads=threads, ahead=5)):
        assert len(taken) <= count + 1 + 5
    assert len(taken) == 50


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_comes_after_the_results_before_it(threads):
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise LookupError("the fourth clip is damaged")
        return number

    results = map_ahead(fail_at_three, range(100), threads=threads, ahead=10)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(LookupError, match="fourth clip"):
        next(results)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_caller_who_stops_leaves_nothing_running(threads):
    begun: list[int] = []

    def note(number: int) -> int:
        begun.append(number)
        time.sleep(0.05)
        return number

    results = map_ahead(note, range(1000), threads=threads, ahead=40)
    assert next(results) == 0
    results.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
    # What had begun ends; what had not, of the forty taken, never begins.
    assert len(begun) < 40


@given(sizes=st.lists(st.integers(0, 4), max_size=60), batch_size=st.integers(1, 6), most_waiting=st.integers(0, 20))
def test_batches_hold_equal_sizes_and_every_item_once(sizes, batch_size, most_waiting):
    items = list(enumerate(sizes))
    taken = 0
    out = 0

    def stream():
        nonlocal taken
        for item in items:
            taken += 1
            yield item

    batches = []
    for batch in group_equal(stream(), lambda item: item[1], batch_size=batch_size, most_waiting=most_waiting):
        assert taken - out <= most_waiting + 1
        batches.append(batch)
        out += len(batch)
    assert all(len({size for _, size in batch}) == 1 and 1 <= len(batch) <= batch_size for batch in batches)
    assert all(batch == sorted(batch) for batch in batches)
    assert sorted(item for batch in batches for item in batch) == items
    assert list(in_order(item for batch in batches for item in batch)) == sizes


def test_items_of_equal_size_fill_their_batches():
    items = ["aa", "b", "cc", "d", "ee", "f"]
    batches = list(group_equal(items, len, batch_size=2, most_waiting=10))
    assert batches == [["aa", "cc"], ["b", "d"], ["ee"], ["f"]]
    # With room for one only, none is waited for.
    assert list(group_equal(items, len, batch_size=2, most_waiting=0)) == [[item] for item in items]


def test_a_cpu_keeps_its_cores_for_the_model():
    assert threads_ahead("cpu") == 0
    assert threads_ahead("cuda") >= 1
