"""Show the progress of runs: bars on a terminal and in a notebook, one line per finished run everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from petlbench.errors import printable
from petlbench.records.schema import Record
from petlbench.runs.plan import PlannedRun


class _Bars(Progress):
    """Bars, and something else below them until they end."""

    below: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below

    def stop(self) -> None:
        self.below = None
        super().stop()


def bars(is_shown: bool = True, transient: bool = False, below: RenderableType | None = None) -> Progress:
    """Return progress bars on stderr, disabled when it is neither a terminal nor a notebook. ``transient``: nothing of them stays at the end;
    ``below``: what is drawn anew below them, too."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    rate = 10 if below is None else 1  # per second: a table takes some time to draw
    disable = not is_shown or not (console.is_terminal or console.is_jupyter)
    progress = _Bars(*columns, console=console, transient=transient, refresh_per_second=rate, disable=disable)
    progress.below = below
    return progress


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
