"""The script through its command line, on processes that end at once, and every figure once."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import driver

ROUNDS = 3
FIRST = "from pathlib import Path; import os; [Path(place).mkdir() for place in ('results', os.environ['PETLBENCH_CACHE'])]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """Run the command; return its result and its JSON. A process that finds files of an earlier one fails."""
    target = tmp_path_factory.mktemp("bench") / "driver.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "COMMANDS", {"first": ["-c", FIRST], "second": ["-c", FIRST]})
        patch.setattr(driver, "IMPORTS", ("json",))
        patch.setattr(driver, "list_seconds", lambda: {"methods, known": (0.5, 0.125)})
        patch.setattr(driver, "grid_seconds", lambda out, seeds, runs: {f"{runs} of {seeds} seeds in {out.name}": (1.0, 2.0)})
        patch.setattr(driver, "fill", lambda out, methods, tasks, seeds: 10 * seeds)
        patch.setattr(driver, "TIMED_IMPORT", "import {name}; print('a warning'); print(0.25)")
        result = CliRunner().invoke(driver.main, ["--rounds", str(ROUNDS), "--seeds", "4", "--json", str(target)], catch_exceptions=False)
    return result, json.loads(target.read_text())


def test_all_rounds_but_the_first_count_and_every_process_starts_in_an_empty_folder(finished: tuple[Result, dict[str, Any]]) -> None:
    results = finished[1]["results"]
    assert {part: list(rows) for part, rows in results.items()} == {
        "commands": ["first", "second"],
        "lists": ["methods, known"],
        "grids": ["40 of 4 seeds in 4"],
        "imports": ["json"],
    }
    assert all(len(row["seconds"]) == ROUNDS for rows in results.values() for row in rows.values())
    assert results["imports"]["json"] == {"seconds": [0.25] * ROUNDS, "processor_seconds": []}
    assert results["lists"]["methods, known"]["processor_seconds"] == [0.125] * ROUNDS


def test_the_table_shows_medians(finished: tuple[Result, dict[str, Any]]) -> None:
    result, document = finished
    assert result.exit_code == 0
    shown = [line.split() for line in result.stdout.splitlines()]
    for rows in document["results"].values():
        for name, row in rows.items():
            used = [f"{median(row['processor_seconds']):.2f}"] if row["processor_seconds"] else []
            assert [*name.split(), f"{median(row['seconds']):.2f}", *used] in shown


def test_the_document_says_what_was_measured_where(finished: tuple[Result, dict[str, Any]]) -> None:
    assert finished[1]["environment"]["packages"]["torch"] and finished[1]["settings"] == {"rounds": ROUNDS}


def test_a_command_that_fails_is_named_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "COMMANDS", {"broken": ["-c", "import no_such_module"]})
    monkeypatch.setattr(driver, "fill", lambda *_: 0)
    result = CliRunner().invoke(driver.main, [])
    assert result.exit_code == 1
    assert "python -c import no_such_module ended with exit code 1: ModuleNotFoundError: No module named 'no_such_module'" in result.stderr


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(driver.main, ["--json", str(tmp_path / "none" / "x.json")])
    assert result.exit_code == 2 and "there is no folder" in result.stderr


@pytest.mark.long
@pytest.mark.slow
def test_every_figure_can_be_had(tmp_path: Path) -> None:
    runs = driver.fill(tmp_path, "linear", "mini/digits", 1)
    figures = driver.measure({tmp_path: (1, runs)})
    assert {part: len(rows) for part, rows in figures.items()} == {
        "commands": len(driver.COMMANDS),
        "lists": 2 * len(driver.LISTS),
        "grids": 3,
        "imports": len(driver.IMPORTS),
    }
    assert min(clock for rows in figures.values() for clock, _ in rows.values()) > 0
