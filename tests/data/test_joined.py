"""Join several tasks into one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from petlbench.data.joined import join, names_joined, part_of_class
from petlbench.data.load import find_task, require
from petlbench.data.source import RenderedSource
from petlbench.data.task import TaskSpec
from petlbench.errors import ConfigError
from petlbench.learners.scores import accuracies_of_parts
from petlbench.runs.execute import execute
from petlbench.runs.plan import selected_tasks
from tests.words import resolve


def task(name: str, classes: int, images: int, **changes: object) -> TaskSpec:
    """Image i of a task is filled with its number, which is different in every task."""
    first = sum(map(ord, name)) % 100
    source = RenderedSource(np.arange(images) % classes, lambda index: np.full((2, 2, 3), first + index, dtype=np.uint8))
    spec = TaskSpec(name, tuple(f"{label}" for label in range(classes)), (f"a {name} {{}}",), "1", lambda split: source)
    return replace(spec, **changes)  # type: ignore[arg-type]


A, B = task("a", 2, 5), task("b", 3, 4)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(4, 9)), min_size=2, max_size=4))
def test_every_image_keeps_its_pixels_and_gets_a_label_of_its_own_task(sizes: list[tuple[int, int]]) -> None:
    parts = [task(f"t{number}", *size) for number, size in enumerate(sizes)]
    whole, places = join(parts), part_of_class(join(parts))
    source = whole.source("train")
    expected = [(place, part.source("train"), index) for place, part in enumerate(parts) for index in range(sizes[place][1])]
    assert len(source.labels) == len(expected)
    for index, (place, part, own) in enumerate(expected):
        label = int(source.labels[index])
        assert places[label] == place and label - places.index(place) == part.labels[own]
        assert np.array_equal(source.decode(index), part.decode(own))


def test_classes_are_described_as_their_own_tasks_describe_them() -> None:
    assert join([A, B]).prompts() == (("a a 0",), ("a a 1",), ("a b 0",), ("a b 1",), ("a b 2",))
    assert join([A, B]).prompts(join([A, B]).templates) == join([A, B]).prompts()
    assert join([A, B]).prompts(("{}.",))[2] == ("0.",)


def test_its_revision_changes_with_that_of_a_part() -> None:
    assert join([A, B]).revision != join([A, replace(B, revision="2")]).revision
    assert join([A, B]).revision != join([B, A]).revision


def test_classes_that_are_not_scored_stay_so() -> None:
    assert join([A, B]).scored is None
    assert join([A, replace(B, scored=(1,))]).scored == (0, 1, 3)


def test_validation_images_are_found_again_among_the_training_images() -> None:
    first, second = replace(A, val_in_train=np.array([4, 0])), replace(B, val_in_train=np.array([1]))
    places = join([first, second]).val_in_train
    assert places is not None and places.tolist() == [4, 0, 6]
    with pytest.raises(ConfigError, match="b has validation images of its own and others do not"):
        join([first, B])


def test_a_task_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task=mini/digits\+mini/digits names a task twice"):
        require("mini/digits+mini/digits", None)


def test_accuracy_is_told_among_all_classes_and_among_those_of_the_own_task() -> None:
    scores = torch.tensor([[1.0, 0, 0, 0, 0], [1, 0, 2, 0, 0], [9, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
    found = accuracies_of_parts(join([A, B]), scores, torch.tensor([0, 0, 2, 4]))
    assert [(part.accuracy, part.own_accuracy, part.samples) for part in found.values()] == [(50, 100, 2), (0, 50, 2)]
    assert list(found) == ["a", "b"] and accuracies_of_parts(A, scores, torch.zeros(4)) == {}


def test_a_list_and_a_sum_name_the_same_task() -> None:
    words = ("method=zero_shot", "task=[mini/digits,mini/textures]")
    assert resolve(words).task == "mini/digits+mini/textures"
    assert selected_tasks("[mini/digits, mini/textures]") == ["mini/digits+mini/textures"]
    assert selected_tasks("mini/digits+mini/textures,mini/count") == ["mini/digits+mini/textures", "mini/count"]


def test_a_folder_may_have_a_plus_in_its_name() -> None:
    assert names_joined("folder:/data/a+b") == ["folder:/data/a+b"]
    assert names_joined("mini/digits+folder:/data/a") == ["mini/digits", "folder:/data/a"]


def test_a_misspelt_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no task 'mini/digits\+mini/texture'"):
        find_task("mini/digits+mini/texture")
    with pytest.raises(ConfigError, match=r"no suite or task 'mini/digits\+mini/texture'"):
        selected_tasks("mini/digits+mini/texture")


def test_a_run_on_joined_tasks_records_each_of_them(tmp_path: Path) -> None:
    words = ("method=zero_shot", "task=mini/digits+mini/textures", f"out={tmp_path}", "threads=1")
    record, _ = execute(resolve(words), reraise=True)
    assert record.metrics is not None
    parts = record.metrics.parts
    assert list(parts) == ["mini/digits", "mini/textures"]
    assert record.metrics.accuracy == pytest.approx(sum(part.accuracy for part in parts.values()) / 2)
    assert all(part.own_accuracy >= part.accuracy for part in parts.values())
