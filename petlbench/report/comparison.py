"""Write a comparison of methods as Markdown and CSV, and render it for the terminal."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text
from tabulate import tabulate

from petlbench.analysis.escape import csv_of, markdown
from petlbench.analysis.formats import MISSING, count, decimals, human_count
from petlbench.analysis.statistics import Comparison, row_names
from petlbench.analysis.tables import Part
from petlbench.analysis.tradeoffs import COSTS, accuracy_at_budgets, tradeoffs
from petlbench.errors import printable
from petlbench.records.store import write_atomically
from petlbench.report.drawings import Drawing
from petlbench.report.rankings import write_ranking_plots
from petlbench.report.terminal import FittingTable, TerminalColumn

_HEADINGS = {
    "mean rank": "mean\nrank",
    "% per 1000 queries": "% per 1000\nqueries",
    "queries incl. tuning": "queries incl.\ntuning",
}  # of the terminal
_MAY_WRAP = ("method", "methods", "front")
_LEGEND = (
    "Intervals are 95 %, from a bootstrap that draws tasks and, within each, seeds; they include the variation between tasks, so compare two methods by"
    " the interval of their difference. IQM: mean of the middle half of all runs. PPT: accuracy discounted by trainable parameters. Front:"
    " no other method is as accurate for less of that cost."
)


def write_comparison(of_part: Part, drawing: Drawing, results: Path) -> tuple[str, list[Path]]:
    """Write statistics/NAME-methods.csv, NAME-pairs.csv, NAME-budgets.csv and plots/ for a comparable part; return the Markdown and the paths.

    Both are empty if fewer than two methods have a result on every task. Budgets are written if methods learn by queries.
    """
    part, runs, comparison, name = of_part.frame, of_part.behind, of_part.comparison, drawing.name
    if len(comparison.methods) < 2:
        return "", []
    trade, budgets = tradeoffs(part, runs), accuracy_at_budgets(part, runs)
    frames = {"methods": with_tradeoffs(comparison, trade), "pairs": comparison.pairs, "budgets": budgets}
    paths = []
    for table, frame in frames.items():
        if frame.empty:
            continue
        paths.append(results / "statistics" / f"{name}-{table}.csv")
        write_atomically(paths[-1], csv_of(frame))
    plots = drawing.paths("ranks", partial(write_ranking_plots, part, trade, comparison, drawing.source, drawing.folder, name))
    links = " · ".join(f"[{path.name}](statistics/{path.name})" for path in paths)
    sections = [f"### Statistics: {name}", f"{_LEGEND} {links}", _markdown(methods_table(frames["methods"]))]
    sections += ["\n".join(f"* {markdown(sentence)}" for sentence in sentences(comparison))]
    sections += [
        f"Accuracy with at most so many {unit} in training:\n\n{_markdown(_pivot(group))}" for unit, group in budgets.groupby("unit")
    ]
    sections += ["\n".join(f"![{path.stem}](plots/{path.name})" for path in plots if path.suffix == ".svg")]
    return "\n\n".join(section for section in sections if section), [*paths, *plots]


def with_tradeoffs(comparison: Comparison, trade: pd.DataFrame) -> pd.DataFrame:
    """Return the methods of a comparison with their trade-offs."""
    costs = trade.assign(method=row_names(trade)).drop(columns=["access", "mean"])
    return comparison.methods.merge(costs, on="method", how="left")


def methods_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Format ``with_tradeoffs`` as text."""
    fronts = [", ".join(cost for cost in COSTS if line[f"front_{cost}"] is True) for line in frame.astype(object).to_dict("records")]
    table = pd.DataFrame(
        {
            "method": frame["method"],
            "mean": [_with_interval(*values) for values in zip(frame["mean"], frame["mean_low"], frame["mean_high"], strict=True)],
            "IQM": [_with_interval(*values) for values in zip(frame["iqm"], frame["iqm_low"], frame["iqm_high"], strict=True)],
            "mean rank": frame["mean_rank"].map("{:.2f}".format),
            "PPT": [decimals(value, 3) for value in frame["ppt"]],
            "% per 1000 queries": [MISSING if pd.isna(value) else f"{value:.2g}" for value in frame["accuracy_per_1000_queries"]],
            "queries incl. tuning": [count(value) for value in frame["queries_with_tuning"]],
            "front": [front or MISSING for front in fronts],
        }
    )
    return table if frame["queries_with_tuning"].notna().any() else table.drop(columns="queries incl. tuning")


