"""What a run costs, in counters."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
import torch
from timm.layers import Attention
from torch import nn

from petlbench.learners.cost import ImageCounter, Stopwatch, flops_per_image, peak_memory_mb, reset_peak_memory
from petlbench.testing.mocks import tiny_backbone

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock that is one second later each time it is read."""
    readings = iter(range(100))
    monkeypatch.setattr("petlbench.learners.cost.time.perf_counter", lambda: float(next(readings)))
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("ticking")
def test_a_part_that_is_measured_twice_adds_up() -> None:
    clock = Stopwatch(CPU)
    for _ in range(2):
        with clock.measure("train"):
            pass
    assert clock.seconds == {"train": 2.0}


@pytest.mark.usefixtures("ticking")
def test_a_part_that_fails_is_measured_too() -> None:
    clock = Stopwatch(CPU)
    with pytest.raises(RuntimeError), clock.measure("train"):
        raise RuntimeError
    assert clock.seconds == {"train": 1.0}


def test_images_are_counted_per_image_and_not_per_call() -> None:
    vit = tiny_backbone().vit
    counter = ImageCounter()
    counter.watch(vit)
    for count in (3, 2):
        vit(torch.zeros(count, 3, 16, 16))
    assert counter.images == 5


def test_a_counter_that_was_removed_counts_no_more() -> None:
    vit = tiny_backbone().vit
    counter = ImageCounter()
    counter.watch(vit)
    counter.remove()
    vit(torch.zeros(1, 3, 16, 16))
    assert counter.images == 0


def test_a_multiplication_and_an_addition_are_two_operations() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))
    assert flops_per_image(model, torch.zeros(1, 3, 4, 4)) == 2 * 48 * 10


def test_peak_memory_sees_what_was_allocated_and_freed() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_mb(CPU)
    with mmap.mmap(-1, 128 * 2**20) as block:  # new pages for certain: a tensor may get memory that an earlier test has freed
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert peak_memory_mb(CPU) > before + 100


def test_the_products_of_attention_are_counted() -> None:
    """Scores and weighted values of 5 tokens, beside the linears for queries, keys and values and behind them."""
    attention = Attention(8, num_heads=2)
    linears = 2 * 5 * 8 * (24 + 8)
    assert flops_per_image(attention, torch.zeros(1, 5, 8)) == linears + 2 * (2 * 5 * 5 * 8)
