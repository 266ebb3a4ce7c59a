"""Process work in threads: in order, and never more items at a time than the limit."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from petlbench.data.source import RenderedSource
from petlbench.data.streaming import Streamed, Tally, in_order
from petlbench.data.transforms import Form


@pytest.fixture
def threads() -> None:
    """Three threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_results_come_in_order_however_long_each_takes() -> None:
    def slow_at_first(job: int) -> int:
        time.sleep(0.02 if job % 3 == 0 else 0)
        return job

    assert list(in_order(slow_at_first, range(20), ahead=5)) == list(range(20))


@given(st.integers(0, 30), st.integers(1, 10), st.integers(1, 4))
def test_no_more_than_the_agreed_number_is_begun_and_not_taken(jobs: int, ahead: int, taken_at_once: int) -> None:
    begun = 0

    def begin(job: int) -> int:
        nonlocal begun
        begun += 1
        return job

    results = in_order(begin, range(jobs), ahead)
    for taken, result in enumerate(results):
        assert result == taken
        assert begun <= taken + ahead
    assert begun == jobs


@pytest.mark.usefixtures("threads")
def test_several_images_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=5)
    assert len(list(in_order(lambda job: together.wait(), range(6), ahead=3))) == 6


@pytest.mark.usefixtures("threads")
def test_an_error_reaches_the_reader_and_ends_the_work() -> None:
    done = []

    def fail_at_four(job: int) -> None:
        if job == 4:
            raise ValueError("unreadable")
        done.append(job)

    with pytest.raises(ValueError, match="unreadable"):
        list(in_order(fail_at_four, range(1000), ahead=4))
    assert set(range(4)) <= set(done) and max(done) < 10


def test_a_reader_who_stops_early_leaves_no_thread_behind() -> None:
    before, done = threading.active_count(), []
    results = in_order(lambda job: done.append(time.sleep(0.01)), range(1000), ahead=100)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(done) < 50, "what was not begun yet is not done any more"


def source(count: int) -> RenderedSource:
    return RenderedSource([0] * count, lambda index: np.full((4, 6, 3), index, np.uint8))


@given(st.permutations(range(7)), st.integers(1, 7))
def test_a_part_of_a_stream_has_its_images_in_its_order(order: list[int], count: int) -> None:
    part = Streamed(source(7), Form("squash", 2), Tally()).take(np.array(order)).take(np.arange(count))
    assert [int(part.decode(place)[0, 0, 0]) for place in range(len(part.labels))] == order[:count]
    assert part.decode(0).shape == (2, 2, 3)
