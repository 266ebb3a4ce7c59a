"""Check printed averages against their cells, and sources against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Literal

from petlbench.published.averages import Average, averages_of, column_groups, flat, is_average
from petlbench.published.numbers import ACCURACY, ORACLE, PublishedNumber, name_of

Verdict = Literal["agrees", "truncated", "rounding of its parts", "differs", "cells missing"]
Cells = Mapping[str, PublishedNumber]  # dataset -> number, of one row of one table

_MOST_DECIMALS = 6  # more are noise of floating point
_PRINTED_GROUPS = "printed group means"


@dataclass(frozen=True)
class Finding:
    """A printed average and the average computed from its row."""

    printed: PublishedNumber
    computed: Decimal | None  # by the definition of its name, or else the nearest value; None: cells are missing
    computed_from: str  # the table of the cells, or "printed group means"
    follows: tuple[str, ...]  # the definitions that give the printed number within its rounding
    verdict: Verdict


@dataclass(frozen=True)
class Contradiction:
    """A result that sources print differently."""

    row: str
    backbone: str
    shots: str
    dataset: str
    metric: str
    values: dict[Decimal, tuple[str, ...]]  # value -> "paper, table" of each source


def audit(numbers: Iterable[PublishedNumber]) -> list[Finding]:
    """Recompute every printed average of accuracies, in the order of the numbers.

    Cells are taken from the average's own table or, when some are missing there, from another table of the paper that has the row. A plain
    "mean", and one of a suite that is none of ours, is compared with every definition that the cells allow.
    """
    accuracies = [number for number in numbers if number.metric in (ACCURACY, ORACLE)]
    tables: dict[tuple[str, ...], dict[str, dict[str, PublishedNumber]]] = defaultdict(lambda: defaultdict(dict))
    for number in accuracies:
        tables[_row_of_paper(number)][number.table][number.dataset] = number
    return [_finding(number, tables[_row_of_paper(number)]) for number in accuracies if is_average(number.dataset)]


def contradictions(numbers: Iterable[PublishedNumber]) -> list[Contradiction]:
    """Return results (``row`` of methods.csv) that sources print with more than rounding differences; reruns and values read off plots do not count."""
    claims: dict[tuple[str, ...], list[PublishedNumber]] = defaultdict(list)
    for number in numbers:
        if number.source_kind in ("primary", "reprint"):
            row = name_of(number).row
            scope = number.suite if is_average(number.dataset) or number.dataset == "all" else ""
            claims[row, number.backbone, number.shots, number.dataset, number.metric, scope].append(number)
    found = []
    for (row, backbone, shots, dataset, metric, _), same in claims.items():
        values: dict[Decimal, tuple[str, ...]] = {}
        for number in same:
            values[number.value] = (*values.get(number.value, ()), f"{number.paper}, {number.table}")
        if any(abs(a - b) > max(_unit(a), _unit(b)) / 2 for a in values for b in values):
            found.append(Contradiction(row, backbone, shots, dataset, metric, values))
    return found


def _row_of_paper(number: PublishedNumber) -> tuple[str, ...]:
    return number.paper, number.suite, number.method, number.backbone, number.shots, number.metric


def _finding(printed: PublishedNumber, tables: Mapping[str, Cells]) -> Finding:
    sources = {printed.table: tables[printed.table]} | dict(tables)
    definitions = _definitions(printed.suite, tables[printed.table])
    derivations = [derivation for average in definitions for derivation in _derivations(average, printed.table, sources)]
    if any(average.name == printed.dataset for average in definitions):
        chosen = next((derivation for derivation in derivations if derivation.name == printed.dataset), None)
    else:
        chosen = min(derivations, key=lambda derivation: abs(printed.value - derivation.value), default=None)
    if chosen is None:
        return Finding(printed, None, "", (), "cells missing")
    follows = tuple(dict.fromkeys(derivation.title for derivation in derivations if _verdict(printed.value, derivation) == "agrees"))
    return Finding(printed, chosen.value, chosen.source, follows, _verdict(printed.value, chosen))


@dataclass(frozen=True)
class _Derivation:
    """The value of an average by one definition and source."""

    name: str  # of the average
    title: str
    value: Decimal
    source: str
    input_error: Decimal  # bound on the part of the value that is rounding of its inputs


def _derivations(average: Average, table: str, sources: Mapping[str, Cells]) -> list[_Derivation]:
    """Compute the average from the first source that has all cells, and from the group means that its own table prints."""
    derivations = []
    for source, cells in sources.items():
        value = average.over({dataset: cells[dataset].value for dataset in average.datasets if dataset in cells})
        if value is not None:
            error = max(_unit(cells[dataset].value) for dataset in average.datasets) / 2
            derivations.append(_Derivation(average.name, average.title, value, source, error))
            break
    means = _group_means(average, sources[table]) if len(average.groups) > 1 else []
    if means:
        value = sum(means, Decimal(0)) / len(means)
        derivations.append(_Derivation(average.name, f"mean of the {_PRINTED_GROUPS}", value, _PRINTED_GROUPS, max(map(_unit, means)) / 2))
    return derivations


def _group_means(average: Average, cells: Cells) -> list[Decimal]:
    """Return the printed means of an average's groups; empty if one is not printed."""
    suites = [averages_of(suite) for suite in column_groups()]
    names = {other.groups[0]: other.name for of_suite in suites for other in of_suite if len(other.groups) == 1}
    printed = [cells[names[group]].value for group in average.groups if names.get(group) in cells]
    return printed if len(printed) == len(average.groups) else []


def _definitions(suite: str, cells: Cells) -> Sequence[Average]:
    """Return the averages that a printed mean of this suite may be; for other suites those that the cells allow."""
    if suite in column_groups():
        return averages_of(suite)
    datasets = [dataset for dataset in cells if not is_average(dataset) and dataset not in ("all", "unknown")]
    known = [average for other in column_groups() for average in averages_of(other) if set(average.datasets) <= set(datasets)]
    plain = [flat(datasets)] if datasets and not any(average.groups == (tuple(datasets),) for average in known) else []
    return [*known, *plain]


def _verdict(printed: Decimal, derivation: _Derivation) -> Verdict:
    difference, unit = abs(printed - derivation.value), _unit(printed)
    if difference <= unit / 2:
        return "agrees"
    if derivation.value.quantize(unit, ROUND_FLOOR) == printed:
        return "truncated"
    return "rounding of its parts" if difference <= unit / 2 + derivation.input_error else "differs"


def _unit(value: Decimal) -> Decimal:
    """Return one unit of the last printed digit."""
    exponent = value.as_tuple().exponent
    return Decimal(1).scaleb(max(exponent, -_MOST_DECIMALS) if isinstance(exponent, int) else 0)
