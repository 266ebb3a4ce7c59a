"""The command line. Each command lives in a module of its name that is imported when it is used, so that ``--help`` does not wait for torch."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

import click

from petlbench.cli.terminal import echo
from petlbench.errors import PetlbenchError, did_you_mean, printable

_GROUPS = {
    "Compute": {
        "run": ("run:run", "Run one method on one task."),
        "bench": ("bench:bench", "Run a grid of methods, tasks and seeds; continues where it stopped."),
        "plan": ("plan:plan", "Show what bench would do."),
        "serve": ("serve:serve", "Serve a backbone over HTTP, for runs with backbone=remote."),
    },
    "Read results": {
        "leaderboard": ("leaderboard:leaderboard", "Write tables and plots from all records."),
        "compare": ("compare:compare_methods", "Compare methods: intervals, ranks, tests, accuracy at what it cost."),
        "show": ("show:show", "Show one record."),
        "table": ("table:table", "Write a paper's table with our runs beside its numbers."),
        "validate": ("validate:validate", "Check records and recompute their metrics."),
        "merge": ("merge:merge", "Join results of several machines."),
        "export": ("export:export", "Write all runs as one table, or what a run learned as weights."),
        "evaluate": ("evaluate:evaluate", "Evaluate what a run learned on a task."),
    },
    "Look things up": {
        "ls": ("ls:ls", "List methods, suites, tasks, backbones or recipes."),
        "published": ("published:published", "List numbers that papers print, with their sources."),
        "audit": ("audit:audit", "Recompute the averages of a table."),
    },
    "Prepare and extend": {
        "data": ("data:data", "Fetch datasets, check them, delete decoded images."),
        "new-method": ("new_method:new_method", "Write a working plugin to start from."),
    },
}
_COMMANDS = {name: target for group in _GROUPS.values() for name, target in group.items()}
_LISTED = ("methods", "suites", "tasks", "backbones", "recipes")  # ``petlbench methods`` is ``petlbench ls methods``
_WORDS = ("--out", "--seeds", "--suite", "--older", "--larger", "--root")  # ``--out DIR`` is accepted for ``out=DIR``


class _Commands(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"petlbench.cli.{module}"), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in _LISTED:
            args = ["ls", *args]
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'.{did_you_mean(args[0], [*_COMMANDS, *_LISTED])}")
        return super().resolve_command(ctx, _with_words(args))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in commands.items()])


def _with_words(args: list[str]) -> list[str]:
    """Replace options by the words that they are short for."""
    for arg in args:
        if "\0" in arg or not _is_of_system(arg):
            raise click.UsageError(f"{arg[:40]!a} can be no name and no path: expected text without null bytes")
    found, rest = [], iter(args)
    for arg in rest:
        option, equals, value = arg.partition("=")
        if option in _WORDS:
            if not equals and not (value := next(rest, "")):
                raise click.UsageError(f"{option} needs a value, such as {option} VALUE")
            found.append(f"{option.removeprefix('--')}={value}")
        else:
            found.append(arg)
    return found


def _is_of_system(text: str) -> bool:
    """False for halves of characters, which a shell cannot give; single bytes that are no UTF-8 it can, and there are files of such names."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="petlbench")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Parameter-efficient transfer learning for vision, from black box to white box, on one harness.

    Settings are words of the form key=value: petlbench run method=lora task=mini/digits method.rank=4

    petlbench run --help method=lora lists the settings of a method with their defaults.
    """
    ctx.obj = {"debug": debug}


_format_warning = warnings.formatwarning


def _printable_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return printable(_format_warning(message, category, filename, lineno, line))


def main() -> None:
    """Entry point: errors a user can act on are one line on stderr and exit code 2, an interrupt is 130."""
    warnings.formatwarning = _printable_warning
    try:
        code = cli.main(standalone_mode=False)
    except PetlbenchError as error:
        if "--debug" in sys.argv:
            raise
        echo(f"petlbench: {error}", err=True)
        code = 2
    except click.ClickException as error:
        echo(f"petlbench: {error.format_message()} (petlbench --help)", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("petlbench: interrupted; what was computed is on disk, the same command continues", err=True)
        code = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        code = 0
    except OSError as error:  # of a path that somebody typed: too long, not to be read or written, a full disk
        if "--debug" in sys.argv or error.strerror is None:
            raise
        echo(f"petlbench: {'' if error.filename is None else f'{error.filename}: '}{error.strerror}", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
