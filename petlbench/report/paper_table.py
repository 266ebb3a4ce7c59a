"""Tables in the shape of the papers' (configs/tables, one file per paper): their rows and columns, our runs, published numbers, differences."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petlbench.analysis.aggregate import runs_frame
from petlbench.config.files import load_recipe, load_suite, load_yaml, names, origin
from petlbench.config.settings import Protocol
from petlbench.errors import TableError, did_you_mean
from petlbench.published.averages import Average, averages_of, column_groups, flat
from petlbench.published.numbers import ACCURACY, PublishedNumber, method_name, published
from petlbench.records.schema import Record

NOT_COMPARED = ("name", "shots", "split_seed")  # shots are rows; seeds of the few-shot draw are repetitions
KINDS = {"primary": "", "reprint": "r", "figure": "f", "derived": "d"}  # marks; rows of third parties are not shown
OFF_PROTOCOL = "†"
_HUNDREDTH = Decimal("0.01")
Run = dict[str, Any]  # a row of runs_frame with the protocol's settings
Repetition = tuple[int, str]  # seed, seed of the few-shot draw
Line = tuple[str, str]  # our label of a method, shots as in published numbers


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


@dataclass(frozen=True)
class Choice:
    """The user's choice of runs for a table."""

    backbone: str | None = None  # None: the paper's
    protocol: str | None = None  # a name or an id; needed where there are runs of several
    seeds: tuple[int, ...] = ()  # empty: all
    is_partial: bool = False  # averages over the columns that all rows have


@dataclass
class PanelRuns:
    """The runs of one panel."""

    accuracies: dict[Line, dict[str, dict[Repetition, float]]]  # line -> dataset -> repetition -> percent
    backbone: str
    off_protocol: dict[str, list[str]] = field(default_factory=dict)  # dataset -> settings that differ from the paper's, in words
    protocols: list[str] = field(default_factory=list)  # ids
    selections: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _ in self.accuracies))


def _all_runs(records: Iterable[Record]) -> list[Run]:
    """Return the rows of ``runs_frame`` with the settings of their protocols."""
    records = list(records)
    frame = runs_frame(records)
    settings = {record.key: record.protocol.settings for record in records}
    return [{**{str(key): value for key, value in run.items()}, "settings": settings[run["key"]]} for run in frame.to_dict("records")]


def _runs_of(table: PaperTable, panel: Panel, runs: Sequence[Run], choice: Choice) -> PanelRuns:
    """Select the runs for a panel. TableError if they are of several protocols or of several weights of one backbone, and none is chosen."""
    backbone = choice.backbone or next(iter(table.backbones))
    tasks = {f"{panel.suite}/{dataset}": dataset for dataset in panel.datasets}
    chosen = [
        run
        for run in runs
        if run["task"] in tasks
        and backbone in (run["backbone"], run["backbone"].partition("@")[0])
        and (not choice.seeds or run["seed"] in choice.seeds)
        and (choice.protocol is None or choice.protocol in (run["protocol"], run["settings"].get("name")))
    ]
    _check_alike(f"{table.title}, {panel.title}", chosen)
    zero_shot = {method_name(table.paper, panel.suite, method).ours for method, shots in panel.lines if shots == "0"}
    found = PanelRuns({}, chosen[0]["backbone"] if chosen else backbone)
    shown = []
    for run in chosen:
        shots = "0" if run["method"] in zero_shot else _shots(panel, run["settings"])
        if shots in ("0", *panel.shots):
            shown.append(run)
            repetitions = found.accuracies.setdefault((run["method"], shots), {}).setdefault(tasks[run["task"]], {})
            repetitions[run["seed"], str(run["settings"].get("split_seed"))] = run["accuracy"]
    for run in shown:
        found.off_protocol[tasks[run["task"]]] = _differences(run["settings"], table.protocol(panel.suite, tasks[run["task"]]))
    found.protocols, found.selections, found.codes = (sorted({run[key] for run in shown}) for key in ("protocol", "selection", "code"))
    return found


