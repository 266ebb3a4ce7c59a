"""Measure the time to start: ``python -m benchmarks.driver --rounds 5 --json FILE``.

* ``commands``: from the start of a Python process to its end. ``python`` does nothing and is part of all others; ``petlbench run`` is a
  first run, with nothing stored yet, of one epoch;
* ``lists``: ``petlbench methods`` and the others, for the first time and when what they show is known;
* ``grids``: plans of grids of 342 and 10,032 runs, none of them done and all done, for the first time and when the records are known. ``--seeds 3``
  leaves out the larger one. ``bench`` begins with the same plan;
* ``imports``: of the libraries, each in a process of its own, from the line that imports it to the next. All but torch find torch imported,
  and are measured with whatever they import in turn: timm is part of open_clip and peft, transformers of whoever finds it installed.

Every process starts in a folder of its own with empty stores, but for what is "known". Seconds are those of a clock and of the processor, which
differ when other programs share the cores. The figures take turns, round by round; the first round brings files and compiled
modules into the system's memory and does not count. Figures are medians of the others.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from benchmarks.grid import fill
from benchmarks.options import JSON, write_results
from petlbench.cli.printing import table_console

COMMANDS = {
    "python": ["-c", "pass"],
    "import petlbench": ["-c", "import petlbench"],
    "petlbench --help": ["-m", "petlbench", "--help"],
    "petlbench run": ["-m", "petlbench", "run", "method=linear", "task=mini/digits", "train.epochs=1", "train.warmup_epochs=0"],
}
IMPORTS = ("torch", "timm", "open_clip", "peft")
LISTS = ("methods", "suites", "tasks", "backbones", "recipes")
SEEDS = (3, 88)  # of each of the methods on each of the mini tasks
TIMED_IMPORT = """
import time
if "{name}" != "torch":
    from petlbench.torchvision_ops import define_missing_schemas
    define_missing_schemas()
start = time.perf_counter()
import {name}
print(time.perf_counter() - start)
"""


Seconds = tuple[float, float | None]  # of a clock, and of the processor where they are known


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds that count.")
@click.option("--seeds", "seeds", type=click.IntRange(min=1), multiple=True, default=SEEDS, show_default=True, help="Seeds of a grid.")
@JSON
def main(rounds: int, seeds: tuple[int, ...], target: Path | None) -> None:
    """Measure how long commands and imports take in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        grids = {count: Path(folder, str(count)) for count in seeds}
        sizes = {count: fill(out, "all", "mini", count) for count, out in grids.items()}
        samples = [measure({out: (count, sizes[count]) for count, out in grids.items()}) for _ in range(rounds + 1)][1:]
    results = {part: {name: _row([sample[part][name] for sample in samples]) for name in figures} for part, figures in samples[0].items()}
    for part, rows in results.items():
        table_console().print(table(part, rows))
    write_results(target, {"settings": {"rounds": rounds}, "results": results}, torch.device("cpu"))


def measure(grids: Mapping[Path, tuple[int, int]]) -> dict[str, dict[str, Seconds]]:
    """Seconds of every figure, once. ``grids``: results folders with their numbers of seeds and of runs, which are all done."""
    return {
        "commands": {name: _python(words)[1] for name, words in COMMANDS.items()},
        "lists": list_seconds(),
        "grids": {name: seconds for out, (seeds, runs) in grids.items() for name, seconds in grid_seconds(out, seeds, runs).items()},
        "imports": {name: (import_seconds(name), None) for name in IMPORTS},
    }


def list_seconds() -> dict[str, Seconds]:
    """Measure every list in an empty cache, and again in the same."""
    found: dict[str, Seconds] = {}
    for kind in LISTS:
        with tempfile.TemporaryDirectory() as cache:
            found[kind], found[f"{kind}, known"] = (_python(["-m", "petlbench", kind], Path(cache))[1] for _ in range(2))
    return found


def grid_seconds(out: Path, seeds: int, runs: int) -> dict[str, Seconds]:
    """Measure the plans of a grid: with an empty results folder; with one in which all is done, in an empty cache, and again in the same."""
    words = ["-m", "petlbench", "plan", "method=all", "task=mini", f"seeds={','.join(map(str, range(seeds)))}"]
    with tempfile.TemporaryDirectory() as cache:
        first, known = (_python([*words, f"out={out}"], Path(cache))[1] for _ in range(2))
    return {
        f"plan of {runs:,}, none done": _python(words)[1],
        f"plan of {runs:,}, all done": first,
        f"plan of {runs:,}, all done, known": known,
    }


def import_seconds(name: str) -> float:
    """Measure the import of a library in a new process."""
    return float(_python(["-c", TIMED_IMPORT.format(name=name)])[0].splitlines()[-1])


def _python(words: list[str], cache: Path | None = None) -> tuple[str, Seconds]:
    """Run a process of this interpreter in an empty folder; return what it printed and its seconds. ClickException when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PETLBENCH_CACHE": str(cache or Path(folder, "cache"))}
        before, start = _processor_seconds(), time.perf_counter()
        reply = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start, _processor_seconds() - before
    if reply.returncode:
        last = (reply.stderr.strip() or "nothing was printed").splitlines()[-1]
        raise click.ClickException(f"python {' '.join(words)} ended with exit code {reply.returncode}: {last}")
    return reply.stdout, seconds


def _processor_seconds() -> float:
    """Return what all processes took that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(samples: list[Seconds]) -> dict[str, list[float]]:
    processor = [used for _, used in samples if used is not None]
    return {"seconds": [clock for clock, _ in samples], "processor_seconds": processor}


def table(part: str, rows: dict[str, Any]) -> Table:
    """Medians."""
    shown = Table(title=part, box=None, padding=(0, 2, 0, 0))
    for column in ("", "s", "processor s"):
        shown.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        used = row["processor_seconds"]
        shown.add_row(name, f"{statistics.median(row['seconds']):.2f}", f"{statistics.median(used):.2f}" if used else "")
    return shown


if __name__ == "__main__":
    main()
