"""The commands about published numbers: published, audit, table."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table as RichTable

from petlbench.cli.console import table_console
from petlbench.errors import ConfigError, TableError, did_you_mean
from petlbench.published import numbers as printed
from petlbench.published.audit import audit as audit_numbers
from petlbench.published.audit import contradictions
from petlbench.published.wide import read_table
from petlbench.report.audit import contradiction_rows, finding_rows

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")
_FILTERS = ("paper", "table", "suite", "method", "backbone", "access", "shots", "dataset", "metric", "source_kind")


@click.command()
@click.argument("words", nargs=-1, metavar="KEY=TEXT...")
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout and nothing else.")
def published(words: tuple[str, ...], as_json: bool, as_csv: bool) -> None:
    """List numbers that papers print: petlbench published paper=spt suite=vtab method=lora dataset=cifar100

    A word selects by part of a name (suite, dataset and shots: by the whole of it); method= also takes the name that a method has here. Without
    words the printed tables are listed. Kind says how a number was seen; what is not primary is a copy of the number.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    found = printed.select(printed.published(), _pairs(words, _FILTERS))
    if not found:
        raise TableError(f"no published number with {' '.join(words)} (petlbench published lists the tables)")
    if as_json:
        click.echo(json.dumps([_as_json(number) for number in found]))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, printed.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(number.model_dump() for number in found)
    else:
        rows, shared = _without_shared([_as_row(number) for number in found]) if words else (_tables(found), {})
        if shared:
            click.echo("all: " + " · ".join(f"{key} {text}" for key, text in shared.items()))
        _show(rows)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@AS_JSON
def audit(file: Path | None, as_json: bool) -> None:
    """Recompute the averages of a table: petlbench audit TABLE.csv

    TABLE.csv has a row per method and a column per dataset, and averages in columns called mean… or average…; or the columns of
    results/published. Says which definition each printed average follows (mean of 19, mean of 3 group means, …) within its rounding, and
    exits with 1 when one differs from all. Without a file all published tables are audited, and compared with each other.
    """
    numbers, left_out = read_table(file) if file else (printed.published(), [])
    findings = audit_numbers(numbers)
    shown = findings if file else [one for one in findings if one.verdict not in ("agrees", "cells missing")]
    conflicts = [] if file else contradictions(numbers)
    counts = Counter(finding.verdict for finding in findings)
    if as_json:
        report = {
            "verdicts": counts,
            "averages": finding_rows(shown),
            "contradictions": contradiction_rows(conflicts),
            "left_out": left_out,
        }
        click.echo(json.dumps(report))
    else:
        _show(finding_rows(shown))
        _show(contradiction_rows(conflicts))
        if left_out:
            click.echo(f"columns that are no dataset and no average: {', '.join(left_out)}")
        verdicts = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
        click.echo(f"{len(findings)} averages: {verdicts}" + ("" if file else f"; {len(conflicts)} results that sources print differently"))
    if file and counts["differs"]:
        sys.exit(1)


@click.command()
@click.argument("paper")
@click.argument("words", nargs=-1, metavar="[backbone=NAME] [protocol=NAME]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Results folder.")
@click.option("--seeds", help="Only these seeds: 0,1,2")
@click.option("--partial", is_flag=True, help="Averages over the columns that all rows have, where others are missing.")
def table(paper: str, words: tuple[str, ...], out: Path, seeds: str | None, partial: bool) -> None:
    """Write a paper's table with our runs beside its numbers: petlbench table blackvip|craft|pgn|spt|vpt

    Writes OUT/tables/PAPER-PART.{csv,md,tex} in the paper's rows and columns: mean ± standard deviation over seeds, the published number, the
    difference. One backbone (the paper's unless backbone=NAME) and one protocol stand in a table.
    """
    from petlbench.records.store import RecordStore
    from petlbench.report.paper_cells import fill
    from petlbench.report.paper_files import write_table
    from petlbench.report.paper_runs import Choice
    from petlbench.report.paper_tables import load_table

    shape = load_table(paper)
    chosen = _pairs(words, ("backbone", "protocol"))
    choice = Choice(chosen.get("backbone"), chosen.get("protocol"), _seeds(seeds), partial)
    for path in write_table(out / "tables", paper, fill(shape, RecordStore(out).read(), printed.published(), choice)):
        click.echo(str(path))


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ConfigError(f"--seeds must be numbers such as 0,1,2, got {text!r}")
    return tuple(map(int, text.split(",")))


def _pairs(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Words of the form key=text."""
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"'{word}' is not of the form key=text with one of {', '.join(known)}.{did_you_mean(key, known)}")
        if not text or key in pairs:
            raise ConfigError(f"'{word}': " + (f"{key} stands twice; give it once" if text else f"a text is expected behind {key}="))
        pairs[key] = text
    return pairs


def _as_row(number: printed.PublishedNumber) -> dict[str, str]:
    return {
        "paper, table": f"{number.paper}, {number.table}",
        "suite": number.suite,
        "method": number.method,
        "here": printed.name_of(number).ours,
        "backbone": number.backbone,
        "shots": number.shots,
        "dataset": number.dataset,
        "metric": number.metric,
        "value": str(number.value) + (f" ± {number.std}" if number.std is not None else ""),
        "kind": number.source_kind,
        "source": number.source,
    }


def _without_shared(rows: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows without the columns that say the same in all of several rows, and what those say."""
    shared = {key: text for key, text in rows[0].items() if len(rows) > 1 and key != "value" and all(row[key] == text for row in rows)}
    return [{key: text for key, text in row.items() if key not in shared} for row in rows], {k: text for k, text in shared.items() if text}


def _as_json(number: printed.PublishedNumber) -> dict[str, Any]:
    std, name = None if number.std is None else float(number.std), printed.name_of(number)
    return {**number.model_dump(), "value": float(number.value), "std": std, "ours": name.ours, "note": name.note}


def _tables(numbers: Sequence[printed.PublishedNumber]) -> list[dict[str, str]]:
    """The printed tables that numbers come from."""
    tables = Counter((number.paper, number.table, number.suite, number.source_kind) for number in numbers)
    return [dict(zip(("paper", "table", "suite", "kind", "numbers"), (*key, str(count)), strict=True)) for key, count in tables.items()]


def _show(rows: Sequence[Mapping[str, str]]) -> None:
    """A table of rows with the same keys; nothing of no rows."""
    if not rows:
        return
    grid = RichTable(box=None, pad_edge=False)
    for column in rows[0]:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row.values())
    table_console().print(grid)