def _differences(used: dict[str, Any], papers: dict[str, Any]) -> list[str]:
    used = asdict(Protocol()) | used  # a record lacks settings that are newer than it; their defaults keep the former behaviour
    return [f"{key} {used[key]} (paper: {value})" for key, value in papers.items() if used[key] != value]


def _shots(panel: Panel, settings: dict[str, Any]) -> str:
    """Return a protocol's shots as the panel names them: "all training images" has another name on each suite."""
    if settings.get("shots") is not None:
        return str(settings["shots"])
    return next((shots for shots in panel.shots if not shots.isdigit()), "all")


def _check_alike(where: str, runs: Sequence[Run]) -> None:
    """Raise TableError unless these runs may share a table: one backbone, one name of the protocol, one protocol in each column."""
    backbones = sorted({run["backbone"] for run in runs})
    if len(backbones) > 1:
        raise TableError(f"{where}: runs on other weights of one backbone, {', '.join(backbones)}; choose one with backbone=NAME@…")
    compared = defaultdict(set)
    for run in runs:
        settings = {key: value for key, value in run["settings"].items() if key not in NOT_COMPARED}
        compared[run["task"]].add(json.dumps([settings, run["protocol"].partition(" ")[2]], sort_keys=True))
    names = {run["settings"].get("name") for run in runs}
    if len(names) > 1 or any(len(of_task) > 1 for of_task in compared.values()):
        counts = Counter(run["protocol"] for run in runs)
        listed = ", ".join(f"{count} runs of {protocol}" for protocol, count in counts.items())
        raise TableError(f"{where}: runs of several protocols cannot share a column; choose one with protocol=NAME ({listed})")


@dataclass(frozen=True)
class Printed:
    """A published number."""

    value: Decimal
    std: Decimal | None = None
    kind: str = "primary"


@dataclass(frozen=True)
class Ours:
    """Percent over repetitions: seeds, with the few-shot draw that each had."""

    mean: float
    std: float | None  # ddof 1; None: one repetition, or repetitions that differ between the columns of an average
    repetitions: int
    is_off_protocol: bool


@dataclass(frozen=True)
class Cell:
    """One column of one row."""

    ours: Ours | None = None
    printed: Printed | None = None
    is_comparable: bool = False  # same backbone, and no epoch chosen on the test set

    @property
    def difference(self) -> float | None:
        """Ours less what was printed."""
        return self.ours.mean - float(self.printed.value) if self.ours and self.printed and self.is_comparable else None


@dataclass(frozen=True)
class Column:
    """A dataset or an average."""

    name: str
    group: str  # the heading above it; empty: none
    heading: str


@dataclass(frozen=True)
class FilledRow:
    """A method at a number of shots."""

    label: str  # as printed; our own name for methods that the paper lacks
    method: str  # our label; empty: we do not have it
    shots: str
    is_in_paper: bool
    cells: dict[str, Cell]  # of each column


@dataclass(frozen=True)
class FilledTable:
    """A panel as its files show it."""

    columns: list[Column]
    rows: list[FilledRow]
    caption: str


def fill(table: PaperTable, records: Iterable[Record], numbers: Sequence[PublishedNumber], choice: Choice) -> dict[str, FilledTable]:
    """Fill every panel of a table. TableError if our runs cannot share a column, or if none matches the choice."""
    runs = _all_runs(records)
    found = {name: _runs_of(table, panel, runs, choice) for name, panel in table.panels.items()}
    if (choice.protocol or choice.backbone or choice.seeds) and not any(ours.accuracies for ours in found.values()):
        tasks = {f"{panel.suite}/{dataset}" for panel in table.panels.values() for dataset in panel.datasets}
        seeds: dict[str, set[int]] = defaultdict(set)
        for run in runs:
            if run["task"] in tasks:
                seeds[f"{run['backbone']} under {run['protocol']}"].add(run["seed"])
        there = [f"{what} (seeds {','.join(map(str, sorted(of)))})" for what, of in sorted(seeds.items())]
        words = {"backbone": choice.backbone, "protocol": choice.protocol, "seeds": ",".join(map(str, choice.seeds))}
        asked = " and ".join(f"{key} {value}" for key, value in words.items() if value)
        raise TableError(f"{table.title}: no run of {asked}; there are {', '.join(there) or 'none at all'}")
    return {name: _Filling(table, panel, found[name], numbers, choice).table() for name, panel in table.panels.items()}


