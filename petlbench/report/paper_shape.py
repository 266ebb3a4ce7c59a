"""The shape of a paper's tables (configs/tables, one file per paper): panels with rows and columns, and the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petlbench.config.files import load_recipe, load_suite, load_yaml, names, origin
from petlbench.config.settings import Protocol
from petlbench.errors import TableError, did_you_mean
from petlbench.published.averages import Average, averages_of, column_groups
from petlbench.published.numbers import method_name, published

NOT_COMPARED = ("name", "shots", "split_seed")  # shots are rows; seeds of the few-shot draw are repetitions


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Shape):
    """A method of the paper."""

    method: str  # as printed
    shots: tuple[str, ...] = ()  # where they are not the panel's: "0" for what is not trained


class Panel(_Shape):
    """One table: its rows and columns in the paper's order."""

    title: str
    suite: str
    groups: tuple[str, ...]  # of the suite, or single datasets
    averages: tuple[str, ...]
    tables: tuple[str, ...]  # of the published numbers; the first that has a cell counts
    shots: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @property
    def datasets(self) -> dict[str, str]:
        """Dataset -> its group, in the order of the columns."""
        of_suite = column_groups()[self.suite]
        return {dataset: group for group in self.groups for dataset in of_suite.get(group, (group,))}

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(method as printed, shots) of each row."""
        pairs = [(row.method, shots) for row in self.rows for shots in row.shots or self.shots]
        order = list(dict.fromkeys([shots for row in self.rows for shots in row.shots] + list(self.shots)))
        return sorted(pairs, key=lambda pair: order.index(pair[1]))

    def averages_over(self) -> list[Average]:
        return [average for average in averages_of(self.suite) if average.name in self.averages]


class PaperTable(_Shape):
    """The tables of a paper's main results."""

    title: str
    paper: str  # of the published numbers
    recipe: str | None = None  # has the paper's protocol, where it differs from the suite's
    backbones: Annotated[dict[str, str], Field(min_length=1)]  # ours -> as printed; the first is the default
    panels: dict[str, Panel]

    def protocol(self, suite: str, dataset: str) -> dict[str, Any]:
        """Return the settings of the paper's protocol on a dataset that the suite's YAML or the recipe's states."""
        of_suite = load_suite(suite)
        layers = [of_suite.settings, of_suite.task_settings.get(f"{suite}/{dataset}", {})]
        if self.recipe is not None:
            recipe = load_recipe(self.recipe)[1]
            layers += [recipe, recipe.get("suites", {}).get(suite, {})]
        stated = {key: value for layer in layers for key, value in layer.get("protocol", {}).items() if key not in NOT_COMPARED}
        normal = asdict(Protocol(**stated))
        return {key: normal[key] for key in stated}


def table_names() -> list[str]:
    """Return the papers whose tables can be written."""
    return [name for name in names("tables") if name != "averages"]


def load_table(name: str) -> PaperTable:
    """Load a paper's table by name. TableError names the key or name in its YAML that does not exist."""
    if name not in table_names():
        raise TableError(f"no table '{name}'.{did_you_mean(name, table_names())} There are {', '.join(table_names())}")
    where = origin("tables", name)
    try:
        table = PaperTable.model_validate(load_yaml("tables", name))
    except ValidationError as error:
        first = error.errors()[0]
        raise TableError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for panel in table.panels.values():
        _check(table, panel, where)
    return table


def _check(table: PaperTable, panel: Panel, where: str) -> None:
    if panel.suite not in column_groups():
        raise TableError(f"{where}: no suite '{panel.suite}' with averages.{did_you_mean(panel.suite, column_groups())}")
    groups = column_groups()[panel.suite]
    known: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        "group or dataset": (panel.groups, {*groups, *(dataset for group in groups.values() for dataset in group)}),
        "average": (panel.averages, {average.name for average in averages_of(panel.suite)}),
        "published table": (panel.tables, {number.table for number in published() if number.paper == table.paper}),
    }
    for what, (named, existing) in known.items():
        for name in named:
            if name not in existing:
                raise TableError(f"{where}: no {what} '{name}'.{did_you_mean(name, existing)}")
    for row in panel.rows:
        method_name(table.paper, panel.suite, row.method)
