"""The command that recomputes the averages of a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from petlbench.cli.printing import print_rows
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON
from petlbench.published.audit import audit as audit_numbers
from petlbench.published.audit import contradictions
from petlbench.published.numbers import published
from petlbench.published.wide import read_table
from petlbench.report.audit import contradiction_rows, finding_rows


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@AS_JSON
def audit(file: Path | None, as_json: bool) -> None:
    """Recompute the averages of a table: petlbench audit TABLE.csv

    TABLE.csv has a row per method and a column per dataset, and averages in columns called mean… or average…; or the columns of
    results/published. Says which definition each printed average follows (mean of 19, mean of 3 group means, …) within its rounding, and
    exits with 1 when one differs from all. Without a file all published tables are audited, and compared with each other.
    """
    numbers, left_out = read_table(file) if file else (published(), [])
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
        echo_json(report)
    else:
        print_rows(finding_rows(shown))
        print_rows(contradiction_rows(conflicts))
        if left_out:
            echo(f"columns that are no dataset and no average: {', '.join(left_out)}")
        verdicts = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
        echo(f"{len(findings)} averages: {verdicts}" + ("" if file else f"; {len(conflicts)} results that sources print differently"))
    if file and counts["differs"]:
        raise click.exceptions.Exit(1)
