"""From records to the frames that tables and plots are made of. Full floats throughout: rounding is the renderer's business."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from petlbench.access.rungs import BOXES
from petlbench.config.files import load_suite, names
from petlbench.errors import RecordError
from petlbench.published.averages import Average, averages_of
from petlbench.records.schema import Record

_MEANS_OF_TASKS = ("params_trainable", "params_head", "stored_bytes")
_PEAKS = ("run_memory_mb", "peak_memory_mb")
_ASKED = ("images_forwarded", "queries", "contexts")
_COSTS = (*_MEANS_OF_TASKS, "train_seconds", *_PEAKS, *_ASKED)
RUN_COLUMNS = [
    *("key", "method", "access", "backbone", "task", "protocol", "selection", "seed", "accuracy", "standard_error"),
    *(*_COSTS, "params_backbone", "code", "access_seen", "allocation", "curve"),
]
ROW_COLUMNS = ["method", "access", "backbone", "suite", "protocol", "mean", "rank"]
COST_COLUMNS = [*_COSTS, "access_seen", "seeds"]

_AVERAGE = re.compile(r"\w+:mean_\w+")

_HAS_OWN_COLUMN = ("seed", "task", "backbone", "protocol")  # of a configuration; every other setting makes a variant of a method
_ABSENT = "absent"  # the value of a setting that a record's code did not have yet, or of one added since (petlbench.config.identity) at its default


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run with a result, in an order that does not depend on the order of the records; columns as in ``RUN_COLUMNS``.

    ``method``, ``backbone`` and ``protocol`` are told apart here wherever averaging would mix what is not the same: a method by the
    settings that vary (``lora [rank=4]``), a backbone by its weights (``vit@1a2b3c4d``), a protocol by the revision of the data when it is
    not the newest one (``native-1a2b3c4d (data r1)``). Accuracy and its standard error are percent; ``queries`` are images of all phases,
    NaN at WEIGHTS, where no model is asked; ``key``, ``access_seen``, ``allocation`` (place -> trainable parameters) and ``curve`` are the
    record's.
    """
    finished = latest_of_each_run(record for record in records if record.has_result)
    backbones, protocols = _backbone_labels(finished), _protocol_labels(finished)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, record in enumerate(finished):
        groups[record.method.name, record.method.access, backbones[i], protocols[i], record.selection].append(i)
    methods = [""] * len(finished)
    for members in groups.values():
        for i, label in zip(members, _method_labels([finished[i] for i in members]), strict=True):
            methods[i] = label
    rows = [_row(*parts) for parts in zip(finished, methods, backbones, protocols, strict=True)]
    rows.sort(key=lambda row: tuple(row[key] for key in ("method", "access", "backbone", "protocol", "task", "seed", "key")))
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def leaderboard(records: Iterable[Record], suites: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per method x backbone x suite x protocol; columns: ``ROW_COLUMNS``, one per task of ``suites``, ``COST_COLUMNS``.

    A task's cell is the mean over seeds, percent. ``mean`` is the mean of the cells, of those that the suite is ranked by where it names some;
    beside it stand the other averages that papers print over a suite (``average_columns``). Each is withheld (NaN) when one of its cells is
    missing. Ranks (1 is best, ties share) compare the means of one suite, backbone and protocol. Parameters and stored bytes are means over tasks,
    time, images and queries means over runs, memory is the largest of all runs: what a run added (``run_memory_mb``, NaN for records from before it was
    measured) and the whole process.
    """
    runs = runs_frame(records)
    rows = []
    for suite, tasks in suites.items():
        ranked, averages = ranked_tasks(suite, tasks), _averages(suite, tasks)
        of_suite = runs[runs["task"].isin(list(tasks))]
        for (method, access, backbone, protocol), group in of_suite.groupby(["method", "access", "backbone", "protocol"]):
            by_task = group.groupby("task")
            cells = by_task["accuracy"].mean().reindex(list(tasks))
            row: dict[str, Any] = {"method": method, "access": access, "backbone": backbone, "suite": suite, "protocol": protocol}
            row |= {"mean": cells[ranked].mean(skipna=False), **{str(task): value for task, value in cells.items()}}
            row |= {name: _over(average, cells) for name, average in averages.items()}
            row |= {column: by_task[column].mean().mean() for column in _MEANS_OF_TASKS}
            row |= {column: group[column].mean() for column in ("train_seconds", *_ASKED)}
            row |= {"access_seen": max(group["access_seen"], key=["", *BOXES].index)}
            row |= {column: group[column].max() for column in _PEAKS}
            row |= {"seeds": ",".join(map(str, sorted(set(group["seed"]))))}
            rows.append(row)
    order = {suite: i for i, suite in enumerate(suites)}
    rows.sort(key=lambda row: (order[row["suite"]], math.isnan(row["mean"]), -row["mean"], row["method"], row["backbone"], row["protocol"]))
    tasks_of_all = list(dict.fromkeys(task for tasks in suites.values() for task in tasks))
    averages_of_all = [name for suite, tasks in suites.items() for name in _averages(suite, tasks)]
    frame = pd.DataFrame(rows, columns=[*ROW_COLUMNS, *averages_of_all, *tasks_of_all, *COST_COLUMNS])
    ranks = frame.groupby(["suite", "backbone", "protocol"])["mean"].rank(method="min", ascending=False)
    return frame.assign(rank=ranks.astype("Int64"))


def task_columns(frame: pd.DataFrame) -> list[str]:
    """The task columns of a leaderboard that its rows are about: those of their suites and those with a value."""
    others = {*ROW_COLUMNS, *COST_COLUMNS, *(column for column in frame.columns if _AVERAGE.fullmatch(column))}
    columns = [str(column) for column in frame.columns if column not in others]
    suites = set(frame["suite"])
    return [column for column in columns if column.split("/")[0] in suites or bool(frame[column].notna().any())]


def average_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of averages over the suites of a leaderboard's rows, beside ``mean``, such as ``vtab:mean_natural``."""
    suites = set(frame["suite"])
    return [str(column) for column in frame.columns if _AVERAGE.fullmatch(column) and column.partition(":")[0] in suites]


def ranked_tasks(suite: str, tasks: Sequence[str]) -> list[str]:
    """Those of a suite's tasks whose mean ranks the methods: all, unless its YAML says which group counts."""
    ranked_by = load_suite(suite).ranked_by if suite in names("suites") else None
    return list(tasks) if ranked_by is None else [task for task in tasks if task in load_suite(suite).groups[ranked_by]]


def ranked_columns(part: pd.DataFrame) -> list[str]:
    """The task columns that ``mean`` is the mean of, in one of the ``comparable_parts``."""
    return ranked_tasks(part["suite"].iloc[0], task_columns(part))


def comparable_parts(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """A leaderboard in parts whose rows may be compared: one suite, backbone and protocol each, with its own tasks only.

    Parts keep the order of the suites; within a suite the part with most rows is first.
    """
    parts = []
    for suite in dict.fromkeys(frame["suite"]):
        groups = [group for _, group in frame[frame["suite"] == suite].groupby(["backbone", "protocol"])]
        groups.sort(key=len, reverse=True)
        for group in groups:
            columns = [*ROW_COLUMNS, *average_columns(group), *task_columns(group), *COST_COLUMNS]
            parts.append(group[columns].reset_index(drop=True))
    return parts


def runs_behind(part: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``runs_frame`` that one of the ``comparable_parts`` was averaged from."""
    first = part.iloc[0]
    of_part = (runs["backbone"] == first["backbone"]) & (runs["protocol"] == first["protocol"]) & runs["task"].isin(task_columns(part))
    behind: pd.DataFrame = runs[of_part]
    return behind


def _averages(suite: str, tasks: Sequence[str]) -> dict[str, Average]:
    """The averages beside the one that ranks, by the names of their columns."""
    ranked = {task.partition("/")[2] for task in ranked_tasks(suite, tasks)}
    others = [average for average in averages_of(suite) if len(average.groups) > 1 or set(average.datasets) != ranked]
    return {f"{suite}:{average.name}": average for average in others}


def _over(average: Average, cells: pd.Series[float]) -> float:
    reached = average.over({str(task).partition("/")[2]: value for task, value in cells.dropna().items()})
    return math.nan if reached is None else reached


def latest_of_each_run(records: Iterable[Record]) -> list[Record]:
    """A run that was repeated, say in a merged results folder, counts once: the newest record of the same run on the same inputs."""
    latest: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record.key not in latest or _age(latest[record.key]) < _age(record):
            latest[record.key] = record
    return list(latest.values())


def _age(record: Record) -> tuple[str, str]:
    """Orders records by time of creation; the content breaks ties so that the order of reading never matters."""
    return record.created, record.model_dump_json()


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
        if key not in newest or _age(newest[key]) < _age(record):
            newest[key] = record
    labels = []
    for record in records:
        is_newest = record.task_revision == newest[record.protocol.id, record.task].task_revision
        labels.append(record.protocol.id if is_newest else f"{record.protocol.id} (data {record.task_revision[:12] or 'unknown'})")
    return labels


def _method_labels(group: Sequence[Record]) -> list[str]:
    """Row names for records of one method, access, backbone, protocol and selection rule.

    A setting that takes several values on the same task was varied by someone: its values tell rows apart on all tasks. A setting that
    differs only between tasks is a recipe and does not. The most common choice (at a tie the first that was run) keeps the plain name.
    """
    settings = [_flat({key: value for key, value in r.config.items() if key not in _HAS_OWN_COLUMN}) for r in group]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in {key for one in settings for key in one}:
        for record, one in zip(group, settings, strict=True):
            values[key, record.task].add(one.get(key, _ABSENT))
    varied = sorted({key for (key, _), seen in values.items() if len(seen) > 1})
    choices = [tuple(one.get(key, _ABSENT) for key in varied) for one in settings]
    counts = Counter(choices)
    started = {choice: min(r.created for r, other in zip(group, choices, strict=True) if other == choice) for choice in counts}
    common = min(counts, key=lambda choice: (-counts[choice], started[choice], choice))
    names = _short_names(varied)
    labels = []
    for record, choice in zip(group, choices, strict=True):
        differs = [f"{name}={value}" for name, value, usual in zip(names, choice, common, strict=True) if value != usual]
        label = f"{record.method.name} [{', '.join(differs)}]" if differs else record.method.name
        labels.append(f"{label} (oracle)" if record.selection == "oracle_test" else label)
    return labels


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as {"section.field": value as typed}."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": _as_typed(value)}
    return flat


def _as_typed(value: Any) -> str:
    """A setting as on the command line; different values give different text."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_typed, value))}]"
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.+-]*", value) and value not in ("true", "false", "null", _ABSENT)
    return str(value) if is_plain else json.dumps(value, sort_keys=True)


def _short_names(keys: Sequence[str]) -> list[str]:
    """``method.rank`` is ``rank`` and ``train.epochs`` is ``epochs`` unless that names two of the keys."""
    short = [re.sub(r"^(method|train)\.", "", key) for key in keys]
    return [key if short.count(name) > 1 else name for key, name in zip(keys, short, strict=True)]


def _row(record: Record, method: str, backbone: str, protocol: str) -> dict[str, Any]:
    if record.metrics is None:
        run = f"run {record.run_id} ({record.method.name} on {record.task})"
        raise RecordError(f"{run}: status {record.status} without metrics; delete its record and run again")
    parameters, cost, code = record.parameters, record.cost, record.code
    is_asked = record.method.access != "WEIGHTS"
    queries = [count for phase, count in cost.queries.items() if phase != "curve"]  # looks are no part of a method's cost
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
        "params_trainable": float(parameters.trainable) if parameters else math.nan,
        "params_head": float(parameters.head) if parameters else math.nan,
        "stored_bytes": float(parameters.stored_bytes) if parameters else math.nan,
        "train_seconds": cost.train_seconds,
        "run_memory_mb": math.nan if cost.run_memory_mb is None else cost.run_memory_mb,
        "peak_memory_mb": math.nan if cost.peak_memory_mb is None else cost.peak_memory_mb,
        "images_forwarded": float(cost.images_forwarded),
        "queries": float(sum(count.images for count in queries)) if is_asked else math.nan,
        "contexts": float(sum(count.contexts for count in queries)) if is_asked else math.nan,
        "params_backbone": float(parameters.backbone) if parameters else math.nan,
        "code": code.version + commit,
        "access_seen": record.method.access_seen or "",
        "allocation": parameters.allocation if parameters else {},
        "curve": record.curve,
    }
