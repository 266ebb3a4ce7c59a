"""The command that writes the leaderboard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import click

from petlbench.analysis.tables import tables_of
from petlbench.cli.broken import end, name_left_out, reading
from petlbench.cli.printing import table_console
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import settings_of, split_words
from petlbench.config.files import suite_tasks
from petlbench.errors import RecordError
from petlbench.records.reader import Reader
from petlbench.records.store import RecordStore
from petlbench.report.leaderboard import leaderboard_table, left_out, write_leaderboard
from petlbench.report.page import keep_page

_WATCH = "While a bench runs: write leaderboard.html again when records change, by default every 10 s; Ctrl-C ends with all tables."


@dataclass
class ResultsFolder:
    """The setting of commands that only read a results folder."""

    out: str = "results"  # results folder


def _number(ctx: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:
    """Refuse nan, which lies in every range."""
    if seconds is not None and math.isnan(seconds):
        raise click.BadParameter("expected a number of seconds, got nan")
    return seconds


@click.command(cls=SettingsCommand, settings=ResultsFolder)
@click.argument("words", nargs=-1, metavar="[out=DIR]")
@click.option("--watch", type=click.FloatRange(1, 3600), callback=_number, is_flag=False, flag_value=10.0, metavar="[SECONDS]", help=_WATCH)
def leaderboard(words: tuple[str, ...], watch: float | None) -> None:
    """Write leaderboard.csv, .md and .html and the plots from all records, and show the table: petlbench leaderboard out=results"""
    out = Path(settings_of(ResultsFolder, split_words(words)).out)
    if watch is not None:
        keep_page(out, suite_tasks(), watch, echo)
    if not RecordStore(out).paths():
        raise RecordError(f"no records below {out / 'records'}; run petlbench bench first, or name another folder with out=DIR")
    _, broken = write_and_show(Reader(RecordStore(out)))
    end(broken)


def write_and_show(reader: Reader, quiet: bool = False) -> tuple[list[str], list[str]]:
    """Write all files of the leaderboard of a results folder, print the table and the paths unless quiet, name on stderr what is left out.

    Returns the paths and a line for everything left out.
    """
    suites, out = suite_tasks(), reader.store.results
    with reading() as progress:
        records = reader.read(progress)
    written = write_leaderboard(out, suites, tables := tables_of(records, suites))
    if not quiet:
        table_console().print(leaderboard_table(tables.frame))
        for path in written:
            echo(str(path))
    name_left_out(broken := left_out(out, records))
    return [str(path) for path in written], broken
