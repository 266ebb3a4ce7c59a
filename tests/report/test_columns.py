"""A column of the leaderboard is one entry in one table: every form of the leaderboard, and the documentation, follow it."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from tabulate import tabulate

from petlbench.analysis.aggregate import comparable_parts, leaderboard
from petlbench.analysis.columns import COLUMNS, ROW_COLUMNS, RunsColumn, known_columns
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report.leaderboard import leaderboard_table, write_leaderboard
from petlbench.report.page_data import page_data
from tests.record_factory import TASKS, make_record

SUITES = {"mini": TASKS[:1]}
DECODED = RunsColumn(
    "images_decoded",
    "decoded",
    "Image files decoded.",
    lambda value: f"{value:.0f} files",
    of_run=lambda record: float(record.cost.images_decoded),
    axis="files decoded",
    is_in_terminal=True,
)


def with_cost(record: Record, **cost: float) -> Record:
    return record.model_copy(update={"cost": record.cost.model_copy(update=cost)})


def test_one_entry_is_a_column_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COLUMNS, DECODED.name, DECODED)
    for name in ("write_plots", "write_query_plots"):
        monkeypatch.setattr(f"petlbench.report.leaderboard.{name}", lambda *_: [])
    records = [with_cost(make_record(seed=seed), images_decoded=count) for seed, count in ((0, 100), (1, 140))]
    for record in records:
        RecordStore(tmp_path).write(record)
    write_leaderboard(tmp_path, SUITES)
    assert pd.read_csv(tmp_path / "leaderboard.csv")["images_decoded"].tolist() == [120]
    headings, _, row = [line.split("|") for line in (tmp_path / "leaderboard.md").read_text().splitlines() if line.startswith("|")]
    assert dict(zip(map(str.strip, headings), map(str.strip, row), strict=True))["decoded"] == "120 files"
    assert "decoded: Image files decoded." in (tmp_path / "leaderboard.md").read_text()
    console = Console(width=120, file=StringIO())
    console.print(leaderboard_table(leaderboard(records, SUITES)))
    assert "120 files" in console.file.getvalue()  # type: ignore[attr-defined]
    (part,) = page_data(records, SUITES, [])["parts"]
    assert part["columns"][-1] == {
        "name": "images_decoded",
        "heading": "decoded",
        "help": "Image files decoded.",
        "is_text": False,
        "axis": "files decoded",
    }
    assert (part["rows"][0]["values"]["images_decoded"], part["rows"][0]["texts"]["images_decoded"]) == (120, "120 files")


def test_a_column_without_a_value_is_left_out_of_tables() -> None:
    (part,) = comparable_parts(leaderboard([make_record("lora")], SUITES))
    assert not {"queries", "contexts", "flops_per_image"} & {column.name for column in known_columns(part)}
    assert math.isnan(part["queries"][0])


def test_flops_are_those_of_a_prediction_and_missing_for_models_that_are_only_asked() -> None:
    records = [with_cost(make_record("lora", seed=seed), flops_per_image=17.6e9) for seed in (0, 1)] + [make_record("bar")]
    frame = leaderboard(records, SUITES).set_index("method")
    shown = frame["flops_per_image"].map(COLUMNS["flops_per_image"].show)
    assert shown.to_dict() == {"lora": "17.6G", "bar": "–"}


def test_the_documentation_lists_every_column_and_no_other() -> None:
    columns = [*ROW_COLUMNS.values(), *COLUMNS.values()]
    rows = [{"leaderboard.csv": f"`{column.name}`", "heading": column.heading, "meaning": column.help} for column in columns]
    document = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert f"\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}\n\n" in document
