"""The columns of the leaderboard, one entry each: its name, heading and help, how it is computed from a method's runs, how it is shown.

leaderboard.csv, leaderboard.md, the terminal's table and the page are all made from these entries. Columns of tasks and of averages follow from the
suites and are made in ``petlbench.analysis.aggregate``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pandas as pd

from petlbench.access.rungs import BOXES
from petlbench.analysis import formats
from petlbench.records.schema import Record

OWN_SUITE = "mini"  # whose sections in YAML files are no paper's


@dataclass(frozen=True)
class Column:
    """A column as readers see it."""

    name: str  # in leaderboard.csv
    heading: str  # elsewhere
    help: str
    show: Callable[[Any], str] = str  # text of a value
    is_text: bool = False  # left-aligned, sorted by the alphabet


@dataclass(frozen=True)
class RunsColumn(Column):
    """A column that is computed from the runs of a row."""

    of_run: Callable[[Record], float | str] | None = None  # value of a run in ``runs_frame``; None: ``over_runs`` needs none
    over_runs: Callable[[pd.DataFrame, str], float | str] = lambda runs, name: float(runs[name].mean())  # rows of ``runs_frame``, own name
    axis: str = ""  # label of an axis; with one, the page offers the column as a cost to draw accuracy against
    front: str = ""  # name of the cost; with one, the front of accuracy against it is computed
    is_in_terminal: bool = False  # a row of the terminal's table has 120 characters


C = TypeVar("C", bound=Column)


def _mean_over_tasks(runs: pd.DataFrame, name: str) -> float:
    """Each task counts once, however many seeds it has."""
    return float(runs.groupby("task")[name].mean().mean())


def _largest(runs: pd.DataFrame, name: str) -> float:
    return float(runs[name].max())


def _highest_rung(runs: pd.DataFrame, name: str) -> str:
    return max(runs[name], key=["", *BOXES].index)


def _seeds(runs: pd.DataFrame, name: str) -> str:
    return ",".join(map(str, sorted(set(runs["seed"]))))


def _parameters(field: str) -> Callable[[Record], float]:
    return lambda record: float(getattr(record.parameters, field)) if record.parameters else math.nan


def _cost(field: str) -> Callable[[Record], float]:
    def of_run(record: Record) -> float:
        value = getattr(record.cost, field)
        return math.nan if value is None else float(value)

    return of_run


def _queries(field: str) -> Callable[[Record], float]:
    """Sum over phases, without evaluations for the curve, which are no cost of a method; NaN at WEIGHTS, where no model is queried."""

    def of_run(record: Record) -> float:
        if record.method.access == "WEIGHTS":
            return math.nan
        return float(sum(getattr(count, field) for phase, count in record.cost.queries.items() if phase != "curve"))

    return of_run


def _queries_with_tuning(record: Record) -> float:
    """Images sent by a run and by all trials of the study that chose its settings; NaN where none did."""
    if record.tuning is None:
        return math.nan
    return _queries("images")(record) + sum(count.images for count in record.tuning.queries.values())


def origin(record: Record) -> Literal["default", "paper", "tuned"]:
    """Return where a run's settings come from. The sections of YAML files for suites and tasks are a paper's, but for those of petlbench's own suite."""
    if record.tuning is not None:
        return "tuned"
    section, _, name = record.hyperparameters.partition(" ")
    is_own = section not in ("recipe", "suite", "task") or (section != "recipe" and name.partition("/")[0] == OWN_SUITE)
    return "default" if is_own else "paper"


def _origins(runs: pd.DataFrame, name: str) -> str:
    """Return the kinds of origin of a row's settings; of tuned ones with the trials and the winners' mean accuracy on val over tasks."""
    return ", ".join(_tuned(runs) if kind == "tuned" else kind for kind in sorted(set(runs[name])))


def _tuned(runs: pd.DataFrame) -> str:
    tuned = runs[runs["tuning"].notna()]
    trials = " or ".join(map(str, sorted({tuning.trials for tuning in tuned["tuning"]})))
    val = tuned.assign(val=[tuning.val_accuracy for tuning in tuned["tuning"]]).groupby("task")["val"].mean().mean()
    return f"tuned ({trials} trials, val {val:.2f} %)"


def _named(*columns: C) -> dict[str, C]:
    return {column.name: column for column in columns}


