"""Show the progress of runs: bars on a terminal and in a notebook, one line per finished run everywhere."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from petlbench.errors import printable
from petlbench.records.schema import Record
from petlbench.runs.plan import PlannedRun


def bars(is_shown: bool = True, transient: bool = False) -> Progress:
    """Return progress bars on stderr, disabled when it is neither a terminal nor a notebook. ``transient``: nothing of them stays at the end."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=transient, disable=not is_shown or not (console.is_terminal or console.is_jupyter))


def bar_of(progress: Progress, description: str) -> Callable[[int, int], None]:
    """Add a bar; the returned function sets the epochs done and their total."""
    bar = progress.add_task(printable(description), total=None)
    return lambda done, total: progress.update(bar, completed=done, total=total)


class Lines:
    """A bar for all runs and one for every worker, which says what runs there and how many of its epochs are done (``executor.Watch``)."""

    def __init__(self, shown: Progress, runs: int) -> None:
        self._shown = shown
        self._overall = shown.add_task("bench", total=runs)
        self._workers: dict[str, TaskID] = {}

    def began(self, worker: str, run: PlannedRun) -> None:
        if worker not in self._workers:
            self._workers[worker] = self._shown.add_task("", total=None)
        label = printable(f"{worker}: {run.config.label}" if worker else run.config.label)
        self._shown.reset(self._workers[worker], description=label, total=None)

    def advanced(self, worker: str, done: int, total: int) -> None:
        self._shown.update(self._workers[worker], completed=done, total=total)

    def ended(self, worker: str) -> None:
        self._shown.remove_task(self._workers.pop(worker))

    def finished(self, runs: int) -> None:
        """Set how many runs are done."""
        self._shown.update(self._overall, completed=runs)


def sentence(record: Record) -> str:
    """Describe a finished run in one line."""
    label = printable(record.label)
    if record.metrics is None:
        return f"{label}: {record.status}: {printable((record.error or '').partition(chr(10))[0])}"
    metrics = record.metrics
    note = " (budget reached)" if record.status == "budget" else ""
    note += " (oracle: the epoch was chosen on the test split)" if record.selection == "oracle_test" else ""
    note = f" of val{note}" if record.scored_on == "val" else note
    return f"{label}: accuracy {metrics.accuracy:.2f} % ± {metrics.standard_error:.2f} in {record.cost.total_seconds:.1f} s{note}"
