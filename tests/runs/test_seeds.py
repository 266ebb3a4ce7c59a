"""Run the tasks of a suite with the suite's seeds unless others are given."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from petlbench.cli import cli
from petlbench.config.files import load_suite, names
from petlbench.runs import plan as bench
from tests.words import plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the images of all tasks are present."""
    monkeypatch.setattr(bench, "_present", lambda tasks, root, available, name_of: list(tasks))


def seeds(tmp_path: Path, *words: str) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for run in plan(["method=linear", f"out={tmp_path}", *words]).runs:
        found.setdefault(run.config.task, set()).add(run.config.seed)
    return found


@pytest.mark.parametrize("suite", names("suites"))
def test_a_suite_runs_with_its_seeds(tmp_path: Path, suite: str) -> None:
    listed = load_suite(suite)
    assert seeds(tmp_path, f"task={suite}") == {task: set(listed.seeds) for task in listed.tasks}


def test_each_task_has_the_seeds_of_its_suite(tmp_path: Path) -> None:
    planned = seeds(tmp_path, "task=mini/digits,vtab/dtd,blackvip16/dtd")
    assert planned == {"mini/digits": {0}, "vtab/dtd": {42, 44, 82, 100, 800}, "blackvip16/dtd": {1, 2, 3}}


@pytest.mark.parametrize("words", ["seeds=7,8", "seed=[7,8]"])
def test_seeds_that_are_asked_for_win(tmp_path: Path, words: str) -> None:
    assert seeds(tmp_path, "task=vtab/dtd", words) == {"vtab/dtd": {7, 8}}


def test_a_plan_says_where_its_seeds_come_from(tmp_path: Path) -> None:
    words = ["plan", "method=linear", f"out={tmp_path}", "task=mini/digits,blackvip16/dtd"]
    assert "seeds 0 (suite mini); 1,2,3 (suite blackvip16)" in CliRunner().invoke(cli, words, catch_exceptions=False).output
    assert "seeds 5 (as asked)" in CliRunner().invoke(cli, [*words, "seeds=5"], catch_exceptions=False).output


def test_make_leaves_the_seeds_to_the_suite_unless_some_are_named() -> None:
    def commands(*variables: str) -> str:
        make = ["make", "--dry-run", "--assume-old=.venv/.ready", "plan", "bench", "DATASET=vtab", *variables]
        return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "seeds" not in commands() and commands("SEEDS=3,4").count("seeds=3,4") == 2
