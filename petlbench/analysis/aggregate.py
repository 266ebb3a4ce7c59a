"""Data frames for tables and plots, computed from records. Full floats: numbers are rounded where they are shown."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from petlbench.analysis.columns import COLUMNS, ROW_COLUMNS, Column
from petlbench.analysis.formats import decimals
from petlbench.config.files import load_suite, names
from petlbench.errors import RecordError
from petlbench.published.averages import Average, averages_of
from petlbench.records.schema import Record

_RUN_COLUMNS = (
    *("key", "method", "access", "backbone", "task", "protocol", "selection", "seed", "accuracy", "standard_error"),
    *("params_backbone", "code", "allocation", "curve", "tuning"),
)

_HAS_OWN_COLUMN = ("seed", "task", "backbone", "protocol")  # of a configuration; every other setting makes a variant of a method
_ABSENT = "absent"  # the value of a setting that a record's code did not have yet, or of one added since (petlbench.config.identity) at its default


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per run with a result of the test split, in an order that does not depend on the order of the records.

    ``method``, ``backbone`` and ``protocol`` are labelled so that no average mixes different runs: a method by the
    settings that vary (``lora [rank=4]``), a backbone by its weights (``vit@1a2b3c4d``), a protocol by the revision of the data when it is
    not the newest one (``native-1a2b3c4d (data r1)``). Accuracy and its standard error are percent. There is a column for each of ``COLUMNS``
    that has a value of its own for a run. ``key``, ``allocation`` (module name -> trainable parameters) and ``curve`` are the record's.
    """
    finished = latest_of_each_run(record for record in records if record.is_tested)
    backbones, protocols = _backbone_labels(finished), _protocol_labels(finished)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, record in enumerate(finished):
        groups[record.method.name, record.method.access, backbones[i], protocols[i], record.selection, _tuned(record)].append(i)
    methods = [""] * len(finished)
    for members in groups.values():
        for i, label in zip(members, _method_labels([finished[i] for i in members]), strict=True):
            methods[i] = label
    rows = [_row(*labelled) for labelled in zip(finished, methods, backbones, protocols, strict=True)]
    rows.sort(key=lambda row: tuple(row[key] for key in ("method", "access", "backbone", "protocol", "task", "seed", "key")))
    return pd.DataFrame(rows, columns=[*_RUN_COLUMNS, *(name for name, column in COLUMNS.items() if column.of_run)])


