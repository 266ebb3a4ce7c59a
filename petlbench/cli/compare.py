"""The command ``compare``."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd

from petlbench.analysis.aggregate import comparable_parts, is_own_task, leaderboard, ranked_columns, runs_behind, runs_frame, with_own_tasks
from petlbench.analysis.statistics import Comparison, compare, row_names
from petlbench.analysis.tradeoffs import tradeoffs
from petlbench.cli.broken import end, read_records
from petlbench.cli.printing import table_console
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo_json
from petlbench.cli.words import AS_JSON, names_and_words, settings_of
from petlbench.config.files import load_suite, suite_tasks
from petlbench.errors import ConfigError, RecordError, did_you_mean
from petlbench.report.comparison import terminal_report, with_tradeoffs


@dataclass
class CompareSettings:
    """Settings of ``compare``."""

    out: str = "results"  # results folder
    suite: str | None = None  # only this suite


@click.command("compare", cls=SettingsCommand, settings=CompareSettings)
@click.argument("words", nargs=-1, metavar="[METHOD...] [suite=NAME] [out=DIR]")
@AS_JSON
def compare_methods(words: tuple[str, ...], as_json: bool) -> None:
    """Compare methods by their records: intervals, ranks, tests of every pair, accuracy at what it cost.

    A METHOD is a row of the leaderboard, such as lora or "lora [rank=4]"; without any all are compared, and pairs are left to --json and to the
    files of petlbench leaderboard. Fewer methods mean fewer pairs to correct for, so choose them before looking at the results.
    """
    methods, given = names_and_words(words)
    settings = settings_of(CompareSettings, given)
    suite, out = settings.suite, Path(settings.out)
    records = read_records(out)
    suites = with_own_tasks(suite_tasks(), records)
    if suite:
        suites = {suite: suites[suite] if suite in suites else load_suite(suite).tasks}
    runs, parts = runs_frame(records), comparable_parts(leaderboard(records, suites))
    if not parts:
        raise RecordError(
            f"no finished runs of {suite or 'any suite'} below {out / 'records'}; run petlbench bench first, or name another folder with out=DIR"
        )
    known = sorted({str(method) for part in parts for method in row_names(part)})
    for method in methods:
        if method not in known:
            raise ConfigError(f"no method '{method}' in {out}.{did_you_mean(method, known)} There are: {', '.join(known)}")
    documents = []
    for part in parts:
        behind = runs_behind(part, runs)
        of_these = part[row_names(part).isin(methods or known)]
        if of_these.empty:
            continue
        comparison = compare(behind[row_names(behind).isin(methods or known)], ranked_columns(part))
        frame = with_tradeoffs(comparison, tradeoffs(of_these, runs))
        of_suite, backbone, protocol = part[["suite", "backbone", "protocol"]].iloc[0]
        if as_json:
            documents.append({"suite": of_suite, "backbone": backbone, "protocol": protocol, **_as_json(comparison, frame)})
        else:
            title = f"{of_suite} on {backbone}, protocol {protocol}" + (" (own task: no published numbers)" if is_own_task(part) else "")
            table_console().print(terminal_report(title, comparison, frame, bool(methods)))
    if as_json:
        echo_json(documents)
    end(records.broken)


def _as_json(comparison: Comparison, methods: pd.DataFrame) -> dict[str, Any]:
    """Full floats; null where there is no value, or an infinite one."""
    seeds = comparison.seeds.rename_axis("method").reset_index()
    frames = {"methods": methods, "pairs": comparison.pairs, "seeds": seeds}
    friedman = {} if comparison.friedman is None else dataclasses.asdict(comparison.friedman)
    return {
        **{name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in frames.items()},
        "friedman": {name: None if value == math.inf else value for name, value in friedman.items()} or None,
        "left_out": comparison.left_out,
        "warnings": comparison.warnings,
    }
