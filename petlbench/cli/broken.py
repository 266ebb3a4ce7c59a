"""Reports leave out what cannot be read: they name it and say so with their exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from petlbench.cli.terminal import echo
from petlbench.records.store import Records, RecordStore

_LISTED = 20


def read_records(out: Path) -> Records:
    """Read the records of a results folder; name the broken ones on stderr."""
    records = RecordStore(out).read()
    name_left_out(records.broken)
    return records


def name_left_out(lines: Sequence[str]) -> None:
    """Name on stderr what a report leaves out."""
    for line in lines[:_LISTED]:
        echo(f"petlbench: left out: {line}", err=True)
    if len(lines) > _LISTED:
        echo(f"petlbench: left out: {len(lines) - _LISTED} more (petlbench validate lists all)", err=True)


def end(left_out: Sequence[str]) -> None:
    """End a command whose report is written: with exit code 1 if it left something out."""
    if left_out:
        raise click.exceptions.Exit(1)
