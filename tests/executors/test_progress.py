"""What a terminal shows of a bench: a bar for all runs, and a line for every worker that has one."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress, TextColumn

from petlbench.executors.executor import Watch
from petlbench.executors.progress import Lines
from petlbench.runs.plan import PlannedRun
from tests.words import resolve


def planned(seed: int) -> PlannedRun:
    return PlannedRun(resolve(["method=lora", "task=mini/digits", f"seed={seed}"]), "missing")


def shown(bars: Progress) -> list[str]:
    """Return the lines that the terminal would have now."""
    console = Console(file=io.StringIO(), width=100)
    console.print(bars.make_tasks_table(bars.tasks))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_every_worker_has_a_line_that_says_what_runs_there_and_how_far_it_is() -> None:
    bars = Progress(TextColumn("{task.description}"), TextColumn("{task.completed:g}/{task.total}"), console=Console(file=io.StringIO()))
    lines = Lines(bars, 3)
    watch: Watch = lines  # mypy checks it
    watch.began("worker 1", planned(0))
    watch.began("worker 2", planned(1))
    watch.advanced("worker 2", 7, 10)
    first = "worker 1: lora on mini/digits, seed 0 0/None"
    assert shown(bars) == ["bench 0/3", first, "worker 2: lora on mini/digits, seed 1 7/10"]
    watch.ended("worker 2")
    lines.finished(1)
    watch.began("worker 2", planned(2))
    assert shown(bars) == ["bench 1/3", first, "worker 2: lora on mini/digits, seed 2 0/None"]
    watch.ended("worker 1")
    assert shown(bars)[1:] == ["worker 2: lora on mini/digits, seed 2 0/None"]


def test_a_run_in_this_process_has_a_line_without_a_worker() -> None:
    bars = Progress(TextColumn("{task.description}"), console=Console(file=io.StringIO()))
    lines = Lines(bars, 1)
    lines.began("", planned(0))
    assert shown(bars)[1] == "lora on mini/digits, seed 0"
