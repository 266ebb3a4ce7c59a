"""Images listed in a table as a task: ``task=csv:FILE`` with the columns file, label and perhaps split; files lie beside the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from petlbench.data.task import SPLITS, TaskSpec, register_task_family
from petlbench.errors import DataError

from ..disk.layouts._lists import text_of
from ._image import Image, check_once, identity_of
from ._user_task import hold_out, path_of, user_task

DELIMITERS = ",;\t"
NEEDS = "a first line with the columns file,label or file,label,split"


def csv_task(location: str, name: str | None = None) -> TaskSpec:
    """Return a task over a table: classes are its labels. Without a column ``split`` every fifth image of a class tests. DataError names the line that
    is wrong."""
    table = path_of(location)
    images = _read(table)
    if None in images:
        check_once(images[None])
        rest, test = hold_out(images[None])
        images = {"train": rest, "test": test}
    by_split = {split: listed for split, listed in images.items() if split is not None}
    return user_task(name or f"csv:{location}", table.parent, by_split, table)


def _read(table: Path) -> dict[str | None, list[Image]]:
    """Read and check the lines of a table, by split; all are of None when there is no such column."""
    images: dict[str | None, list[Image]] = {}
    try:
        text = text_of(table)
        reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
        columns = [column.strip().casefold() for column in next(reader, [])]
        if not {"file", "label"} <= set(columns):
            raise DataError(f"{table} needs {NEEDS}; it has {','.join(columns) or 'none'}")
        if twice := next((column for column in columns if columns.count(column) > 1), None):
            raise DataError(f"{table} has two columns '{twice}'; keep one")
        for fields in reader:
            if fields:
                split, image = _image(fields, columns, table, reader.line_num)
                images.setdefault(split, []).append(image)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}); csv:FILE needs a table in UTF-8 with the columns file,label[,split]") from None
    if not images:
        raise DataError(f"{table} lists no images")
    return images


def _delimiter(text: str) -> str:
    """Return the character that separates the columns of the first line: the one that occurs most often there."""
    first = text.partition("\n")[0]
    return max(DELIMITERS, key=first.count)


def _image(fields: list[str], columns: list[str], table: Path, line: int) -> tuple[str | None, Image]:
    """Return the split and the image of a line. Blanks around labels and splits do not count, nor does the case of splits."""
    where = f"{table}, line {line}"
    if len(fields) != len(columns):
        raise DataError(f"{where}: as many fields expected as the first line has columns")
    row = dict(zip(columns, fields, strict=True))
    file, label = row["file"], row["label"].strip()
    if not file.strip() or not label:
        raise DataError(f"{where}: the {'label' if file.strip() else 'file'} is empty")
    split = row["split"].strip().casefold() if "split" in row else None
    if split is not None and split not in SPLITS:
        raise DataError(f"{where}: split must be train, val or test, got '{row['split']}'")
    return split, Image(file, label, identity_of(table.parent / file, where), str(table), line)


register_task_family("csv", csv_task, __name__)