def leaderboard(records: Iterable[Record], suites: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return one row per method x backbone x suite x protocol; columns: ``ROW_COLUMNS``, averages, one per task of ``suites``, ``COLUMNS``.

    A task's cell is the mean over seeds, percent. ``mean`` is the mean of the cells, of those that the suite is ranked by where it names some;
    beside it stand the other averages that papers print over a suite (``average_columns``). Each is withheld (NaN) when one of its cells is
    missing. Ranks (1 is best, ties share) compare the means of one suite, backbone and protocol.
    """
    return leaderboard_of(runs_frame(records), suites)


def leaderboard_of(runs: pd.DataFrame, suites: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the ``leaderboard`` of a ``runs_frame``."""
    rows = []
    for suite, tasks in suites.items():
        ranked, averages = ranked_tasks(suite, tasks), _averages(suite, tasks)
        of_suite = runs[runs["task"].isin(list(tasks))]
        for (method, access, backbone, protocol), group in of_suite.groupby(["method", "access", "backbone", "protocol"]):
            cells = group.groupby("task")["accuracy"].mean().reindex(list(tasks))
            row: dict[str, Any] = {"method": method, "access": access, "backbone": backbone, "suite": suite, "protocol": protocol}
            row |= {"mean": cells[ranked].mean(skipna=False), **{str(task): value for task, value in cells.items()}}
            row |= {name: _over(average, cells) for name, average in averages.items()}
            row |= {name: column.over_runs(group, name) for name, column in COLUMNS.items()}
            rows.append(row)
    order = {suite: i for i, suite in enumerate(suites)}
    rows.sort(key=lambda row: (order[row["suite"]], math.isnan(row["mean"]), -row["mean"], row["method"], row["backbone"], row["protocol"]))
    tasks_of_all = list(dict.fromkeys(task for tasks in suites.values() for task in tasks))
    averages_of_all = [name for suite, tasks in suites.items() for name in _averages(suite, tasks)]
    frame = pd.DataFrame(rows, columns=[*ROW_COLUMNS, *averages_of_all, *tasks_of_all, *COLUMNS])
    ranks = frame.groupby(["suite", "backbone", "protocol"])["mean"].rank(method="min", ascending=False)
    return frame.assign(rank=ranks.astype("Int64"))


def with_own_tasks(suites: Mapping[str, Sequence[str]], records: Iterable[Record]) -> dict[str, Sequence[str]]:
    """Return suites and, behind them, each task with a finished run that none of them lists as a suite of its own: own data, joined tasks."""
    listed = {task for tasks in suites.values() for task in tasks}
    own = sorted({record.task for record in records if record.is_tested} - listed)
    return {**suites, **{task: (task,) for task in own}}


def is_own_task(part: pd.DataFrame) -> bool:
    """Return True for one of the ``comparable_parts`` that is a task which no suite lists, and so no paper has numbers for."""
    return part["suite"].iloc[0] in part.columns


def task_columns(frame: pd.DataFrame) -> list[str]:
    """Return the task columns of a leaderboard that belong to the suites of its rows or have a value."""
    others = {*ROW_COLUMNS, *COLUMNS, *filter(_is_average, frame.columns)}
    columns = [str(column) for column in frame.columns if column not in others]
    suites = set(frame["suite"])
    listed = {column for column in columns if column.partition("/")[0] in suites and "+" not in column}  # joined tasks are no suite's
    return [column for column in columns if column in listed or bool(frame[column].notna().any())]


def _is_average(column: str) -> bool:
    """Return True for the column of an average, such as ``vtab:mean_natural``; ``folder:mean_natural`` is a task."""
    suite, _, name = column.partition(":")
    return any(average.name == name for average in averages_of(suite))


def average_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of averages besides ``mean`` of the suites of a leaderboard's rows, such as ``vtab:mean_natural``."""
    suites = set(frame["suite"])
    return [str(column) for column in frame.columns if _is_average(column) and column.partition(":")[0] in suites]


def accuracy_columns(part: pd.DataFrame, tasks: Sequence[str]) -> list[Column]:
    """Return the accuracy columns of one of the ``comparable_parts``: the ranking mean, other averages of the suite, the given tasks."""
    averages, count = average_columns(part), len(ranked_columns(part))
    mean = ROW_COLUMNS["mean"]
    columns = [replace(mean, heading=f"mean of {count}") if averages else mean]
    for name in averages:
        heading = name.partition(":")[2].replace("_", " ")
        columns.append(Column(name, heading, f"{heading.capitalize()}, percent; none where a result is missing.", decimals))
    for task, label in zip(tasks, task_labels(tasks), strict=True):
        columns.append(Column(task, label, f"Accuracy on {task}, percent, mean over seeds.", decimals))
    return columns


def task_labels(tasks: Sequence[str]) -> list[str]:
    """Return task names without their suite, unless two would be equal."""
    short = [task if "+" in task else task.rpartition("/")[2] or task for task in tasks]  # joined tasks are not the last of them
    return [name if short.count(name) == 1 else task for task, name in zip(tasks, short, strict=True)]


def ranked_tasks(suite: str, tasks: Sequence[str]) -> list[str]:
    """Return the tasks of a suite whose mean ranks the methods: all, unless its YAML names a group in ``ranked_by``."""
    ranked_by = load_suite(suite).ranked_by if suite in names("suites") else None
    return list(tasks) if ranked_by is None else [task for task in tasks if task in load_suite(suite).groups[ranked_by]]


def ranked_columns(part: pd.DataFrame) -> list[str]:
    """Return the task columns that ``mean`` averages in one of the ``comparable_parts``."""
    return ranked_tasks(part["suite"].iloc[0], task_columns(part))


def comparable_parts(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a leaderboard into parts whose rows may be compared: one suite, backbone and protocol each, with its own tasks only.

    Parts keep the order of the suites; within a suite the part with most rows is first.
    """
    parts = []
    for suite in dict.fromkeys(frame["suite"]):
        groups = [group for _, group in frame[frame["suite"] == suite].groupby(["backbone", "protocol"])]
        groups.sort(key=len, reverse=True)
        for group in groups:
            columns = [*ROW_COLUMNS, *average_columns(group), *task_columns(group), *COLUMNS]
            parts.append(group[columns].reset_index(drop=True))
    return parts


def runs_behind(part: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``runs_frame`` behind one of the ``comparable_parts``."""
    first = part.iloc[0]
    of_part = (runs["backbone"] == first["backbone"]) & (runs["protocol"] == first["protocol"]) & runs["task"].isin(task_columns(part))
    behind: pd.DataFrame = runs[of_part]
    return behind


def _averages(suite: str, tasks: Sequence[str]) -> dict[str, Average]:
    """Return column name -> average, for averages other than the ranking one."""
    ranked = {task.partition("/")[2] for task in ranked_tasks(suite, tasks)}
    others = [average for average in averages_of(suite) if len(average.groups) > 1 or set(average.datasets) != ranked]
    return {f"{suite}:{average.name}": average for average in others}


def _over(average: Average, cells: pd.Series[float]) -> float:
    reached = average.over({str(task).partition("/")[2]: value for task, value in cells.dropna().items()})
    return math.nan if reached is None else reached


def latest_of_each_run(records: Iterable[Record]) -> list[Record]:
    """Return the newest record of each run on the same inputs; repeated runs, as in merged folders, count once."""
    latest: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record.key not in latest or _is_older(latest[record.key], record):
            latest[record.key] = record
    return list(latest.values())


def _is_older(one: Record, other: Record) -> bool:
    """Compare times of creation; at a tie content, so that the order of reading never matters."""
    return one.created < other.created or (one.created == other.created and one.model_dump_json() < other.model_dump_json())


def _backbone_labels(records: Sequence[Record]) -> list[str]:
    weights: dict[str, set[str]] = defaultdict(set)
    for record in records:
        weights[record.backbone.name].add(record.backbone.sha256)
    names = [record.backbone.name for record in records]
    return [f"{name}@{r.backbone.sha256[:8]}" if len(weights[name]) > 1 else name for name, r in zip(names, records, strict=True)]


def _protocol_labels(records: Sequence[Record]) -> list[str]:
    newest: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.protocol.id, record.task)
        if key not in newest or _is_older(newest[key], record):
            newest[key] = record
    labels = []
    for record in records:
        is_newest = record.task_revision == newest[record.protocol.id, record.task].task_revision
        labels.append(record.protocol.id if is_newest else f"{record.protocol.id} (data {record.task_revision[:12] or 'unknown'})")
    return labels


def _method_labels(group: Sequence[Record]) -> list[str]:
    """Return row names for records of one method, access, backbone, protocol, selection rule and number of trials that tuned them.

    A setting with several values on one task was varied by the user: its values separate rows on all tasks. A setting that
    differs only between tasks belongs to a recipe and does not. The most common choice (at a tie the first that was run) keeps the plain name.
    """
    settings = [_flat({key: value for key, value in r.config.items() if key not in _HAS_OWN_COLUMN}) for r in group]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in {key for one in settings for key in one}:
        for record, one in zip(group, settings, strict=True):
            values[key, record.task].add(one.get(key, _ABSENT))
    varied = sorted({key for (key, _), seen in values.items() if len(seen) > 1})
    choices = [tuple(one.get(key, _ABSENT) for key in varied) for one in settings]
    counts = Counter(choices)
    started: dict[tuple[str, ...], str] = {}
    for record, choice in zip(group, choices, strict=True):
        started[choice] = min(record.created, started.get(choice, record.created))
    common = min(counts, key=lambda choice: (-counts[choice], started[choice], choice))
    names = _short_names(varied)
    labels = []
    for record, choice in zip(group, choices, strict=True):
        differs = [f"{name}={value}" for name, value, usual in zip(names, choice, common, strict=True) if value != usual]
        label = f"{record.method.name} [{', '.join(differs)}]" if differs else record.method.name
        labels.append(f"{label}{_tuned(record)}{' (oracle)' if record.selection == 'oracle_test' else ''}")
    return labels


def _tuned(record: Record) -> str:
    """Return what a row's name ends with when its settings were tuned: rows of other numbers of trials are other rows."""
    return "" if record.tuning is None else f" (tuned, {record.tuning.trials} trials)"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to {"section.field": value as typed}."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": _as_typed(value)}
    return flat


