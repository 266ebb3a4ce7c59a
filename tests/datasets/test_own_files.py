"""Files of the user's own: every image below a class counts once, the rest is left out with a number, and what cannot be read is one line."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.data.acquire.presence import presence
from petlbench.data.acquire.verify import verify

from .own import folders, opened, paint, refusal, rows, table


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    return folders(tmp_path / "s", ["cat", "dog"])


def sizes(root: Path) -> dict[str, int]:
    return opened(f"folder:{root}").sizes


@pytest.mark.parametrize(
    "name", ["more/x.png", "a/b/c.png", "d.jpg/x.png", "x.jfif", "x.jpe", "x.gif", "x.PGM", "x.webp", "x.tiff", "x.bmp"]
)
def test_images_below_folders_of_a_class_and_of_all_kinds_are_read(root: Path, name: str) -> None:
    paint(root / "train/cat" / name)
    assert sizes(root) == {"train": 9, "val": 2, "test": 2}
    assert opened(f"folder:{root}").source("train").decode(4).shape == (4, 4, 3)


@pytest.mark.parametrize(
    "name", ["._0.png", ".x.png", ".cache/notes.txt", "Thumbs.db", "desktop.ini", "__MACOSX/._0.png", ".ipynb_checkpoints/x"]
)
def test_what_systems_put_beside_images_is_passed_over_without_a_word(root: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("train/cat", "train", "."):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text("no image")
    assert sizes(root)["train"] == 8 and caplog.messages == []


def unread_text(root: Path) -> str:
    for name in ("a.txt", "b.txt", "c.heic", "README"):
        (root / "train/cat" / name).write_text("")
    return f"4 files of {root / 'train'} are not images and were left out: .txt 2, without suffix 1, .heic 1"


def unread_folder(root: Path) -> str:
    paint(root / "validation/cat/x.png")
    return f"1 images of {root / 'validation'} were left out; the folders that are read are train, val, test"


def unread_unlabelled(root: Path) -> str:
    paint(root / "test/x.png")
    return f"1 images of {root / 'test'} lie in no folder of a class and were left out: x.png for one"


def unread_beside_splits(root: Path) -> str:
    paint(root / "x.png")
    return f"1 images of {root} lie in no folder of a split and were left out: x.png for one"


def unread_hidden_class(root: Path) -> str:
    paint(root / "train/.emu/x.png")
    return f"1 images of {root / 'train'} lie in hidden folders and were left out: .emu for one"


def unread_links(root: Path) -> str:
    (root / "train/cat/same.png").symlink_to("0.png")
    (root / "train/cat/equal.png").hardlink_to(root / "train/cat/1.png")
    return f"2 files of {root / 'train'} are links to images of the same class and were left out"


@pytest.mark.parametrize("add", [unread_text, unread_folder, unread_unlabelled, unread_beside_splits, unread_hidden_class, unread_links])
def test_what_is_left_out_is_said_with_its_number(root: Path, add: Callable[[Path], str], caplog: pytest.LogCaptureFixture) -> None:
    expected = add(root)
    with caplog.at_level(logging.WARNING):
        assert sizes(root) == {"train": 8, "val": 2, "test": 2} and sizes(root)
    assert caplog.messages == [expected]
    assert expected in [finding.problem for finding in verify(f"folder:{root}", None).findings if finding.level == "warning"]


def in_two_classes(root: Path) -> None:
    (root / "train/dog/x.png").symlink_to("../cat/0.png")


def tested_on_by_a_hard_link(root: Path) -> None:
    (root / "test/cat/x.png").hardlink_to(root / "train/cat/0.png")


def validating_what_is_tested(root: Path) -> None:
    (root / "val").symlink_to("test")


def testing_a_training_class(root: Path) -> None:
    shutil.rmtree(root / "test/cat")
    (root / "test/cat").symlink_to("../train/cat")


@pytest.mark.parametrize("link", [in_two_classes, tested_on_by_a_hard_link, validating_what_is_tested, testing_a_training_class])
def test_a_file_of_two_splits_or_classes_is_refused(root: Path, link: Callable[[Path], None]) -> None:
    link(root)
    assert ": the same file as " in (message := refusal(f"folder:{root}")) and message.endswith(
        "an image belongs to one split and one class"
    )


def other_spellings(root: Path) -> dict[str, str]:
    (root / "link").symlink_to(".")
    (root / "hard.png").hardlink_to(root / "train/cat/0.png")
    return {
        "./": "./train/cat/0.png",
        "..": "train/../train/cat/0.png",
        "//": "train//cat/0.png",
        "absolute": str(root / "train/cat/0.png"),
        "symbolic link": "link/train/cat/0.png",
        "hard link": "hard.png",
        "same": "train/cat/0.png",
    }


@pytest.mark.parametrize("spelling", ["./", "..", "//", "absolute", "symbolic link", "hard link", "same"])
@pytest.mark.parametrize(("label", "split"), [("cat", "test"), ("cat", "train"), ("dog", "train")])
def test_a_table_lists_a_file_once_under_any_spelling(root: Path, spelling: str, label: str, split: str) -> None:
    file = other_spellings(root)[spelling]
    message = refusal(f"csv:{table(root, [*rows(root, ['cat', 'dog']), [file, label, split]])}")
    assert f"table.csv, line 14: {file} was listed in line 2 already" in message
    without_splits = table(root, [row[:2] for row in [*rows(root, ["cat", "dog"]), [file, label]]], ["file", "label"])
    assert f"line 14: {file} was listed in line 2 already" in refusal(f"csv:{without_splits}")


def noah(root: Path, **changed: str) -> str:
    texts = {"train_meta.list.num_shot_5.seed_0": "", "val_meta.list": "", "test_meta.list": "test/cat/0.png 0\ntest/dog/0.png 1\n"}
    for label, name in enumerate(("cat", "dog")):
        texts["train_meta.list.num_shot_5.seed_0"] += "".join(f"train/{name}/{i}.png {label}\n" for i in range(4))
        texts["val_meta.list"] += f"train/{name}/4.png {label}\n"
    (root / "annotations").mkdir()
    for name, text in texts.items():
        (root / "annotations" / name).write_text(text + changed.get(name.partition("_")[0], ""))
    return f"noah:{root / 'annotations/train_meta.list.num_shot_5.seed_0'}"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"test": "./train/cat/0.png 0"}, "test_meta.list, line 3: ./train/cat/0.png was listed in "),
        ({"val": "train/cat/0.png 1"}, "val_meta.list, line 3: train/cat/0.png was listed in "),
        ({"test": "hard.png 7"}, "test_meta.list, line 3: class '7' has no training image"),
        ({"train": f"hard.png {'9' * 5000}"}, "seed_0, line 9: expected a file name, a blank and a label, got 'hard.png 999"),
        ({"train": f"{'x' * 300} 1"}, "is listed to train and is not there"),
    ],
)
def test_lists_that_contradict_each_other_are_refused(root: Path, changed: dict[str, str], expected: str) -> None:
    shutil.copy(root / "train/cat/0.png", root / "hard.png")
    assert expected in refusal(noah(root, **changed))


def broken_link(root: Path) -> str:
    (root / "train/cat/x.png").symlink_to("/nowhere/x.png")
    return "x.png: a link to /nowhere/x.png, where no file is; restore that or remove the link"


def link_to_itself(root: Path) -> str:
    (root / "train/cat/x.png").symlink_to("x.png")
    return "x.png: a link to x.png, where no file is"


def link_to_a_missing_class(root: Path) -> str:
    (root / "train/emu").symlink_to("/nowhere")
    return "emu: a link to /nowhere, where no file is"


def circle(root: Path) -> str:
    (root / "train/cat/again").symlink_to("..")
    return "again/cat: a link to a folder that it lies in; remove it"


def pipe(root: Path) -> str:
    os.mkfifo(root / "train/cat/x.png")
    return "x.png: a pipe, socket or device, where an image file is expected; remove it"


def pipe_of_names(root: Path) -> str:
    os.mkfifo(root / "names.txt")
    return "names.txt: cannot be read (it is no file)"


def bytes_in_a_name(root: Path) -> str:
    shutil.copy(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/caf\xe9.png")
    return r"caf\udce9.png: its name is not UTF-8; rename it"


def bytes_in_a_class(root: Path) -> str:
    for split in ("train", "test"):
        shutil.move(os.fsencode(root / split / "cat"), os.fsencode(root / split) + b"/caf\xe9")
    return r"caf\udce9/0.png: its name is not UTF-8; rename it"


def a_new_line_in_a_class(root: Path) -> str:
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "c\nat")
    return r"the name 'c\nat' has control characters"


FAULTS = [broken_link, link_to_itself, link_to_a_missing_class, circle, pipe, pipe_of_names, bytes_in_a_name, bytes_in_a_class]


@pytest.mark.parametrize("fault", [*FAULTS, a_new_line_in_a_class])
def test_what_cannot_be_read_is_one_line(root: Path, fault: Callable[[Path], str]) -> None:
    expected = fault(root)
    assert expected in refusal(f"folder:{root}")
    assert presence(f"folder:{root}", None).state == "broken"


@pytest.mark.parametrize("family", ["folder", "csv", "noah"])
@pytest.mark.parametrize("location", ["x" * 300, "x/" * 3000, "nowhere", "~nobody-of-that-name/x", "a\0b", "a\nb", "caf\udce9"])
def test_a_path_that_nothing_lies_at_is_one_line(family: str, location: str) -> None:
    assert refusal(f"{family}:{location}")
    assert presence(f"{family}:{location}", None).state == "broken"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{'x' * 300},cat", "xxx (File name too long); restore it or correct the list"),
        ("train,cat", "train: a folder, where an image file is expected"),
        ("pipe,cat", "pipe: a pipe, socket or device"),
    ],
)
def test_a_table_names_the_line_of_what_is_no_file(root: Path, line: str, expected: str) -> None:
    os.mkfifo(root / "pipe")
    assert expected in refusal(f"csv:{table(root, [line.split(',')], ['file', 'label'])}")


@pytest.mark.parametrize("between", [";", "\t", ","])
def test_a_table_may_have_semicolons_or_tabs(root: Path, between: str) -> None:
    assert opened(f"csv:{table(root, rows(root, ['cat', 'dog']), between=between)}").sizes == {"train": 8, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file,label\na.png,caf\xe9\n".encode("latin-1"), "cannot be read (line 2 is not in UTF-8)"),
        ("file,label\na.png,b\n".encode("utf-16"), "cannot be read (line 1 is not in UTF-8)"),
        (b"file,label\na\0.png,b\n", "cannot be read (line 2 has a NUL character"),
        (b"file,label,Label\na.png,b,c\n", "has two columns 'label'; keep one"),
        (b"file|label\na.png|b\n", "it has file|label"),
        (b'file,label\n"a.png,b\n', "cannot be read (unexpected end of data)"),
        (b"", "it has none"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(root: Path, content: bytes, expected: str) -> None:
    (root / "table.csv").write_bytes(content)
    assert expected in refusal(f"csv:{root / 'table.csv'}")
