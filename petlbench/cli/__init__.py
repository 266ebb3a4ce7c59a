"""The command line. Each command lives in a module that is imported when the command is used, so that ``--help`` does not wait for torch."""

from __future__ import annotations

import importlib
import sys

import click

from petlbench.errors import PetlbenchError, did_you_mean

_COMMANDS = {
    "methods": ("petlbench.cli.ls:methods", "List the methods: access rung, citation, presets."),
    "suites": ("petlbench.cli.ls:suites", "List the suites, or where each task of one stands: present, downloadable, …"),
    "recipes": ("petlbench.cli.ls:recipes", "List the training recipes and protocols of published work."),
    "tasks": ("petlbench.cli.ls:tasks", "List the tasks: classes, sizes, prompts."),
    "data": ("petlbench.cli.data:data", "Fetch datasets, check them, delete what was stored of them."),
    "backbones": ("petlbench.cli.ls:backbones", "List the backbones."),
    "run": ("petlbench.cli.runs:run", "Run one method on one task."),
    "bench": ("petlbench.cli.runs:bench", "Run a grid of methods, tasks and seeds; continues where it stopped."),
    "plan": ("petlbench.cli.runs:plan", "Show what bench would do."),
    "evaluate": ("petlbench.cli.checkpoints:evaluate", "Evaluate what a run learned on a task."),
    "export": ("petlbench.cli.checkpoints:export", "Write all runs as one table, or what a run learned as weights."),
    "serve": ("petlbench.cli.serve:serve", "Put a backbone behind HTTP, for runs with backbone=remote."),
    "leaderboard": ("petlbench.cli.results:leaderboard", "Write tables and plots from all records."),
    "compare": ("petlbench.cli.compare:compare_methods", "Compare methods: intervals, ranks, tests, accuracy at what it cost."),
    "show": ("petlbench.cli.results:show", "Show one record."),
    "validate": ("petlbench.cli.trust:validate", "Check records and recompute their metrics."),
    "merge": ("petlbench.cli.trust:merge", "Join results of several machines."),
    "published": ("petlbench.cli.published:published", "List numbers that papers print, with their sources."),
    "audit": ("petlbench.cli.published:audit", "Recompute the averages of a table."),
    "table": ("petlbench.cli.published:table", "Write a paper's table with our runs beside its numbers."),
    "new-method": ("petlbench.cli.new_method:new_method", "Write a working plugin to start from."),
}


class _Commands(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'.{did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="petlbench")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Parameter-efficient transfer learning for vision, from black box to white box, on one harness.

    Settings are words of the form key=value: petlbench run method=lora task=mini/digits method.rank=4
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Entry point: errors a user can act on are one line on stderr and exit code 2, an interrupt is 130."""
    try:
        code = cli.main(standalone_mode=False)
    except PetlbenchError as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"petlbench: {error}", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"petlbench: {error.format_message()} (petlbench --help)", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("petlbench: interrupted; what was computed is on disk, the same command continues", err=True)
        code = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
