"""Measure the time to start: ``python -m benchmarks.driver --rounds 5 --json FILE``.

* ``commands``: from the start of a Python process to its end. ``python`` does nothing and is part of all others; ``petlbench run`` is a
  first run, with nothing stored yet, of one epoch;
* ``imports``: of the libraries, each in a process of its own, from the line that imports it to the next. All but torch find torch imported,
  and are measured with whatever they import in turn: timm is part of open_clip and peft, transformers of whoever finds it installed.

Every process starts in a folder of its own with empty stores. The figures take turns, round by round; the first round brings files and compiled
modules into the system's memory and does not count. Figures are medians of the others.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from benchmarks.options import JSON, write_results
from petlbench.cli.printing import table_console

COMMANDS = {
    "python": ["-c", "pass"],
    "import petlbench": ["-c", "import petlbench"],
    "petlbench --help": ["-m", "petlbench", "--help"],
    "petlbench methods": ["-m", "petlbench", "methods"],
    "petlbench plan": ["-m", "petlbench", "plan", "method=all", "task=mini"],
    "petlbench run": ["-m", "petlbench", "run", "method=linear", "task=mini/digits", "train.epochs=1", "train.warmup_epochs=0"],
}
IMPORTS = ("torch", "timm", "open_clip", "peft")
TIMED_IMPORT = """
import time
if "{name}" != "torch":
    from petlbench.torchvision_ops import define_missing_schemas
    define_missing_schemas()
start = time.perf_counter()
import {name}
print(time.perf_counter() - start)
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds that count.")
@JSON
def main(rounds: int, target: Path | None) -> None:
    """Measure how long commands and imports take in a new process."""
    samples = [measure() for _ in range(rounds + 1)][1:]
    results = {
        part: {name: {"seconds": [sample[part][name] for sample in samples]} for name in figures} for part, figures in samples[0].items()
    }
    for part, rows in results.items():
        table_console().print(table(part, rows))
    write_results(target, {"settings": {"rounds": rounds}, "results": results}, torch.device("cpu"))


def measure() -> dict[str, dict[str, float]]:
    """Seconds of every figure, once."""
    return {
        "commands": {name: command_seconds(words) for name, words in COMMANDS.items()},
        "imports": {name: import_seconds(name) for name in IMPORTS},
    }


def command_seconds(words: list[str]) -> float:
    """Measure a process of this interpreter with these words."""
    start = time.perf_counter()
    _python(words)
    return time.perf_counter() - start


def import_seconds(name: str) -> float:
    """Measure the import of a library in a new process."""
    return float(_python(["-c", TIMED_IMPORT.format(name=name)]).splitlines()[-1])


def _python(words: list[str]) -> str:
    """Run a process in an empty folder and return what it printed. ClickException when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PETLBENCH_CACHE": str(Path(folder, "cache"))}
        reply = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if reply.returncode:
        last = (reply.stderr.strip() or "nothing was printed").splitlines()[-1]
        raise click.ClickException(f"python {' '.join(words)} ended with exit code {reply.returncode}: {last}")
    return reply.stdout


def table(part: str, rows: dict[str, Any]) -> Table:
    """Medians."""
    shown = Table(title=part, box=None, padding=(0, 2, 0, 0))
    shown.add_column("")
    shown.add_column("s", justify="right")
    for name, row in rows.items():
        shown.add_row(name, f"{statistics.median(row['seconds']):.2f}")
    return shown


if __name__ == "__main__":
    main()
