"""The command that runs one method on one task."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click

from petlbench import api
from petlbench.cli.words import AS_JSON, parse_words, split_words
from petlbench.config.help import FieldHelp, section_help
from petlbench.config.resolve import RunConfig, resolve
from petlbench.config.settings import Numerics
from petlbench.executors.progress import sentence


class RunCommand(click.Command):
    """A command whose help lists the settings of the method that is named beside it: ``petlbench run --help method=lora``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [word for word in args if "=" in word and not word.startswith("-")]
        if {"-h", "--help"} & set(args) and words:
            click.echo(settings_help(resolve({"method": "linear", "task": "mini/digits", **split_words(words)})))
            ctx.exit()
        return super().parse_args(ctx, args)


@click.command(cls=RunCommand)
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
@click.pass_context
def run(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Run one method on one task: petlbench run method=lora task=mini/digits seed=0 method.rank=4 out=DIR

    petlbench run --help method=lora lists the settings of a method with their defaults.
    """
    result = api.run(reraise=ctx.obj["debug"], **parse_words(words))
    if as_json:
        click.echo(json.dumps(result.summary()))
    elif result.record.has_result:
        click.echo(sentence(result.record))
        click.echo(result.place())
    if not result.record.has_result:
        click.echo(f"petlbench: {sentence(result.record)} ({result.place()})", err=True)
        sys.exit(1)


def settings_help(config: RunConfig) -> str:
    """All settings of a run with the values that they have in this one, by section."""
    formatter = click.HelpFormatter(width=min(120, shutil.get_terminal_size((120, 24)).columns))
    for title, rows in _groups(config):
        with formatter.section(title):
            formatter.write_dl([(f"{row.key}={_shown(row.value)}", row.comment or row.type) for row in rows], col_max=44)
    return formatter.getvalue().strip()


def _groups(config: RunConfig) -> Iterator[tuple[str, list[FieldHelp]]]:
    own = section_help(config.method_config, "method.")
    yield f"Settings of {config.method}", own or [FieldHelp(f"method={config.method}", "", "", "it has none of its own")]
    for title, key in (("Training", "train"), ("Protocol", "protocol"), ("Backbone", "backbone")):
        yield title, section_help(getattr(config, key), f"{key}.")
    asked = [*section_help(config.access, "access."), *section_help(config.budget, "budget.")]
    yield "What a model that is asked gives away, and limits", asked
    yield "Random numbers and number format", section_help(Numerics(config.seed, config.precision))  # type: ignore[arg-type]
    yield "Where and how; no part of the run's identity", section_help(config.execution)


def _shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
