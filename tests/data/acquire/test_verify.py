"""Verify datasets: every kind of fault is found and named, and a sound dataset passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from petlbench.data.acquire.verify import Verification, verify
from petlbench.datasets.disk import facts
from petlbench.errors import ConfigError
from petlbench.registry import TASKS
from tests.datasets import miniature, originals


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """A sound folder task: two classes of six and two images."""
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        for label, name in enumerate(("cat", "dog")):
            for index in numbers:
                miniature.save(tmp_path / "own" / split / name / f"{index}.png", miniature.picture(label, index))
    return tmp_path / "own"


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def findings(found: Verification, level: str) -> list[str]:
    return [finding.problem for finding in found.findings if finding.level == level]


def test_a_sound_dataset_is_called_sound_and_counted(folder: Path) -> None:
    found = verify(f"folder:{folder}", None)
    assert found.findings == ()
    assert {split: (counts.images, counts.classes, counts.fewest, counts.most) for split, counts in found.counts.items()} == {
        "train": (10, 2, 5, 5),
        "val": (2, 2, 1, 1),
        "test": (4, 2, 2, 2),
    }


def test_a_task_that_is_made_here_is_looked_at_as_well() -> None:
    assert verify("mini/textures", None).is_sound


def test_progress_ends_at_the_number_of_images(folder: Path) -> None:
    reports: list[tuple[int, int]] = []
    verify(f"folder:{folder}", None, lambda done, total: reports.append((done, total)))
    assert reports[-1] == (16, 16)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_unreadable_images_are_named(folder: Path, content: bytes | None) -> None:
    broken = folder / "test" / "dog" / "7.png"
    broken.write_bytes(broken.read_bytes()[:80] if content is None else content)
    found = verify(f"folder:{folder}", None)
    assert not found.is_sound
    assert [text.startswith(f"1 images cannot be read: {broken}: not a readable image") for text in findings(found, "error")] == [True]


def test_copies_in_another_split_are_named(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "test" / "cat" / "9.png")
    found = verify(f"folder:{folder}", None)
    assert found.is_sound
    copy, original = folder / "test/cat/9.png", folder / "train/cat/0.png"
    assert findings(found, "warning") == [f"1 images have the content of one in another split: {copy} (test) and {original} (train)"]


def test_one_file_in_two_splits_is_an_error(root: Path) -> None:
    rows = miniature.split_entries()
    rows["test"].append(rows["train"][0])
    miniature.coop(root / "dtd", "images", "split_zhou_DescribableTextures.json", rows)
    found = verify("blackvip16/dtd", root)
    assert any(text.startswith("1 images are in two splits") for text in findings(found, "error"))


def test_what_the_report_says_is_not_warned_of_as_well(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    miniature.coop(root / "dtd", "images", "split_zhou_DescribableTextures.json")
    verify("craft15/dtd", root)
    assert caplog.messages == []


def test_counts_that_are_too_low_or_too_high_are_told_apart(root: Path) -> None:
    originals.cifar10(root)
    found = verify("pgn12/cifar10", root)
    assert "10,000 test images expected, 10 found" in findings(found, "error")
    task = TASKS.get("pgn12/cifar10")
    task.sizes["test"] = 9  # type: ignore[union-attr]
    try:
        assert "9 test images expected, 10 found" in findings(verify("pgn12/cifar10", root), "warning")
    finally:
        task.sizes["test"] = 10_000  # type: ignore[union-attr]


def test_a_class_without_test_images_is_an_error_and_one_without_training_images_a_warning(root: Path) -> None:
    originals.flowers(root)
    found = verify("vtab/oxford_flowers", root)
    assert any(text.startswith("99 of 102 classes have no test image: ") for text in findings(found, "error"))
    assert any(text.startswith("99 of 102 classes have no train image: ") for text in findings(found, "warning"))


def test_jpeg_copies_of_images_published_without_loss_are_warned_of(root: Path) -> None:
    miniature.vtab_task(root, "cifar")
    found = verify("vtab/cifar100", root)
    assert "18 images are JPEG copies of images that were published without loss" in findings(found, "warning")
    miniature.vtab_task(root, "caltech101")  # published as JPEG
    assert not any("JPEG" in text for text in findings(verify("vtab/caltech101", root), "warning"))


def test_a_list_of_class_names_of_the_wrong_length_is_an_error(root: Path) -> None:
    miniature.coop(root / "dtd", "images", "split_zhou_DescribableTextures.json")
    assert "47 classes expected, 3 class names found" in findings(verify("blackvip16/dtd", root), "error")


def test_a_set_that_is_scored_among_some_labels_has_the_names_of_all(root: Path) -> None:
    ids, own = facts.wordnet_ids(), facts.subset("imagenet_a")
    for part, first in (("train", 0), ("val", 50)):
        miniature.image_folders(root / "imagenet/images" / part, ids[:2], first=first)
    miniature.image_folders(root / "imagenet-adversarial/imagenet-a", [ids[own[0]]], first=90)
    problems = findings(verify("craft15/imagenet_a", root), "error")
    assert not any("class names" in text for text in problems) and any(text.startswith("199 of 200 classes") for text in problems)


def test_a_label_outside_the_range_is_an_error(root: Path) -> None:
    task = miniature.vtab_task(root, "dtd")
    (task / "test.txt").write_text((task / "test.txt").read_text().replace(" 0\n", " 47\n", 1))
    found = verify("vtab/dtd", root)
    assert [("label 47" in text and "images/test/000000.jpg" in text) for text in findings(found, "error")] == [True]


def test_what_is_not_there_says_what_to_do(root: Path) -> None:
    fetched, by_hand = verify("pgn12/cifar10", root), verify("vtab/dmlab", root)
    assert fetched.findings[0].action == f"petlbench data prepare pgn12/cifar10 data_root={root}"
    assert by_hand.findings[0].action.startswith("fetch it by hand")


def test_splits_that_were_made_here_are_noted(root: Path) -> None:
    originals.pets(root)
    assert any("(resampled)" in text for text in findings(verify("vtab/oxford_pets", root), "note"))


def test_lossless_images_stay_without_a_word(root: Path) -> None:
    originals.clevr(root)
    assert not any("JPEG" in text for text in findings(verify("vtab/clevr_dist", root), "warning"))


def test_damaged_lists_are_one_finding(root: Path) -> None:
    (root / "dtd").mkdir()
    (root / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps({"train": 3}))
    found = verify("blackvip16/dtd", root)
    assert len(found.findings) == 1 and not found.is_sound


def test_what_is_no_task_is_an_error_of_the_command() -> None:
    with pytest.raises(ConfigError, match="no task 'vtab/cifar1000'"):
        verify("vtab/cifar1000", None)