def pairs_table(comparison: Comparison) -> pd.DataFrame:
    """Format the pairs as text."""
    pairs = comparison.pairs
    return pd.DataFrame(
        {
            "methods": pairs["method"] + " – " + pairs["other"],
            "difference": [
                _with_interval(*values)
                for values in zip(pairs["difference"], pairs["difference_low"], pairs["difference_high"], strict=True)
            ],
            "wins/ties/losses": [f"{w}/{t}/{lost}" for w, t, lost in zip(pairs["wins"], pairs["ties"], pairs["losses"], strict=True)],
            "Wilcoxon p": pairs["p_wilcoxon"].map("{:.2g}".format),
            "Holm": pairs["p_holm"].map("{:.2g}".format),
            "Nemenyi": pairs["p_nemenyi"].map("{:.2g}".format),
        }
    )


def sentences(comparison: Comparison) -> list[str]:
    """Return sentences with test results, methods left out and warnings."""
    found = []
    if (friedman := comparison.friedman) is not None:
        m, t = len(comparison.methods), len(comparison.tasks)
        ratio = f"{friedman.iman_davenport:.2f}" if math.isfinite(friedman.iman_davenport) else "infinite"
        found.append(
            f"Friedman over {t} tasks: chi-square {friedman.statistic:.2f} with {m - 1} degrees of freedom, p {friedman.p:.2g};"
            f" Iman and Davenport: F {ratio} with {m - 1} and {(m - 1) * (t - 1)}, p {friedman.iman_davenport_p:.2g}."
            f" Nemenyi's critical difference of mean ranks: {friedman.critical_difference:.2f}."
        )
    if comparison.left_out:
        found.append(f"Not compared, because results of a task are missing: {', '.join(comparison.left_out)}.")
    return [*found, *comparison.warnings]


def terminal_report(title: str, comparison: Comparison, methods: pd.DataFrame, with_pairs: bool) -> RenderableType:
    """Render a comparison for a terminal of 120 characters; ``methods`` from ``with_tradeoffs``."""
    parts: list[RenderableType] = [Text(printable(title), style="bold"), *([_rich(methods_table(methods))] if len(methods) else [])]
    if with_pairs and len(comparison.pairs):
        parts += ["", _rich(pairs_table(comparison))]
    return Group(*parts, *(Text(printable(f"* {sentence}")) for sentence in sentences(comparison)))


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _pivot(budgets: pd.DataFrame) -> pd.DataFrame:
    wide = budgets.pivot_table(index="method", columns="budget", values="accuracy")
    shown = wide.map(decimals)
    return shown.rename(columns=lambda budget: human_count(float(budget))).reset_index()


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[markdown(str(cell)) for cell in row] for row in frame.itertuples(index=False)]
    return str(tabulate(rows, list(map(markdown, frame.columns)), tablefmt="pipe", disable_numparse=True))


def _rich(frame: pd.DataFrame) -> FittingTable:
    columns = []
    for name in frame.columns:
        cells = [Text(printable(str(cell))) for cell in frame[name]]
        is_name = name in ("method", "methods")
        columns.append(TerminalColumn(_HEADINGS.get(name, name), cells, may_wrap=name in _MAY_WRAP, is_kept=is_name))
    return FittingTable(columns, 2, "petlbench compare --json")
