"""Read tables of any source for an audit: one number per row, or one row per method with a column per dataset."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from petlbench.errors import TableError
from petlbench.published.averages import column_groups
from petlbench.published.numbers import ACCURACY, COLUMNS, PublishedNumber, read_csv, read_numbers

_NUMBER = re.compile(r"(-?\d{1,12}(?:\.\d+)?)(?:\s*(?:±|\+-|\\pm)\s*\d+(?:\.\d+)?)?")  # a standard deviation may follow
_EMPTY = ("", "-", "–", "—", "nan", "n/a")
_NAMES = ("backbone", "shots", "suite")  # columns of a wide table that tell its rows apart


def read_table(path: Path) -> tuple[list[PublishedNumber], list[str]]:
    """Read the numbers of a CSV file; return them and the columns that were skipped.

    A file with the columns of results/published is read as such. In others the column ``method``, or the first one, names the rows. Columns
    named mean… or average… are averages; columns named after a dataset of a suite are cells, or all columns of numbers if there are none.
    """
    header, lines = read_csv(path)
    if header == COLUMNS:
        return read_numbers(path), []
    method = "method" if "method" in header else header[0]
    averages = {column: name for column in header if (name := _average_name(column))}
    rest = [column for column in header if column != method and column not in averages and column not in _NAMES]
    datasets = {column: name for column in rest if (name := _dataset(column))}
    datasets = datasets or {column: column for column in rest if any(_value(row[column]) is not None for _, row in lines)}
    if not averages or not datasets:
        raise TableError(f"{path.name}: expected columns of datasets and one called mean or average, got {', '.join(header)}")
    numbers = []
    for line, row in lines:
        names = {"paper": f"{path.name}:{line}"} | {key: row[key] for key in _NAMES if key in row}
        filled: dict[str, str] = {}  # name -> the column that it was read from
        for column, name in (datasets | averages).items():
            value = _value(row[column])
            if value is None and row[column].strip().casefold() not in _EMPTY:
                expected = "must hold a number or be empty"
                raise TableError(f"{path.name}:{line}: column '{column}' {expected}, got {row[column]!r}")
            if value is not None:
                if name in filled:
                    raise TableError(f"{path.name}:{line}: columns '{filled[name]}' and '{column}' are both {name}; remove one")
                filled[name] = column
                numbers.append(_number(path, row[method].strip(), name, value, names))
    return numbers, [column for column in rest if column not in datasets]


def _spelled(name: str) -> str:
    """Normalise a name: lower case, words separated by one space, no punctuation."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def _dataset(column: str) -> str | None:
    """Return the dataset that a column is named after, as SUITE/DATASET or in any spelling of its id."""
    if re.fullmatch(r"\w+/\w+", column):
        return column.partition("/")[2]
    known = {dataset for groups in column_groups().values() for group in groups.values() for dataset in group}
    return next((dataset for dataset in known if _spelled(dataset).replace(" ", "") == _spelled(column).replace(" ", "")), None)


def _average_name(column: str) -> str | None:
    """Normalise the name of an average's column: "vtab:mean_natural" and "Mean natural" to ``mean_natural``; None for other columns."""
    words = _spelled(column.rpartition(":")[2]).split()
    if not words or words[0] not in ("mean", "average", "avg"):
        return None
    return "_".join(words if words[0] == "mean" else ["mean", *words])


def _value(text: str) -> Decimal | None:
    match = _NUMBER.fullmatch(text.strip("* %"))  # bold in Markdown, percent
    return Decimal(match[1]) if match else None


def _number(path: Path, method: str, dataset: str, value: Decimal, names: dict[str, str]) -> PublishedNumber:
    """Make a number of a table without other information."""
    values: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"metric": ACCURACY, "source_kind": "primary", "source": str(path), **names}
    return PublishedNumber.model_construct(**values | {"method": method, "dataset": dataset, "value": value, "std": None})
