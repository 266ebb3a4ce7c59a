"""NOAH's lists as a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from petlbench.data.load import find_task
from petlbench.data.task import TaskSpec
from petlbench.errors import DataError

from .miniature import image_folders

NAME = "train_meta.list.num_shot_2.seed_0"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    image_folders(tmp_path / "images", ["a cat", "dog"], 6)  # blanks in names
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name, numbers in ((NAME, (0, 1)), ("val_meta.list", (2,)), ("test_meta.list", (3, 4, 5))):
        lines = [f"{name}/img_{i:03d}.JPEG {label}" for label, name in enumerate(("a cat", "dog")) for i in numbers]
        (folder / name).write_text("\n".join(lines))
    return folder / NAME


def task(lists: Path) -> TaskSpec:
    spec = find_task(f"noah:{lists}")
    assert isinstance(spec, TaskSpec)
    return spec


def test_the_lists_are_the_splits(lists: Path) -> None:
    spec = task(lists)
    assert spec.sizes == {"train": 4, "val": 2, "test": 6}
    assert spec.source("test").labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert spec.source("train").decode(3).shape == (14, 18, 3)


def test_names_beside_the_images_are_the_classes_names(lists: Path) -> None:
    (lists.parents[1] / "images/names.txt").write_text("cat\ndog\n")
    assert task(lists).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", [NAME, "val_meta.list", "test_meta.list"])
def test_a_missing_list_is_named(lists: Path, name: str) -> None:
    lists.with_name(name).unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        task(lists)


def test_missing_images_are_named(lists: Path) -> None:
    (lists.parents[1] / "images/dog/img_004.JPEG").unlink()
    with pytest.raises(DataError, match=r"img_004\.JPEG is listed to test and is not there"):
        task(lists)
    (lists.parents[1] / "images/a cat/img_000.JPEG").unlink()
    with pytest.raises(DataError, match=r"lists a cat/img_000\.JPEG, which is in none of images, \., jpg"):
        task(lists)
