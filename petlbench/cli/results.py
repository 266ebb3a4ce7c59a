"""The commands that read results: leaderboard, show."""

from __future__ import annotations

import math
from pathlib import Path

import click
from rich.console import Console

from petlbench.analysis.aggregate import leaderboard as leaderboard_frame
from petlbench.cli.console import table_console
from petlbench.config.files import load_suite, names
from petlbench.errors import RecordError
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore
from petlbench.report.leaderboard import leaderboard_table, write_leaderboard
from petlbench.report.page import keep_page

_WATCH = "While a bench runs: write leaderboard.html again when records change, by default every 10 s; Ctrl-C ends with all tables."
OUT = click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Results folder.")


def _number(ctx: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:
    """No range keeps out what is not a number."""
    if seconds is not None and math.isnan(seconds):
        raise click.BadParameter("nan is no number of seconds")
    return seconds


@click.command()
@OUT
@click.option("--watch", type=click.FloatRange(1, 3600), callback=_number, is_flag=False, flag_value=10.0, metavar="[SECONDS]", help=_WATCH)
def leaderboard(out: Path, watch: float | None) -> None:
    """Write leaderboard.csv, .md and .html and the plots from all records, and show the table."""
    if watch is not None:
        keep_page(out, suite_tasks(), watch, click.echo)
    if not RecordStore(out).paths():
        raise RecordError(f"no records below {out / 'records'}; run petlbench bench first, or name another folder with --out")
    write_and_show(out)


@click.command()
@click.argument("record", type=click.Path(path_type=Path))
@OUT
def show(record: Path, out: Path) -> None:
    """Show one record: a path, or the beginning of a run id in the results folder."""
    if not record.exists():
        found = [path for path in RecordStore(out).paths() if path.stem.rpartition("-")[2].startswith(str(record))]
        if len(found) != 1:
            raise RecordError(f"{record}: no such file, and {len(found)} records in {out} have a run id that starts so")
        record = found[0]
    Console().print_json(read_record(record).model_dump_json())


def suite_tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of every suite there is, in order."""
    return {name: load_suite(name).tasks for name in names("suites")}


def write_and_show(out: Path, quiet: bool = False) -> list[str]:
    """Write everything that a leaderboard consists of; print the table and the paths unless quiet. Returns the paths."""
    suites = suite_tasks()
    written = write_leaderboard(out, suites)
    if not quiet:
        table_console().print(leaderboard_table(leaderboard_frame(RecordStore(out).read(), suites)))
        for path in written:
            click.echo(str(path))
    return [str(path) for path in written]
