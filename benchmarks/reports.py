"""Measure the commands that read every record: ``python -m benchmarks.reports --count 10000 --json FILE``.

The folder is that of ``benchmarks.many_records``. Each command is a process of its own; ``cpu`` is its processor time, user and system, and ``peak``
its largest resident set. ``again`` is the same command on a folder where nothing has changed since.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from benchmarks.many_records import write_records
from benchmarks.options import JSON, write_results
from petlbench.cli.printing import table_console

COMMANDS = {
    "leaderboard": ["leaderboard", "out=."],
    "leaderboard, again": ["leaderboard", "out=."],
    "export": ["export", "out=."],
    "compare": ["compare", "out=."],
    "compare lora vpt": ["compare", "lora", "vpt", "out=."],
    "validate": ["validate", "."],
}
_KB = 1 if sys.platform != "darwin" else 1 / 1024  # of ru_maxrss


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--count", type=click.IntRange(min=1), default=10_000, show_default=True, help="Records.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="A folder of many_records, instead of a new one.")
@click.option("--commands", default=",".join(COMMANDS), help="Only these, with commas between them.")
@JSON
def main(count: int, folder: Path | None, commands: str, target: Path | None) -> None:
    """Measure the commands that read every record of a results folder."""
    if unknown := set(commands.split(",")) - COMMANDS.keys():
        raise click.UsageError(f"unknown commands {', '.join(sorted(unknown))}; there are: {', '.join(COMMANDS)}")
    with tempfile.TemporaryDirectory() as scratch:
        results = folder or Path(scratch, "results")
        if folder is None:
            write_records(results, count)
        costs = {name: asdict(cost_of(COMMANDS[name], results)) for name in COMMANDS if name in commands.split(",")}
        page = results / "leaderboard.html"
        megabytes = page.stat().st_size / 1e6 if page.exists() else None
    table_console().print(table(costs, megabytes))
    write_results(target, {"settings": {"count": count}, "results": costs, "page_mb": megabytes}, torch.device("cpu"))


def cost_of(words: list[str], folder: Path) -> Cost:
    """Run ``petlbench`` with these words in a folder. ClickException when it ends with a bug; what it says of broken records is expected."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", "petlbench", *words], cwd=folder, env=environment, stdout=errors, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            errors.seek(0)
            raise click.ClickException(f"petlbench {' '.join(words)} ended with {process.returncode}: {errors.read()[-500:].decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss * _KB / 1000)


def table(costs: dict[str, dict[str, Any]], megabytes: float | None) -> Table:
    """A line per command."""
    shown = Table(caption=None if megabytes is None else f"leaderboard.html: {megabytes:.1f} MB", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "cpu s", "wall s", "peak MB"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, cost in costs.items():
        shown.add_row(name, f"{cost['cpu_seconds']:.1f}", f"{cost['wall_seconds']:.1f}", f"{cost['peak_mb']:.0f}")
    return shown


if __name__ == "__main__":
    main()
