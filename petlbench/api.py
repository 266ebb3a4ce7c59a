"""The Python interface, which the command line calls, too: ``petlbench.run``, ``bench``, ``plan``, ``results`` and ``evaluate``.

Settings have the names that they have on the command line, as keyword arguments or in a mapping: ``petlbench.run({"method.rank": 4},
method="lora", task="mini/digits", seed=0)``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlbench.config.resolve import merged, nested, resolve
from petlbench.errors import CheckpointError, ConfigError, RecordError, printable
from petlbench.records.schema import Record
from petlbench.records.store import Records, RecordStore, is_kept
from petlbench.runs import plan as grid

if TYPE_CHECKING:
    import pandas as pd

    from petlbench.report.filling import FillingLeaderboard

_log = logging.getLogger("petlbench.records")


@dataclass(frozen=True)
class Result:
    """A finished run, with or without a result."""

    record: Record
    path: Path  # of the record

    @property
    def accuracy(self) -> float | None:
        """Test accuracy in percent; None when the run has no result."""
        return None if self.record.metrics is None else self.record.metrics.accuracy

    @property
    def status(self) -> str:
        """``ok``, ``budget`` (ended when its budget was spent, with a result), ``failed``, ``diverged`` or ``cancelled``."""
        return self.record.status

    @property
    def is_kept(self) -> bool:
        """True when ``path`` still holds the record of an earlier run: it has a result, and this run has none."""
        return is_kept(self.record, self.path)

    def __repr__(self) -> str:
        from petlbench.executors.progress import sentence

        return f"<{sentence(self.record)}>"

    def location(self) -> str:
        """Say where the record is."""
        return f"{'the earlier result was kept' if self.is_kept else 'record'}: {self.path}"

    def summary(self) -> dict[str, Any]:
        """Return the fields that scripts need most, as plain values."""
        record = self.record
        names = {"method": record.method.name, "task": record.task, "seed": record.seed, "run_id": record.run_id}
        state = {"status": record.status, "selection": record.selection, "error": record.error}
        return {"accuracy": self.accuracy, "record": str(self.path), "kept": self.is_kept, **state, **names}


@dataclass(frozen=True)
class Results(Sequence[Result]):
    """The runs that a bench carried out, and its plan."""

    carried_out: tuple[Result, ...]
    plan: grid.Plan  # with the state of every run before the bench

    def __len__(self) -> int:
        return len(self.carried_out)

    def __getitem__(self, index: Any) -> Any:
        return self.carried_out[index]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The runs carried out that have no result."""
        return tuple(result for result in self.carried_out if not result.record.has_result)

    def leaderboard(self) -> pd.DataFrame:
        """Return the leaderboard of the results folder, with the columns of ``leaderboard.csv``."""
        from petlbench.analysis.aggregate import leaderboard, with_own_tasks
        from petlbench.config.files import suite_tasks

        records = _read(self.plan.out)
        return leaderboard(records, with_own_tasks(suite_tasks(), records))

    def accuracies(self) -> pd.DataFrame:
        """Return the mean test accuracy over seeds of the plan's runs: a row per method, a column per task."""
        frame = results(self.plan.out)
        chosen = frame[frame["run_id"].isin([run.config.run_id for run in self.plan.runs])]
        chosen = chosen.sort_values("created").drop_duplicates("run_id", keep="last")  # a run may have results on older data, too
        table: pd.DataFrame = chosen.pivot_table(index="method", columns="task", values="accuracy")
        return table

    def __repr__(self) -> str:
        done = sum(run.state == "done" for run in self.plan.runs)
        return f"<{len(self)} runs carried out, {len(self.failures)} without a result, {done} were done before>\n{self.accuracies().round(2).to_string()}"

    def _repr_html_(self) -> str:
        return str(self.accuracies().to_html(float_format="{:.2f}".format, na_rep="–"))


def run(settings: Mapping[str, Any] | None = None, /, *, progress: bool = True, reraise: bool = True, **more: Any) -> Result:
    """Carry out one run and record it: ``run(method="lora", task="mini/digits", seed=0)``.

    ``settings`` and keyword arguments are settings alike. A run that fails is recorded, and its error is raised unless ``reraise`` is false; a run
    that diverges is returned with ``status="diverged"``.
    """
    from petlbench.executors.progress import bar_of, bars
    from petlbench.runs.execute import execute

    config = resolve(merged(nested(settings or {}), nested(more)))
    with bars(progress) as shown:
        return Result(*execute(config, bar_of(shown, config.label), reraise))


