"""The leaderboard of a bench that is still running."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from petlbench.config.resolve import resolve
from petlbench.executors.progress import bars
from petlbench.records.schema import Record
from petlbench.report import filling
from petlbench.report.filling import FillingLeaderboard
from petlbench.runs.execute import execute

SUITES = {"mini": ("mini/digits", "mini/location")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@cache
def record(folder: Path, task: str) -> Record:
    return execute(resolve({"method": {"name": "zero_shot"}, "task": task, "threads": 1, "out": str(folder)}))[0]


def shown(what: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_cells_fill_one_by_one_and_the_first_whole_row_is_announced_once(folder: Path) -> None:
    first, second = record(folder, "mini/digits"), record(folder, "mini/location")
    assert first.metrics and second.metrics
    table = FillingLeaderboard(SUITES)
    assert not shown(table).strip()
    assert not table.add(first)
    assert f"{first.metrics.accuracy:.1f}" in shown(table.drawn()) and f"{second.metrics.accuracy:.1f}" not in shown(table.drawn())
    assert table.add(second)
    mean = (first.metrics.accuracy + second.metrics.accuracy) / 2
    assert f"{mean:.1f}" in shown(table.drawn())
    assert not table.add(second), "announced before"
    assert not FillingLeaderboard(SUITES, [first, second]).add(second), "complete from the start"


def test_a_table_is_announced_after_some_time_even_when_no_row_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SOON", 0.0)
    assert FillingLeaderboard(SUITES).add(record(folder, "mini/digits"))


def test_what_failed_has_no_cell(folder: Path) -> None:
    found = record(folder, "mini/digits")
    table = FillingLeaderboard({"mini": ("mini/digits",)})
    assert not table.add(found.model_copy(update={"status": "failed", "metrics": None}))
    assert not shown(table.drawn()).strip()


def test_a_table_is_drawn_anew_only_when_a_run_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, drawn = FillingLeaderboard({"mini": ("mini/digits",)}), []
    monkeypatch.setattr(filling, "leaderboard_table", lambda frame: drawn.append(len(frame)) or "")
    monkeypatch.setattr(filling, "_SHARE", 1e9)  # however long drawing took
    table.add(record(folder, "mini/digits"))
    for _ in range(5):
        shown(table)
    assert drawn == [1]


def test_the_table_stands_below_the_bars_until_they_end() -> None:
    progress = bars(False, below="THE TABLE")
    progress.add_task("bench", total=3)
    assert shown(progress.get_renderable()).rstrip().endswith("THE TABLE")
    progress.stop()
    assert "THE TABLE" not in shown(progress.get_renderable())
