"""What the command line does, from Python: ``petlbench.run``, ``bench``, ``plan``, ``results`` and ``evaluate``.

Settings are keyword arguments with the names that they have on the command line: ``petlbench.run(method="lora", task="mini/digits", seed=0,
**{"method.rank": 4})``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlbench.config.resolve import nested, resolve
from petlbench.errors import CheckpointError, ConfigError
from petlbench.records.schema import Record
from petlbench.records.store import is_kept
from petlbench.runs import plan as grid

if TYPE_CHECKING:
    import pandas as pd

_OF_EVALUATE = ("task", "device", "threads", "data_root", "backbone", "url")


@dataclass(frozen=True)
class Result:
    """A run that has ended, with or without a result."""

    record: Record  # everything that is known of it
    path: Path  # of the record

    @property
    def accuracy(self) -> float | None:
        """Percent of the test split; None when the run has no result."""
        return None if self.record.metrics is None else self.record.metrics.accuracy

    @property
    def status(self) -> str:
        """``ok``, ``budget`` (ended when its budget was spent, with a result), ``failed``, ``diverged`` or ``cancelled``."""
        return self.record.status

    @property
    def is_kept(self) -> bool:
        """Whether the record at the path is that of an earlier run, which has a result where this one has none."""
        return is_kept(self.record, self.path)

    def __repr__(self) -> str:
        from petlbench.executors.progress import sentence

        return f"<{sentence(self.record)}>"

    def place(self) -> str:
        """Where the record lies, in words."""
        return f"{'the earlier result was kept' if self.is_kept else 'record'}: {self.path}"

    def summary(self) -> dict[str, Any]:
        """The fields that scripts ask for first."""
        record = self.record
        names = {"method": record.method.name, "task": record.task, "seed": record.seed, "run_id": record.run_id}
        state = {"status": record.status, "selection": record.selection, "error": record.error}
        return {"accuracy": self.accuracy, "record": str(self.path), "kept": self.is_kept, **state, **names}


@dataclass(frozen=True)
class Results(Sequence[Result]):
    """What a bench has carried out, and what was there before."""

    carried_out: tuple[Result, ...]  # now
    plan: grid.Plan  # with the state of every run before

    def __len__(self) -> int:
        return len(self.carried_out)

    def __getitem__(self, index: Any) -> Any:
        return self.carried_out[index]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.carried_out)

    @property
    def failures(self) -> tuple[Result, ...]:
        """Those of now that have no result."""
        return tuple(result for result in self if not result.record.has_result)

    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard of the results folder, as ``leaderboard.csv`` holds it."""
        from petlbench.analysis.aggregate import leaderboard
        from petlbench.config.files import suite_tasks
        from petlbench.records.store import RecordStore

        return leaderboard(RecordStore(self.plan.out).read(), suite_tasks())

    def accuracies(self) -> pd.DataFrame:
        """Mean test accuracy over seeds: a row per method, a column per task of the plan."""
        wanted = {(run.config.method, run.config.task, run.config.seed) for run in self.plan.runs}
        frame = results(self.plan.out)
        chosen = [key in wanted for key in zip(frame["method"], frame["task"], frame["seed"], strict=True)]
        table: pd.DataFrame = frame[chosen].pivot_table(index="method", columns="task", values="accuracy")
        return table

    def __repr__(self) -> str:
        done = sum(run.state == "done" for run in self.plan.runs)
        return f"<{len(self)} runs carried out, {len(self.failures)} without a result, {done} were done before>\n{self.accuracies().round(2).to_string()}"

    def _repr_html_(self) -> str:
        return str(self.accuracies().style.format(precision=2, na_rep="–").to_html())


def run(*, progress: bool = True, reraise: bool = True, **settings: Any) -> Result:
    """Carry out one run and record it: ``run(method="lora", task="mini/digits", seed=0)``.

    A run that fails is recorded, too, and its error raised, unless ``reraise`` is false; one that diverges has a status that says so.
    """
    from petlbench.executors.progress import bar_of, bars
    from petlbench.runs.execute import execute

    config = resolve(settings)
    with bars(progress) as shown:
        return Result(*execute(config, bar_of(shown, f"{config.method} on {config.task}"), reraise))


def plan(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | None = None,
    *,
    available: bool = False,
    **settings: Any,
) -> grid.Plan:
    """What ``bench`` would do: every run with its state on disk."""
    return grid.plan(methods, tasks, seeds, settings, available)


def bench(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | None = None,
    *,
    jobs: int | None = None,
    available: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Results:
    """Carry out the runs of a grid that have no result yet: ``bench(methods=["lora", "vpt"], tasks=["mini"], seeds=[0, 1, 2])``.

    ``jobs``: worker processes; by default one per core for a small backbone on a CPU, else one.
    """
    return carry_out(grid.plan(methods, tasks, seeds, settings, available), jobs, retry_failed, progress)


def carry_out(
    planned: grid.Plan,
    jobs: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    reraise: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Results:
    """Carry out what is missing of a plan. ``tell``: called with a line per finished run."""
    from petlbench.executors import local
    from petlbench.executors.progress import bars, sentence

    todo = [run for run in planned.runs if run.state == "missing" or (retry_failed and run.state == "failed")]
    jobs = jobs or local.default_jobs(planned.runs[0].config, len(todo))
    outcomes = []
    with bars(progress) as shown:
        overall = shown.add_task("bench", total=len(todo))
        current = shown.add_task("", total=None, visible=jobs == 1)

        def started(run: grid.PlannedRun) -> Callable[[int, int], None]:
            shown.update(current, description=run.label, completed=0, total=None)
            return lambda done, total: shown.update(current, completed=done, total=total)

        for number, (_, record, path) in enumerate(local.carry_out(todo, jobs, started, reraise), start=1):
            shown.update(overall, completed=number)
            outcomes.append(result := Result(record, path))
            line = f"[{number}/{len(todo)}] {sentence(record)}" + (f" ({result.place()})" if result.is_kept else "")
            if tell is not None:
                tell(line)
            elif progress:
                shown.console.print(line, highlight=False, markup=False)
    return Results(tuple(outcomes), planned)


def results(out: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """All records of a results folder, finished runs and others: a row each, with the columns of ``runs.csv`` (docs/results.md)."""
    from petlbench.analysis.export import flat_frame
    from petlbench.records.store import RecordStore

    return flat_frame(RecordStore(Path(out)).read())


def evaluate(checkpoint: str | os.PathLike[str], **settings: Any) -> dict[str, Any]:
    """Test accuracy of what a run with ``save=True`` learned, or of the folder that was exported of one. ``task`` names another task.

    CheckpointError when the file is none, or was learned on other weights than there are now.
    """
    from petlbench.checkpoints.evaluate import evaluate_checkpoint
    from petlbench.checkpoints.file import read_checkpoint
    from petlbench.checkpoints.pixels import evaluate_artifact
    from petlbench.checkpoints.pixels_file import read_artifact

    path = Path(checkpoint)
    if not_allowed := set(nested(settings)) - set(_OF_EVALUATE):
        allowed, given = ", ".join(sorted(_OF_EVALUATE)), ", ".join(sorted(not_allowed))
        raise ConfigError(f"evaluate takes {allowed}, got {given}; the rest is in the checkpoint")
    try:
        return evaluate_artifact(read_artifact(path), settings) if path.is_dir() else evaluate_checkpoint(read_checkpoint(path), settings)
    except CheckpointError as error:
        raise error if str(error).startswith(f"{path}") else CheckpointError(f"{path}: {error}") from None
