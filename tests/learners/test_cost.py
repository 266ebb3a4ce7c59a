"""Count what a run costs: operations, images, time and memory."""

from __future__ import annotations

import gc
import json
import mmap
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.layers import Attention
from torch import nn

from petlbench.learners.cost import AddedMemory, ImageCounter, Stopwatch, flops_per_image, peak_memory_mb, reset_peak_memory
from petlbench.testing.mocks import tiny_backbone

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the clock by one that advances one second each time it is read."""
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
    allocate(128)
    assert peak_memory_mb(CPU) > before + 100


def test_added_memory_is_what_was_allocated_since_and_not_what_was_there() -> None:
    allocate(256)
    added = AddedMemory(CPU)
    assert added.mb is not None and added.mb < 20
    allocate(128)
    assert 120 < added.mb < 160


def test_garbage_is_collected_first() -> None:
    class Node:
        itself: Node

    node = Node()
    node.itself, is_gone = node, weakref.ref(node)
    gc.disable()
    try:
        del node
        assert is_gone() is not None
        AddedMemory(CPU)
        assert is_gone() is None
    finally:
        gc.enable()


def test_memory_that_was_freed_before_counts_when_it_is_used_again() -> None:
    def heap() -> list[bytes]:
        return [bytes([i % 256]) * 2000 for i in range(40_000)]  # 80 MB in pieces that C keeps when they are freed

    blocks = heap()
    above = blocks.pop()  # the heap cannot shrink from its end
    del blocks
    added = AddedMemory(CPU)
    heap()
    assert added.mb is not None and added.mb > 60, above


def test_no_memory_is_added_by_giving_some_back() -> None:
    block = mmap.mmap(-1, 64 * 2**20)
    block[:] = bytes(len(block))
    added = AddedMemory(CPU)
    block.close()
    reset_peak_memory(CPU)
    assert added.mb == 0


def test_there_is_no_number_where_the_peak_may_be_an_earlier_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("petlbench.learners.cost._CLEAR_PEAK", tmp_path / "absent")
    assert AddedMemory(CPU).mb is None
    monkeypatch.setattr("petlbench.learners.cost._CLEAR_PEAK", tmp_path)  # cannot be written to
    assert AddedMemory(CPU).mb is None


def test_there_is_no_number_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("petlbench.learners.cost._STATUS", tmp_path / "absent")
    assert AddedMemory(CPU).mb is None
    assert peak_memory_mb(CPU) > 100  # of the process, which is known everywhere


RUNS = """
import json, sys
import torch
from petlbench import Access, QueryMethod, register_method
from petlbench.runs import execute as run
from petlbench.cli.words import parse_words
from petlbench.config.resolve import resolve

def megabytes(count):
    return torch.ones(count, 2**18)

class Asks(QueryMethod):
    access = Access.SCORES

    def predict(self, model, images):
        return model.scores(images)

@register_method("modest")
class Modest(Asks):
    def fit(self, model, data):
        megabytes(128)

@register_method("greedy")
class Greedy(Asks):
    def fit(self, model, data):
        self.cycle = [megabytes(384), self]  # stays until garbage is collected

weights, load = [], run.open_backbone

def load_a_large_one(*arguments):
    weights.extend([] if weights else [megabytes(256)])
    return load(*arguments)

run.open_backbone = load_a_large_one
costs = []
for name in ("modest", "greedy", "modest"):
    words = [f"method={name}", "task=mini/digits", "threads=1", "device=cpu", "curve=false", f"out={sys.argv[1]}"]
    record, _ = run.execute(resolve(parse_words(words)), reraise=True)
    costs.append((record.cost.run_memory_mb, record.cost.peak_memory_mb))
print(json.dumps(costs))
"""


def test_the_memory_of_a_run_does_not_depend_on_the_runs_before_it_nor_on_who_loaded_the_backbone(tmp_path: Path) -> None:
    reply = subprocess.run([sys.executable, "-c", RUNS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stderr
    (first, whole), (greedy, _), (again, _) = json.loads(reply.stdout)
    slack = 100  # for the measurement and for code that only the first run loads
    assert 128 <= first < 128 + slack and 128 <= again < 128 + slack
    assert 384 <= greedy < 384 + slack
    assert whole > 128 + 256 + 100  # with the weights and the libraries


def allocate(megabytes: int) -> None:
    """Allocate new pages and free them; a tensor might reuse memory that an earlier test freed."""
    with mmap.mmap(-1, megabytes * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1


def test_the_products_of_attention_are_counted() -> None:
    """Scores and weighted values of 5 tokens count, as do the linear layers before and after them."""
    attention = Attention(8, num_heads=2)
    linears = 2 * 5 * 8 * (24 + 8)
    assert flops_per_image(attention, torch.zeros(1, 5, 8)) == linears + 2 * (2 * 5 * 5 * 8)