class _Filling:
    """Fills one panel."""

    def __init__(self, table: PaperTable, panel: Panel, ours: PanelRuns, numbers: Sequence[PublishedNumber], choice: Choice) -> None:
        self.paper, self.panel, self.ours = table, panel, ours
        name = ours.backbone.partition("@")[0]
        self.printed_backbone = table.backbones.get(name, next(iter(table.backbones.values())))
        self.is_comparable = name in table.backbones and "oracle_test" not in ours.selections
        self.printed = self._printed(numbers)
        self.common = [dataset for dataset in panel.datasets if all(dataset in cells for cells in ours.accuracies.values())]
        self.is_cut = choice.is_partial and len(self.common) < len(panel.datasets)
        self.averages: dict[str, Average | None] = {}
        for average in panel.averages_over():
            self.averages[average.name] = average.common(self.common) if self.is_cut else average

    def table(self) -> FilledTable:
        columns = self._columns()
        return FilledTable(columns, [self._row(*line, columns) for line in self._lines()], self._caption())

    def _printed(self, numbers: Sequence[PublishedNumber]) -> dict[tuple[str, str, str], Printed]:
        """Return (method, shots, column) -> number, from the first of the panel's tables that has one."""
        printed: dict[tuple[str, str, str], Printed] = {}
        wanted = {"paper": self.paper.paper, "suite": self.panel.suite, "metric": ACCURACY, "backbone": self.printed_backbone}
        for table in self.panel.tables:
            for number in numbers:
                fits = number.table == table and all(getattr(number, key) == value for key, value in wanted.items())
                if fits and number.source_kind in KINDS:
                    key = number.method, number.shots, number.dataset
                    printed.setdefault(key, Printed(number.value, number.std, number.source_kind))
        return printed

    def _lines(self) -> list[tuple[str, str, str, bool]]:
        """Return (label, our method, shots, is in the paper): the paper's rows, then our other methods."""
        lines = [(m, method_name(self.paper.paper, self.panel.suite, m).ours, shots, True) for m, shots in self.panel.lines]
        named = {method for _, method, _, _ in lines}
        others = [(method, method, shots, False) for method, shots in sorted(self.ours.accuracies) if method not in named]
        return lines + sorted(others, key=lambda line: self.panel.shots.index(line[2]))

    def _columns(self) -> list[Column]:
        """Return datasets group by group, each group followed by its mean, then other averages."""
        columns = []
        left = {average.name: average for average in self.panel.averages_over()}
        for group in self.panel.groups:
            datasets = tuple(dataset for dataset, of in self.panel.datasets.items() if of == group)
            above = group if 1 < len(datasets) < len(self.panel.datasets) else ""
            columns += [Column(dataset, above, dataset) for dataset in datasets]
            for average in [average for average in left.values() if average.groups == (datasets,)]:
                columns.append(Column(average.name, above, self._heading(left.pop(average.name))))
        return columns + [Column(average.name, "", self._heading(average)) for average in left.values()]

    def _heading(self, average: Average) -> str:
        cut = self.averages[average.name]
        return average.title if cut in (average, None) else f"{cut.title} of {len(average.datasets)}"

    def _row(self, label: str, method: str, shots: str, is_in_paper: bool, columns: Sequence[Column]) -> FilledRow:
        ours = self.ours.accuracies.get((method, shots), {})
        printed = {column: number for (m, s, column), number in self.printed.items() if (m, s) == (label, shots) and is_in_paper}
        cells = {}
        for column in columns:
            average = self.averages.get(column.name, flat([column.name]))
            shown = self._printed_average(column.name, average, printed) if column.name in self.averages else printed.get(column.name)
            cells[column.name] = Cell(self._over(average, ours), shown, self.is_comparable)
        return FilledRow(label, method, shots, is_in_paper, cells)

    def _over(self, average: Average | None, ours: Mapping[str, Mapping[Repetition, float]]) -> Ours | None:
        """Return mean and standard deviation of an average; None if a cell is missing."""
        means = {dataset: statistics.fmean(values.values()) for dataset, values in ours.items()}
        mean = average.over(means) if average else None
        if average is None or mean is None:
            return None
        every = [set(ours[dataset]) for dataset in average.datasets]
        complete = [{dataset: ours[dataset][one] for dataset in average.datasets} for one in sorted(set.intersection(*every))]
        each = [value for cells in complete if (value := average.over(cells)) is not None]
        std = statistics.stdev(each) if len(each) > 1 and all(one == every[0] for one in every) else None
        is_off = any(self.ours.off_protocol[dataset] for dataset in average.datasets)
        return Ours(mean, std, min(map(len, every)), is_off or not self.is_comparable)

    def _printed_average(self, name: str, average: Average | None, printed: Mapping[str, Printed]) -> Printed | None:
        """Return the average as printed; if columns are cut, compute it from the printed cells of the remaining ones."""
        if not self.is_cut:
            return printed.get(name)
        value = average.over({dataset: number.value for dataset, number in printed.items()}) if average else None
        return None if value is None else Printed(value.quantize(_HUNDREDTH, ROUND_HALF_UP), kind="derived")

    def _caption(self) -> str:
        ours, letters = self.ours, sorted({number.kind for number in self.printed.values()} - {"primary"})
        parts = [
            f"{self.paper.title}, {self.panel.title}: test accuracy, percent",
            "Ours: mean ± standard deviation (ddof 1) over seeds, their number in brackets; difference: ours less published",
            f"Protocol {', '.join(ours.protocols)}; backbone {ours.backbone}; selection {', '.join(ours.selections)}; petlbench {', '.join(ours.codes)}"
            if ours.accuracies
            else f"No run of ours on {ours.backbone}",
            f"Published: {self.paper.paper} on {self.printed_backbone}" if self.printed else "No published number of these rows is known",
        ]
        if notes := self._notes():
            parts.append(f"Of the published rows: {'; '.join(notes)}")
        if letters:
            parts.append("; ".join(f"{KINDS[kind]}: {kind}" for kind in letters))
        if reasons := self._reasons() if ours.accuracies else []:
            parts.append(f"{OFF_PROTOCOL} not as in the paper: {', '.join(reasons)}")
        if self.is_cut:
            parts.append(
                f"Averages are over the {len(self.common)} columns that all rows with runs have: {', '.join(self.common) or 'none'}"
            )
        else:
            parts.append("An average is withheld where a cell is missing")
        return ". ".join(parts) + "."

    def _notes(self) -> list[str]:
        """Return the notes of methods.csv about rows for which we have runs."""
        names = [method_name(self.paper.paper, self.panel.suite, row.method) for row in self.panel.rows]
        return [f"{name.method}: {name.note}" for name in names if name.note and name.ours in self.ours.methods]

    def _reasons(self) -> list[str]:
        reasons = sorted({reason for reasons in self.ours.off_protocol.values() for reason in reasons})
        if self.ours.backbone.partition("@")[0] not in self.paper.backbones:
            reasons.append("the backbone, so no differences are shown")
        if "oracle_test" in self.ours.selections:
            reasons.append("the epoch was chosen on the test set, so no differences are shown")
        return reasons
