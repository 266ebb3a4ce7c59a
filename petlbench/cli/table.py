"""The command that writes a paper's table with our runs beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from petlbench.analysis.aggregate import with_own_tasks
from petlbench.cli.broken import end, read_records
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import read_seeds, settings_of, split_words
from petlbench.config.files import suite_tasks
from petlbench.published.numbers import published
from petlbench.report.paper_files import write_table
from petlbench.report.paper_runs import Choice
from petlbench.report.paper_shape import load_table
from petlbench.report.paper_table import fill


@dataclass
class TableSettings:
    """Settings of ``table``."""

    out: str = "results"  # results folder
    backbone: str | None = None  # null: the paper's
    protocol: str | None = None  # null: the one with most runs
    seeds: str | None = None  # only these: 0,1,2


@click.command(cls=SettingsCommand, settings=TableSettings)
@click.argument("paper")
@click.argument("words", nargs=-1, metavar="[backbone=NAME] [protocol=NAME] [seeds=0,1,2] [out=DIR]")
@click.option("--partial", is_flag=True, help="Averages over the columns that all rows have, where others are missing.")
def table(paper: str, words: tuple[str, ...], partial: bool) -> None:
    """Write a paper's table with our runs beside its numbers: petlbench table blackvip|craft|pgn|spt|vpt

    Writes OUT/tables/PAPER-PART.{csv,md,tex} in the paper's rows and columns: mean ± standard deviation over seeds, the published number, the
    difference. A table has one backbone (the paper's unless backbone=NAME) and one protocol.
    """
    shape = load_table(paper)
    settings = settings_of(TableSettings, split_words(words))
    seeds = () if settings.seeds is None else read_seeds(settings.seeds)
    choice = Choice(settings.backbone, settings.protocol, seeds, partial)
    out = Path(settings.out)
    records = read_records(out)
    filled = fill(shape, records, published(), choice)
    for path in write_table(out / "tables", paper, filled):
        echo(str(path))
    if not any(panel.has_runs for panel in filled.values()):
        echo(f"petlbench: no run in {out} belongs to this table, so it has the published numbers only", err=True)
    if own := with_own_tasks({}, records).keys() - {task for tasks in suite_tasks().values() for task in tasks}:
        echo(f"petlbench: no paper has numbers for {', '.join(sorted(own))}; petlbench leaderboard and compare show them", err=True)
    end(records.broken)
