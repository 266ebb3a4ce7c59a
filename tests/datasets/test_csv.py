"""A table of the user's own as a task, with everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from petlbench.data.load import find_task
from petlbench.data.task import TaskSpec
from petlbench.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(20):
        Image.new("RGB", (3, 3), (index, 0, 0)).save(tmp_path / f"{index:02d}.png")
    return tmp_path


def task(folder: Path, lines: list[str], header: str = "file,label") -> TaskSpec:
    (folder / "table.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    spec = find_task(f"csv:{folder / 'table.csv'}")
    assert isinstance(spec, TaskSpec)
    return spec


def every(labels: list[str]) -> list[str]:
    return [f"{index:02d}.png,{labels[index % len(labels)]}" for index in range(20)]


def test_without_a_split_column_every_fifth_image_of_a_class_tests_and_of_the_rest_validates(folder: Path) -> None:
    spec = task(folder, every(["cat", "dog"]))
    names = {split: spec.source(split).names for split in ("train", "val", "test")}  # type: ignore[attr-defined]
    assert names["test"] == ["08.png", "09.png", "18.png", "19.png"]
    assert names["val"] == ["10.png", "11.png"]
    assert len(names["train"]) == 14


def test_labels_in_words_are_sorted_and_numbers_counted(folder: Path) -> None:
    assert task(folder, every(["b", "a", "c"])).class_names == ("a", "b", "c")
    assert task(folder, every(["10", "9"])).class_names == ("9", "10")


def test_images_keep_their_labels_and_pixels(folder: Path) -> None:
    source = task(folder, every(["cat", "dog"])).source("test")
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.decode(1)[0, 0].tolist() == [9, 0, 0]


def test_a_table_as_excel_writes_it_is_read(folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"\xef\xbb\xbffile,label\r\n" + "\r\n".join(every(["a", "b"])).encode())
    assert isinstance(spec := find_task(f"csv:{folder / 'table.csv'}"), TaskSpec)
    assert spec.class_names == ("a", "b")


SPLIT = "file,label,split"


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("path,label", ["00.png,a"], "needs a first line with the columns file,label or file,label,split; it has path,label"),
        ("file,label", [], "lists no images"),
        ("file,label", ["00.png"], "line 2: as many fields expected as the first line has columns"),
        ("file,label", ["00.png,a,b"], "line 2: as many fields expected"),
        ("file,label", ["00.png,"], "line 2: the label is empty"),
        ("file,label", ["00.png,a", "00.png,b"], "line 3: 00.png was listed in line 2 already"),
        ("file,label", ["missing.png,a"], "line 2: there is no file"),
        (SPLIT, ["00.png,a,valid"], "line 2: split must be train, val or test, got 'valid'"),
        (SPLIT, ["00.png,a,train"], "has no test images"),
        (SPLIT, ["00.png,a,train", "01.png,b,test"], "class 'b' has no training image"),
        (SPLIT, ["00.png,a,train", "01.png,a,test"], "has 1 class, at least 2 are needed"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, header: str, lines: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        task(folder, lines, header)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_none_is_refused(folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"table\.csv cannot be read"):
        find_task(f"csv:{folder / 'table.csv'}")
    with pytest.raises(DataError, match=r"absent\.csv cannot be read"):
        find_task(f"csv:{folder / 'absent.csv'}")
