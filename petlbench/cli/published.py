"""The command that lists published numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from petlbench.analysis.escape import csv_rows
from petlbench.cli.printing import print_rows
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON
from petlbench.config.typed import COMMAND_LINE, check_keys
from petlbench.errors import ConfigError, TableError
from petlbench.published import numbers as printed

_FILTERS = ("paper", "table", "suite", "method", "backbone", "access", "shots", "dataset", "metric", "source_kind")


@click.command()
@click.argument("words", nargs=-1, metavar="KEY=TEXT...")
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout and nothing else.")
def published(words: tuple[str, ...], as_json: bool, as_csv: bool) -> None:
    """List numbers that papers print: petlbench published paper=spt suite=vtab method=lora dataset=cifar100

    A word selects by part of a name (suite, dataset and shots: by the whole of it); method= also takes the name that a method has here. Without
    words the printed tables are listed. Kind says how a number was seen; what is not primary is a copy of the number. --csv and --json print the
    sources, too.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    found = printed.select(printed.published(), _pairs(words, _FILTERS))
    if not found:
        raise TableError(f"no published number with {' '.join(words)} (petlbench published lists the tables)")
    if as_json:
        echo_json([_as_json(number) for number in found])
    elif as_csv:
        click.echo(csv_rows(printed.COLUMNS, (number.model_dump() for number in found)), nl=False)
    else:
        rows, shared = _without_shared([_as_row(number) for number in found]) if words else (_tables(found), {})
        if shared:
            echo("all: " + " · ".join(f"{key} {text}" for key, text in shared.items()))
        print_rows(rows)


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


def _pairs(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Words of the form key=text."""
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not of the form key=text, such as paper=spt")
        check_keys([key], known, COMMAND_LINE, is_listed=True)
        if not text or key in pairs:
            raise ConfigError(f"'{word}': " + (f"{key} stands twice; give it once" if text else f"a text is expected behind {key}="))
        pairs[key] = text
    return pairs
