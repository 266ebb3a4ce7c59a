"""Write a filled paper table as CSV, Markdown and LaTeX with booktabs."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from petlbench.analysis.escape import csv_rows, latex, markdown
from petlbench.analysis.formats import MISSING
from petlbench.records.store import write_atomically
from petlbench.report.paper_table import KINDS, OFF_PROTOCOL, Cell, FilledRow, FilledTable

_WIDE = 16  # columns that fit a page with means and deviations side by side
_PACKAGES = "% \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{graphicx}"


def write_table(folder: Path, name: str, panels: dict[str, FilledTable]) -> list[Path]:
    """Write every panel in every format, as FOLDER/NAME-PANEL.{csv,md,tex}; returns the paths."""
    paths = []
    for panel, table in panels.items():
        for suffix, text in (("csv", as_csv(table)), ("md", as_markdown(table)), ("tex", as_latex(table, f"tab:{name}-{panel}"))):
            paths.append(folder / f"{name}-{panel}.{suffix}")
            write_atomically(paths[-1], text.encode())
    return paths


def as_csv(table: FilledTable) -> str:
    """Return CSV with one line per row of the table and eight columns per column; numbers in full, missing ones empty."""
    rows = []
    for row in table.rows:
        values: dict[str, Any] = {"method": row.label, "ours": row.method, "shots": row.shots, "in_paper": row.is_in_paper}
        for column in table.columns:
            values |= {f"{column.name} {key}": value for key, value in _csv_values(row.cells[column.name]).items()}
        rows.append(values)
    return csv_rows(list(rows[0]), rows)


def as_markdown(table: FilledTable) -> str:
    """Return caption and table; each method has a line for our runs, one for published numbers and one for differences."""
    has_groups = any(column.group for column in table.columns)
    headings = [f"{column.group}: {column.heading}" if has_groups and column.group else column.heading for column in table.columns]
    stubs, lines = _stubs(table), []
    for row in table.rows:
        for i, (title, cells) in enumerate(_lines(row, table, is_stacked=False)):
            lines.append([*(stub if i == 0 else "" for stub in _names(row, table)), title, *cells])
    escaped = [[markdown(cell) for cell in line] for line in lines]
    alignment = ["left"] * (len(stubs) + 1) + ["right"] * len(headings)
    grid = tabulate(escaped, [*stubs, "", *headings], tablefmt="pipe", disable_numparse=True, colalign=alignment)
    return f"{markdown(table.caption)}\n\n{grid}\n"


def as_latex(table: FilledTable, label: str) -> str:
    """Return a table* environment for booktabs, scaled to the width of the text. In wide tables deviations stand below the means."""
    stubs = [*_stubs(table), ""]
    above, rules, at = [" & " * (len(stubs) - 1)], [], len(stubs) + 1
    for group, columns in groupby(table.columns, key=lambda column: column.group):
        width = len(list(columns))
        above.append(f"\\multicolumn{{{width}}}{{c}}{{{latex(group)}}}")
        rules += [f"\\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    headings = [*map(latex, stubs), *(f"\\rotatebox{{90}}{{{latex(column.heading)}}}" for column in table.columns)]
    body: list[str] = []
    for i, row in enumerate(table.rows):
        if i:
            body.append("\\addlinespace" if row.is_in_paper == table.rows[i - 1].is_in_paper else "\\midrule")
        for j, (title, cells) in enumerate(_lines(row, table, is_stacked=len(table.columns) > _WIDE)):
            names = [name if j == 0 else "" for name in _names(row, table)]
            line = " & ".join(map(latex, [*names, title, *cells])) + " \\\\"
            body.append("{}" + line if line.startswith("[") else line)  # a rule would take the bracket for its own argument
    return "\n".join(
        [
            _PACKAGES,
            "\\begin{table*}[t]",
            f"\\caption{{{latex(table.caption)}}}",
            f"\\label{{{label}}}",
            "\\centering\\smallskip",
            "\\resizebox{\\textwidth}{!}{%",
            f"\\begin{{tabular}}{{{'l' * len(stubs)}{'r' * len(table.columns)}}}",
            "\\toprule",
            *([" & ".join(above) + " \\\\", " ".join(rules)] if rules else []),
            " & ".join(headings) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table*}",
            "",
        ]
    )


def _stubs(table: FilledTable) -> list[str]:
    return ["method", "shots"] if _has_shots(table) else ["method"]


def _names(row: FilledRow, table: FilledTable) -> list[str]:
    label = row.label if row.is_in_paper else f"{row.label} (not in the paper)"
    return [label, row.shots] if _has_shots(table) else [label]


def _has_shots(table: FilledTable) -> bool:
    return len({row.shots for row in table.rows} - {"0"}) > 1


def _lines(row: FilledRow, table: FilledTable, is_stacked: bool) -> list[tuple[str, list[str]]]:
    """Return (title, cells) of each line of a row: ours if we have the method, published if the paper has it, differences if there are any."""
    cells = [row.cells[column.name] for column in table.columns]
    decimals = _decimals(table)
    lines = []
    if row.method and is_stacked:
        lines = [("ours", [_mean(cell, decimals) for cell in cells])]
        lines += [("± (seeds)", [_spread(cell, decimals) or MISSING for cell in cells])] if any(cell.ours for cell in cells) else []
    elif row.method:
        lines = [("ours", [" ".join(filter(None, (_mean(cell, decimals), _spread(cell, decimals)))) for cell in cells])]
    if row.is_in_paper:
        lines.append(("published", [_published(cell) for cell in cells]))
    if any(cell.difference is not None for cell in cells):
        lines.append(("difference", [_signed(cell.difference, decimals) for cell in cells]))
    return lines


def _decimals(table: FilledTable) -> int:
    """Return the largest number of decimals among printed numbers, at least 1."""
    printed = [cell.printed.value.as_tuple().exponent for row in table.rows for cell in row.cells.values() if cell.printed]
    return max([1, *(-exponent for exponent in printed if isinstance(exponent, int))])


def _mean(cell: Cell, decimals: int) -> str:
    if cell.ours is None:
        return MISSING
    return f"{cell.ours.mean:.{decimals}f}" + (OFF_PROTOCOL if cell.ours.is_off_protocol else "")


def _spread(cell: Cell, decimals: int) -> str:
    """Return the standard deviation, if there is one, and the number of seeds."""
    if cell.ours is None:
        return ""
    deviation = "" if cell.ours.std is None else f"± {cell.ours.std:.{decimals}f} "
    return f"{deviation}({cell.ours.repetitions})"


def _published(cell: Cell) -> str:
    if cell.printed is None:
        return MISSING
    spread = "" if cell.printed.std is None else f" ± {cell.printed.std}"
    kind = KINDS[cell.printed.kind]
    return f"{cell.printed.value}{spread}" + (f" {kind}" if kind else "")


def _signed(difference: float | None, decimals: int) -> str:
    return MISSING if difference is None else f"{round(difference, decimals) + 0.0:+.{decimals}f}".replace("-", "−")  # no "−0.0"


def _csv_values(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers for CSV."""
    ours, printed = cell.ours, cell.printed
    return {
        "ours": ours.mean if ours else "",
        "std": ours.std if ours and ours.std is not None else "",
        "seeds": ours.repetitions if ours else "",
        "published": printed.value if printed else "",
        "published std": printed.std if printed and printed.std is not None else "",
        "published kind": printed.kind if printed else "",
        "difference": "" if cell.difference is None else cell.difference,
        "off protocol": ours.is_off_protocol if ours else "",
    }