ROW_COLUMNS: dict[str, Column] = _named(
    Column("method", "method", "Method, with the settings that differ from its most common ones.", is_text=True),
    Column(
        "access",
        "access",
        "Granted access: the rung in the CSV file and on the page, its box in other tables.",
        BOXES.__getitem__,
        is_text=True,
    ),
    Column("backbone", "backbone", "Backbone, with a hash where several weights have its name.", is_text=True),
    Column("suite", "suite", "Suite of the tasks.", is_text=True),
    Column("protocol", "protocol", "Name and hash of the protocol.", is_text=True),
    Column(
        "mean", "mean", "Mean accuracy over tasks, percent, by which methods are ranked; none where a result is missing.", formats.decimals
    ),
    Column(
        "rank",
        "#",
        "Rank by the mean among methods of one suite, backbone and protocol; ties share.",
        lambda rank: formats.decimals(rank, 0),
    ),
)
COLUMNS: dict[str, RunsColumn] = _named(
    RunsColumn(
        "params_trainable",
        "trainable",
        "Trained parameters without the head, mean over tasks.",
        formats.count,
        of_run=_parameters("trainable"),
        over_runs=_mean_over_tasks,
        axis="trainable parameters without the head",
        front="parameters",
        is_in_terminal=True,
    ),
    RunsColumn(
        "params_head",
        "head",
        "Parameters of the head, mean over tasks.",
        formats.count,
        of_run=_parameters("head"),
        over_runs=_mean_over_tasks,
    ),
    RunsColumn(
        "stored_bytes",
        "stored bytes",
        "Size of what is stored for a task, head included, mean over tasks.",
        formats.count,
        of_run=_parameters("stored_bytes"),
        over_runs=_mean_over_tasks,
    ),
    RunsColumn(
        "train_seconds",
        "train s",
        "Seconds of training, mean over runs.",
        formats.seconds,
        of_run=_cost("train_seconds"),
        axis="training time (s)",
        front="time",
        is_in_terminal=True,
    ),
    RunsColumn(
        "run_memory_mb",
        "memory MB",
        "Memory that a run added to the loaded backbone, at its peak, largest of all runs; not known of records before schema version 4.",
        lambda value: formats.decimals(value, 0),
        of_run=_cost("run_memory_mb"),
        over_runs=_largest,
        axis="memory that a run adds to the backbone (MB)",
        front="memory",
    ),
    RunsColumn(
        "peak_memory_mb",
        "process MB",
        "Memory of the whole process at its peak, largest of all runs.",
        lambda value: formats.decimals(value, 0),
        of_run=_cost("peak_memory_mb"),
        over_runs=_largest,
    ),
    RunsColumn(
        "images_forwarded",
        "images",
        "Images through the backbone in all phases, mean over runs.",
        formats.count,
        of_run=_cost("images_forwarded"),
    ),
    RunsColumn(
        "flops_per_image",
        "FLOPs/image",
        "Floating-point operations of predicting one image, mean over tasks; unknown for models that can only be queried.",
        formats.count,
        of_run=_cost("flops_per_image"),
        over_runs=_mean_over_tasks,
        axis="floating-point operations of a prediction",
    ),
    RunsColumn(
        "queries",
        "queries",
        "Images sent to a model that is only queried, mean over runs.",
        formats.count,
        of_run=_queries("images"),
        axis="queries (images sent per run)",
        front="queries",
        is_in_terminal=True,
    ),
    RunsColumn(
        "contexts",
        "contexts",
        "Prompt contexts sent to a model that is only queried, mean over runs.",
        formats.count,
        of_run=_queries("contexts"),
        axis="contexts sent per run",
    ),
    RunsColumn(
        "queries_with_tuning",
        "queries incl. tuning",
        "Images sent by a run and by all trials of the study that chose its settings, mean over runs; none where settings were not tuned.",
        formats.count,
        of_run=_queries_with_tuning,
        axis="queries with those of tuning (images sent)",
        is_in_terminal=True,
    ),
    RunsColumn(
        "settings",
        "settings",
        "Origin of the settings: default, paper (a recipe, or a paper's values for a suite or task), tuned (trials, mean accuracy on val of the winners).",
        is_text=True,
        of_run=origin,
        over_runs=_origins,
    ),
    RunsColumn(
        "access_seen",
        "rung used",
        "Highest rung of the access ladder that a run used.",
        lambda rung: rung or formats.MISSING,
        is_text=True,
        of_run=lambda record: record.method.access_seen or "",
        over_runs=_highest_rung,
    ),
    RunsColumn("seeds", "seeds", "Seeds with a result.", is_text=True, over_runs=_seeds, is_in_terminal=True),
)  # in the order of leaderboard.csv


def known_columns(part: pd.DataFrame) -> list[RunsColumn]:
    """Return those of ``COLUMNS`` that have a value in at least one row of a leaderboard; tables leave the others out."""
    return [column for name, column in COLUMNS.items() if any(column.show(value) != formats.MISSING for value in part[name])]
