"""The command ``run``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import click

from petlbench import api
from petlbench.cli.settings_help import write_settings
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON, parse_words, split_words
from petlbench.config.help import FieldHelp, section_help
from petlbench.config.resolve import RunConfig, resolve
from petlbench.config.search import Space, load_space
from petlbench.config.settings import Numerics
from petlbench.errors import ConfigError
from petlbench.executors.progress import sentence


class RunCommand(click.Command):
    """A command whose help lists the settings of the method that is named beside it: ``petlbench run --help method=lora``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [word for word in args if "=" in word and not word.startswith("-")]
        if {"-h", "--help"} & set(args) and words:
            echo(settings_help(resolve({"method": "linear", "task": "mini/digits", **split_words(words)})))  # a run has both
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
    result = api.run(parse_words(words), reraise=ctx.obj["debug"])
    if as_json:
        echo_json(result.summary())
    elif result.record.has_result:
        echo(sentence(result.record))
        echo(result.location())
    if not result.record.has_result:
        echo(f"petlbench: {sentence(result.record)} ({result.location()})", err=True)
        raise click.exceptions.Exit(1)


def settings_help(config: RunConfig) -> str:
    """List all settings by section, with their values in a run."""
    formatter = click.HelpFormatter(width=min(120, shutil.get_terminal_size((120, 24)).columns))
    formatter.write_text(f"Values for method={config.method} task={config.task}. Suites, tasks and recipes have defaults of their own.")
    for title, rows in _groups(config):
        with formatter.section(title):
            write_settings(formatter, rows)
    return formatter.getvalue().strip()


def _groups(config: RunConfig) -> Iterator[tuple[str, list[FieldHelp]]]:
    if own := section_help(config.method_config, "method."):
        yield f"Settings of {config.method}", own
    yield "Recipe", [FieldHelp("recipe", "", config.recipe, "published training and evaluation to follow; petlbench recipes lists all")]
    for title, key in (("Training", "train"), ("Protocol", "protocol"), ("Backbone", "backbone")):
        yield title, section_help(getattr(config, key), f"{key}.")
    yield "Queries and their limits", [*section_help(config.access, "access."), *section_help(config.budget, "budget.")]
    yield "Random numbers and number format", section_help(Numerics(config.seed, config.precision))  # type: ignore[arg-type]
    yield "Execution (not part of the run's identity)", section_help(config.execution)
    if space := _space(config):
        yield "Search space (what petlbench tune tries)", [FieldHelp(f"search.{key}", "", str(axis), "") for key, axis in space.items()]


def _space(config: RunConfig) -> Space:
    """The space of a method on a task; empty where it declares none, which only tuning needs."""
    try:
        return load_space(config.method, config.task, {"recipe": config.recipe})
    except ConfigError:
        return {}
