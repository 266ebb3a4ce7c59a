"""No record that fits the schema stops a report."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.analysis.aggregate import comparable_parts, leaderboard, ranked_columns, runs_behind, runs_frame
from petlbench.analysis.export import flat_frame
from petlbench.analysis.statistics import compare
from petlbench.analysis.tradeoffs import tradeoffs
from petlbench.analysis.validate import check_record, missing_cells, problems_among, problems_of
from petlbench.cli.compare import _as_json
from petlbench.cli.printing import table_console
from petlbench.errors import TableError
from petlbench.executors.progress import sentence
from petlbench.published.numbers import published
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report.comparison import terminal_report, with_tradeoffs
from petlbench.report.leaderboard import leaderboard_table, write_leaderboard
from petlbench.report.page import page_html
from petlbench.report.page_data import page_data
from petlbench.report.paper_runs import Choice
from petlbench.report.paper_shape import load_table
from petlbench.report.paper_table import fill
from petlbench.runs.plan import seconds_per_run
from tests.any_record import records
from tests.record_factory import TASKS

SUITES = {"mini": TASKS[:2], "vtab": ("vtab/dtd",)}
SEVERAL = st.lists(records(), min_size=1, max_size=6)
PAPER = load_table("vpt")


@settings(max_examples=25)
@given(SEVERAL)
def test_tables_and_the_page_show_every_record(found: list[Record]) -> None:
    frame = leaderboard(found, SUITES)
    with table_console().capture():
        table_console().print(leaderboard_table(frame))
    assert page_html(page_data(found, SUITES, ()))
    flat_frame(found).to_csv()
    missing_cells(found, SUITES)
    seconds_per_run(found)
    assert all(sentence(record) for record in found)


@settings(max_examples=15)
@given(SEVERAL)
def test_methods_with_any_record_are_compared(found: list[Record]) -> None:
    runs = runs_frame(found)
    for part in comparable_parts(leaderboard(found, SUITES)):
        comparison = compare(runs_behind(part, runs), ranked_columns(part))
        frame = with_tradeoffs(comparison, tradeoffs(part, runs))
        json.dumps(_as_json(comparison, frame), allow_nan=False)
        with table_console().capture():
            table_console().print(terminal_report("title", comparison, frame, True))


@settings(max_examples=15)
@given(SEVERAL)
def test_a_papers_table_takes_every_record_or_says_why_not(found: list[Record]) -> None:
    with suppress(TableError):  # runs of several protocols or weights cannot share a table
        fill(PAPER, found, published(), Choice())


@settings(max_examples=15)
@given(record=records())
def test_every_record_can_be_written_read_back_and_validated(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    store = RecordStore(tmp_path_factory.mktemp("results"))
    path = store.write(record)
    assert store.find(path) == record
    assert all(problem.isprintable() for problem in problems_of(path))
    problems_among([check_record(path)])


@settings(max_examples=2)
@given(SEVERAL)
def test_plots_are_drawn_of_every_record(tmp_path_factory: pytest.TempPathFactory, found: list[Record]) -> None:
    results = tmp_path_factory.mktemp("results")
    for record in found:
        RecordStore(results).write(record)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        assert Path(results / "leaderboard.md") in write_leaderboard(results, SUITES)