def plan(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | int | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    available: bool = False,
    **more: Any,
) -> grid.Plan:
    """Return every run that ``bench`` would consider, each with its state on disk.

    ``methods`` and ``tasks``: names, or texts of names with commas; a suite is all of its tasks. ``seeds``: by default those of each task's suite.
    ``settings`` and further keyword arguments apply to all runs. ``available``: leave out tasks whose images are missing.
    """
    common = merged(nested(settings or {}), nested(more))
    of_one_run = {"methods": "name" in common.get("method", {}), "tasks": "task" in common, "seeds": "seed" in common}
    if wrong := [argument for argument, is_given in of_one_run.items() if is_given]:
        raise ConfigError(f"a grid takes {wrong[0]}=…, got {wrong[0].removesuffix('s')}=…, which is a setting of a single run")
    return grid.plan(methods, tasks, seeds, common, available)


def bench(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | int | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    available: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
    **more: Any,
) -> Results:
    """Carry out the runs of a grid that have no result yet: ``bench(methods=["lora", "vpt"], tasks=["mini"], seeds=[0, 1, 2])``.

    Arguments are those of ``plan``. ``jobs``: worker processes; by default one per core for a small backbone on a CPU, else one. ``retry_failed``:
    carry out again what failed or diverged. A run that fails is recorded and does not end the bench.
    """
    return carry_out(plan(methods, tasks, seeds, settings, available=available, **more), jobs, retry_failed, progress)


def carry_out(
    planned: grid.Plan,
    jobs: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    reraise: bool = False,
    filling: FillingLeaderboard | None = None,
) -> Results:
    """Carry out the missing and stale runs of a plan. ``reraise``: raise the error of the first run that fails.

    ``filling``: a table that is shown with the progress, below the bars of a terminal all the time, elsewhere once, early.
    """
    from petlbench.executors import local
    from petlbench.executors.progress import bars, sentence

    todo = [run for run in planned.runs if run.state in ("missing", "stale") or (retry_failed and run.state == "failed")]
    jobs = jobs or local.default_jobs(planned.runs[0].config, len(todo))
    outcomes = []
    with bars(progress, filling) as shown:
        overall = shown.add_task("bench", total=len(todo))
        current = shown.add_task("", total=None, visible=jobs == 1)

        def started(run: grid.PlannedRun) -> Callable[[int, int], None]:
            shown.update(current, description=printable(run.config.label), completed=0, total=None)
            return lambda done, total: shown.update(current, completed=done, total=total)

        for number, (_, record, path) in enumerate(local.carry_out(todo, jobs, started, reraise), start=1):
            shown.update(overall, completed=number)
            outcomes.append(result := Result(record, path))
            if progress:
                line = f"[{number}/{len(todo)}] {sentence(record)}" + (f" ({result.location()})" if result.is_kept else "")
                shown.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
            if filling is not None and filling.add(record) and progress and shown.disable:
                shown.console.print(filling.drawn())
    return Results(tuple(outcomes), planned)


def results(out: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """Return all records of a results folder, a row each, with the columns of ``runs.csv`` (docs/results.md). RecordError without that folder.

    A record that cannot be read is left out, with a warning in the log ``petlbench.records``.
    """
    from petlbench.analysis.export import flat_frame

    if not Path(out).is_dir():
        raise RecordError(f"no results folder {out}; name the folder that runs were written to (out=)")
    return flat_frame(_read(Path(out)))


def _read(out: Path) -> Records:
    """Read the records of a results folder; warn of each that cannot be read."""
    records = RecordStore(out).read()
    for line in records.broken:
        _log.warning("left out: %s", line)
    return records


def evaluate(checkpoint: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    """Measure the test accuracy of a checkpoint that a run with ``save=True`` wrote, or of a folder that was exported from one.

    ``task`` names another task than that of the run; it, and settings of files such as ``backbone.checkpoint``, say where the run's own lie. Files of
    this machine are read only where the caller names them, or where it has read that content before. ConfigError for a setting that cannot change
    any more; CheckpointError when the file is no
    checkpoint, or was learned on other weights than the backbone has now.
    """
    from petlbench.checkpoints.evaluate import evaluate_checkpoint
    from petlbench.checkpoints.file import Checkpoint, read_checkpoint
    from petlbench.checkpoints.pixels import evaluate_artifact
    from petlbench.checkpoints.pixels_file import read_artifact
    from petlbench.checkpoints.stored import check_settings

    path, chosen = Path(checkpoint), merged(nested(settings or {}), nested(more))
    saved = read_artifact(path) if path.is_dir() else read_checkpoint(path)
    check_settings(chosen, path, saved.config if isinstance(saved, Checkpoint) else saved.about.config, "evaluate")
    try:
        return evaluate_checkpoint(saved, chosen) if isinstance(saved, Checkpoint) else evaluate_artifact(saved, chosen)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
