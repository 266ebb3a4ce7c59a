"""Images listed in a table as a task: ``task=csv:FILE`` with the columns file, label and perhaps split; files lie beside the table."""

from __future__ import annotations

import csv
from pathlib import Path

from petlbench.data.task import SPLITS, TaskSpec, register_task_family
from petlbench.errors import DataError

from ._user_task import Pairs, hold_out, user_task

Row = dict[str, str]


def csv_task(location: str, name: str | None = None) -> TaskSpec:
    """Return a task over a table: classes are its labels, in alphabetical order, or in the order of numbers when all are numbers.

    Without a column ``split`` every fifth image of a class tests. DataError names the line that is wrong.
    """
    table = Path(location).expanduser()
    rows = _rows(table)
    labels = {row["label"] for row in rows}
    classes = sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)
    label_of = {label: index for index, label in enumerate(classes)}
    pairs: dict[str, Pairs] = {}
    for row in rows:
        pairs.setdefault(row.get("split", ""), []).append((row["file"], label_of[row["label"]]))
    if "split" not in rows[0]:
        rest, test = hold_out(pairs[""])
        pairs = {"train": rest, "test": test}
    for split in ("train", "test"):
        if not pairs.get(split):
            raise DataError(f"{table} has no {split} images")
    if untrained := set(label_of.values()) - {label for _, label in pairs["train"]}:
        raise DataError(f"{table}: class '{classes[min(untrained)]}' has no training image; add one or remove the class")
    return user_task(name or f"csv:{location}", table.parent, classes, pairs)


def _rows(table: Path) -> list[Row]:
    """Read and check the lines of a table."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns):
                raise DataError(
                    f"{table} needs a first line with the columns file,label or file,label,split; it has {','.join(columns) or 'none'}"
                )
            seen: dict[str, int] = {}
            rows = []
            for row in reader:
                _check(row, f"{table}, line {reader.line_num}", table.parent, seen)
                seen[row["file"]] = reader.line_num
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}); csv:FILE needs a table in UTF-8 with the columns file,label[,split]") from None
    if not rows:
        raise DataError(f"{table} lists no images")
    return rows


def _check(row: Row, where: str, root: Path, seen: dict[str, int]) -> None:
    if None in row or None in row.values():  # how csv marks superfluous and missing fields
        raise DataError(f"{where}: as many fields expected as the first line has columns")
    if not row["file"] or not row["label"]:
        raise DataError(f"{where}: the {'file' if not row['file'] else 'label'} is empty")
    if row["file"] in seen:
        raise DataError(
            f"{where}: {row['file']} was listed in line {seen[row['file']]} already; an image belongs to one split and one class"
        )
    if "split" in row and row["split"] not in SPLITS:
        raise DataError(f"{where}: split must be train, val or test, got '{row['split']}'")
    if not (root / row["file"]).is_file():
        raise DataError(f"{where}: there is no file {root / row['file']}; paths are relative to the table's folder")


register_task_family("csv", csv_task, __name__)
