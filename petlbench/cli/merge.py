"""The command that joins results folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from petlbench.analysis.merge import merge as merge_folders
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import names_and_words, settings_of
from petlbench.errors import ConfigError


@dataclass
class MergeSettings:
    """Settings of ``merge``."""

    out: str | None = None  # results folder to create; must not exist


@click.command(cls=SettingsCommand, settings=MergeSettings)
@click.argument("words", nargs=-1, required=True, metavar="FOLDER... out=DIR")
def merge(words: tuple[str, ...]) -> None:
    """Join results of several machines in a new folder: petlbench merge results-a results-b out=results

    Records are checked first. One run with different content, and protocols, data revisions or backbone weights that would share a column of
    a table, are refused; then nothing is written.
    """
    folders, given = names_and_words(words)
    out = settings_of(MergeSettings, given).out
    if not folders or out is None:
        raise ConfigError("merge takes results folders and the new one: petlbench merge results-a results-b out=results")
    merged = merge_folders([Path(folder) for folder in folders], Path(out))
    echo(f"{merged.records} records from {len(folders)} folders" + (f", {merged.repeated} repeated" if merged.repeated else ""))
    echo(out)
