"""Find the commands in the documentation and check them against the real command line, Makefile and extras."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.exceptions import Exit

from petlbench.cli import cli
from petlbench.cli.bench import grid_settings
from petlbench.cli.words import settings_of, split_words
from petlbench.config import resolve as configuration
from petlbench.config.resolve import merged, nested
from petlbench.config.tuning import split_tuning
from petlbench.remote.server.settings import ServeConfig
from petlbench.runs.plan import selected_methods, selected_tasks
from tests.words import resolve

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Typed:
    """A command on a page."""

    page: Path
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """The command as a shell splits it, without comment and ``&``."""
        return [word for word in shlex.split(self.text, comments=True) if word != "&"]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


def typed(page: Path) -> Iterator[Typed]:
    """Find the lines of ``sh`` blocks, and those after a prompt (``$``) in blocks without a language, which also show output."""
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start()) + 2
        for number, line in enumerate(block[3].splitlines(), start=first):
            if block[2] == "sh" and line.strip():
                yield Typed(page, number, line.strip())
            elif not block[2] and line.startswith("$ "):
                yield Typed(page, number, line[2:])


def unmarked(page: Path) -> list[str]:
    """Find lines that look like commands in other blocks, where nothing checks them."""
    blocks = [block[3] for block in _BLOCK.finditer(page.read_text(encoding="utf-8")) if block[2] != "sh"]
    return [line for block in blocks for line in block.splitlines() if re.match(r" *(petlbench|make|pip|python) [\w-]", line)]


def check(words: Sequence[str]) -> None:
    """Raise when a program, target, command, option, key, method or task does not exist. Runs nothing."""
    program, *arguments = words
    match program.rpartition("/")[2]:
        case "petlbench":
            _check_petlbench(arguments)
        case "make":
            for line in _recipe(arguments):
                if re.match(r"\.venv/bin/(petlbench|python -m (petlbench|benchmarks|tools))", line):
                    check(shlex.split(line))
        case "python" if arguments[:2] == ["-m", "pytest"]:
            assert (ROOT / arguments[2]).exists(), f"no {arguments[2]}"
        case "python" if arguments[0] == "-m":
            _check_module(arguments[1], arguments[2:])
        case "pip" if arguments[0] == "install":
            _check_requirement(arguments[-1])
        case "git" | "pre-commit" | "ray":
            pass
        case "sbatch":
            script = next(word for word in arguments if not word.startswith("-"))
            assert (ROOT / script).exists(), f"no {script}"
            _check_petlbench(["bench", *arguments[arguments.index(script) + 1 :], "executor=ray", "address=auto"])
        case _:
            raise AssertionError(f"nothing here knows how to check {program}")


def _recipe(arguments: Sequence[str]) -> list[str]:
    """Return the commands that make would run."""
    for variable in (word.partition("=")[0] for word in arguments if "=" in word):
        assert re.search(rf"^{variable} \?=", (ROOT / "Makefile").read_text(), re.MULTILINE), f"the Makefile reads no {variable}"
    command = ["make", "--dry-run", "--always-make", "--old-file=pyproject.toml", *arguments]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stderr
    return reply.stdout.splitlines()


def _check_petlbench(arguments: Sequence[str]) -> None:
    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(click.Context(command), rest)
        assert found is not None, f"no command '{name}'"
        command = found
    try:
        words = tuple(command.make_context(command.name, rest).params.get("words", ()))
    except Exit as shown:  # by --help
        assert shown.exit_code == 0
        return
    match command.name:
        case "run":
            resolve(_concrete(words))
        case "bench" | "plan" | "tune":
            grid = grid_settings(words)
            methods, tasks = (grid.pop(name, default) for name, default in (("methods", "all"), ("tasks", "mini")))
            settings = nested(grid["settings"])
            for of_tuning in ("hyperparameters", "tune"):
                settings.pop(of_tuning, None)
            _, settings = split_tuning(settings)
            for method in selected_methods(methods):
                configuration.resolve(merged(settings, {"method": {"name": method}, "task": selected_tasks(tasks)[0]}))
        case "serve":
            settings_of(ServeConfig, split_words(words))
        case "ls" | "prepare" | "verify":
            for word in words:
                assert word.startswith("data_root=") or selected_tasks(word)


def _concrete(words: Sequence[str]) -> list[str]:
    """Put a task in place of the one that the reader chooses."""
    return ["task=mini/digits" if word == "task=…" else word for word in words]


def _check_module(name: str, arguments: Sequence[str]) -> None:
    try:
        module = importlib.import_module(f"{name}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(name)
    if isinstance(module.main, click.Command):
        module.main.make_context(name, list(arguments))


def _check_requirement(text: str) -> None:
    """Check ``petlbench[EXTRA,…]``, or the checkout itself with ``.[EXTRA,…]``."""
    found = re.fullmatch(r"(?:petlbench|\.)\[([\w,]+)\]", text)
    assert found, text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(found[1].split(",")) <= set(extras), text
