"""A folder of the user's own images as a task, with everything that can be wrong with one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlbench.analysis.validate import problems_of
from petlbench.config.settings import Protocol
from petlbench.data.images import decode_bytes
from petlbench.data.load import find_task, load_task
from petlbench.data.store import TaskStore
from petlbench.data.task import SPLITS, TaskSpec
from petlbench.data.transforms import Form
from petlbench.errors import ConfigError, DataError
from petlbench.runs.execute import execute
from tests.words import resolve


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    """Two classes: 6 training images each and 2 test images each, no validation folder."""
    seed = 0
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                paint(tmp_path / "pets" / split / name / f"{index}.png", seed := seed + 1)
    return tmp_path / "pets"


def task(root: Path) -> TaskSpec:
    spec = find_task(f"folder:{root}")
    assert isinstance(spec, TaskSpec)
    return spec


def refusal(root: Path) -> str:
    """Open the task; return its error, which has to be one line."""
    with pytest.raises(DataError) as caught:
        store = TaskStore(task(root), limit_mb=10)
        for split in SPLITS:
            store.open(split, Form("squash", 4))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_are_the_sorted_folder_names(root: Path) -> None:
    assert task(root).class_names == ("cat", "dog")


def test_images_carry_the_label_of_their_folder(root: Path) -> None:
    source = task(root).source("test")
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(source.decode(2), decode_bytes((root / "test" / "dog" / "0.png").read_bytes(), ""))


def test_without_a_validation_folder_every_fifth_training_image_of_a_class_validates(root: Path) -> None:
    spec = task(root)
    paths = {split: spec.source(split).names for split in ("train", "val")}  # type: ignore[attr-defined]
    assert paths["val"] == ["train/cat/4.png", "train/dog/4.png"]
    assert not set(paths["train"]) & set(paths["val"])
    assert len(paths["train"]) == 10


def test_a_validation_folder_is_used_and_training_images_are_then_all_trained_on(root: Path) -> None:
    shutil.copytree(root / "test", root / "val")
    assert task(root).sizes == {"train": 12, "val": 4, "test": 4}


def test_too_few_images_to_carve_a_validation_split_are_reported(root: Path) -> None:
    for path in root.glob("train/*/[2-5].png"):
        path.unlink()
    assert "has no val split" in refusal(root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(root: Path, split: str) -> None:
    shutil.rmtree(root / split)
    assert refusal(root).startswith(f"{root / split} is not a folder")


@pytest.mark.parametrize("folder", ["train/cat", "test/dog"])
def test_an_empty_class_folder_is_named(root: Path, folder: str) -> None:
    for path in (root / folder).iterdir():
        path.unlink()
    assert refusal(root).startswith(f"class folder {root / folder} has no images")


def test_a_class_that_only_the_test_split_has_is_named(root: Path) -> None:
    paint(root / "test" / "newt" / "0.png")
    assert refusal(root) == f"{root / 'test'} has classes that train lacks: newt"


def test_a_single_class_is_not_a_task(root: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")
    assert "has 1 class, at least 2 are needed" in refusal(root)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_a_broken_image_is_named(root: Path, content: bytes | None) -> None:
    broken = root / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60] if content is None else content)
    assert refusal(root).startswith(f"{broken}: not a readable image")


@pytest.mark.parametrize("limit_mb", [0, 64], ids=["streamed", "stored"])
def test_a_narrow_image_that_would_become_very_long_is_named(root: Path, limit_mb: int) -> None:
    narrow = paint(root / "test" / "dog" / "1.png", size=(1, 3000))
    with pytest.raises(DataError) as caught:
        TaskStore(find_task(f"folder:{root}"), limit_mb).open("test", Form("short", 256, cut=224)).source.decode(3)
    assert str(caught.value) == (
        f"{narrow}: an image of 3000 x 1 pixels would be resized to 768000 x 256; remove it, or set protocol.resize_mode=squash"
    )


def test_other_files_and_hidden_ones_are_passed_over(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("")
    (root / "train" / "cat" / ".0.png").write_text("")
    (root / "train" / ".cache").mkdir()
    assert task(root).sizes["train"] == 10


def test_a_names_file_gives_the_classes_their_names(root: Path) -> None:
    (root / "names.txt").write_text("house cat\n\nsheepdog\n")
    assert task(root).class_names == ("house cat", "sheepdog")


def test_a_names_file_of_the_wrong_length_is_refused(root: Path) -> None:
    (root / "names.txt").write_text("house cat\n")
    assert refusal(root).startswith(f"{root / 'names.txt'} has 1 names, and there are 2 classes; write one per line, in the order cat, dog")


def test_a_table_in_the_folder_says_what_is_what(root: Path) -> None:
    (root / "labels.csv").write_text("file,label,split\ntrain/cat/0.png,tom,train\ntrain/dog/0.png,rex,test\ntrain/dog/1.png,rex,train\n")
    with pytest.raises(DataError, match="no class has the 5 training images"):
        task(root)
    with (root / "labels.csv").open("a") as file:
        file.write("train/cat/1.png,tom,val\n")
    assert task(root).sizes == {"train": 2, "val": 1, "test": 1}
    assert task(root).name == f"folder:pets@{task(root).revision}"


def test_a_rewritten_image_changes_the_revision(root: Path) -> None:
    before = task(root).revision
    path = paint(root / "test" / "dog" / "1.png", seed=99)
    os.utime(path, ns=(1, 1))
    assert task(root).revision != before


def test_a_class_with_fewer_images_than_shots_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"class 'cat' has 5 training images, fewer than protocol\.shots=6"):
        load_task(task(root), Protocol(shots=6), 4, (0.0,) * 3, (1.0,) * 3)


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no task 'mini/digit'\. Did you mean 'mini/digits'\? \(petlbench ls tasks lists all\)"):
        find_task("mini/digit")


def test_a_single_task_takes_nothing_after_a_colon() -> None:
    with pytest.raises(ConfigError, match="takes nothing after a colon"):
        find_task("mini/digits:x")


def test_a_path_is_taken_from_the_words_as_it_is(root: Path) -> None:
    assert resolve(["method=linear", f"task=folder:{root}"]).task == f"folder:{root}"


def test_a_folder_with_a_long_name_in_any_script_can_be_run_on(root: Path, tmp_path: Path) -> None:
    place = tmp_path / ("кошки и собаки " * 8).strip() / ("猫と犬" * 20) / ("pets" * 50)
    shutil.copytree(root, place)
    record, path = execute(resolve(["method=zero_shot", f"task=folder:{place}", f"out={tmp_path / 'results'}", "threads=1"]), reraise=True)
    assert record.status == "ok" and problems_of(path) == []
    assert len(path.relative_to(tmp_path / "results").parts) == 4
