"""The command that shows one record, or one study."""

from __future__ import annotations

import re
from pathlib import Path

import click

from petlbench.cli.leaderboard import ResultsFolder
from petlbench.cli.printing import table_console
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import printable_json
from petlbench.cli.words import settings_of, split_words
from petlbench.errors import RecordError
from petlbench.records.file_names import exists
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore


@click.command(cls=SettingsCommand, settings=ResultsFolder)
@click.argument("record", type=click.Path(path_type=Path), metavar="RECORD|STUDY")
@click.argument("words", nargs=-1, metavar="[out=DIR]")
def show(record: Path, words: tuple[str, ...]) -> None:
    """Show one record: a path, or the beginning of a run id in the results folder. Or a study: its folder or name, best trials first, with a picture."""
    out = Path(settings_of(ResultsFolder, split_words(words)).out)
    if record.is_dir() or (out / "studies").is_dir():
        from petlbench.cli.show_study import find_study, show_study

        if (folder := find_study(str(record), out)) is not None:
            show_study(folder)
            return
    if not exists(record):
        pattern = re.compile(rf"-{re.escape(str(record))}[0-9a-f]*(-[0-9a-f]{{8}})?$")
        found = [path for path in RecordStore(out).paths() if pattern.search(path.stem)]
        if len(found) != 1:
            raise RecordError(f"{record}: no such file, and {len(found) or 'no'} records in {out} have a run id that starts with it")
        record = found[0]
    table_console().print_json(printable_json(read_record(record).model_dump_json()))
