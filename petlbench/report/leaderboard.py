"""The leaderboard as CSV, as Markdown, as pictures and for the terminal. Numbers are rounded here and nowhere before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import (
    average_columns,
    comparable_parts,
    leaderboard,
    ranked_columns,
    runs_behind,
    runs_frame,
    task_columns,
)
from petlbench.records.file_names import slug
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, write_atomically
from petlbench.report.allocation import write_allocation_plots
from petlbench.report.comparison import write_comparison
from petlbench.report.page import write_page
from petlbench.report.plots import human_count, task_labels, write_plots
from petlbench.report.queries import write_query_plots
from petlbench.report.usage import write_usage_plots

MISSING = "–"
_LEGEND = (
    f"Test accuracy in percent, mean over seeds; the best of each column, and what rounds to the same, is bold. {MISSING}: no result, and"
    " no mean without it. Trainable parameters are without the head; rung seen is the highest that was made use of; train s, images (through"
    " the backbone), and queries and contexts (images and prompt contexts sent to a model that is asked) are means per run."
)
_TERMINAL_TASKS = 8  # with more, the terminal shows means only: a row is one line of 120 columns
_HEADING_WIDTH = 9  # of a heading on one line
_LONGEST_WORD = 11
_LISTED_RUNS = 20  # of the unfinished


def write_leaderboard(results: Path, suites: Mapping[str, Sequence[str]]) -> list[Path]:
    """Make leaderboard.csv, leaderboard.md, leaderboard.html, statistics/ and plots/ in a results folder from its records; returns the files written.

    ``suites`` maps a name to its tasks in order; suites without a finished run are left out. What the tables do not show,
    unfinished runs and runs of tasks that no suite lists, is named at the end of the Markdown.
    """
    records = list(RecordStore(results).read())
    runs = runs_frame(records)
    suites = {suite: tasks for suite, tasks in suites.items() if runs["task"].isin(list(tasks)).any()}
    frame = leaderboard(records, suites)
    csv, markdown = results / "leaderboard.csv", results / "leaderboard.md"
    write_atomically(csv, frame.to_csv(index=False, lineterminator="\n").encode())
    paths = [csv, markdown, write_page(results, records, suites)]
    sections = ["# Leaderboard"] if len(frame) else ["# Leaderboard", "No finished run yet."]
    drawn: set[str] = set()
    for part in comparable_parts(frame):
        provenance = _provenance(part, runs)
        name = _plot_name(part, drawn)
        drawn.add(name)
        drawing = (part, runs, f"Source: {provenance}", results / "plots", name)
        plots = [*write_plots(*drawing), *write_query_plots(*drawing), *write_allocation_plots(*drawing)]
        statistics, files = write_comparison(part, runs, f"Source: {provenance}", results, name)
        pictures = [f"![{path.stem}](plots/{path.name})" for path in plots if path.suffix == ".svg"]
        sections += [f"## {_title(part)}", f"Source: {provenance}. {_LEGEND}", _markdown_table(part), "\n".join(pictures), statistics]
        paths += [*plots, *files]
    usage = write_usage_plots(results, records)
    if usage:
        sections += [
            "## What prompts are mixed from",
            "\n".join(f"![{path.stem}](plots/{path.name})" for path in usage if path.suffix == ".svg"),
        ]
    paths += usage
    left_out = _left_out(records, suites)
    sections += ["## Not in the tables", "\n".join(f"* {line}" for line in left_out)] if left_out else []
    write_atomically(markdown, ("\n\n".join(section for section in sections if section) + "\n").encode())
    return paths


def leaderboard_table(frame: pd.DataFrame) -> Table:
    """A leaderboard for a terminal of 120 columns; one table per comparable part, below each other.

    The best accuracy of each column, and what rounds to the same, is bold. Suites of more than eight tasks show their mean only.
    """
    stack = Table.grid()
    for i, part in enumerate(comparable_parts(frame)):
        tasks = task_columns(part)
        shown = tasks if len(tasks) <= _TERMINAL_TASKS else []
        what = "test accuracy, %" if shown else f"means of test accuracy, %; each of the {len(tasks)} tasks is in leaderboard.md"
        if i:
            stack.add_row("")
        stack.add_row(Text(f"{_title(part)}: {what}", style="bold"))
        stack.add_row(_terminal_table(part, shown))
    return stack


def _title(part: pd.DataFrame) -> str:
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    return f"{suite} on {backbone}, protocol {protocol}"


def _terminal_table(part: pd.DataFrame, tasks: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    columns = _columns(part, tasks, is_compact=True)
    for heading, _ in columns:
        is_name = heading in ("method", "access")
        table.add_column(Text(_broken(heading)), justify="left" if is_name else "right", no_wrap=heading != "method")
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    return table


def _broken(heading: str) -> str:
    """A long heading on several lines of about nine columns, broken at underscores and blanks."""
    if len(heading) <= _HEADING_WIDTH:
        return heading
    lines = re.sub("_|(?<=mean) of | ", lambda gap: f"{gap[0].rstrip()}\n", heading).split("\n")
    return "\n".join(line if len(line) <= _LONGEST_WORD else f"{line[: _LONGEST_WORD - 1]}…" for line in lines)


def _markdown_table(part: pd.DataFrame) -> str:
    columns = _columns(part, task_columns(part), is_compact=False)
    rows = zip(*([_as_markdown(cell) for cell in cells] for _, cells in columns), strict=True)
    headings = [heading for heading, _ in columns]
    alignment = ["left" if heading in ("method", "access") else "right" for heading in headings]
    return str(tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=alignment))


def _as_markdown(cell: Text) -> str:
    text = cell.plain.replace("|", "\\|")
    return f"**{text}**" if cell.style == "bold" else text


def _columns(part: pd.DataFrame, tasks: Sequence[str], is_compact: bool) -> list[tuple[str, list[Text]]]:
    """Headings and rendered cells: the tasks given and what a leaderboard has besides, less the minor costs when compact."""
    minor = [
        ("rung seen", [Text(rung or MISSING) for rung in part["access_seen"]]),
        ("head", _counts(part["params_head"])),
        ("stored bytes", _counts(part["stored_bytes"])),
        ("memory MB", [Text(_number(megabytes, 0)) for megabytes in part["run_memory_mb"]]),
        ("process MB", [Text(_number(megabytes, 0)) for megabytes in part["peak_memory_mb"]]),
        ("images", _counts(part["images_forwarded"])),
        ("contexts", _counts(part["contexts"])),
    ]
    return [
        ("#", [Text(MISSING if pd.isna(rank) else str(rank)) for rank in part["rank"]]),
        ("method", [Text(method) for method in part["method"]]),
        ("access", [Text(BOXES[access]) for access in part["access"]]),
        *_means(part),
        *((label, _accuracies(part[task])) for task, label in zip(tasks, task_labels(tasks), strict=True)),
        ("trainable", _counts(part["params_trainable"])),
        *([] if is_compact else minor),
        ("train s", [Text(_number(seconds, 1 if seconds < 100 else 0)) for seconds in part["train_seconds"]]),
        ("queries", _counts(part["queries"])),
        ("seeds", [Text(seeds) for seeds in part["seeds"]]),
    ]


def _means(part: pd.DataFrame) -> list[tuple[str, list[Text]]]:
    """The mean that ranks the rows, and the other averages of the suite, each labelled with what it is the mean of."""
    averages = average_columns(part)
    labelled = [(column.partition(":")[2].replace("_", " "), _accuracies(part[column])) for column in averages]
    return [(f"mean of {len(ranked_columns(part))}" if averages else "mean", _accuracies(part["mean"])), *labelled]


def _accuracies(values: pd.Series[float]) -> list[Text]:
    best = _number(values.max(), 1)
    texts = [_number(value, 1) for value in values]
    return [Text(text, style="bold" if text == best != MISSING else "") for text in texts]


def _counts(values: pd.Series[float]) -> list[Text]:
    return [Text(MISSING if pd.isna(value) else human_count(value)) for value in values]


def _number(value: float, decimals: int) -> str:
    return MISSING if pd.isna(value) else f"{value:.{decimals}f}"


def _provenance(part: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Where the numbers of one part come from: suite, protocol, backbone, seeds, selection rule, code version."""
    behind = runs_behind(part, runs)
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    seeds = ",".join(map(str, sorted(set(behind["seed"]))))
    is_uneven = behind.groupby(["method", "access", "task"])["seed"].nunique().nunique() > 1
    items = [
        f"suite {suite}",
        f"protocol {protocol}",
        f"backbone {backbone}",
        f"seeds {seeds}" + (" (fewer for some results)" if is_uneven else ""),
        f"selection {', '.join(sorted(set(behind['selection'])))}",
        f"petlbench {', '.join(sorted(set(behind['code'])))}",
    ]
    return " · ".join(items)


def _plot_name(part: pd.DataFrame, taken: set[str]) -> str:
    """The suite; for a further backbone or protocol of the suite those as well."""
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    return suite if suite not in taken else slug(f"{suite}-{backbone}-{protocol}", 200)


def _left_out(records: Sequence[Record], suites: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader of the tables should know is missing from them."""
    lines = []
    unfinished = sorted((r for r in records if not r.has_result), key=lambda r: (r.method.name, r.task, r.seed, r.run_id))
    for record in unfinished[:_LISTED_RUNS]:
        reason = f": {record.error.splitlines()[0]}" if record.error else ""
        lines.append(f"{record.method.name} on {record.task}, {record.backbone.name}, seed {record.seed}: {record.status}{reason}")
    if len(unfinished) > _LISTED_RUNS:
        lines.append(f"{len(unfinished) - _LISTED_RUNS} more unfinished runs")
    listed = {task for tasks in suites.values() for task in tasks}
    unlisted = sorted({record.task for record in records if record.has_result} - listed)
    return [*lines, *(f"{task}: no suite lists this task" for task in unlisted)]
