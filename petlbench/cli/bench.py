"""The command ``bench``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from petlbench import api
from petlbench.cli.leaderboard import write_and_show
from petlbench.cli.printing import Terminal
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo_json
from petlbench.cli.words import AS_JSON, read_seeds, split_words
from petlbench.config.executor import ExecutorChoice, split_choice
from petlbench.config.files import suite_tasks
from petlbench.errors import ConfigError
from petlbench.records.reader import Reader
from petlbench.records.store import RecordStore
from petlbench.report.filling import FillingLeaderboard
from petlbench.runs.plan import Plan

AVAILABLE = click.option("--available", is_flag=True, help="Leave out tasks whose images are missing.")
GRID = "method=, task= and seeds= take several names or numbers with commas. petlbench run --help method=lora lists the settings of runs, such as out=DIR."

console = Terminal(stderr=True, soft_wrap=True)  # a line in a log file is not broken


@click.command(cls=SettingsCommand, settings=ExecutorChoice, epilog=GRID)
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
@AVAILABLE
@click.option("--retry-failed", is_flag=True, help="Run again what failed or diverged.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time, as jobs=N is.")
@click.pass_context
def bench(ctx: click.Context, words: tuple[str, ...], as_json: bool, available: bool, retry_failed: bool, jobs: int | None) -> None:
    """Run a grid: petlbench bench method=all task=mini seeds=0,1,2. What is finished is not run again."""
    choice, _ = split_choice(split_words(words if jobs is None else (*words, f"jobs={jobs}")))
    of_grid = grid_settings(words)
    if (trials := of_grid["settings"].pop("tune", None)) is not None:
        selected = {name: names for name, names in of_grid.items() if name in ("methods", "tasks")}
        settings = {**of_grid["settings"], "trials": trials}
        of_grid["settings"] = api.tuned_first(**selected, settings=settings, choice=choice, available=available)
    planned = api.plan(available=available, **of_grid)
    before = Counter(run.state for run in planned.runs)
    todo = before["missing"] + before["stale"] + (before["failed"] if retry_failed else 0)
    for sentence in planned.sentences():
        console.print(sentence)
    console.print(f"{len(planned.runs)} runs: {planned.summary()}; {todo} to run")
    reader = Reader(RecordStore(planned.out))
    filling = _filling(planned, reader) if todo and not as_json else None
    results = api.carry_out(planned, choice, retry_failed, reraise=ctx.obj["debug"], filling=filling)
    written, broken = write_and_show(reader, quiet=as_json)
    for result in results.failures:
        record = result.record
        console.print(f"{record.status}: {record.label}: {record.error}", style="red")
    left = 0 if retry_failed else before["failed"]
    if left:
        console.print(f"{left} runs failed earlier; --retry-failed runs them again")
    if as_json:
        summary = {"runs": [result.summary() for result in results], "skipped": len(planned.runs) - todo, "written": written}
        echo_json(summary)
    if results.failures or left or broken:
        raise click.exceptions.Exit(1)


def _filling(planned: Plan, reader: Reader) -> FillingLeaderboard | None:
    """Return the leaderboard of the plan's suites, with what is finished; None when it is of no whole suite."""
    wanted = {run.config.task for run in planned.runs}
    suites = {suite: tasks for suite, tasks in suite_tasks().items() if wanted.issuperset(tasks)}
    if not suites:
        return None
    done = {run.config.run_id for run in planned.runs if run.state == "done"}
    return FillingLeaderboard(suites, [record for record in reader.read() if record.run_id in done] if done else ())


def grid_settings(words: tuple[str, ...]) -> dict[str, Any]:
    """Read words as arguments of ``api.plan``: methods, tasks and seeds of the grid, and the settings of all its runs, without those of the executor."""
    _, texts = split_choice(split_words(words))
    if "seed" in texts and "seeds" in texts:
        raise ConfigError("seed and seeds name the same thing; give one of them, such as seeds=0,1,2")
    seeds = texts.pop("seeds", texts.pop("seed", None))
    chosen: dict[str, Any] = {name: str(texts.pop(key)) for name, key in (("methods", "method"), ("tasks", "task")) if key in texts}
    return {**chosen, "seeds": None if seeds is None else read_seeds(seeds), "settings": texts}
