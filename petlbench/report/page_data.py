"""The data of the leaderboard page as one JSON document: full floats, null where there is no value, and each configuration once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import (
    accuracy_columns,
    average_columns,
    latest_of_each_run,
    ranked_columns,
    task_columns,
)
from petlbench.analysis.columns import COLUMNS, ROW_COLUMNS, Column, known_columns
from petlbench.analysis.statistics import Comparison, row_names
from petlbench.analysis.tables import Part, Tables, tables_of
from petlbench.published.averages import Average, averages_of, flat
from petlbench.published.numbers import ACCURACY, ORACLE, PublishedNumber, name_of
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report.paper_shape import load_table, table_names
from petlbench.report.style import STYLES, hyphenated

_PAIR = ["method", "other", "difference", "difference_low", "difference_high", "wins", "ties", "losses", "p_holm"]


@dataclass(frozen=True)
class _Sources:
    """Records and published numbers that all parts of the page are made from."""

    records: Mapping[tuple[str, str, str], Record]  # by key
    files: Mapping[tuple[str, str, str], str | None]  # by key
    published: Sequence[PublishedNumber]
    configs: dict[str, int]  # configuration as JSON -> its index in the page's list; grows with the parts


def page_data(
    records: Sequence[Record],
    suites: Mapping[str, Sequence[str]],
    published: Sequence[PublishedNumber],
    results: Path = Path(),
    tables: Tables | None = None,
) -> dict[str, Any]:
    """Return the data of the page, for ``page_html``. ``suites``: name -> tasks in order; ``results``: the folder of the page; ``tables``: those of the
    records, if they are computed already."""
    tables = tables or tables_of(records, suites)
    finished = sorted((record for record in records if record.is_tested), key=lambda record: record.created)
    store = RecordStore(results)
    sources = _Sources({record.key: record for record in latest_of_each_run(finished)}, _files(finished, store), published, {})
    parts = [_part(part, sources) for part in tables.parts]
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "rungs": [{"name": rung, "box": box, "published_as": hyphenated(box)} for rung, box in BOXES.items()],
        "markers": {box: marker for box, (_, marker) in STYLES.items()},
        "columns": {name: _heading(column) for name, column in {**ROW_COLUMNS, **COLUMNS}.items()},
        "parts": parts,
        "configs": [json.loads(text) for text in sources.configs],
        "unfinished": [_unfinished(record, store) for record in records if not record.has_result],
    }


def _part(of_part: Part, sources: _Sources) -> dict[str, Any]:
    """Return the data of one suite, backbone and protocol."""
    part, behind = of_part.frame, of_part.behind
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    tasks = task_columns(part)
    named = {f"{suite}:{average.name}": average for average in averages_of(suite)}
    averages = [flat(list(map(_dataset, ranked_columns(part)))), *(named[column] for column in average_columns(part))]
    accuracies = accuracy_columns(part, tasks)
    of_averages, of_tasks = accuracies[: len(averages)], accuracies[len(averages) :]
    comparison = of_part.comparison
    intervals = {str(line["method"]): [line["mean_low"], line["mean_high"]] for _, line in comparison.methods.iterrows()}
    shots = _shots(sources.records[behind["key"].iloc[0]])
    rows = []
    for (_, line), compared_as in zip(part.iterrows(), row_names(part), strict=True):
        own = behind[(behind["method"] == line["method"]) & (behind["access"] == line["access"])]
        rows.append(
            {
                **_row(line, tasks, averages),
                "is_oracle": bool((own["selection"] == "oracle_test").any()),
                "compared_as": compared_as,
                "interval": intervals.get(compared_as),
                "runs": [_run(run, tasks, sources) for _, run in own.iterrows()],
            }
        )
    return {
        "suite": suite,
        "backbone": backbone,
        "protocol": protocol,
        "selection": sorted(set(behind["selection"])),
        "shots": shots,
        "code": sorted(set(behind["code"])),
        "tasks": tasks,
        "labels": [column.heading for column in of_tasks],
        "task_columns": [_heading(column) for column in of_tasks],
        "averages": [
            {**_heading(column), "tasks": [i for i, task in enumerate(tasks) if _dataset(task) in average.datasets]}
            for column, average in zip(of_averages, averages, strict=True)
        ],
        "columns": [{**_heading(column), "axis": column.axis} for column in known_columns(part)],
        "rows": rows,
        "comparison": _comparison(comparison),
        "published": _published([number for number in sources.published if number.suite == suite], backbone, shots, tasks, averages),
    }


def _heading(column: Column) -> dict[str, Any]:
    return {"name": column.name, "heading": column.heading, "help": column.help, "is_text": column.is_text}


def _row(line: pd.Series[Any], tasks: Sequence[str], averages: Sequence[Average]) -> dict[str, Any]:
    cells = [_number(line[task]) for task in tasks]
    return {
        "method": line["method"],
        "published_as": line["method"].removesuffix(" (oracle)"),
        "access": line["access"],
        "box": BOXES[line["access"]],
        "rank": _number(line["rank"]),
        "rank_text": ROW_COLUMNS["rank"].show(line["rank"]),
        "cells": cells,
        **_means(cells, tasks, averages),
        "values": {name: _number(line[name]) for name in COLUMNS},
        "texts": {name: column.show(line[name]) for name, column in COLUMNS.items()},
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    """Return mean ranks, groups of methods (by index) that Nemenyi's test does not distinguish, and every pair."""
    friedman = comparison.friedman
    ranked = comparison.methods.sort_values("mean_rank", kind="stable")
    names = ranked["method"].to_list()
    return {
        "methods": names,
        "mean_ranks": ranked["mean_rank"].to_list(),
        "critical_difference": friedman.critical_difference if friedman else None,
        "friedman_p": friedman.p if friedman else None,
        "groups": [[names.index(method) for method in group] for group in friedman.groups] if friedman else [],
        "pairs": comparison.pairs[_PAIR].to_numpy().tolist(),
        "left_out": list(comparison.left_out),
        "warnings": list(comparison.warnings),
    }


