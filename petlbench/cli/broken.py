"""Reports read records, with a bar where that takes long. They leave out what cannot be read: they name it and say so with their exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from petlbench.cli.terminal import echo
from petlbench.executors.progress import bars
from petlbench.records.reader import Reader
from petlbench.records.store import Records, RecordStore

_LISTED = 20
_PATIENCE = 1.0  # seconds without a bar


def read_records(out: Path) -> Records:
    """Read the records of a results folder for tables; name the broken ones on stderr."""
    with reading() as progress:
        records = Reader(RecordStore(out)).read(progress)
    name_left_out(records.broken)
    return records


@contextmanager
def reading(what: str = "reading records") -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's stderr when reading takes more than a second; the function given is told what is done, of how much."""
    with bars(transient=True) as shown:
        bar, start = shown.add_task(what, total=None, visible=False), time.monotonic()
        yield lambda done, total: shown.update(bar, completed=done, total=total, visible=time.monotonic() > start + _PATIENCE)


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
