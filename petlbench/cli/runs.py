"""The commands that compute: run, bench, plan."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from petlbench.cli.printing import table_console
from petlbench.cli.words import parse_words
from petlbench.config.resolve import resolve
from petlbench.executors.local import carry_out, default_jobs
from petlbench.records.schema import Record
from petlbench.runs import plan as grid
from petlbench.runs.execute import execute

WORDS = click.argument("words", nargs=-1, metavar="KEY=VALUE...")
AVAILABLE = click.option("--available", is_flag=True, help="Leave out tasks whose images are not there.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")
console = Console(stderr=True)


@click.command()
@WORDS
@AS_JSON
@click.pass_context
def run(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Run one method on one task: petlbench run method=lora task=mini/digits seed=0 method.rank=4 out=DIR"""
    config = resolve(parse_words(words))
    with _bars() as bars:
        bar = bars.add_task(f"{config.method} on {config.task}", total=None)
        record, path = execute(config, lambda done, total: bars.update(bar, completed=done, total=total), reraise=ctx.obj["debug"])
    if as_json:
        click.echo(json.dumps(_summary(record, path)))
    elif record.has_result:
        click.echo(_sentence(record))
        click.echo(f"record: {path}")
    if not record.has_result:
        click.echo(f"petlbench: {_sentence(record)} (record: {path})", err=True)
        sys.exit(1)


@click.command()
@WORDS
@AS_JSON
@AVAILABLE
@click.option("--retry-failed", is_flag=True, help="Run again what failed or diverged.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Worker processes. Default: one per core for a small backbone on a CPU, else one.",
)
@click.pass_context
def bench(ctx: click.Context, words: tuple[str, ...], as_json: bool, available: bool, retry_failed: bool, jobs: int | None) -> None:
    """Run a grid: petlbench bench method=all task=mini seeds=0,1,2. What is on disk already is not run again."""
    runs = grid.plan(words, available)
    todo = [cell for cell in runs if cell.state == "missing" or (retry_failed and cell.state == "failed")]
    before = Counter(cell.state for cell in runs)
    if left_out := [name for name in grid.selected_methods_of(words) if name not in {cell.config.method for cell in runs}]:
        console.print(f"left out, because this backbone does not give what they need: {', '.join(left_out)}")
    if absent := [name for name in grid.selected_tasks_of(words) if name not in {cell.config.task for cell in runs}]:
        console.print(f"left out, because their images are not there: {', '.join(absent)}")
    console.print(f"{len(runs)} runs: {before['done']} done, {before['failed']} failed, {before['missing']} missing; {len(todo)} to run")
    outcomes = _carry_out_with_bars(todo, jobs or default_jobs(runs[0].config, len(todo)), ctx.obj["debug"])
    out = Path(runs[0].config.execution.out)
    from petlbench.cli.leaderboard import write_and_show

    written = write_and_show(out, quiet=as_json)
    failures = [(cell, record) for cell, record, _ in outcomes if not record.has_result]
    for cell, record in failures:
        console.print(f"{record.status}: {cell.label}: {record.error}", style="red", highlight=False, markup=False)
    left = before["failed"] if not retry_failed else 0
    if left:
        console.print(f"{left} runs failed earlier; --retry-failed runs them again")
    if as_json:
        summary = {"runs": [_summary(record, path) for _, record, path in outcomes], "skipped": len(runs) - len(todo), "written": written}
        click.echo(json.dumps(summary))
    if failures or left:
        sys.exit(1)


@click.command()
@WORDS
@AS_JSON
@AVAILABLE
def plan(words: tuple[str, ...], as_json: bool, available: bool) -> None:
    """Show what bench would do with the same words: runs done and missing, and about how long the rest takes."""
    runs = grid.plan(words, available)
    estimates = grid.seconds_per_run(Path(runs[0].config.execution.out))
    missing = [cell for cell in runs if cell.state == "missing"]
    known = [estimates[cell.config.method] for cell in missing if cell.config.method in estimates]
    seconds = sum(known) / len(known) * len(missing) if known else None
    if as_json:
        cells = [{"method": c.config.method, "task": c.config.task, "seed": c.config.seed, "state": c.state} for c in runs]
        click.echo(json.dumps({"runs": cells, "estimated_seconds": seconds}))
        return
    table = Table(box=None)
    for column in ("method", "done", "failed", "missing", "s per run"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method in dict.fromkeys(cell.config.method for cell in runs):
        states = Counter(cell.state for cell in runs if cell.config.method == method)
        per_run = f"{estimates[method]:.1f}" if method in estimates else "–"
        table.add_row(method, str(states["done"]), str(states["failed"]), str(states["missing"]), per_run)
    table_console().print(table)
    guess = "unknown: no method here has run before" if seconds is None else f"about {seconds / 60:.1f} minutes"
    click.echo(f"{len(missing)} of {len(runs)} runs missing; time {guess if missing else 'none'}")


def _carry_out_with_bars(todo: list[grid.PlannedRun], jobs: int, reraise: bool) -> list[tuple[grid.PlannedRun, Record, Path]]:
    outcomes = []
    with _bars() as bars:
        overall = bars.add_task("bench", total=len(todo))
        current = bars.add_task("", total=None, visible=jobs == 1)

        def started(cell: grid.PlannedRun) -> Any:
            bars.update(current, description=cell.label, completed=0, total=None)
            return lambda done, total: bars.update(current, completed=done, total=total)

        for number, (cell, record, path) in enumerate(carry_out(todo, jobs, started, reraise), start=1):
            bars.update(TaskID(overall), completed=number)
            outcomes.append((cell, record, path))
            bars.console.print(f"[{number}/{len(todo)}] {_sentence(record)}", highlight=False, markup=False)
    return outcomes


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _sentence(record: Record) -> str:
    name = f"{record.method.name} on {record.task}, seed {record.seed}"
    if record.metrics is None:
        return f"{name}: {record.status}: {(record.error or '').partition(chr(10))[0]}"
    metrics = record.metrics
    note = " (budget reached)" if record.status == "budget" else ""
    note += " (oracle: the epoch was chosen on the test split)" if record.selection == "oracle_test" else ""
    return f"{name}: accuracy {metrics.accuracy:.2f} % ± {metrics.standard_error:.2f} in {record.cost.total_seconds:.1f} s{note}"


def _summary(record: Record, path: Path) -> dict[str, Any]:
    return {
        "accuracy": record.metrics.accuracy if record.metrics else None,
        "record": str(path),
        "status": record.status,
        "selection": record.selection,
        "error": record.error,
        "method": record.method.name,
        "task": record.task,
        "seed": record.seed,
        "run_id": record.run_id,
    }