def _as_typed(value: Any) -> str:
    """Format a setting as on the command line; different values give different text."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_typed, value))}]"
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.+-]*", value) and value not in ("true", "false", "null", _ABSENT)
    return str(value) if is_plain else json.dumps(value, sort_keys=True)


def _short_names(keys: Sequence[str]) -> list[str]:
    """Shorten ``method.rank`` to ``rank`` and ``train.epochs`` to ``epochs`` unless two keys would be equal."""
    short = [re.sub(r"^(method|train)\.", "", key) for key in keys]
    return [key if short.count(name) > 1 else name for key, name in zip(keys, short, strict=True)]


def _row(record: Record, method: str, backbone: str, protocol: str) -> dict[str, Any]:
    if record.metrics is None:
        run = f"run {record.run_id} ({record.method.name} on {record.task})"
        raise RecordError(f"{run}: status {record.status} without metrics; delete its record and run again")
    code, parameters = record.code, record.parameters
    commit = f" ({code.commit[:7]}{', modified' if code.is_dirty else ''})" if code.commit else ""
    return {
        "key": record.key,
        "method": method,
        "access": record.method.access,
        "backbone": backbone,
        "task": record.task,
        "protocol": protocol,
        "selection": record.selection,
        "seed": record.seed,
        "accuracy": record.metrics.accuracy,
        "standard_error": record.metrics.standard_error,
        "params_backbone": float(parameters.backbone) if parameters else math.nan,
        "code": code.version + commit,
        "allocation": parameters.allocation if parameters else {},
        "curve": record.curve,
        "tuning": record.tuning,
        **{name: column.of_run(record) for name, column in COLUMNS.items() if column.of_run},
    }
