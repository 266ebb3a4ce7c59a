"""The Python interface, which the command line calls, too: ``petlbench.run``, ``bench``, ``plan``, ``tune``, ``results``, ``evaluate`` and
``reproduce``.

Settings have the names that they have on the command line, as keyword arguments or in a mapping: ``petlbench.run({"method.rank": 4},
method="lora", task="mini/digits", seed=0)``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlbench.config.executor import ExecutorChoice, split_choice
from petlbench.config.resolve import merged, nested, resolve
from petlbench.errors import CheckpointError, ConfigError, RecordError, printable
from petlbench.records.schema import Record
from petlbench.records.store import Records, RecordStore, is_kept
from petlbench.runs import plan as grid

if TYPE_CHECKING:
    import pandas as pd

    from petlbench.report.filling import FillingLeaderboard
    from petlbench.runs.reproduce import Reproduction
    from petlbench.tuning.tuned import StoredStudy

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
    common = _of_grid(settings, more)
    hyperparameters, only = common.pop("hyperparameters", None), common.pop("study", ())
    if hyperparameters is None and not only:
        return grid.plan(methods, tasks, seeds, common, available)
    if hyperparameters != "tuned":
        raise ConfigError(
            f"hyperparameters must be tuned, or left out for those of the YAML files, got {hyperparameters!r}; study=NAME needs it"
        )
    from petlbench.tuning.tuned import plan_tuned

    return plan_tuned(methods, tasks, seeds, common, available, only.split(",") if isinstance(only, str) else only)


def _of_grid(settings: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested settings that all runs of a grid have in common. ConfigError for what names a single run."""
    common = merged(nested(settings or {}), nested(more))
    of_one_run = {"methods": "name" in common.get("method", {}), "tasks": "task" in common, "seeds": "seed" in common}
    if wrong := [argument for argument, is_given in of_one_run.items() if is_given]:
        raise ConfigError(f"a grid takes {wrong[0]}=…, got {wrong[0].removesuffix('s')}=…, which is a setting of a single run")
    return common


def tune(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | int = 0,
    settings: Mapping[str, Any] | None = None,
    *,
    available: bool = False,
    progress: bool = True,
    **more: Any,
) -> tuple[StoredStudy, ...]:
    """Tune the hyper-parameters of methods on tasks: ``tune("lora,vpt", "mini", trials=20)``; ``bench(..., hyperparameters="tuned")`` runs the winners.

    Arguments are those of ``bench``, and ``trials``, ``sampler``, ``sampler_seed``, ``pruner`` (``config.tuning.TuneChoice``), ``search`` (changes of the
    search spaces) and ``budget.trials`` (limits of what all trials of a study send). A trial trains on train and is scored on val; its score is the mean
    over ``seeds``. The test split is not opened. What is recorded is not repeated: the same call continues a study, also beside other processes.
    """
    from petlbench.executors.executor import open_executor
    from petlbench.executors.progress import Lines, bars
    from petlbench.tuning.tune import open_tuning, told_in_words
    from petlbench.tuning.tuned import read_study

    choice, common = split_choice(_of_grid(settings, more))
    with open_tuning(methods, tasks, seeds, common, available) as tuning, bars(progress) as shown, open_executor(choice) as executor:
        lines = Lines(shown, tuning.asked)

        def say(line: str) -> None:
            if progress:
                shown.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

        for sentence in tuning.sentences():
            say(sentence)
        for told in tuning.carry_out(executor, lines, choice.jobs or 1):
            lines.finished(tuning.ended)
            say(f"[{tuning.ended}/{tuning.asked}] {told_in_words(told)}")
        return tuple(read_study(study.folder) for study in tuning.studies)


def bench(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | int | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    available: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
    tune: int | None = None,
    **more: Any,
) -> Results:
    """Carry out the runs of a grid that have no result yet: ``bench(methods=["lora", "vpt"], tasks=["mini"], seeds=[0, 1, 2])``.

    Arguments are those of ``plan``, and the settings of the executor (``config.executor.ExecutorChoice``): ``jobs``, the runs at a time, by default one
    per core for a small backbone on a CPU, else one; ``executor="ray"`` with ``address``, ``gpus_per_run`` and ``cpus_per_run``. ``retry_failed``: carry
    out again what failed or diverged. A run that fails is recorded and does not end the bench. ``tune``: tune every method with so many trials first;
    ``hyperparameters="tuned"``: run the winners of studies that there are.
    """
    choice, common = split_choice(merged(nested(settings or {}), nested(more)))
    if tune is not None:
        common = tuned_first(methods, tasks, settings={**common, "trials": tune}, choice=choice, available=available, progress=progress)
    return carry_out(plan(methods, tasks, seeds, common, available=available), choice, retry_failed, progress)


def tuned_first(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    *,
    settings: Mapping[str, Any],
    choice: ExecutorChoice,
    available: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Tune, with one seed, and return the settings with which ``plan`` plans the runs of the winners."""
    studies = tune(methods, tasks, 0, {**settings, **vars(choice)}, available=available, progress=progress)
    return {**settings, "hyperparameters": "tuned", "study": [study.about.name for study in studies]}


def carry_out(
    planned: grid.Plan,
    choice: ExecutorChoice | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    reraise: bool = False,
    filling: FillingLeaderboard | None = None,
) -> Results:
    """Carry out the missing and stale runs of a plan. ``reraise``: raise the error of the first run that fails in this process.

    ``filling``: a table that is shown with the progress, below the bars of a terminal all the time, elsewhere once, early.
    """
    from petlbench.executors.executor import open_executor
    from petlbench.executors.progress import Lines, bars, sentence

    todo = [run for run in planned.runs if run.state in ("missing", "stale") or (retry_failed and run.state == "failed")]
    outcomes = []
    with bars(progress, below=filling) as shown, open_executor(choice or ExecutorChoice()) as executor:
        lines = Lines(shown, len(todo))
        for number, (_, record, path) in enumerate(executor.carry_out(todo, lines, reraise), start=1):
            lines.finished(number)
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


def reproduce(
    record: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, /, *, progress: bool = True, **more: Any
) -> Reproduction:
    """Run a record again from its own settings, and return what is to compare: ``reproduce("results/records/…json").is_same``.

    ``settings`` and keyword arguments say where and how: ``out`` (by default a new folder for temporary files), ``device``, ``threads``, ``data_root``,
    ``url``, and where the run's own files lie. RecordError for a record that was changed or cancelled, or whose data or weights are not what they were.
    """
    from petlbench.executors.progress import bar_of, bars
    from petlbench.runs.reproduce import reproduce as run_again

    with bars(progress) as shown:
        return run_again(Path(record), merged(nested(settings or {}), nested(more)), bar_of(shown, f"reproduce {Path(record).name}"))


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
