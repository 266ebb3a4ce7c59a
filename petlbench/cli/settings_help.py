"""List settings in the help of the commands that take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from petlbench.config.help import FieldHelp, section_help


class SettingsCommand(click.Command):
    """A command whose help lists its settings, the fields of a dataclass, with their defaults."""

    def __init__(self, *args: Any, settings: type, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings"):
            write_settings(formatter, section_help(self.settings()))
        super().format_epilog(ctx, formatter)


def write_settings(formatter: click.HelpFormatter, rows: Sequence[FieldHelp]) -> None:
    """Write a line ``key=value  meaning`` per setting."""
    formatter.write_dl([(f"{row.key}={_shown(row.value)}", _help(row)) for row in rows], col_max=44)


def _help(row: FieldHelp) -> str:
    """A setting's comment, and its choices where it has few."""
    return f"{row.comment} ({row.type})" if row.comment and row.type.startswith("one of") else row.comment or row.type


def _shown(value: Any) -> str:
    """Write a value as a user types it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
