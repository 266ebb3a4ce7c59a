"""Findings of an audit of printed averages as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal

from petlbench.published.audit import Contradiction, Finding

HUNDREDTH = Decimal("0.01")


def finding_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return a row per printed average: its paper, the value from its cells, and the definition that the printed number follows."""
    rows = []
    for finding in findings:
        printed = finding.printed
        computed = "" if finding.computed is None else str(finding.computed.quantize(HUNDREDTH, ROUND_HALF_UP))
        where = "" if finding.computed_from == printed.table else f" ({finding.computed_from})" if finding.computed_from else ""
        rows.append(
            {
                "paper": _joined(printed.paper, printed.table),
                "row": _joined(printed.method, printed.backbone, f"{printed.shots} shots" if printed.shots.isdigit() else ""),
                "average": printed.dataset,
                "printed": str(printed.value),
                "from its parts": f"{computed}{where}",
                "verdict": finding.verdict,
                "follows": " = ".join(finding.follows),
            }
        )
    return rows


def contradiction_rows(found: Iterable[Contradiction]) -> list[dict[str, str]]:
    """Return a row per result that sources print differently."""
    return [
        {
            "row": _joined(one.row, one.backbone, f"{one.shots} shots" if one.shots.isdigit() else ""),
            "dataset": one.dataset if one.dataset != "all" else one.metric,
            "values": "; ".join(f"{value} {_sources(sources)}" for value, sources in one.values.items()),
        }
        for one in found
    ]


def _sources(sources: Sequence[str]) -> str:
    return f"({'; '.join(sources)})"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
