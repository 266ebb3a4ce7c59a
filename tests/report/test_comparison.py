"""Write a comparison: its text and its files."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_frame
from petlbench.analysis.statistics import METHOD_COLUMNS, PAIR_COLUMNS, compare
from petlbench.analysis.tables import tables_of
from petlbench.analysis.tradeoffs import TRADEOFF_COLUMNS, tradeoffs
from petlbench.records.schema import Record
from petlbench.report.comparison import sentences, terminal_report, with_tradeoffs, write_comparison
from petlbench.report.drawings import Drawings
from tests.record_factory import SUITES, TASKS, make_grid, make_record


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip pictures, which take most of the time and have their own tests."""
    monkeypatch.setattr("petlbench.report.comparison.write_ranking_plots", lambda *_: [])


def written(results: Path, records: list[Record]) -> tuple[str, list[Path]]:
    (part, *_) = tables_of(records, SUITES).parts
    return write_comparison(part, Drawings(results / "plots").of(part, "Source: here", "mini"), results)


def test_files_hold_every_method_and_pair_in_full_floats(tmp_path: Path) -> None:
    records = make_grid(("lora", "full", "bar"))
    _, (methods, pairs) = written(tmp_path, records)
    expected = compare(runs_frame(records), TASKS)
    assert list(pd.read_csv(methods).columns) == [*METHOD_COLUMNS, *TRADEOFF_COLUMNS[3:]]
    assert list(pd.read_csv(pairs).columns) == PAIR_COLUMNS
    assert list(pd.read_csv(methods)["mean_low"]) == list(expected.methods["mean_low"])
    assert list(pd.read_csv(pairs)["p_holm"]) == list(expected.pairs["p_holm"])


def test_markdown_has_a_line_per_method_the_tests_and_the_warnings(tmp_path: Path) -> None:
    text, _ = written(tmp_path, [*make_grid(("lora", "full", "bar")), make_record("bbt")])
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == ["method", "lora", "full", "bar"]
    assert "* Friedman over 6 tasks: chi-square" in text and "* Too few tasks (6) for Wilcoxon's test of 3 pairs" in text
    assert "* Not compared, because results of a task are missing: bbt." in text


def test_the_front_of_each_cost_is_named(tmp_path: Path) -> None:
    records = [make_record("lora", task, accuracy=90, trainable=10) for task in TASKS]
    records += [make_record("full", task, accuracy=80, trainable=20) for task in TASKS]
    text, _ = written(tmp_path, records)
    assert {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in text.splitlines() if line.startswith(("| l", "| f"))} == {
        "lora": "parameters, time, memory",
        "full": "–",
    }


def test_budgets_are_a_table_per_unit(tmp_path: Path) -> None:
    records = make_grid(("lora",)) + [make_record("blackvip", task, accuracy=50, curve=[(100, 0, 40.0), (1000, 0, 50.0)]) for task in TASKS]
    text, (_, _, budgets) = written(tmp_path, records)
    assert "Accuracy with at most so many images in training:" in text
    assert "| blackvip | 40.0  | 40.0  | 50.0 |" in text
    assert len(pd.read_csv(budgets)) == 3


def test_a_bar_in_a_name_does_not_end_a_cell(tmp_path: Path) -> None:
    text, _ = written(tmp_path, [make_record(method, task) for method in ("a|b", "full") for task in TASKS])
    assert "| a\\|b  " in text


def test_one_method_is_no_comparison(tmp_path: Path) -> None:
    assert written(tmp_path, make_grid(("lora",))) == ("", [])
    assert not list(tmp_path.iterdir())


def test_the_terminal_report_of_all_methods_fits_120_columns() -> None:
    records = make_grid()
    part, runs = comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)
    comparison = compare(runs, TASKS)
    console = Console(width=120, file=StringIO(), force_terminal=False)
    console.print(terminal_report("mini", comparison, with_tradeoffs(comparison, tradeoffs(part, runs)), with_pairs=False))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines[3:17]] == list(comparison.methods["method"])
    assert max(map(len, lines)) <= 120


def test_two_methods_have_no_friedman() -> None:
    assert not any("Friedman" in sentence for sentence in sentences(compare(runs_frame(make_grid(("lora", "bar"))), TASKS)))
