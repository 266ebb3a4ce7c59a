"""Write the leaderboard as CSV, Markdown and plots, and render it for the terminal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text
from tabulate import tabulate

from petlbench.analysis.aggregate import (
    accuracy_columns,
    comparable_parts,
    is_own_task,
    runs_behind,
    task_columns,
)
from petlbench.analysis.columns import ROW_COLUMNS, Column, known_columns
from petlbench.analysis.escape import csv_of, markdown
from petlbench.analysis.formats import MISSING
from petlbench.analysis.tables import Tables, tables_of
from petlbench.errors import printable
from petlbench.records.file_names import file_part, slug
from petlbench.records.reader import Reader
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, write_atomically
from petlbench.report.allocation import write_allocation_plots
from petlbench.report.comparison import write_comparison
from petlbench.report.drawings import Drawings
from petlbench.report.page import write_page
from petlbench.report.plots import write_plots
from petlbench.report.queries import write_query_plots
from petlbench.report.terminal import FittingTable, TerminalColumn
from petlbench.report.token_usage import unreadable_usage, write_usage_plots

_LEGEND = (
    f"Test accuracy in percent, mean over seeds; the best of each column, and what rounds to the same, is bold. {MISSING}: no result, and"
    " no mean without it."
)
_MARK = "†"
_MARKED = f"{_MARK} beside a rank: settings of another origin than those of most rows, so this rank compares methods and how they were set."
_NAMES = ("rank", "method", "access")  # first columns of a table
_ALWAYS = ("rank", "method", "mean")  # columns that the narrowest terminal shows
_TERMINAL_TASKS = 8  # with more, the terminal shows means only: a row is one line of 120 characters
_HEADING_WIDTH = 9  # of a heading on one line
_LONGEST_WORD = 11
_LISTED_RUNS = 20  # of the unfinished


def write_leaderboard(results: Path, suites: Mapping[str, Sequence[str]], tables: Tables | None = None) -> list[Path]:
    """Write leaderboard.csv, .md and .html, statistics/ and plots/ in a results folder from its records; return the paths.

    ``suites``: as for ``tables_of``; ``tables``: those of the folder, if they are computed already. The Markdown ends with a list of what the tables
    do not show: unfinished runs, and what cannot be read. Plots are drawn again only if what they show has changed.
    """
    tables = tables or tables_of(Reader(RecordStore(results)).read(), suites)
    records, runs, frame = tables.records, tables.runs, tables.frame
    csv, text = results / "leaderboard.csv", results / "leaderboard.md"
    write_atomically(csv, csv_of(frame))
    paths = [csv, text, write_page(results, records, suites, tables=tables)]
    sections = ["# Leaderboard"] if len(frame) else ["# Leaderboard", "No finished run yet."]
    drawings, drawn = Drawings(results / "plots"), set[str]()
    for of_part in tables.parts:
        part = of_part.frame
        provenance = _provenance(part, of_part.behind)
        name = _plot_name(part, drawn)
        drawn.add(name)
        drawing = drawings.of(of_part, f"Source: {provenance}", name)
        plots = drawing.paths("plots", partial(_draw, part, runs, drawing.source, drawing.folder, name))
        statistics, files = write_comparison(of_part, drawing, results)
        sections += [
            f"## {markdown(_title(part))}",
            f"Source: {markdown(provenance)}. {_legend(part)}",
            _markdown_table(part),
            _images(plots),
            statistics,
        ]
        paths += [*plots, *files]
    drawings.close()
    usage = write_usage_plots(results, records)
    if usage:
        sections += ["## Token usage", _images(usage)]
    paths += usage
    missing = [*_missing_runs(records), *(f"cannot be read: {line}" for line in left_out(results, records))]
    sections += ["## Not in the tables", "\n".join(f"* {markdown(line)}" for line in missing)] if missing else []
    write_atomically(text, ("\n\n".join(section for section in sections if section) + "\n").encode())
    return paths


def _draw(part: pd.DataFrame, runs: pd.DataFrame, source: str, folder: Path, name: str) -> list[Path]:
    drawing = (part, runs, source, folder, name)
    return [*write_plots(*drawing), *write_query_plots(*drawing), *write_allocation_plots(*drawing)]


def left_out(results: Path, records: Sequence[Record]) -> list[str]:
    """Return a line for each file that the leaderboard had to leave out because it cannot be read."""
    return [*getattr(records, "broken", ()), *unreadable_usage(results, records)]


def leaderboard_table(frame: pd.DataFrame) -> RenderableType:
    """Render a leaderboard for a terminal, one table per comparable part, below each other.

    The best accuracy of each column, and what rounds to the same, is bold. Suites of more than eight tasks show their means only.
    """
    stack: list[RenderableType] = []
    for i, part in enumerate(comparable_parts(frame)):
        tasks = task_columns(part)
        shown = tasks if len(tasks) <= _TERMINAL_TASKS else []
        what = "test accuracy, %" if shown else f"means of test accuracy, %; each of the {len(tasks)} tasks is in leaderboard.md"
        stack += [""] if i else []
        stack += [Text(printable(f"{_title(part)}: {what}"), style="bold"), _terminal_table(part, shown)]
        stack += [_MARKED] if any(_is_marked(part)) else []
    return Group(*stack)


def _title(part: pd.DataFrame) -> str:
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    return f"{suite} on {backbone}, protocol {protocol}"


def _images(paths: Sequence[Path]) -> str:
    return "\n".join(f"![{path.stem}](plots/{path.name})" for path in paths if path.suffix == ".svg")


def _terminal_table(part: pd.DataFrame, tasks: Sequence[str]) -> FittingTable:
    columns = _columns(part, tasks, [column for column in known_columns(part) if column.is_in_terminal])
    shown = [
        TerminalColumn(printable(_wrapped(column.heading)), cells, _alignment(column), column.name == "method", column.name in _ALWAYS)
        for column, cells in columns
    ]
    return FittingTable(shown, 1, "leaderboard.md")


def _wrapped(heading: str) -> str:
    """Break a long heading at underscores and blanks, into lines of about nine characters."""
    if len(heading) <= _HEADING_WIDTH:
        return heading
    lines = re.sub("_|(?<=mean) of | ", lambda gap: f"{gap[0].rstrip()}\n", heading).split("\n")
    return "\n".join(line if len(line) <= _LONGEST_WORD else f"{line[: _LONGEST_WORD - 1]}…" for line in lines)


def _markdown_table(part: pd.DataFrame) -> str:
    columns = _columns(part, task_columns(part), known_columns(part))
    rows = zip(*([_as_markdown(cell) for cell in cells] for _, cells in columns), strict=True)
    headings, alignment = [markdown(column.heading) for column, _ in columns], [_alignment(column) for column, _ in columns]
    return str(tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=alignment))


def _legend(part: pd.DataFrame) -> str:
    own = ["No suite lists this task, so papers have no numbers for it."] if is_own_task(part) else []
    marked = [_MARKED] if any(_is_marked(part)) else []
    return " ".join([*own, _LEGEND, *marked, *(f"{column.heading}: {column.help}" for column in known_columns(part))])


def _as_markdown(cell: Text) -> str:
    text = markdown(cell.plain)
    return f"**{text}**" if cell.style == "bold" else text


def _columns(part: pd.DataFrame, tasks: Sequence[str], of_runs: Sequence[Column]) -> list[tuple[Column, list[Text]]]:
    """Return each column shown with its rendered cells."""
    return [
        (ROW_COLUMNS["rank"], _ranks(part)),
        *((ROW_COLUMNS[name], _texts(part, ROW_COLUMNS[name])) for name in _NAMES if name != "rank"),
        *((column, _accuracies(part, column)) for column in accuracy_columns(part, tasks)),
        *((column, _texts(part, column)) for column in of_runs),
    ]


def _texts(part: pd.DataFrame, column: Column) -> list[Text]:
    return [Text(printable(column.show(value))) for value in part[column.name]]


def _ranks(part: pd.DataFrame) -> list[Text]:
    return [
        Text(f"{text.plain}{_MARK if marked else ''}")
        for text, marked in zip(_texts(part, ROW_COLUMNS["rank"]), _is_marked(part), strict=True)
    ]


def _is_marked(part: pd.DataFrame) -> list[bool]:
    """Return for each row if its settings have another origin than those of most rows."""
    kinds = [str(origin).partition(" ")[0] for origin in part["settings"]]
    usual = max(kinds, key=lambda kind: (kinds.count(kind), kind == "default"))
    return [kind != usual for kind in kinds]


def _accuracies(part: pd.DataFrame, column: Column) -> list[Text]:
    best = column.show(part[column.name].max())
    return [Text(text.plain, style="bold" if text.plain == best != MISSING else "") for text in _texts(part, column)]


def _alignment(column: Column) -> Literal["left", "right"]:
    return "left" if column.is_text else "right"


def _provenance(part: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Describe the source of a part's numbers: suite, protocol, backbone, seeds, selection rule, code version."""
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


def _plot_name(part: pd.DataFrame, taken: Collection[str]) -> str:
    """Return the suite as a file name; for a further backbone or protocol of the suite add those."""
    suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
    name = file_part(suite)
    if name in taken:
        name = slug(f"{name}-{backbone}-{protocol}", 200)
    while name in taken:
        name += "_"
    return name


def _missing_runs(records: Sequence[Record]) -> list[str]:
    """Describe unfinished runs."""
    lines = []
    unfinished = sorted((r for r in records if not r.has_result), key=lambda r: (r.method.name, r.task, r.seed, r.run_id))
    for record in unfinished[:_LISTED_RUNS]:
        reason = f": {record.error.strip().splitlines()[0]}" if record.error and record.error.strip() else ""
        lines.append(f"{record.method.name} on {record.task}, {record.backbone.name}, seed {record.seed}: {record.status}{reason}")
    if len(unfinished) > _LISTED_RUNS:
        lines.append(f"{len(unfinished) - _LISTED_RUNS} more unfinished runs")
    if trials := sum(record.has_result and not record.is_tested for record in records):
        lines.append(f"{trials} {'run' if trials == 1 else 'runs'} scored on val: no result of the test split")
    return lines
