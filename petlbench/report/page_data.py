"""What the leaderboard page shows, as one JSON document: full floats, null where there is no value, and each configuration once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from petlbench.access.rungs import BOXES, STYLES, hyphenated
from petlbench.analysis.aggregate import (
    COST_COLUMNS,
    average_columns,
    comparable_parts,
    latest_of_each_run,
    leaderboard,
    ranked_columns,
    runs_behind,
    runs_frame,
    task_columns,
)
from petlbench.analysis.statistics import Comparison, compare, row_names
from petlbench.published.averages import Average, averages_of, flat
from petlbench.published.numbers import ACCURACY, ORACLE, PublishedNumber, name_of
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report.paper_tables import load_table, table_names
from petlbench.report.plots import task_labels

_PAIR = ["method", "other", "difference", "difference_low", "difference_high", "wins", "ties", "losses", "p_holm"]


@dataclass(frozen=True)
class _Material:
    """What all parts of the page draw on."""

    records: Mapping[tuple[str, str, str], Record]  # by key
    files: Mapping[tuple[str, str, str], str | None]  # by key
    published: Sequence[PublishedNumber]
    configs: dict[str, int]  # configuration as JSON -> its place in the page's list; grows with the parts


def page_data(
    records: Sequence[Record], suites: Mapping[str, Sequence[str]], published: Sequence[PublishedNumber], results: Path = Path()
) -> dict[str, Any]:
    """Everything the page shows, for ``page_html``. ``suites``: name -> tasks in order; ``results``: the folder that the page lies in."""
    runs = runs_frame(records)
    finished = sorted((record for record in records if record.has_result), key=lambda record: record.created)
    store = RecordStore(results)
    material = _Material({record.key: record for record in latest_of_each_run(finished)}, _files(finished, store), published, {})
    parts = [_part(part, runs_behind(part, runs), material) for part in comparable_parts(leaderboard(records, suites))]
    listed = {task for tasks in suites.values() for task in tasks}
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "rungs": [{"name": rung, "box": box, "published_as": hyphenated(box)} for rung, box in BOXES.items()],
        "markers": {box: marker for box, (_, marker) in STYLES.items()},
        "parts": parts,
        "configs": [json.loads(text) for text in material.configs],
        "unfinished": [_unfinished(record, store) for record in records if not record.has_result],
        "unlisted": sorted({record.task for record in finished} - listed),
    }


def _part(part: pd.DataFrame, behind: pd.DataFrame, material: _Material) -> dict[str, Any]:
    """One suite, backbone and protocol. ``behind``: its rows of ``runs_frame``."""
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    tasks = task_columns(part)
    named = {f"{suite}:{average.name}": average for average in averages_of(suite)}
    averages = [flat(list(map(_dataset, ranked_columns(part)))), *(named[column] for column in average_columns(part))]
    comparison = compare(behind, ranked_columns(part))
    intervals = {str(line["method"]): [line["mean_low"], line["mean_high"]] for _, line in comparison.methods.iterrows()}
    shots = _shots(material.records[behind["key"].iloc[0]])
    rows = []
    for (_, line), compared_as in zip(part.iterrows(), row_names(part), strict=True):
        own = behind[(behind["method"] == line["method"]) & (behind["access"] == line["access"])]
        rows.append(
            {
                **_row(line, tasks, averages),
                "is_oracle": bool((own["selection"] == "oracle_test").any()),
                "compared_as": compared_as,
                "interval": intervals.get(compared_as),
                "runs": [_run(run, tasks, material) for _, run in own.iterrows()],
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
        "labels": task_labels(tasks),
        "averages": [
            {"name": average.name.replace("_", " "), "tasks": [i for i, task in enumerate(tasks) if _dataset(task) in average.datasets]}
            for average in averages
        ],
        "rows": rows,
        "comparison": _comparison(comparison),
        "published": _published([number for number in material.published if number.suite == suite], backbone, shots, tasks, averages),
    }


def _row(line: pd.Series[Any], tasks: Sequence[str], averages: Sequence[Average]) -> dict[str, Any]:
    cells = [_number(line[task]) for task in tasks]
    return {
        "method": line["method"],
        "published_as": line["method"].removesuffix(" (oracle)"),
        "access": line["access"],
        "box": BOXES[line["access"]],
        "rank": _number(line["rank"]),
        "cells": cells,
        **_means(cells, tasks, averages),
        **{column: _number(line[column]) for column in COST_COLUMNS},
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    """Mean ranks and what Nemenyi's test does not tell apart, for a critical-difference diagram, and every pair; groups index the methods."""
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
    """The averages, of which the first is the mean that ranks; null where a cell is missing."""
    present = {_dataset(task): cell for task, cell in zip(tasks, cells, strict=True) if cell is not None}
    values = [average.over(present) for average in averages]
    return {"mean": values[0], "averages": values}


def _dataset(task: str) -> str:
    """What published numbers call a task: its name without the suite."""
    return task.partition("/")[2]


def _run(run: pd.Series[Any], tasks: Sequence[str], material: _Material) -> dict[str, Any]:
    record = material.records[run["key"]]
    config = {key: value for key, value in record.config.items() if key not in ("seed", "task")}
    text = json.dumps(config, sort_keys=True)
    return {
        "id": record.run_id,
        "task": tasks.index(run["task"]),
        "seed": run["seed"],
        "accuracy": run["accuracy"],
        "standard_error": run["standard_error"],
        "train_seconds": run["train_seconds"],
        "status": record.status,
        "created": record.created,
        "code": run["code"],
        "file": material.files[record.key],
        "config": material.configs.setdefault(text, len(material.configs)),
    }


def _files(records: Sequence[Record], store: RecordStore) -> dict[tuple[str, str, str], str | None]:
    """Where each record lies below the results folder. None for configurations that were run on several weights or data: they have one place."""
    files = {record.key: _file(record, store) for record in records}
    shared = Counter(files.values())
    return {key: file if shared[file] == 1 else None for key, file in files.items()}


def _shots(record: Record) -> str:
    """Training images per class as published numbers have it: "16", or "full" for all there are."""
    shots = record.protocol.settings.get("shots")
    return "full" if shots is None else str(shots)


def _is_same_shots(printed: str, shots: str) -> bool:
    """Whether a published row saw as many training images per class: all there are have another name on each suite, and 0 trains nothing."""
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
    """Rows of papers with an accuracy on one of the tasks, in the order of the files; reruns by third parties are left out.

    What was chosen on test images is a row of its own. Averages are recomputed from the cells, as printed ones follow several definitions.
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
    """A number of a frame as JSON has it; texts as they are."""
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
