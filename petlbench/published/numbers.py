"""Published numbers as they were printed: one CSV row each, validated, with a source.

The files lie in results/published, their columns are explained in the README there. Values are decimals, so that "74.50" keeps its two digits.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petlbench.config.files import names
from petlbench.errors import TableError, did_you_mean, unknown
from petlbench.published.averages import column_groups, is_average

ACCURACY = "top1_accuracy_percent"
ORACLE = "top1_accuracy_percent_best_test_epoch"  # the epoch was chosen on the test set; never beside the former
OUTSIDE = "other:"  # a suite or dataset that is none of ours
Filled = Annotated[str, Field(min_length=1)]
M = TypeVar("M", bound=BaseModel)


class PublishedNumber(BaseModel):
    """One number of one printed table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: Filled
    arxiv: str
    table: Filled
    suite: Filled
    method: Filled  # as printed
    backbone: str
    access: Literal["none", "black-box", "grey-box", "white-box"]
    shots: Annotated[str, Field(pattern=r"^(\d+|1000-images|full)?$")]
    dataset: Filled  # or an average, "mean_19", or "all"
    dataset_as_printed: str
    metric: Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
    value: Annotated[Decimal, Field(allow_inf_nan=False)]
    std: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None
    source_kind: Literal["primary", "reprint", "third-party", "figure", "derived"]
    source: Filled

    @property
    def row(self) -> tuple[str, ...]:
        """The fields that numbers of one row of a printed table share."""
        return self.paper, self.table, self.suite, self.method, self.backbone, self.shots, self.metric

    @property
    def key(self) -> tuple[str, ...]:
        """Unique over all files."""
        return *self.row, self.dataset


class MethodName(BaseModel):
    """A line of methods.csv: a printed method name and our name for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: Filled
    suite: Filled
    table: str  # empty: every table that has no line of its own
    method: Filled  # as printed
    ours: str  # the method or preset that it is here; empty: none
    row: Filled  # rows with one name claim to be one result, whoever prints them
    note: str


COLUMNS = list(PublishedNumber.model_fields)
METHODS_FILE = "methods.csv"


@cache
def published() -> tuple[PublishedNumber, ...]:
    """Load all numbers that ship with petlbench, in the order of the files. TableError names file and line of the first invalid one."""
    numbers: list[PublishedNumber] = []
    for file in sorted(_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".csv") and file.name != METHODS_FILE:
            numbers += read_numbers(file)
    _check_unique(numbers, "results/published")
    for number in numbers:
        name_of(number)
    return tuple(numbers)


def name_of(number: PublishedNumber) -> MethodName:
    """Look up the method of a number. TableError if methods.csv lacks it."""
    return method_name(number.paper, number.suite, number.method, number.table)


def method_name(paper: str, suite: str, method: str, table: str = "") -> MethodName:
    """Look up a printed name, first for its table, then for all tables of the paper. TableError if methods.csv lacks it."""
    known = _method_names()
    for key in ((paper, suite, table, method), (paper, suite, "", method)):
        if key in known:
            return known[key]
    raise TableError(f"results/published/{METHODS_FILE} lacks {method!r} of {paper} on {suite}; add a line")


@cache
def _method_names() -> Mapping[tuple[str, str, str, str], MethodName]:
    """Load methods.csv as (paper, suite, table, method as printed) -> line."""
    table: dict[tuple[str, str, str, str], MethodName] = {}
    for line, values in _lines(_folder() / METHODS_FILE, list(MethodName.model_fields)):
        name = _validated(MethodName, values, f"{METHODS_FILE}:{line}")
        key = name.paper, name.suite, name.table, name.method
        if key in table:
            raise TableError(f"{METHODS_FILE}:{line}: {name.method!r} of {name.paper} on {name.suite} already has a line")
        if name.ours and name.ours not in names("methods"):
            raise TableError(f"{METHODS_FILE}:{line}: {unknown('method', name.ours, names('methods'))}")
        table[key] = name
    return table


def read_numbers(file: Path | Traversable) -> list[PublishedNumber]:
    """Read a CSV file in the layout of results/published. TableError names the line and column that is invalid."""
    numbers = []
    for line, values in _lines(file, COLUMNS):
        number = _validated(PublishedNumber, {**values, "std": values["std"] or None}, f"{file.name}:{line}")
        _check_names(number, f"{file.name}:{line}")
        numbers.append(number)
    _check_unique(numbers, file.name)
    return numbers


def select(numbers: Sequence[PublishedNumber], wanted: Mapping[str, str]) -> list[PublishedNumber]:
    """Return the numbers whose fields contain the wanted texts, ignoring case; a method is also found by our name."""
    return [number for number in numbers if all(_matches(number, key, text.casefold()) for key, text in wanted.items())]


def _matches(number: PublishedNumber, key: str, text: str) -> bool:
    printed = str(getattr(number, key)).casefold()
    if key in ("suite", "dataset", "shots"):
        return printed == text
    return text in printed or (key == "method" and text == name_of(number).ours)


def _check_unique(numbers: Sequence[PublishedNumber], where: str) -> None:
    for key, count in Counter(number.key for number in numbers).items():
        if count > 1:
            raise TableError(f"{where}: {count} numbers for {' / '.join(filter(None, key))}; expected one")


def _check_names(number: PublishedNumber, where: str) -> None:
    suites = column_groups()
    if number.suite not in suites and not number.suite.startswith(OUTSIDE):
        raise TableError(
            f"{where}: no suite '{number.suite}'.{did_you_mean(number.suite, suites)} The name of another suite starts with '{OUTSIDE}'"
        )
    known = {dataset for groups in suites.values() for group in groups.values() for dataset in group} | {"all", "unknown"}
    if number.dataset not in known and not is_average(number.dataset) and not number.dataset.startswith(OUTSIDE):
        hint = did_you_mean(number.dataset, known)
        raise TableError(f"{where}: no dataset '{number.dataset}'.{hint} The name of another dataset starts with '{OUTSIDE}'")
    if number.metric in (ACCURACY, ORACLE) and not 0 <= number.value <= 100:
        raise TableError(f"{where}: an accuracy must lie between 0 and 100 percent, got {number.value}")


def read_csv(file: Path | Traversable) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read the columns of a CSV file and its rows with line numbers, without blank lines. TableError unless every row has a value for each column."""
    try:
        reader = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig")), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{file.name}: cannot be read as CSV: {error}") from None
    if len(lines) < 2:
        raise TableError(f"{file.name}: expected a line of column names and at least one line of values")
    columns = [column.strip() for column in lines[0][1]]
    if len(set(columns)) < len(columns):
        raise TableError(f"{file.name}: duplicate column name in {', '.join(columns)}")
    for number, line in lines[1:]:
        if len(line) != len(columns):
            raise TableError(f"{file.name}:{number}: expected {len(columns)} values, got {len(line)}")
    return columns, [(number, dict(zip(columns, line, strict=True))) for number, line in lines[1:]]


def _lines(file: Path | Traversable, columns: list[str]) -> list[tuple[int, dict[str, str]]]:
    found, lines = read_csv(file)
    if found != columns:
        raise TableError(f"{file.name}: expected the columns {','.join(columns)}, got {','.join(found)}")
    return lines


def _validated(model: type[M], values: Mapping[str, str | None], where: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise TableError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None


def _folder() -> Traversable:
    return files("petlbench.published.data")
