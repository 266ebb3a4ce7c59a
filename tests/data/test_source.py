"""Image sources: concatenated, as subsets, and the order in which they are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from petlbench.data.source import Concatenation, ImageSource, RenderedSource, positions_of, reading_order, take


class Laid:
    """Images whose order in the file differs from the split's, each filled with its position in the file."""

    def __init__(self, positions: NDArray[np.int64]) -> None:
        self.positions = positions
        self.labels = np.arange(len(positions))

    def decode(self, index: int) -> NDArray[np.uint8]:
        return np.full((2, 2, 3), self.positions[index], np.uint8)


def rendered(count: int, first: int = 0) -> RenderedSource:
    return RenderedSource(np.arange(count), lambda index: np.full((2, 2, 3), first + index, np.uint8))


def values(source: ImageSource) -> list[int]:
    return [int(source.decode(index)[0, 0, 0]) for index in range(len(source.labels))]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_concatenated_images_are_those_of_the_parts_one_after_another(counts: list[int]) -> None:
    first = np.cumsum([0, *counts[:-1]]).tolist()
    parts = [rendered(count, start) for count, start in zip(counts, first, strict=True)]
    assert values(Concatenation(parts)) == list(range(sum(counts)))
    assert Concatenation(parts).labels.tolist() == [label for count in counts for label in range(count)]
    assert Concatenation(parts, first).labels.tolist() == list(range(sum(counts)))


@given(st.permutations(range(7)), st.integers(1, 7))
def test_some_images_of_a_source_come_in_the_given_order(order: list[int], count: int) -> None:
    part = take(rendered(7), np.array(order[:count]))
    assert values(part) == part.labels.tolist() == order[:count]


def test_images_are_read_in_their_order_where_it_makes_no_difference() -> None:
    assert positions_of(rendered(3)) is None and reading_order(rendered(3), np.array([2, 0, 1])).tolist() == [0, 1, 2]
    assert positions_of(Concatenation([rendered(3), rendered(2)])) is None


@given(st.permutations(range(6)), st.permutations(range(4)))
def test_images_of_a_file_of_many_are_read_in_its_order_and_one_file_after_another(first: list[int], second: list[int]) -> None:
    source = Concatenation([Laid(np.array(first)), rendered(2, 50), Laid(np.array(second))])
    read = [int(source.decode(index)[0, 0, 0]) for index in reading_order(source, np.arange(12))]
    assert read == [*range(6), 50, 51, *range(4)]
