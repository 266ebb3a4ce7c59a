"""Names of classes in folders, tables and names.txt: one order, one spelling, and nothing by chance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .own import folders, opened, refusal, rows, table


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ([str(number) for number in range(1, 13)], [str(number) for number in range(1, 13)]),
        (["10", "02", "001"], ["001", "02", "10"]),
        (["-1", "10", "2", "0"], ["-1", "0", "2", "10"]),
        (["9" * 30, "1" + "0" * 30, "5"], ["5", "9" * 30, "1" + "0" * 30]),
        (["b", "A", "c", "10", "9"], ["10", "9", "A", "b", "c"]),
        (["émeu", "zèbre", "ane"], ["ane", "zèbre", "émeu"]),
        (["1.10", "1.9"], ["1.10", "1.9"]),
    ],
)
def test_a_folder_and_a_table_of_the_same_images_have_the_same_classes_in_the_same_order(
    tmp_path: Path, names: list[str], ordered: list[str]
) -> None:
    root = folders(tmp_path, names)
    (root / "names.txt").write_text("\n".join(f"species {name}" for name in ordered), encoding="utf-8")
    listed = table(root, list(reversed(rows(root, names))))
    for task in (opened(f"folder:{root}"), opened(f"csv:{listed}")):
        source = task.source("test")
        assert task.class_names == tuple(f"species {name}" for name in ordered)
        found = {task.class_names[label]: Path(name).parent.name for name, label in zip(source.names, source.labels, strict=True)}  # type: ignore[attr-defined]
        assert found == {f"species {name}": name for name in names}


def test_the_order_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Python orders sets of texts by hashes, which differ from process to process."""
    listed = table(folders(tmp_path, names := [f"{letter}{number}" for letter in "xyz" for number in range(4)]), rows(tmp_path, names))
    code = f"from petlbench.data.load import find_task; print(find_task('csv:{listed}').class_names)"
    printed = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


SAME = [
    ("1", "01"),
    ("species 7", "species 007"),
    ("cat", "Cat"),
    ("straße", "STRASSE"),
    ("caf\u00e9", "cafe\u0301"),
    ("sea lion", "sea\u00a0lion"),
    ("sea lion", "sea  lion"),
    ("sea lion", "sea_lion"),
    ("cat", "cat\u200b"),
    ("1", "\u0661"),
]


@pytest.mark.parametrize("pair", SAME)
def test_two_spellings_of_a_class_are_refused_with_both_and_where_they_are(tmp_path: Path, pair: tuple[str, str]) -> None:
    names = [*pair, "dog"]
    listed = table(folders(tmp_path, names), rows(tmp_path, names))
    for message in (refusal(f"csv:{listed}"), refusal(f"folder:{tmp_path}")):
        assert all(ascii(name) in message for name in pair) and "differs from" in message
    assert "table.csv, line 7: " in refusal(f"csv:{listed}") and "table.csv, line 2)" in refusal(f"csv:{listed}")
    three = folders(tmp_path / "three", ["a", "b", "c"])
    (three / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert "names.txt, line 2: the class " in refusal(f"folder:{three}")


@pytest.mark.parametrize("pair", [("1.05", "1.5"), ("a0", "a"), ("10", "1"), ("cat", "cats"), ("x²", "x2")])
def test_names_that_differ_in_more_are_two_classes(tmp_path: Path, pair: tuple[str, str]) -> None:
    assert set(opened(f"csv:{table(folders(tmp_path, pair), rows(tmp_path, pair))}").class_names) == set(pair)


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0"])
def test_blanks_around_labels_and_splits_and_the_case_of_splits_do_not_count(tmp_path: Path, blank: str) -> None:
    folders(tmp_path, ["cat", "dog"])
    lines = [[file, label + blank * (i % 2), f" {split.title()}"] for i, (file, label, split) in enumerate(rows(tmp_path, ["cat", "dog"]))]
    task = opened(f"csv:{table(tmp_path, lines, ['File', ' Label ', 'SPLIT'])}")
    assert task.class_names == ("cat", "dog") and task.sizes == {"train": 8, "val": 2, "test": 2}


@pytest.mark.parametrize("label", [".", ".hidden", "__MACOSX", '"c\nat"', "c\x1bat"])
def test_a_label_that_can_be_no_class_is_named_with_its_line(tmp_path: Path, label: str) -> None:
    folders(tmp_path, ["cat", "dog"])
    lines = [[file, label if name == "cat" else name, split] for file, name, split in rows(tmp_path, ["cat", "dog"])]
    message = refusal(f"csv:{table(tmp_path, lines)}")
    assert "table.csv, line " in message and ("is no name of a class" in message or "has control characters" in message)


NAMED = [
    ("house cat\nsheepdog\n".encode("utf-8-sig"), "with a mark"),
    (b"house cat\r\nsheepdog\r\n", "of Windows"),
    (b"house cat\rsheepdog", "of an old Mac"),
    (b"\n  house cat \t\n\n sheepdog\n\n", "with blanks"),
]


@pytest.mark.parametrize("content", [content for content, _ in NAMED], ids=[name for _, name in NAMED])
def test_a_file_of_names_is_read_however_it_was_saved(tmp_path: Path, content: bytes) -> None:
    (folders(tmp_path, ["cat", "dog"]) / "names.txt").write_bytes(content)
    assert opened(f"folder:{tmp_path}").class_names == ("house cat", "sheepdog")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Katze\nHünd\nEmu\n".encode("latin-1"), "cannot be read (line 2 is not in UTF-8)"),
        ("a\nb\nc\n".encode("utf-16"), "cannot be read (line 1 is not in UTF-8)"),
        ("a\nb\nc\n".encode("utf-16-le"), "cannot be read (line 1 has a NUL character and is not in UTF-8)"),
        (b"a\nb\na\n", "line 3: 'a' is the name of the class of "),
        (b"a\nA\nb\n", "line 2: the class 'A' differs from 'a' ("),
        (b"dog\ncat\nemu\n", "has the names of the classes in another order; write them in the order cat, dog, emu"),
        (b"a\nb\n", "has 2 names, and there are 3 classes; write one per line, in the order cat, dog, emu"),
        (b"a\n\x1b[31mb\nc\n", r"line 2: the name '\x1b[31mb' has control characters"),
    ],
)
def test_a_file_of_names_that_cannot_be_right_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    (folders(tmp_path, ["cat", "dog", "emu"]) / "names.txt").write_bytes(content)
    message = refusal(f"folder:{tmp_path}")
    assert message.startswith(f"{tmp_path / 'names.txt'}") and expected in message


def test_the_whole_order_is_printed(tmp_path: Path) -> None:
    names = [str(number) for number in range(1, 13)]
    (folders(tmp_path, names) / "names.txt").write_text("one\n")
    assert f"in the order {', '.join(names)}" in refusal(f"folder:{tmp_path}")