def _means(cells: Sequence[float | None], tasks: Sequence[str], averages: Sequence[Average]) -> dict[str, Any]:
    """Return the averages, first the mean that ranks; null where a cell is missing."""
    present = {_dataset(task): cell for task, cell in zip(tasks, cells, strict=True) if cell is not None}
    values = [average.over(present) for average in averages]
    return {"mean": values[0], "averages": values}


def _dataset(task: str) -> str:
    """Return the name of a task in published numbers: without the suite."""
    return task.partition("/")[2]


def _run(run: pd.Series[Any], tasks: Sequence[str], sources: _Sources) -> dict[str, Any]:
    record = sources.records[run["key"]]
    config = {key: value for key, value in record.config.items() if key not in ("seed", "task")}
    text = json.dumps(config, sort_keys=True)
    return {
        "id": record.run_id,
        "task": tasks.index(run["task"]),
        "seed": run["seed"],
        "accuracy": run["accuracy"],
        "standard_error": run["standard_error"],
        "train_seconds": COLUMNS["train_seconds"].show(run["train_seconds"]),
        "status": record.status,
        "created": record.created,
        "code": run["code"],
        "file": sources.files[record.key],
        "config": sources.configs.setdefault(text, len(sources.configs)),
    }


def _files(records: Sequence[Record], store: RecordStore) -> dict[tuple[str, str, str], str | None]:
    """Return each record's file below the results folder; None for a configuration run on several weights or data, whose records share a path."""
    files = {record.key: _file(record, store) for record in records}
    shared = Counter(files.values())
    return {key: file if shared[file] == 1 else None for key, file in files.items()}


def _shots(record: Record) -> str:
    """Return training images per class as in published numbers: "16", or "full" for all."""
    shots = record.protocol.settings.get("shots")
    return "full" if shots is None else str(shots)


def _is_same_shots(printed: str, shots: str) -> bool:
    """Return True if a published row had as many training images per class. "All" has another name on each suite; 0 trains nothing."""
    return printed == "0" or (printed == shots if printed.isdigit() or shots.isdigit() else printed != "")


def _unfinished(record: Record, store: RecordStore) -> dict[str, Any]:
    return {
        "method": record.method.name,
        "task": record.task,
        "backbone": record.backbone.name,
        "seed": record.seed,
        "status": record.status,
        "error": record.error or "",
        "file": _file(record, store),
    }


def _file(record: Record, store: RecordStore) -> str:
    return store.path_of(record).relative_to(store.results).as_posix()


def _published(
    numbers: Sequence[PublishedNumber], backbone: str, shots: str, tasks: Sequence[str], averages: Sequence[Average]
) -> list[dict[str, Any]]:
    """Return rows of papers with an accuracy on one of the tasks, in the order of the files, without reruns by third parties.

    Numbers whose epoch was chosen on test images are rows of their own. Averages are
    recomputed from the cells, as printed ones follow several definitions.
    """
    datasets = [_dataset(task) for task in tasks]
    printed: dict[tuple[str, ...], list[PublishedNumber]] = defaultdict(list)
    for number in numbers:
        if number.metric in (ACCURACY, ORACLE) and number.dataset in datasets and number.source_kind != "third-party":
            printed[number.row].append(number)
    as_printed = {load_table(name).backbones.get(backbone.partition("@")[0]) for name in table_names()} if printed else set()
    rows = []
    for of_row in printed.values():
        first = of_row[0]
        values = {number.dataset: float(number.value) for number in of_row}
        cells = [values.get(dataset) for dataset in datasets]
        rows.append(
            {
                **{key: getattr(first, key) for key in ("method", "paper", "table", "access", "backbone", "shots")},
                "our_method": name_of(first).ours,
                "is_oracle": first.metric == ORACLE,
                "note": name_of(first).note,
                "is_same_backbone": first.backbone in as_printed,
                "is_same_shots": _is_same_shots(first.shots, shots),
                "kinds": list(dict.fromkeys(number.source_kind for number in of_row)),
                "sources": list(dict.fromkeys(number.source for number in of_row)),
                "cells": cells,
                **_means(cells, tasks, averages),
            }
        )
    return rows


def _number(value: Any) -> Any:
    """Convert a number of a frame for JSON; texts stay."""
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
