"""A paper's tables with their cells filled: our runs, published numbers, differences, and a caption that says what was compared."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from petlbench.errors import TableError
from petlbench.published.averages import Average, flat
from petlbench.published.numbers import ACCURACY, PublishedNumber, method_name
from petlbench.records.schema import Record
from petlbench.report.paper_runs import Choice, PanelRuns, Repetition, all_runs, runs_of
from petlbench.report.paper_shape import Panel, PaperTable

KINDS = {"primary": "", "reprint": "r", "figure": "f", "derived": "d"}  # marks; rows of third parties are not shown
OFF_PROTOCOL = "†"
_HUNDREDTH = Decimal("0.01")


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

    @property
    def has_runs(self) -> bool:
        """True if a cell has a result of ours."""
        return any(cell.ours is not None for row in self.rows for cell in row.cells.values())


def fill(table: PaperTable, records: Iterable[Record], numbers: Sequence[PublishedNumber], choice: Choice) -> dict[str, FilledTable]:
    """Fill every panel of a table. TableError if our runs cannot share a column, or if none matches the choice."""
    runs = all_runs(records)
    found = {name: runs_of(table, panel, runs, choice) for name, panel in table.panels.items()}
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
