"""The averages that papers print over a suite, each with the datasets that it averages.

configs/tables/averages.yaml defines them for each suite by the groups of the suite's YAML. VTAB-1k has two overall averages in the literature: over its
19 tasks, and over the means of its three groups.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TypeVar

from petlbench.config.files import load_suite, load_yaml
from petlbench.errors import TableError, did_you_mean

Value = TypeVar("Value", float, Decimal)


@dataclass(frozen=True)
class Average:
    """The mean of the means of groups of datasets; a plain mean has one group."""

    name: str  # "mean_19"
    groups: tuple[tuple[str, ...], ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dataset for group in self.groups for dataset in group)

    @property
    def title(self) -> str:
        if len(self.groups) > 1:
            return f"mean of {len(self.groups)} group means"
        return f"mean of {len(self.datasets)}"

    def over(self, cells: Mapping[str, Value]) -> Value | None:
        """Compute the average of cells, dataset -> number; None if one is missing."""
        if not all(dataset in cells for dataset in self.datasets):
            return None
        return _mean([_mean([cells[dataset] for dataset in group]) for group in self.groups])

    def common(self, datasets: Collection[str]) -> Average | None:
        """Restrict the average to the given datasets; None if a group becomes empty."""
        groups = tuple(tuple(dataset for dataset in group if dataset in datasets) for group in self.groups)
        return Average(self.name, groups) if all(groups) else None


def flat(datasets: Collection[str]) -> Average:
    """Return the plain mean of datasets, named after their number."""
    return Average(f"mean_{len(datasets)}", (tuple(datasets),))


def is_average(name: str) -> bool:
    """Return True if a name in a ``dataset`` column is that of an average."""
    return re.fullmatch(r"mean(_\w+)?", name) is not None


def _mean(values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)


@cache
def column_groups() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return suite -> group -> datasets in column order, for suites that papers have tables of."""
    groups = {}
    for name in load_yaml("tables", "averages"):
        suite = load_suite(name)
        named = suite.groups or {"all": suite.tasks}
        groups[name] = {group: tuple(task.partition("/")[2] for task in tasks) for group, tasks in named.items()}
    return groups


@cache
def averages_of(suite: str) -> tuple[Average, ...]:
    """Return the averages that papers print over a suite; empty for other suites."""
    groups = column_groups().get(suite)
    if groups is None:
        return ()
    averages = []
    for name, definition in load_yaml("tables", "averages")[suite].items():
        for group in (group for joined in definition for group in joined):
            if group not in groups:
                raise TableError(f"configs/tables/averages.yaml: {suite} has no group '{group}'.{did_you_mean(group, groups)}")
        averages.append(Average(name, tuple(tuple(dataset for group in joined for dataset in groups[group]) for joined in definition)))
    return tuple(averages)
