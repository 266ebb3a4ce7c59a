"""Compare the tables of docs/why-numbers-differ.md with an audit of the published numbers."""

from pathlib import Path

from tabulate import tabulate

from petlbench.published.audit import audit, contradictions
from petlbench.published.numbers import published
from petlbench.report.audit import contradiction_rows, finding_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "why-numbers-differ.md"


def as_table(rows: list[dict[str, str]]) -> str:
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def test_the_disagreements_are_those_of_the_audit() -> None:
    disagreements = [finding for finding in audit(published()) if finding.verdict not in ("agrees", "cells missing")]
    assert as_table(finding_rows(disagreements)) in DOCUMENT.read_text(encoding="utf-8")


def test_the_contradictions_are_those_between_the_sources() -> None:
    assert as_table(contradiction_rows(contradictions(published()))) in DOCUMENT.read_text(encoding="utf-8")


def test_the_number_of_numbers_is_right() -> None:
    assert f"{len(published()):,} numbers" in DOCUMENT.read_text(encoding="utf-8")
