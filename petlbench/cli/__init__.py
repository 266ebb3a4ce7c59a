"""The command line. Each command lives in a module of its name that is imported when it is used, so that ``--help`` does not wait for torch."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from petlbench.cli.streams import lost_output, open_streams
from petlbench.cli.terminal import echo
from petlbench.errors import PetlbenchError, did_you_mean, printable

_GROUPS = {
    "Compute": {
        "run": ("run:run", "Run one method on one task."),
        "bench": ("bench:bench", "Run a grid of methods, tasks and seeds; continues where it stopped."),
        "tune": ("tune:tune", "Tune methods on validation images, with equal trials."),
        "plan": ("plan:plan", "Show what bench would do."),
        "reproduce": ("reproduce:reproduce", "Run a record again and say what differs."),
        "serve": ("serve:serve", "Serve a backbone over HTTP, for runs with backbone=remote."),
    },
    "Read results": {
        "leaderboard": ("leaderboard:leaderboard", "Write tables and plots from all records."),
        "compare": ("compare:compare_methods", "Compare methods: intervals, ranks, tests, accuracy at what it cost."),
        "show": ("show:show", "Show one record, or a study of tuning."),
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
_ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_GRACE = 5.0  # seconds from a command's end to that of its process
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


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    """Format a warning as errors are: what it says, without the line of code that says it."""
    return printable(f"petlbench: {message}\n" if category is UserWarning else f"petlbench: {category.__name__}: {message}\n")


def main() -> None:
    """Entry point: errors a user can act on are one line on stderr and exit code 2, an interrupt is 130, another request to end 128 + its number."""
    warnings.formatwarning = _one_line
    is_own_process = open_streams()
    is_interrupted = False
    requests: list[int] = []
    try:
        with _endings_as_interrupts(requests):
            code = cli.main(standalone_mode=False)
    except PetlbenchError as error:
        if "--debug" in sys.argv:
            raise
        _complain(str(error))
        code = 2
    except click.ClickException as error:
        _complain(f"{error.format_message()} (petlbench --help)")
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; what was computed is on disk, the same command continues")
        is_interrupted = True
        code = 128 + (requests[0] if requests else signal.SIGINT)
    except OSError as error:  # of a path that somebody typed: too long, not to be read or written, a full disk
        if "--debug" in sys.argv or error.strerror is None or isinstance(error, BrokenPipeError):
            raise
        _complain(f"{'' if error.filename is None else f'{error.filename}: '}{error.strerror}")
        code = 2
    except SystemExit as leaving:  # a command returns or raises click's Exit
        _complain(f"a plugin ended the command with sys.exit({leaving.code!r})")
        code = 1
    code = code if isinstance(code, int) else 0
    if (lost := lost_output()) is not None:
        _complain(f"standard output could not be written: {lost.strerror}")
        code = code or 1
    if is_own_process:
        _end_in_time(code, 0 if is_interrupted else _GRACE)
    sys.exit(code)


def _complain(text: str) -> None:
    echo(f"petlbench: {text}", err=True)


@contextmanager
def _endings_as_interrupts(requests: list[int]) -> Iterator[None]:
    """Take a request to end (kill, a closed terminal) as Ctrl-C: the run is recorded as cancelled. One that is ignored, as below nohup, stays so.

    ``requests``: where the signal's number is noted, for a library may raise an interrupt of its own in place of ours.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        requests.append(number)
        raise KeyboardInterrupt

    former = {number: signal.signal(number, end) for number in _ENDINGS if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end_in_time(code: int, grace: float) -> None:
    """End the process after ``grace`` seconds, even when something that a plugin left behind, such as a thread, is not done."""

    def end() -> None:
        sys.stderr.flush()
        os._exit(code)

    if not grace:
        end()
    watch = threading.Timer(grace, end)
    watch.daemon = True
    watch.start()
