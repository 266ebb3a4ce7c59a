"""Measure what a run costs beside its own work, and how the bench scales: ``python -m benchmarks.scaling --workers 1,2,4,8 --json FILE``.

Every run sleeps for a known time where a method would train, with a head of chance for an answer, and is recorded as any other: so workers do not
compete for cores, and what is above the sleep is the harness. ``local``: worker processes of this machine. ``ray``: actors of a cluster that is started
here, with as many CPUs as workers, real or not. Before what is measured the
same workers carry out runs until each has had one.

* ``overhead``: milliseconds of a worker per run that are not the run's own, (time x workers - runs x a run's own time) / runs. A run's own time is what
  one worker in this process needs for it;
* ``efficiency``: the time that the runs take without overhead on so many workers, divided by the time that they took.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from benchmarks.options import JSON, write_results
from petlbench import api
from petlbench.cli.printing import table_console
from petlbench.config.executor import ExecutorChoice
from petlbench.executors.executor import Executor, Unwatched, Watch, open_executor
from petlbench.runs.plan import PlannedRun

EXECUTORS = ("local", "ray")
PLUGIN = """
import time
from dataclasses import dataclass
import torch
from petlbench import Access, QueryMethod, register_method


@dataclass
class Sleep:
    seconds: float = 1.0


@register_method("sleeper", Sleep)
class Sleeper(QueryMethod):
    access = Access.SCORES

    def fit(self, model, data):
        time.sleep(self.config.seconds)

    def predict(self, model, images):
        return torch.zeros(len(images), 10)
"""


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise click.UsageError(f"--workers takes whole numbers such as 1,2,4,8, got {text}")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", callback=_numbers, default="1,2,4,8", show_default=True, help="Numbers of workers.")
@click.option("--executors", "names", default="local,ray", show_default=True, help="Of local and ray.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Seconds that a run sleeps.")
@click.option("--runs", type=click.IntRange(min=1), default=8, show_default=True, help="Runs of each worker that count.")
@JSON
def main(workers: list[int], names: str, seconds: float, runs: int, target: Path | None) -> None:
    """Measure the overhead of a run and the efficiency of several workers, with runs that sleep."""
    if unknown := set(names.split(",")) - set(EXECUTORS):
        raise click.UsageError(f"--executors takes {' and '.join(EXECUTORS)}, got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        own = own_seconds(Path(folder) / "own", seconds, runs)
        rows = [row(name, count, seconds, runs, own, Path(folder)) for name in names.split(",") for count in workers]
    table_console().print(table(rows))
    write_results(
        target, {"settings": {"seconds": seconds, "runs_per_worker": runs}, "own_seconds": own, "results": rows}, torch.device("cpu")
    )


def install(folder: Path) -> None:
    """Make the method known to this process and to those that it starts."""
    about = folder / "sleeper-1.dist-info"
    about.mkdir()
    (folder / "sleeper.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[petlbench.methods]\nsleeper = sleeper:Sleeper\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def own_seconds(out: Path, seconds: float, runs: int) -> float:
    """Return the median seconds of a run in this process, of which nobody else is asked, after one that does not count."""
    with open_executor(ExecutorChoice(jobs=1)) as executor:
        return statistics.median(_times(executor, out, seconds, range(runs + 1))[1:])


def row(name: str, workers: int, seconds: float, runs: int, own: float, folder: Path) -> dict[str, Any]:
    """Measure one executor with so many workers."""
    cluster = {"cpus_per_run": 1.0, "gpus_per_run": 0.0} if name == "ray" else {}
    out, count = folder / f"{name}-{workers}", runs * workers
    with _cpus(workers if name == "ray" else None), open_executor(ExecutorChoice(executor=name, jobs=workers, **cluster)) as executor:  # type: ignore[arg-type]
        used = _warmed(executor, out, seconds, workers)
        start = time.perf_counter()
        _times(executor, out, seconds, range(used, used + count))
        took = time.perf_counter() - start
    click.echo(f"{name}, {workers} workers: {count} runs in {took:.1f} s", err=True)
    overhead = (took * workers - count * own) / count
    return {
        "executor": name,
        "workers": workers,
        "runs": count,
        "seconds": took,
        "overhead_ms": overhead * 1000,
        "efficiency": own * runs / took,
    }


class _cpus:  # noqa: N801 (a context manager that reads as one)
    """Let the cluster that starts in this block have so many CPUs, real or not."""

    def __init__(self, count: int | None) -> None:
        self._count = count

    def __enter__(self) -> None:
        if self._count is not None:
            import ray

            ray.init(
                "local",
                num_cpus=self._count,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _system_config={"worker_niceness": 0},
            )

    def __exit__(self, *_: object) -> None:
        if self._count is not None:
            import ray

            ray.shutdown()


class _Seen(Unwatched):
    """The workers that have had a run."""

    def __init__(self) -> None:
        self.workers: set[str] = set()

    def began(self, worker: str, run: PlannedRun) -> None:
        self.workers.add(worker)


def _warmed(executor: Executor, out: Path, seconds: float, workers: int) -> int:
    """Carry out runs until every worker has started and had one; return how many."""
    seen, used = _Seen(), 0
    while len(seen.workers) < workers:
        _times(executor, out, seconds, range(used, used + workers), seen)
        used += workers
    return used


def _times(executor: Executor, out: Path, seconds: float, seeds: Sequence[int], watch: Watch | None = None) -> list[float]:
    """Carry out runs; return the seconds from each record to the next."""
    settings = {"out": str(out), "threads": 1, "device": "cpu", "curve": False, "method.seconds": seconds}
    planned = api.plan("sleeper", "mini/digits", list(seeds), settings)
    moments = [time.perf_counter()]
    for outcome in executor.carry_out(planned.runs, watch or Unwatched()):
        if not outcome.record.has_result:
            raise click.ClickException(f"{outcome.record.label}: {outcome.record.error}")
        moments.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(moments)]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Overheads and efficiencies."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "workers", "runs", "s", "overhead, ms", "efficiency"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for one in rows:
        figures = (f"{one['seconds']:.1f}", f"{one['overhead_ms']:.0f}", f"{one['efficiency']:.2f}")
        shown.add_row(one["executor"], str(one["workers"]), str(one["runs"]), *figures)
    return shown


if __name__ == "__main__":
    main()
