"""Compare docs/results.md with the flat table."""

from pathlib import Path

from tabulate import tabulate

from petlbench.analysis.export import COLUMNS
from petlbench.records.schema import SCHEMA_VERSION

DOCUMENT = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def test_every_column_of_the_flat_table_is_documented_and_no_other() -> None:
    rows = [{"column": f"`{column.name}`", "holds": column.type, "meaning": column.meaning} for column in COLUMNS]
    assert f"\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}\n\n" in DOCUMENT


def test_the_versions_that_are_read_are_named() -> None:
    assert f"versions 1 to {SCHEMA_VERSION} are read" in DOCUMENT
